"""What vLLM is started with: the recipe's options, our defaults, and those of its CPU build."""

from collections.abc import Mapping
from dataclasses import fields
from secrets import randbits
from typing import Any, Literal

from transformers import AutoConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.platforms import current_platform

from prefdata.engines.adapters import choose_rank
from prefdata.engines.transformers.model import Checkpoint
from prefdata.errors import PrefdataError, suggest

Task = Literal["text", "classify", "token_classify"]

OWNED = {
    "model": "it is the recipe's 'model'",
    "tokenizer": "it follows from the model",
    "revision": "it is the recipe's 'revision'",
    "trust_remote_code": "it is a key of the model, not of 'engine'",
    "runner": "it follows from the column",
    "convert": "it follows from the column",
    "data_parallel_size": "use --gpus instead, or --replicas on a CPU",
    "disable_log_stats": "it is always on",
    "enable_lora": "name the adapter's folder as 'model' or 'adapter' instead",
}
"""Arguments that a recipe does not set under `engine`, each with the reason."""


def engine_arguments(
    checkpoint: Checkpoint, task: Task, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Keyword arguments for vLLM's `EngineArgs`.

    Raises:
        PrefdataError: an option is unknown, or not the recipe's to set.
    """
    _check(options)
    arguments: dict[str, Any] = {
        "model": checkpoint.model,
        "revision": checkpoint.revision,
        "tokenizer_revision": checkpoint.revision,
        "trust_remote_code": checkpoint.trust_remote_code,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        # of its own for each start: requests without a seed of theirs are drawn from it, and none
        # may repeat what another replica, or this one before it died, has drawn
        "seed": randbits(32),
    }
    if task != "text":
        arguments |= {"runner": "pooling"}
    if checkpoint.adapters:
        arguments |= {
            "enable_lora": True,
            "max_loras": len(checkpoint.adapters),
            "max_lora_rank": choose_rank(checkpoint.adapters),
        }
    if current_platform.is_cpu():
        arguments |= _cpu_defaults(checkpoint, options)
    return arguments | dict(options)


def _check(options: Mapping[str, Any]) -> None:
    known = {field.name for field in fields(EngineArgs)}
    for name in options:
        if name in OWNED:
            raise PrefdataError(f"engine option {name!r} cannot be set here: {OWNED[name]}")
        if name not in known:
            raise PrefdataError(f"unknown vLLM option {name!r}; {suggest(name, sorted(known))}")


def _cpu_defaults(checkpoint: Checkpoint, options: Mapping[str, Any]) -> dict[str, Any]:
    config = AutoConfig.from_pretrained(**checkpoint.source).get_text_config()
    length = options.get("max_model_len", getattr(config, "max_position_embeddings", None))
    return {
        "dtype": "float32",
        "enforce_eager": True,
        # the CPU build crashes on a request with a seed whose prompt is cut into chunks
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(4096, length or 0),
    }
