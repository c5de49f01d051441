"""The running batch of the text engine: prefill, decode, refill. Knows no row and no file."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from llguidance import LLMatcher
from torch import Tensor
from transformers import DynamicCache

from prefdata.engines.model_thread import Call
from prefdata.engines.reasoning import Reader, Watch, prefill_of
from prefdata.engines.tool_calls import Parser, read_calls
from prefdata.engines.transformers.batching import pick_batch
from prefdata.engines.transformers.kv_slots import KVSlots
from prefdata.engines.transformers.model import LoadedModel, encode_each
from prefdata.engines.transformers.sampling import Knobs, draw, draw_uniforms
from prefdata.engines.transformers.schema import SchemaCompiler
from prefdata.errors import PrefdataError
from prefdata.inference import Completion, Failure, Sampling, TextRequest

MAX_PREFILL_TOKENS = 4096
LOOKAHEAD = 256
"""Pending prompts, oldest first, among which a prefill looks for similar lengths."""


@dataclass(slots=True)
class Prompt:
    """A prompt and the samples that one call wants of it; `adapter` is a folder or the base."""

    ids: list[int]
    call: Call[Completion | Failure]
    adapter: str | None
    samples: list["Sample"] = field(default_factory=list)


@dataclass(slots=True)
class Sample:
    """One completion that is asked for, and its tokens so far: a row of the batch.

    Attributes:
        limit: tokens at most, for `max_tokens` and the context.
        matcher: of the schema, which binds the answer and not the thought before it.
        watch: where in thought and answer it is.
        forced: tokens that come next whatever the model says.
    """

    prompt: Prompt
    index: int
    request: TextRequest
    limit: int
    matcher: LLMatcher | None
    watch: Watch
    tokens: list[int] = field(default_factory=list)
    uniforms: list[float] = field(default_factory=list)
    forced: deque[int] = field(default_factory=deque)
    first_logprobs: dict[str, float] | None = None

    @property
    def sampling(self) -> Sampling:
        """Of the request."""
        return self.request.sampling

    @property
    def last(self) -> int:
        """The newest token."""
        return self.tokens[-1] if self.tokens else self.prompt.ids[-1]

    @property
    def uniform(self) -> float:
        """The number that decides the next token."""
        return self.uniforms[len(self.tokens)]

    @property
    def is_bound(self) -> bool:
        """Whether the schema has a say in the next token."""
        return self.matcher is not None and self.watch.state != "thinking"

    @property
    def wants_logprobs(self) -> bool:
        """Whether the next token may be the answer's first, whose probabilities are wanted."""
        return bool(self.request.top_logprobs) and (
            self.watch.state == "start"
            or (self.watch.state == "answering" and self.first_logprobs is None)
        )


@dataclass(slots=True)
class _Ready:
    """Prefilled prompts whose samples wait for a free row: pairs of cache row and sample."""

    cache: DynamicCache
    rows: deque[tuple[int, Sample]]


@dataclass(frozen=True)
class _Settings:
    """What a step needs to know of its rows besides their tokens; made anew when they change."""

    knobs: Knobs
    seen: Tensor | None
    constrained: list[int]


