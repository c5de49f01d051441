"""Texts by a transformers model in this process. Knows no row and no file."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from prefdata.engines.model_thread import ModelThread
from prefdata.engines.reasoning import open_reader
from prefdata.engines.tool_calls import find_parser
from prefdata.engines.transformers.decoder import Decoder, Prompt
from prefdata.engines.transformers.model import (
    Checkpoint,
    LoadedModel,
    free_memory,
    load_model,
)
from prefdata.engines.transformers.schema import SchemaCompiler
from prefdata.errors import PrefdataError
from prefdata.inference import Completion, Failure
from prefdata.recipe.values import Reasoning

MAX_NUM_SEQS = {"cpu": 64, "cuda": 256}
SAFETY = 16.0
"""Between the largest rounding of eight random prompts and the bound that is relied on."""


def load_text_engine(
    checkpoint: Checkpoint,
    options: Mapping[str, Any],
    reasoning: Reasoning = "auto",
    tool_parser: str | None = None,
) -> ModelThread[Prompt, Completion | Failure]:
    """Load a checkpoint, onto the GPU if there is one.

    `checkpoint`: a folder or a Hub id, its revision, whether its own code may run, adapters.
    `options`: `dtype` (default float32 on a CPU, the checkpoint's own on a GPU),
    `max_model_len` (default all positions the model has), `max_num_seqs` (default 64 on a CPU,
    256 on a GPU).

    Raises:
        PrefdataError: no such checkpoint, no language model, no chat template, an option that
            is not known, or an adapter that does not fit.
    """
    loaded = load_model(AutoModelForCausalLM, checkpoint, options)
    _refuse_recurrent(loaded)
    size = options.get("max_num_seqs", MAX_NUM_SEQS[loaded.device.type])
    return run_text_model(loaded, size, reasoning, tool_parser)


def run_text_model(
    loaded: LoadedModel,
    max_num_seqs: int,
    reasoning: Reasoning = "auto",
    tool_parser: str | None = None,
) -> ModelThread[Prompt, Completion | Failure]:
    """An engine over a model that is already loaded, and belongs to it from now on.

    In float32 a completion depends on its request alone: a draw that the rounding of a batch could
    decide is repeated for that sequence on its own.

    Raises:
        PrefdataError: `reasoning` names a parser, which only vLLM has.
    """
    eos_ids, tokenizer = _find_eos(loaded), loaded.chats.tokenizer
    vocab_size = loaded.model.config.get_text_config().vocab_size
    is_precise = loaded.model.dtype in (torch.float32, torch.float64)
    decoder = Decoder(
        loaded,
        SchemaCompiler(tokenizer, vocab_size, sorted(eos_ids)),
        eos_ids,
        open_reader(reasoning, loaded.chats.name, tokenizer),
        find_parser(tool_parser, tokenizer),
        max_num_seqs=max_num_seqs,
        rounding=measure_rounding(loaded.model) if is_precise else None,
    )
    return ModelThread("prefdata-text", decoder, free=free_memory)


def _refuse_recurrent(loaded: LoadedModel) -> None:
    # a state cannot be cut and joined the way keys and values of single tokens can
    layers = {type(layer) for layer in DynamicCache(config=loaded.model.config).layers}
    if loaded.model._is_stateful or layers - {DynamicLayer, DynamicSlidingWindowLayer}:
        raise PrefdataError(
            f"model {loaded.chats.name!r} is a {type(loaded.model).__name__}, which has a "
            "recurrent state that this engine cannot batch; set provider: vllm"
        )


def _find_eos(loaded: LoadedModel) -> frozenset[int]:
    """All tokens that end a completion: chat models name more than one, in different files."""
    generation = loaded.model.generation_config
    named = (
        loaded.model.config.get_text_config().eos_token_id,
        None if generation is None else generation.eos_token_id,
        loaded.chats.tokenizer.eos_token_id,
    )
    lists = [[eos] if isinstance(eos, int) else eos or [] for eos in named]
    return frozenset(token for tokens in lists for token in tokens)


@torch.inference_mode()
def measure_rounding(model: PreTrainedModel) -> float:
    """How far a batch may move a logit, as a share of the largest: measured, times SAFETY."""
    lengths = torch.tensor((3, 9, 17, 33, 5, 26, 12, 21))
    shape = (len(lengths), int(lengths.max()))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.get_text_config().vocab_size, shape, generator=generator)
    mask = torch.arange(shape[1]) >= shape[1] - lengths[:, None]
    ids, mask = ids.to(model.device), mask.to(model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    batch = model(
        ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1
    ).logits[:, -1]
    alone = torch.cat(
        [
            model(row[-length:][None], use_cache=False, logits_to_keep=1).logits[:, -1]
            for row, length in zip(ids, lengths, strict=True)
        ]
    )
    moved = (batch - alone).abs().amax(-1) / alone.abs().amax(-1)
    return SAFETY * float(moved.max())
