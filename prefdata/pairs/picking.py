"""Picks the pairs of one prompt: candidates and a rule in, pairs or a reason out. Knows no row.

What holds for every pair, whatever the rule: both texts have content and differ by more than
blanks at their ends and their Unicode form (NFC); where scores are used both are finite; chosen
was not cut off by `max_tokens`; of two texts only one ordered pair is made, once. Bounds are
inclusive, with a tolerance of 1e-9 plus 1e-9 of the larger magnitude, so 0.9 - 0.8 passes a
`min_margin` of 0.1.

Best, worst, mean and deviation are taken over the valid candidates: those with text, a score and an
end (unless `truncated_rejected`), each text once. Higher scores come first; among equal ones the
order is drawn by seed and text, so that no alias is chosen for standing first in the recipe.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, combinations, product
from operator import attrgetter
from textwrap import shorten

from prefdata.errors import PrefdataError
from prefdata.pairs.bounds import (
    REASONS,
    Reason,
    Spread,
    judge_given,
    judge_pair,
    pair_flaw,
    slack_of,
    spread_of,
)
from prefdata.pairs.pair import SKIPPED, Candidate, Pair, is_score
from prefdata.recipe.projection import DpoPreference, PreferencePairs, Side
from prefdata.rows import is_answer
from prefdata.stages.function_process import raised


@dataclass(frozen=True, slots=True)
class Drop:
    """Why a prompt has no pair: the furthest rule that one of its candidates or pairs reached.

    Attributes:
        reason: one of `REASONS`, or the finish reason of a candidate that failed.
    """

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Picked:
    """The pairs of one prompt, largest margin first, or a drop; never both, never neither.

    Attributes:
        drops: candidates and pairs left out, by reason, also where the prompt has pairs. A strategy
            that wants one pair counts at most one dropped pair, however many partners it tried.
    """

    pairs: list[Pair]
    drops: Counter[str]
    drop: Drop | None = None


Pick = Callable[[list[Candidate]], Iterable[Pair | tuple[Candidate, Candidate]]]
"""A strategy of the user's: of candidates, the best first, to pairs or (chosen, rejected)."""


def pick_pairs(
    candidates: Sequence[Candidate],
    rule: PreferencePairs,
    *,
    seed: int,
    margin: float | None = None,
    own: Pick | None = None,
) -> Picked:
    """Pairs of one prompt, by `rule.strategy`.

    Strategies that want one pair take the best candidate as chosen and try its partners until
    every rule passes; the best itself is never exchanged:

    - `best_vs_worst`: from the worst up (SimPO, arXiv 2405.14734; on-policy samples, N <= 8).
    - `best_vs_random`: in random order, so any partner that passes is equally likely (Zephyr,
      arXiv 2310.16944, on UltraFeedback).
    - `best_vs_second`: from the second best down, so the hardest negative that passes.
    - `mu_minus_2sigma`: by distance to mean - 2 deviations of the scores (arXiv 2502.16825; the
      rejected that keeps improving as N grows); the higher of two equally near goes first.

    Strategies that want many take every pair that passes:

    - `exhaustive`: each candidate with each below it.
    - `top_k_bottom_k`: each of the best k with each of the worst k; below 2 k candidates, the
      upper with the lower half, so no text is both.
    - `delta`: strong alias over weak alias, first valid sample with first, second with second
      (arXiv 2507.06187). A text that strong wrote is never rejected. Scores are optional; where
      the rule names one, it may veto a pair.
    - `function`: what the user's function offers of the valid candidates.

    `chosen` and `rejected` of the rule narrow each side to aliases and may give it a score of its
    own; `one_side` asks for exactly one text of an alias. Margins stay those of `score`.
    And `given` takes the first candidate over the second: a pair that somebody else has made.

    `candidates`: all of this prompt; of copies of one text the first stands for it. `seed`: of this
    prompt (recipe seed and row id), for draws among equals and at random. `margin`: `given`: how
    much better the first is, where it is known.

    Raises:
        PrefdataError: that function fails, or offers what it was not given.
    """
    drops: Counter[str] = Counter()
    if rule.strategy == "delta":
        return _picked(_pick_delta(candidates, rule, drops), candidates, drops)
    if len(candidates) < 2:
        return _picked("single_candidate", candidates, drops)
    is_given = rule.strategy == "given"
    valid = _usable(
        candidates[:2] if is_given else candidates,
        drops,
        scored=rule.score is not None and not is_given,
        may_be_cut=rule.truncated_rejected,
    )
    found: list[Pair] | str = []
    if len(valid) < 2:
        found = _furthest(drops)
    elif is_given:
        found = _pick_given(valid, rule, seed, margin)
    elif own is not None:
        found = _pick_own(valid, rule, own, seed, drops)
    else:
        found = _pick_ranked(valid, rule, seed, drops)
    return _picked(found, candidates, drops)


