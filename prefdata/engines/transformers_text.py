"""TextEngine over a transformers model in this process. Knows no row and no file."""

import gc
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from prefdata.engines.decoder import Decoder, Prompt, Sample
from prefdata.engines.model_thread import Call, ModelThread
from prefdata.engines.schema import SchemaCompiler
from prefdata.engines.transformers_model import Checkpoint, LoadedModel, load_model, render_ids
from prefdata.errors import RowError
from prefdata.inference import Completion, TextRequest

MAX_NUM_SEQS = {"cpu": 64, "cuda": 256}
SAFETY = 16.0
"""Between the largest rounding of eight random prompts and the bound that is relied on."""


class TransformersTextEngine:
    """Completes chats with a causal language model that is loaded here.

    In float32 a completion depends on its request alone: a draw that the rounding of a batch could
    decide is repeated for that sequence on its own.
    """

    def __init__(self, loaded: LoadedModel, *, max_num_seqs: int) -> None:
        """Run a model that is already loaded; it belongs to the engine from now on."""
        rounding = (
            measure_rounding(loaded.model)
            if loaded.model.dtype in (torch.float32, torch.float64)
            else None
        )
        eos_ids = _find_eos(loaded)
        vocab_size = loaded.model.config.get_text_config().vocab_size
        self._loaded = loaded
        self._schemas = SchemaCompiler(loaded.tokenizer, vocab_size, sorted(eos_ids))
        decoder = Decoder(
            loaded, self._schemas, eos_ids, max_num_seqs=max_num_seqs, rounding=rounding
        )
        self._thread: ModelThread[Prompt, Completion] = ModelThread("prefdata-text", decoder)

    @classmethod
    def load(
        cls,
        model: str,
        *,
        revision: str | None,
        trust_remote_code: bool,
        options: Mapping[str, Any],
    ) -> "TransformersTextEngine":
        """Load a checkpoint, onto the GPU if there is one.

        Args:
            options: `dtype` (default float32 on a CPU, the checkpoint's own on a GPU), `max_model_len`
                (default all positions the model has), `max_num_seqs` (default 64 on a CPU, 256 on a GPU).

        Raises:
            PrefdataError: no such checkpoint, no language model, no chat template or an unknown option.
        """
        checkpoint = Checkpoint(model, revision, trust_remote_code)
        loaded = load_model(AutoModelForCausalLM, checkpoint, options, counts=("max_num_seqs",))
        return cls(
            loaded, max_num_seqs=options.get("max_num_seqs", MAX_NUM_SEQS[loaded.device.type])
        )

    async def generate(
        self, requests: Sequence[TextRequest]
    ) -> AsyncIterator[tuple[int, Completion]]:
        """As `TextEngine.generate`; leaving it early drops what is not finished.

        Raises:
            RowError: `prompt_too_long` or `chat_template_refused`.
            PrefdataError: a schema cannot be enforced.
        """
        stream = self._thread.stream(lambda call: self._prepare(requests, call), len(requests))
        async with aclosing(stream) as completions:
            async for index, completion in completions:
                yield index, completion

    def close(self) -> None:
        """As `TextEngine.close`; waits for the end of the thread."""
        self._thread.close()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _prepare(self, requests: Sequence[TextRequest], call: Call[Completion]) -> list[Prompt]:
        """One job per distinct prompt."""
        prompts: dict[tuple[int, ...], Prompt] = {}
        ids: list[int] = []
        for index, request in enumerate(requests):
            if index == 0 or not _has_same_chat(request, requests[index - 1]):
                ids = self._render(request)
            prompt = prompts.setdefault(tuple(ids), Prompt(ids, call))
            limit = min(request.sampling.max_tokens, self._loaded.max_model_len - len(ids))
            matcher = None if request.schema is None else self._schemas.start(request.schema)
            prompt.samples.append(Sample(index, request.sampling, request.seed, limit, matcher))
        return list(prompts.values())

    def _render(self, request: TextRequest) -> list[int]:
        arguments = {"add_generation_prompt": True, **request.chat_template_kwargs}
        ids = render_ids(self._loaded, request.messages, arguments)
        if len(ids) >= self._loaded.max_model_len:
            raise RowError(
                "prompt_too_long",
                f"the prompt has {len(ids)} tokens, the context holds {self._loaded.max_model_len}",
            )
        return ids


def _has_same_chat(one: TextRequest, other: TextRequest) -> bool:
    return one.messages == other.messages and one.chat_template_kwargs == other.chat_template_kwargs


def _find_eos(loaded: LoadedModel) -> frozenset[int]:
    """All tokens that end a completion: chat models often name more than one, in different files."""
    ids: set[int] = set()
    config, generation = loaded.model.config.get_text_config(), loaded.model.generation_config
    for eos in (
        config.eos_token_id,
        generation and generation.eos_token_id,
        loaded.tokenizer.eos_token_id,
    ):
        ids.update([eos] if isinstance(eos, int) else eos or ())
    return frozenset(ids)


@torch.inference_mode()
def measure_rounding(model: PreTrainedModel) -> float:
    """How far a batch may move a logit, as a share of the largest: what is measured, times SAFETY."""
    generator = torch.Generator().manual_seed(0)
    lengths = (3, 9, 17, 33, 5, 26, 12, 21)
    ids = torch.randint(
        model.config.get_text_config().vocab_size, (len(lengths), max(lengths)), generator=generator
    )
    mask = torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]
    ids, mask = ids.to(model.device), mask.to(model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    batch = model(
        ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1
    ).logits[:, -1]
    alone = torch.cat(
        [
            model(row[m][None], use_cache=False, logits_to_keep=1).logits[:, -1]
            for row, m in zip(ids, mask)
        ]
    )
    moved = (batch - alone).abs().amax(-1) / alone.abs().amax(-1)
    return SAFETY * float(moved.max())
