"""TextEngine over a transformers model: batches that refill while they run. Knows no row and no file."""

import gc
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from llguidance import LLMatcher
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from prefdata.engines.batching import pick_batch
from prefdata.engines.kv_slots import KVSlots
from prefdata.engines.model_thread import Call, ModelThread
from prefdata.engines.sampling import Draws, Knobs, draw, draw_uniforms
from prefdata.engines.schema import SchemaCompiler
from prefdata.engines.transformers_model import Checkpoint, LoadedModel, load_model, render_ids
from prefdata.errors import RowError
from prefdata.inference import Completion, FinishReason, Sampling, TextRequest

MAX_NUM_SEQS = {"cpu": 64, "cuda": 256}
MAX_PREFILL_TOKENS = 4096
LOOKAHEAD = 256
"""Pending prompts, oldest first, among which a prefill looks for similar lengths."""


class TransformersTextEngine:
    """Completes chats with a causal language model of its own.

    In float32 a completion depends on its request alone: the rounding that batches bring is measured
    at load, and a draw that it could decide is repeated for that sequence on its own.
    """

    def __init__(self, loaded: LoadedModel, max_num_seqs: int) -> None:
        """Use `load`."""
        self._loaded = loaded
        vocab_size = loaded.model.get_output_embeddings().weight.shape[0]
        self._eos_ids = _find_eos(loaded)
        self._schemas = SchemaCompiler(loaded.tokenizer, vocab_size, sorted(self._eos_ids))
        decoder = Decoder(loaded, self._schemas, self._eos_ids, max_num_seqs)
        self._thread: ModelThread[_Prompt, Completion] = ModelThread("prefdata-text", decoder)

    @classmethod
    def load(
        cls, model: str, *, revision: str | None, trust_remote_code: bool, options: Mapping[str, Any]
    ) -> "TransformersTextEngine":
        """Load a checkpoint onto the GPU if there is one.

        Args:
            options: `dtype` (default float32 on a CPU, the checkpoint's own on a GPU), `max_model_len`
                (default what the model was made for), `max_num_seqs` (default 64 on a CPU, 256 on a GPU).

        Raises:
            PrefdataError: no such checkpoint, no language model, no chat template or an unknown option.
        """
        checkpoint = Checkpoint(model, revision, trust_remote_code)
        loaded = load_model(AutoModelForCausalLM, checkpoint, options, more_options=("max_num_seqs",))
        return cls(loaded, options.get("max_num_seqs", MAX_NUM_SEQS[loaded.device.type]))

    async def generate(self, requests: Sequence[TextRequest]) -> AsyncIterator[tuple[int, Completion]]:
        """As `TextEngine.generate`; leaving it early drops what is not finished.

        Raises:
            RowError: `prompt_too_long`, or `chat_template_refused`.
            PrefdataError: a schema that cannot be enforced.
        """
        stream = self._thread.stream(lambda call: self._prepare(requests, call), len(requests))
        async with aclosing(stream) as completions:
            async for index, completion in completions:
                yield index, completion

    def close(self) -> None:
        """As `TextEngine.close`; ends the thread."""
        self._thread.close()
        del self._loaded, self._thread
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _prepare(self, requests: Sequence[TextRequest], call: Call[Completion]) -> list["_Prompt"]:
        """One job per distinct prompt."""
        prompts: dict[tuple[int, ...], _Prompt] = {}
        rendered: dict[int, tuple[int, ...]] = {}
        for index, request in enumerate(requests):
            ids = self._render(request)
            prompt = prompts.setdefault(ids, _Prompt(ids, call))
            limit = min(request.sampling.max_tokens, self._loaded.max_model_len - len(ids))
            matcher = None if request.schema is None else self._schemas.start(request.schema)
            prompt.samples.append(_Sample(index, ids, call, request.sampling, request.seed, limit, matcher))
        return list(prompts.values())