def pick_by_verdict(
    a: Candidate, b: Candidate, winner: object, rule: DpoPreference, *, seed: int
) -> Picked:
    """The pair of one judged prompt; margins stay None, scores decide only `ties: reward`.

    `winner`: the judge's verdict: A, B or tie, in upper or lower case, surrounding whitespace
    ignored. `seed`: of this prompt; draws the direction of a tie that is kept.
    """
    drops: Counter[str] = Counter()
    usable = _usable((a, b), drops, scored=False, may_be_cut=rule.truncated_rejected)
    found = _furthest(drops) if len(usable) < 2 else _pick_winner(a, b, winner, rule, seed)
    return _picked(found, (a, b), drops)


def _pick_winner(
    a: Candidate, b: Candidate, winner: object, rule: DpoPreference, seed: int
) -> list[Pair] | str:
    word = winner.strip().lower() if isinstance(winner, str) else None
    if word == SKIPPED:
        return SKIPPED
    if word not in ("a", "b", "tie"):
        return "bad_verdict"
    better: Candidate | None = {"a": a, "b": b}.get(word)
    if word == "tie" and rule.ties == "reward":
        better = _better(a, b)
    if better is None and rule.ties != "keep":
        return "tie"
    chosen, rejected = (b, a) if better is b else (a, b)
    if better is None:
        chosen, rejected = sorted((a, b), key=lambda candidate: _tie_order(candidate, seed))
    return pair_flaw(chosen, rejected, rule) or [Pair(chosen, rejected, is_tie=better is None)]


def _better(a: Candidate, b: Candidate) -> Candidate | None:
    """The one with the higher score, if both have one and they differ."""
    if not (is_score(a.score) and is_score(b.score)):
        return None
    margin = a.score - b.score
    if abs(margin) <= slack_of(max(abs(a.score), abs(b.score))):
        return None
    return a if margin > 0 else b


def _pick_delta(
    candidates: Sequence[Candidate], rule: PreferencePairs, drops: Counter[str]
) -> list[Pair] | str:
    by_sample = sorted(candidates, key=attrgetter("sample"))
    strong = [candidate for candidate in by_sample if candidate.alias == rule.strong]
    weak = [candidate for candidate in by_sample if candidate.alias == rule.weak]
    if not strong or not weak:
        return "no_partner"
    scored = rule.score is not None
    strong = _usable(strong, drops, scored=scored, may_be_cut=False)
    weak = _usable(weak, drops, scored=scored, may_be_cut=rule.truncated_rejected)
    # With disjoint sides no pair can repeat or contradict another.
    written_by_strong = {candidate.said for candidate in strong}
    rejectable = [one for one in weak if one.said not in written_by_strong]
    _count(drops, "identical", len(weak) - len(rejectable))
    _count(drops, "no_partner", abs(len(strong) - len(rejectable)))
    if not strong or not rejectable:
        return []
    valid = _usable(candidates, Counter(), scored=scored, may_be_cut=rule.truncated_rejected)
    return _take_all(zip(strong, rejectable, strict=False), valid, rule, drops)


def _pick_given(
    sides: Sequence[Candidate], rule: PreferencePairs, seed: int, margin: float | None
) -> list[Pair] | str:
    chosen, rejected = sides
    if not is_score(margin):
        both = is_score(chosen.score) and is_score(rejected.score)
        margin = chosen.score - rejected.score if both else None  # type: ignore[operator]
    if margin is not None and abs(margin) <= slack_of(0):
        chosen, rejected = sorted(sides, key=lambda candidate: _tie_order(candidate, seed))
    judged = judge_given(chosen, rejected, rule, margin)
    return [judged] if isinstance(judged, Pair) else judged


