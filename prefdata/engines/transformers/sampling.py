"""The sampler: logits in, one token per row out. Knows no model, no text and no batch.

A draw inverts the cumulative distribution, in the order of the vocabulary, at one uniform number
that depends on the seed and the step alone. So the other rows of a batch can matter only through
the rounding of the logits, and `Draws.is_close` says where that could have decided.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prefdata.inference import Sampling

HEAD = 256
"""Tokens sorted for top_p before resorting to the whole vocabulary."""


def draw_uniforms(seed: int, count: int) -> list[float]:
    """The numbers in [0, 1) that decide the first `count` tokens of a completion.

    Philox is counter-based and its raw stream is fixed by numpy's compatibility policy.
    """
    raw = np.random.Philox(key=seed % 2**128).random_raw(count)
    uniforms: list[float] = ((raw >> np.uint64(11)) * 2.0**-53).tolist()
    return uniforms


@dataclass(frozen=True)
class Knobs:
    """Sampling parameters of a batch; every tensor is (rows, 1), None means no row asks for it."""

    temperature: Tensor
    is_greedy: Tensor | None
    top_k: Tensor | None
    top_p: Tensor | None
    log_min_p: Tensor | None
    penalty: Tensor | None

    @classmethod
    def stack(cls, samplings: Sequence[Sampling], device: torch.device) -> "Knobs":
        """One row per element."""

        def column(values: list[float], neutral: float) -> Tensor | None:
            if all(value == neutral for value in values):
                return None
            return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

        temperatures = [s.temperature for s in samplings]
        is_greedy = column([float(t == 0) for t in temperatures], 0.0)
        min_p = column([s.min_p for s in samplings], 0.0)
        top_k = column([float(s.top_k) for s in samplings], 0.0)
        return cls(
            temperature=torch.tensor([t or 1.0 for t in temperatures], device=device)[:, None],
            is_greedy=None if is_greedy is None else is_greedy.bool(),
            top_k=None if top_k is None else top_k.long(),
            top_p=column([s.top_p for s in samplings], 1.0),
            log_min_p=None if min_p is None else min_p.log(),
            penalty=column([s.repetition_penalty for s in samplings], 1.0),
        )


@dataclass(frozen=True)
class Draws:
    """One token per row, and whether logits within the stated rounding could give another."""

    tokens: Tensor
    is_close: Tensor


def draw(
    logits: Tensor,
    knobs: Knobs,
    uniforms: Tensor,
    *,
    seen: Tensor | None = None,
    rounding: Tensor | None = None,
) -> Draws:
    """Draw one token per row in vLLM's order: penalty, temperature, min_p, top_k, top_p.

    `logits`: float (rows, vocabulary); -inf forbids a token. `uniforms`: float64 (rows,) in [0, 1).
    `seen`: bool (rows, vocabulary), the tokens a repetition penalty applies to. `rounding`: how far
    a logit may be from the exact one, (rows, 1); nothing is close without it.
    """
    scores = logits.float()
    slack = torch.zeros_like(knobs.temperature) if rounding is None else rounding
    if knobs.penalty is not None and seen is not None:
        penalised = torch.where(scores > 0, scores / knobs.penalty, scores * knobs.penalty)
        scores = torch.where(seen, penalised, scores)
        slack = slack * torch.maximum(knobs.penalty, 1 / knobs.penalty)
    if knobs.is_greedy is not None and bool(knobs.is_greedy.all()):
        return _pick_best(scores, slack)
    sampled = _sample(scores / knobs.temperature, knobs, uniforms, slack / knobs.temperature)
    if knobs.is_greedy is None:
        return sampled
    best, is_greedy = _pick_best(scores, slack), knobs.is_greedy[:, 0]
    return Draws(
        torch.where(is_greedy, best.tokens, sampled.tokens),
        torch.where(is_greedy, best.is_close, sampled.is_close),
    )


def filter_scores(scores: Tensor, knobs: Knobs) -> Tensor:
    """Scores with -inf for what min_p, top_k and top_p exclude; ties with the last kept stay."""
    cut = _find_cut(scores, knobs, torch.zeros_like(knobs.temperature))
    return scores.masked_fill(scores < cut.exact, -torch.inf)


def _pick_best(scores: Tensor, slack: Tensor) -> Draws:
    best = scores.topk(2)
    return Draws(scores.argmax(-1), best.values[:, 0] - best.values[:, 1] <= 2 * slack[:, 0])


def _sample(scores: Tensor, knobs: Knobs, uniforms: Tensor, slack: Tensor) -> Draws:
    doubt = torch.zeros_like(uniforms)
    if knobs.top_k is not None or knobs.top_p is not None or knobs.log_min_p is not None:
        cut = _find_cut(scores, knobs, slack)
        doubt = cut.doubt(scores)
        scores = scores.masked_fill(scores < cut.exact, -torch.inf)
    cdf = scores.softmax(-1).cumsum(-1, dtype=torch.float64)
    total = cdf[:, -1:]
    tokens = torch.searchsorted(cdf, uniforms[:, None] * total, right=True)
    above = cdf.gather(1, tokens) / total
    below = torch.where(tokens > 0, cdf.gather(1, (tokens - 1).clamp(min=0)) / total, 0.0)
    return Draws(
        tokens[:, 0],
        _is_near(uniforms, below, slack, doubt) | _is_near(uniforms, above, slack, doubt),
    )


def _is_near(uniforms: Tensor, edge: Tensor, slack: Tensor, doubt: Tensor) -> Tensor:
    # scores off by the slack change the odds of an edge F by exp(2 * slack) at most
    reach = (2 * slack * edge * (1 - edge))[:, 0] + doubt
    return (uniforms - edge[:, 0]).abs() < reach


@dataclass(frozen=True)
class _Cut:
    """The lowest score that is kept, and its range when scores are off by the slack; (rows, 1)."""

    exact: Tensor
    loose: Tensor
    strict: Tensor

    def tighten(self, other: "_Cut") -> "_Cut":
        return _Cut(
            torch.maximum(self.exact, other.exact),
            torch.maximum(self.loose, other.loose),
            torch.maximum(self.strict, other.strict),
        )

    def doubt(self, scores: Tensor) -> Tensor:
        """Share of the kept probability that belongs to tokens in doubt, (rows,)."""
        weights = (scores - scores.amax(-1, keepdim=True)).exp().double()
        in_doubt = (scores >= self.loose) & (scores < self.strict)
        return (weights * in_doubt).sum(-1) / (weights * (scores >= self.exact)).sum(-1)


def _find_cut(scores: Tensor, knobs: Knobs, slack: Tensor) -> _Cut:
    """Each filter keeps the upper part of the scores, so together they are one threshold."""
    nothing = torch.full_like(slack, -torch.inf)
    cut = _Cut(nothing, nothing, nothing)
    if knobs.log_min_p is not None:
        limit = scores.amax(-1, keepdim=True) + knobs.log_min_p
        cut = cut.tighten(_Cut(limit, limit - 2 * slack, limit + 2 * slack))
    if knobs.top_k is not None:
        top_k = knobs.top_k.clamp(max=scores.shape[1])
        head = scores.topk(int(top_k.max())).values
        limit = torch.where(top_k > 0, head.gather(1, (top_k - 1).clamp(min=0)), -torch.inf)
        cut = cut.tighten(_widen(scores, limit, limit, slack))
    if knobs.top_p is not None:
        cut = cut.tighten(_find_nucleus(scores, knobs.top_p, cut, slack))
    return cut


def _find_nucleus(scores: Tensor, top_p: Tensor, cut: _Cut, slack: Tensor) -> _Cut:
    """The smallest set of best tokens whose share of what `cut` keeps reaches `top_p`."""
    kept = scores.masked_fill(scores < cut.exact, -torch.inf)
    doubt = cut.doubt(scores)[:, None] + slack
    norm = kept.logsumexp(-1, keepdim=True)
    for size in (min(HEAD, scores.shape[1]), scores.shape[1]):
        head = kept.topk(size).values
        mass = (head - norm).exp().cumsum(-1, dtype=torch.float64)
        if bool(((mass[:, -1:] >= top_p + doubt) | (top_p >= 1)).all()):
            break
    # a token stays while the better ones do not yet make up top_p
    before = mass - (head - norm).exp()
    limits = []
    for share in (top_p, top_p + doubt, top_p - doubt):
        count = (before < share).sum(-1, keepdim=True).clamp(min=1)
        limits.append(torch.where(top_p < 1, head.gather(1, count - 1), -torch.inf))
    exact, low, high = limits
    return _widen(scores, low, high, slack, exact)


def _widen(
    scores: Tensor, low: Tensor, high: Tensor, slack: Tensor, exact: Tensor | None = None
) -> _Cut:
    """The range of a cut that a rank sets: where no score lies close below, the set is certain."""
    exact = low if exact is None else exact
    has_rival = ((scores >= low - 2 * slack) & (scores < low)).any(-1, keepdim=True)
    is_certain = (low == high) & ~has_rival
    return _Cut(
        exact,
        loose=torch.where(is_certain, low, low - 2 * slack),
        strict=torch.where(is_certain, low, high + 2 * slack),
    )