class Decoder:
    """Runs prompts to completions, at most `max_num_seqs` samples at a time, in one thread."""

    def __init__(
        self,
        loaded: LoadedModel,
        schemas: SchemaCompiler,
        eos_ids: frozenset[int],
        reader: Reader,
        parser: Parser | None = None,
        *,
        max_num_seqs: int,
        rounding: float | None,
    ) -> None:
        """Keep what is given; the first step does the first work.

        `loaded`: the model, from now on used by `step` alone. `rounding`: how far a batch may move
        a logit, as a share of the largest of its row; draws that this could decide are settled
        alone. None to accept them.
        """
        self._loaded, self._model, self._device = loaded, loaded.model, loaded.device
        self._chats, self._reader, self._rounding = loaded.chats, reader, rounding
        self._parser = parser
        self._schemas, self._eos_ids, self.capacity = schemas, eos_ids, max_num_seqs
        self._slots = KVSlots(max_num_seqs, loaded.device)
        self._waiting: deque[Prompt] = deque()
        self._ready: _Ready | None = None
        self._rows: list[Sample] = []
        self._settings: _Settings | None = None

    def prepare(
        self, requests: Sequence[TextRequest], call: Call[Completion | Failure]
    ) -> list[Prompt]:
        """One job per distinct prompt; a Failure is `prompt_too_long` or `chat_template_refused`.

        Raises:
            PrefdataError: a schema cannot be enforced.
        """
        prompts: dict[tuple[Any, ...], Prompt] = {}
        for index, request, ids in encode_each(self._chats, requests, call):
            new = Prompt(ids, call, request.adapter)
            prompt = prompts.setdefault((request.adapter, *ids), new)
            limit = min(request.sampling.max_tokens, self._chats.max_model_len - len(ids))
            matcher = None if request.schema is None else self._schemas.start(request.schema)
            watch = Watch(self._reader, self._reader.opening(ids, prefill_of(request)))
            prompt.samples.append(Sample(prompt, index, request, limit, matcher, watch))
        return list(prompts.values())

    def start(self) -> None:
        """Set up the thread that is going to call `step`."""
        self._loaded.set_threads()

    @torch.inference_mode()
    def step(self, arrivals: Sequence[Prompt]) -> bool:
        """Queue prompts, fill free rows, add a token to every row; True while anything is left."""
        self._waiting.extend(arrivals)
        self._drop_abandoned()
        self._refill()
        if self._rows:
            self._advance()
        return bool(self._rows or self._ready or self._waiting)

    def _drop_abandoned(self) -> None:
        if any(prompt.call.is_abandoned for prompt in self._waiting):
            self._waiting = deque(
                prompt for prompt in self._waiting if not prompt.call.is_abandoned
            )
        if self._ready is not None:
            rows = deque(item for item in self._ready.rows if not item[1].prompt.call.is_abandoned)
            self._ready = _Ready(self._ready.cache, rows) if rows else None
        self._remove([i for i, row in enumerate(self._rows) if row.prompt.call.is_abandoned])

    def _refill(self) -> None:
        while len(self._rows) < self.capacity:
            if self._ready is None:
                if not self._waiting:
                    return
                self._ready = self._prefill()
            self._join(self._ready, self.capacity - len(self._rows))

    def _prefill(self) -> _Ready:
        """Keys and values of the oldest prompt and others of its length, without the last token."""
        prompts = self._take_prompts()
        width = max(1, *(len(prompt.ids) - 1 for prompt in prompts))
        ids = [prompt.ids[:-1] + [0] * (width + 1 - len(prompt.ids)) for prompt in prompts]
        # without a config all layers are full ones; sliding ones drop columns a shorter row needs
        cache = DynamicCache()
        # padding is to the right, where no token looks, so there is no mask
        self._model(
            self._tensor(ids),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **self._adapters(prompts),
        )
        rows = ((i, sample) for i, prompt in enumerate(prompts) for sample in prompt.samples)
        return _Ready(cache, deque(rows))

    def _take_prompts(self) -> list[Prompt]:
        window = list(islice(self._waiting, LOOKAHEAD))
        goal = max(self.capacity - len(self._rows), self.capacity // 4)
        count = samples = 0
        while count < len(window) and samples < goal:
            samples += len(window[count].samples)
            count += 1
        lengths = [len(prompt.ids) for prompt in window]
        picks = set(pick_batch(lengths, max_items=count, max_tokens=MAX_PREFILL_TOKENS))
        for _ in window:
            self._waiting.popleft()
        later = [prompt for i, prompt in enumerate(window) if i not in picks]
        self._waiting.extendleft(reversed(later))
        return [prompt for i, prompt in enumerate(window) if i in picks]

    def _join(self, ready: _Ready, free: int) -> None:
        joining = [ready.rows.popleft() for _ in range(min(free, len(ready.rows)))]
        if not ready.rows:
            self._ready = None
        for _, row in joining:
            row.uniforms = draw_uniforms(row.request.seed, row.limit)
        lengths = [len(row.prompt.ids) - 1 for _, row in joining]
        self._slots.join(ready.cache, [pick for pick, _ in joining], lengths)
        self._rows.extend(row for _, row in joining)
        self._settings = None

    def _remove(self, gone: list[int]) -> None:
        if not gone:
            return
        for source, target in self._slots.leave(gone):
            self._rows[target] = self._rows[source]
        del self._rows[self._slots.rows :]
        self._settings = None

    def _advance(self) -> None:
        """Draw the next token of every row; the rows it ends leave."""
        if self._settings is None:
            self._settings = self._make_settings()
        settings = self._settings
        logits = self._forward()
        if not bool(logits.amax(-1).isfinite().all()):  # amax hands NaN on
            raise PrefdataError(
                f"model {self._model.name_or_path!r} computes logits that are not finite numbers; "
                "its weights are damaged or overflow in their dtype: set dtype: float32 under "
                "'engine', or fetch the checkpoint again"
            )
        rounding = None
        if self._rounding is not None:
            rounding = self._rounding * logits.abs().amax(-1, keepdim=True)
        allowed = self._allowed(settings.constrained)
        if allowed is not None:
            rows = settings.constrained
            logits[rows] = logits[rows].masked_fill(~allowed, -torch.inf)
        for i, row in enumerate(self._rows):
            if row.wants_logprobs:
                alone = logits[i] if rounding is None else self._alone(i, settings, allowed)[0]
                wanted = row.request.top_logprobs
                row.first_logprobs = self._likeliest(alone, wanted)
        uniforms = self._tensor([row.uniform for row in self._rows], torch.float64)
        draws = draw(logits, settings.knobs, uniforms, seen=settings.seen, rounding=rounding)
        tokens: list[int] = draws.tokens.tolist()
        if rounding is not None:
            for i in draws.is_close.nonzero()[:, 0].tolist():
                tokens[i] = self._settle(i, settings, allowed)
        for i, row in enumerate(self._rows):
            if row.forced:
                tokens[i] = row.forced.popleft()
        if settings.seen is not None:
            settings.seen[range(len(tokens)), tokens] = True
        self._remove([i for i, token in enumerate(tokens) if self._append(self._rows[i], token)])

    def _forward(self) -> Tensor:
        """Logits of the next token, float32 (rows, vocabulary)."""
        mask, positions = self._slots.prepare()
        output = self._model(
            self._tensor([[row.last] for row in self._rows]),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._slots.cache,
            use_cache=True,
            logits_to_keep=1,
            **self._adapters([row.prompt for row in self._rows]),
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def _adapters(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """What tells peft the adapter of every row, where the model has any."""
        names = self._loaded.adapters
        if not names:
            return {}
        return {"adapter_names": [names[p.adapter] if p.adapter else "__base__" for p in prompts]}

    def _settle(self, i: int, settings: _Settings, allowed: Tensor | None) -> int:
        """The token of a draw that rounding could decide: its sequence is computed on its own."""
        row = self._rows[i]
        draws = draw(
            self._alone(i, settings, allowed),
            Knobs.stack([row.sampling], self._device),
            self._tensor([row.uniform], torch.float64),
            seen=None if settings.seen is None else settings.seen[i : i + 1],
        )
        return int(draws.tokens)

    def _alone(self, i: int, settings: _Settings, allowed: Tensor | None) -> Tensor:
        """Logits of a row's next token, computed without the others, (1, vocabulary)."""
        row = self._rows[i]
        ids = self._tensor([row.prompt.ids + row.tokens])
        output = self._model(ids, use_cache=False, logits_to_keep=1, **self._adapters([row.prompt]))
        logits: Tensor = output.logits[:, -1].float()
        if allowed is not None and i in settings.constrained:
            logits.masked_fill_(~allowed[settings.constrained.index(i)], -torch.inf)
        return logits

    def _likeliest(self, logits: Tensor, count: int) -> dict[str, float]:
        """The first tokens and their log-probabilities, the likeliest of those of equal text."""
        best = logits.log_softmax(-1).topk(min(count, len(logits)))
        found: dict[str, float] = {}
        for token, logprob in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            if math.isfinite(logprob):
                found.setdefault(self._chats.decode([token]), logprob)
        return found

    def _allowed(self, rows: list[int]) -> Tensor | None:
        """Tokens that the schemas of `rows` allow next, (len(rows), vocabulary)."""
        samples = [self._rows[i] for i in rows]
        matchers = [sample.matcher for sample in samples if sample.matcher is not None]
        if not matchers:
            return None
        allowed = self._schemas.allowed(matchers)
        begin = self._reader.begin_ids
        for row, sample in zip(allowed, samples, strict=True):
            if sample.watch.state != "start":
                continue
            if sample.tokens:  # half of a mark
                row[:] = False
            row[begin[len(sample.tokens)]] = True  # it may think first
        return allowed.to(self._device)

    def _make_settings(self) -> _Settings:
        samples = self._rows
        knobs = Knobs.stack([sample.sampling for sample in samples], self._device)
        seen = None
        if knobs.penalty is not None:
            shape = (len(samples), self._schemas.vocab_size)
            seen = torch.zeros(shape, dtype=torch.bool, device=self._device)
            for mask, row in zip(seen, self._rows, strict=True):
                mask[row.prompt.ids + row.tokens] = True
        constrained = [i for i, sample in enumerate(samples) if sample.is_bound]
        return _Settings(knobs, seen, constrained)

    def _append(self, sample: Sample, token: int) -> bool:
        """Add a token; deliver and return True if it ends the completion."""
        sample.tokens.append(token)
        self._follow(sample, token)
        if token in self._eos_ids:
            self._deliver(sample, sample.tokens[:-1], "stop")
        elif self._has_stop(sample):
            self._deliver(sample, sample.tokens, "stop")
        elif len(sample.tokens) == sample.limit:
            self._deliver(sample, sample.tokens, "length")
        else:
            return False
        return True

    def _follow(self, sample: Sample, token: int) -> None:
        """See where thought and answer are, and what that changes for the next token."""
        is_bound, watch = sample.is_bound, sample.watch
        if watch.state != "answering" and watch.see(sample.tokens):
            if watch.state == "thinking":  # what was told was of the thought's mark
                sample.first_logprobs = None
            self._settings = None
        opens = watch.state != "answering" and token in self._reader.begin_ids
        matcher = sample.matcher if is_bound and not opens else None
        if matcher is not None and not matcher.consume_token(token):
            error = matcher.get_error()
            raise RuntimeError(f"llguidance refuses a token that it allowed: {error}")
        if self._is_over_budget(sample) and not sample.forced:
            sample.forced.extend(self._reader.end_ids)

    def _is_over_budget(self, sample: Sample) -> bool:
        budget, watch = sample.sampling.max_reasoning_tokens, sample.watch
        if not budget or watch.state != "thinking" or watch.since is None:
            return False
        return len(sample.tokens) - watch.since >= budget

    def _has_stop(self, sample: Sample) -> bool:
        """Whether a stop string has come."""
        stops = sample.sampling.stop
        if not stops:
            return False
        # a token is a byte of text at least, but for a few silent special ones
        reach = max(len(stop.encode()) for stop in stops) + 8
        tail = self._chats.decode(sample.tokens[-reach:])
        if not any(stop in tail for stop in stops):
            return False
        text = self._chats.decode(sample.tokens)
        return any(stop in text for stop in stops)

    def _deliver(self, sample: Sample, tokens: list[int], reason: str) -> None:
        answer = self._reader.read(
            tokens,
            opening=sample.watch.opening,
            finish_reason=reason,
            stops=sample.sampling.stop,
        )
        answer = read_calls(answer, self._parser, sample.request, reason)
        counts = len(sample.prompt.ids), len(sample.tokens)
        sample.prompt.call.deliver(sample.index, answer.complete(*counts, sample.first_logprobs))

    def _tensor(self, values: Sequence[object], dtype: torch.dtype = torch.long) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=self._device)