def _pick_own(
    valid: list[Candidate], rule: PreferencePairs, own: Pick, seed: int, drops: Counter[str]
) -> list[Pair]:
    """The pairs that the user's function offers, as far as the rule lets them pass."""
    if rule.score is not None:
        _rank(valid, seed)
    known = {id(one) for one in valid}
    offers: list[tuple[Candidate, Candidate]] = []
    try:
        for offer in own([*valid]):
            pair = (offer.chosen, offer.rejected) if isinstance(offer, Pair) else tuple(offer)
            if len(pair) != 2 or not {id(one) for one in pair} <= known or pair[0] is pair[1]:
                texts = [shorten(str(getattr(one, "text", one)), 60) for one in pair]
                raise ValueError(f"it offers {texts}, and not two of its candidates")
            offers.append((pair[0], pair[1]))
    except Exception as err:  # somebody else's code
        raise PrefdataError(
            f"output_projection.pick: the function {rule.pick} fails: {raised(err)}; correct it, "
            "and run the same command again"
        ) from err
    _count(drops, "not_picked", not offers)
    return _take_all(offers, valid, rule, drops)


def _usable(
    candidates: Iterable[Candidate], drops: Counter[str], *, scored: bool, may_be_cut: bool
) -> list[Candidate]:
    """Valid candidates in order, each text once: its first copy, or the first uncut one."""
    by_text: dict[str, Candidate] = {}
    for candidate in candidates:
        text = candidate.said
        if not is_answer(candidate.finish_reason):
            drops[str(candidate.finish_reason)] += 1
        elif not text:
            drops["empty"] += 1
        elif scored and not is_score(candidate.score):
            drops["no_score"] += 1
        elif candidate.finish_reason == "length" and not may_be_cut:
            drops["truncated"] += 1
        elif text not in by_text:
            by_text[text] = candidate
        else:
            drops["identical"] += 1
            if by_text[text].finish_reason == "length" != candidate.finish_reason:
                by_text[text] = candidate
    return list(by_text.values())


def _pick_ranked(
    ranked: list[Candidate], rule: PreferencePairs, seed: int, drops: Counter[str]
) -> list[Pair]:
    _rank(ranked, seed)
    if rule.strategy in ("exhaustive", "top_k_bottom_k"):
        offers = list(_offers(ranked, rule))
        _count(drops, "no_partner", not offers)
        return _take_all(offers, ranked, rule, drops)
    spread = _spread(ranked, rule)
    best = _best(ranked, rule, spread)
    below = ranked[ranked.index(best) + 1 :] if best else []
    others = _side(below, rule.rejected, rule)
    if best is None or not others:
        _count(drops, "rejected_scores_higher" if best and not below else "no_partner", 1)
        return []
    if rule.rejected.largest_gap is not None:
        others.sort(key=lambda other: -_largest_gap(best, other))
    elif rule.strategy == "best_vs_worst":
        others.reverse()
    elif rule.strategy == "best_vs_random":
        others.sort(key=lambda other: _draw(seed, best.text, other.text))
    elif rule.strategy == "mu_minus_2sigma":
        target = spread_of(_side_score(one, rule.rejected, rule) for one in ranked)
        nearest = target.mean - 2 * target.sigma
        others.sort(
            key=lambda other: abs((_side_score(other, rule.rejected, rule) or 0.0) - nearest)
        )
    return _take_first(best, others, rule, spread, drops)


