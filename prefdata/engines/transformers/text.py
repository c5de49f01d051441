"""TextEngine over a transformers model in this process. Knows no row and no file."""

import gc
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from prefdata.engines.model_thread import Call, ModelThread
from prefdata.engines.reasoning import Watch, open_reader, prefill_of
from prefdata.engines.tool_calls import find_parser
from prefdata.engines.transformers.decoder import Decoder, Prompt, Sample
from prefdata.engines.transformers.model import (
    Checkpoint,
    LoadedModel,
    encode_to_ask,
    has_same_chat,
    load_model,
)
from prefdata.engines.transformers.schema import SchemaCompiler
from prefdata.errors import PrefdataError
from prefdata.inference import Completion, Failure, TextRequest
from prefdata.recipe.values import Reasoning

MAX_NUM_SEQS = {"cpu": 64, "cuda": 256}
SAFETY = 16.0
"""Between the largest rounding of eight random prompts and the bound that is relied on."""


class TransformersTextEngine:
    """Completes chats with a causal language model that is loaded here.

    In float32 a completion depends on its request alone: a draw that the rounding of a batch could
    decide is repeated for that sequence on its own.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        max_num_seqs: int,
        reasoning: Reasoning = "auto",
        tool_parser: str | None = None,
    ) -> None:
        """Run a model that is already loaded; it belongs to the engine from now on.

        Raises:
            PrefdataError: `reasoning` names a parser, which only vLLM has.
        """
        eos_ids = _find_eos(loaded)
        vocab_size = loaded.model.config.get_text_config().vocab_size
        is_precise = loaded.model.dtype in (torch.float32, torch.float64)
        self.capacity = max_num_seqs
        self._chats = loaded.chats
        self._reader = open_reader(reasoning, loaded.chats.name, loaded.chats.tokenizer)
        self._schemas = SchemaCompiler(loaded.chats.tokenizer, vocab_size, sorted(eos_ids))
        decoder = Decoder(
            loaded,
            self._schemas,
            eos_ids,
            self._reader,
            find_parser(tool_parser, loaded.chats.tokenizer),
            max_num_seqs=max_num_seqs,
            rounding=measure_rounding(loaded.model) if is_precise else None,
        )
        self._thread: ModelThread[Prompt, Completion | Failure] = ModelThread(
            "prefdata-text", decoder
        )

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        options: Mapping[str, Any],
        reasoning: Reasoning = "auto",
        tool_parser: str | None = None,
    ) -> "TransformersTextEngine":
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
        return cls(
            loaded,
            max_num_seqs=options.get("max_num_seqs", MAX_NUM_SEQS[loaded.device.type]),
            reasoning=reasoning,
            tool_parser=tool_parser,
        )

    @property
    def steps(self) -> int:
        """Batches so far."""
        return self._thread.steps

    def ask(
        self, requests: Sequence[TextRequest]
    ) -> AsyncIterator[tuple[int, Completion | Failure]]:
        """As `Engine.ask`; leaving it early drops what is not finished.

        A Failure is `prompt_too_long` or `chat_template_refused`.

        Raises:
            PrefdataError: a schema cannot be enforced.
        """
        return self._thread.stream(lambda call: self._prepare(requests, call), len(requests))

    def close(self) -> None:
        """As `Engine.close`; waits for the end of the thread."""
        self._thread.close()
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()

    def _prepare(
        self, requests: Sequence[TextRequest], call: Call[Completion | Failure]
    ) -> list[Prompt]:
        """One job per distinct prompt."""
        prompts: dict[tuple[Any, ...], Prompt] = {}
        ids: list[int] | Failure = []
        for index, request in enumerate(requests):
            if index == 0 or not has_same_chat(request, requests[index - 1]):
                ids = encode_to_ask(self._chats, request)
            if isinstance(ids, Failure):
                call.deliver(index, ids)
                continue
            prompt = prompts.setdefault(
                (request.adapter, *ids), Prompt(ids, call, adapter=request.adapter)
            )
            limit = min(request.sampling.max_tokens, self._chats.max_model_len - len(ids))
            matcher = None if request.schema is None else self._schemas.start(request.schema)
            watch = Watch(self._reader, self._reader.opening(ids, prefill_of(request)))
            sample = Sample(index, request, limit, matcher, watch)
            prompt.samples.append(sample)
        return list(prompts.values())


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
