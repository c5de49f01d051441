"""What vLLM is started with: the recipe's options, our defaults, and those of its CPU build."""

from collections.abc import Mapping
from secrets import randbits
from typing import Any, Literal

from transformers import AutoConfig
from vllm.platforms import current_platform

from prefdata.engines.adapters import choose_rank
from prefdata.engines.transformers.model import Checkpoint

Task = Literal["text", "classify", "token_classify"]


def engine_arguments(
    checkpoint: Checkpoint, task: Task, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Keyword arguments for vLLM's `EngineArgs`; whoever asks has checked the options' names."""
    arguments: dict[str, Any] = {
        "model": checkpoint.model,
        "revision": checkpoint.revision,
        "tokenizer_revision": checkpoint.revision,
        "trust_remote_code": checkpoint.trust_remote_code,
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