def _offers(
    ranked: list[Candidate], rule: PreferencePairs
) -> Iterator[tuple[Candidate, Candidate]]:
    """Each text that may be chosen with each below it that may be rejected."""
    above, below = _side(ranked, rule.chosen, rule), _side(ranked, rule.rejected, rule)
    if rule.strategy == "top_k_bottom_k":
        k = min(rule.k or 1, len(ranked) // 2)
        above, below = above[:k], below[-k:]
    if above == below == ranked:
        return combinations(ranked, 2)
    place = {id(one): at for at, one in enumerate(ranked)}
    return (pair for pair in product(above, below) if place[id(pair[0])] < place[id(pair[1])])


def _best(
    ranked: list[Candidate], rule: PreferencePairs, spread: Spread | None
) -> Candidate | None:
    """The text to be chosen."""
    able = _side(ranked, rule.chosen, rule)
    # Below the last is nothing. Where no other is uncut, the first tells why: truncated.
    has_below = able if rule.chosen.score else [one for one in able if one is not ranked[-1]]
    whole = [one for one in has_below if one.finish_reason != "length"] or able
    within = rule.chosen.shortest_within
    if not whole or within is None:
        return whole[0] if whole else None
    if spread is not None:
        within *= spread.sigma
    told = [_side_score(one, rule.chosen, rule) or 0.0 for one in whole]
    slack = slack_of(max(abs(told[0]), abs(within)))
    near = [
        one for one, score in zip(whole, told, strict=True) if score >= told[0] - within - slack
    ]
    return min(near, key=lambda one: math.inf if one.tokens is None else one.tokens)


def _side(ranked: list[Candidate], side: Side, rule: PreferencePairs) -> list[Candidate]:
    """The texts that may be on a side, in its order: best first."""
    able = [one for one in ranked if side.model_alias is None or one.alias in side.model_alias]
    if side.score is None:
        return able
    able = [one for one in able if _side_score(one, side, rule) is not None]
    return sorted(able, key=lambda one: _side_score(one, side, rule) or 0.0, reverse=True)


def _side_score(one: Candidate, side: Side, rule: PreferencePairs) -> float | None:
    """By what a side is ordered: higher is better."""
    if side.score is None:
        return one.score
    score = one.scores.get(side.score)
    return rule.sign_of(side.score) * score if is_score(score) else None


def _largest_gap(best: Candidate, other: Candidate) -> float:
    """How far a text falls behind the best where it does so most; below all if that is unknown."""
    both = zip(best.ratings, other.ratings, strict=False)
    return max((a - b for a, b in both if a is not None and b is not None), default=-math.inf)


def _take_first(
    best: Candidate,
    others: Iterable[Candidate],
    rule: PreferencePairs,
    spread: Spread | None,
    drops: Counter[str],
) -> list[Pair]:
    refusals: list[Reason] = []
    for other in others:
        judged = judge_pair(best, other, rule, spread)
        if isinstance(judged, Pair):
            return [judged]
        refusals.append(judged)
    drops[_furthest(refusals)] += 1
    return []


def _take_all(
    offers: Iterable[tuple[Candidate, Candidate]],
    valid: Sequence[Candidate],
    rule: PreferencePairs,
    drops: Counter[str],
) -> list[Pair]:
    pairs: list[Pair] = []
    spread = _spread(valid, rule)
    for chosen, rejected in offers:
        judged = judge_pair(chosen, rejected, rule, spread)
        if isinstance(judged, Pair):
            pairs.append(judged)
        else:
            drops[judged] += 1
    if rule.score is not None:
        pairs.sort(key=attrgetter("margin"), reverse=True)
    kept = pairs[: rule.max_pairs_per_prompt]
    _count(drops, "over_max_pairs_per_prompt", len(pairs) - len(kept))
    return kept


def _rank(candidates: list[Candidate], seed: int) -> None:
    """Best first; equals in a drawn order."""
    candidates.sort(key=lambda candidate: _tie_order(candidate, seed))
    candidates.sort(key=attrgetter("score"), reverse=True)


def _tie_order(candidate: Candidate, seed: int) -> tuple[bool, bytes]:
    # A cut text cannot be chosen, so among equals it goes last.
    return candidate.finish_reason == "length", _draw(seed, candidate.text)


def _draw(seed: int, *texts: str) -> bytes:
    """A random number that depends on the texts, not on their order among the candidates."""
    digest = blake2b(str(seed).encode(), digest_size=8)
    for text in texts:
        digest.update(b"\0" + text.encode("utf-8", "surrogatepass"))
    return digest.digest()


def _count(drops: Counter[str], reason: Reason, number: int) -> None:
    if number:
        drops[reason] += number


def _furthest(reasons: Iterable[str]) -> str:
    """The last rule that was reached; where all have failed before any, what failed."""
    reached = set(reasons)
    known = [reason for reason in REASONS if reason in reached]
    return known[-1] if known else min(reached)


def _spread(valid: Sequence[Candidate], rule: PreferencePairs) -> Spread | None:
    """Of the scores, where margins are measured in it."""
    return spread_of([one.score for one in valid]) if rule.margin_unit == "z_score" else None


def _picked(
    found: list[Pair] | str, candidates: Sequence[Candidate], drops: Counter[str]
) -> Picked:
    """What was found: pairs, or the reason why there are none, which else the drops tell."""
    if found and not isinstance(found, str):
        return Picked(found, drops)
    reason = found if isinstance(found, str) else _furthest(drops)
    scores = [one.score for one in candidates if is_score(one.score)]
    facts = chain(
        [f"{len(candidates)} candidates"],
        [f"scores {min(scores):g} to {max(scores):g}"] if scores else [],
        [f"{count} {name}" for name, count in sorted(drops.items())],
    )
    told = REASONS.get(reason, f"fewer than two answers are left: {reason}")
    return Picked([], drops, Drop(reason, f"{told} ({', '.join(facts)})"))
