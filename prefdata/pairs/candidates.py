"""The texts of rows as candidates: their scores, made one, and how each text was made."""

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from prefdata.pairs.calibration import LengthFit
from prefdata.pairs.pair import SKIPPED, Candidate, is_score, said, tokens_of
from prefdata.pairs.ranking import combine_scores
from prefdata.recipe.projection import DpoPreference, PreferencePairs
from prefdata.recipe.values import META_SUFFIX, SKIPPED_SUFFIX
from prefdata.rows import Row, is_answer, is_blank

Scores = Mapping[str, float | None]
SIDE = {
    "alias": pa.string(),
    "model": pa.string(),
    "temperature": pa.float64(),
    "sample": pa.int32(),
    "finish_reason": pa.string(),
    "completion_tokens": pa.int32(),
    "tool_calls": pa.string(),
    "reasoning": pa.string(),
    "reasoning_tokens": pa.int32(),
    "reasoning_marks": pa.list_(pa.string()),
}
"""What is kept of each side, as `chosen_<name>` and `rejected_<name>`; `chosen_scores` and
`rejected_scores` hold every score column."""


def candidates_of(
    members: list[Row],
    rule: PreferencePairs,
    scores: Sequence[str],
    fits: Mapping[str, LengthFit],
) -> tuple[list[Candidate], dict[int, Row]]:
    """Candidates of a group, and what is recorded of each, by the candidate's id()."""
    described = [one for row in members for one in _described(row, rule, scores)]
    lengths = [tokens_of(one) for one in described]
    rated = [
        one["scores"]
        | {name: fit.calibrated(one["scores"][name], count) for name, fit in fits.items()}
        for one, count in zip(described, lengths, strict=True)
    ]
    if isinstance(rule.score, dict):
        totals = _combined(described, rated, rule)
    else:
        totals = [_turned(scores.get(rule.score), rule) for scores in rated]
    if rule.otherwise is not None and not any(map(is_score, totals)):
        totals = [_turned(scores.get(rule.otherwise), rule) for scores in rated]
    found: list[Candidate] = []
    sides: dict[int, Row] = {}
    for one, own, total, count in zip(described, rated, totals, lengths, strict=True):
        candidate = Candidate(
            text=one["text"],
            tool_calls=one.get("tool_calls"),
            turns=one.get("turns"),
            score=total,
            alias=one["alias"],
            model=one["model"],
            sample=one["sample"],
            finish_reason=one["finish_reason"],
            scores=own,
            tokens=count,
            ratings=one["ratings"],
        )
        found.append(candidate)
        sides[id(candidate)] = one
    return found, sides


def _turned(score: float | None, rule: DpoPreference | PreferencePairs) -> float | None:
    """The score such that higher is better."""
    return None if score is None else rule.sign * score


def _described(row: Row, rule: PreferencePairs, scores: Sequence[str]) -> Iterator[Row]:
    """Text, provenance and scores of every candidate of a row."""
    if rule.candidates:
        for number, one in enumerate(row[rule.candidates] or ()):
            rated = {name: row[name][number] for name in scores}
            items = _ratings(row, rule, number)
            yield one | {"scores": rated, "ratings": items, "row": row, "column": rule.candidates}
        return
    for number, name in enumerate(rule.responses or ()):
        one = _response(row, name, scores)
        yield one | {"sample": number, "ratings": _ratings(row, rule, name)}


def _response(row: Row, name: str, scores: Sequence[str]) -> Row:
    """Text, provenance and scores of a response: one that is skipped has ended by that."""
    skipped = {"finish_reason": SKIPPED} if row.get(name + SKIPPED_SUFFIX) else {}
    meta = (row.get(name + META_SUFFIX) or {}) | skipped
    rated = {score: (row[score] or {}).get(name) for score in scores}
    told = {"text": row[name] or "", "scores": rated, "row": row, "column": name}
    return dict.fromkeys(SIDE) | meta | told


def _ratings(row: Row, rule: PreferencePairs, place: int | str) -> Sequence[float | None]:
    """What a text has for every item, where the rule looks at single ones."""
    if rule.rejected.largest_gap is None:
        return ()
    found = row[rule.rejected.largest_gap + META_SUFFIX] or {}
    rated = found.get(place) if isinstance(found, Mapping) else found[int(place)]
    return [*rated.values()] if isinstance(rated, Mapping) else rated or ()


def _combined(
    described: Sequence[Row], rated: Sequence[Scores], rule: PreferencePairs
) -> list[float | None]:
    """Of every candidate the combined score of its text, each text compared once.

    What stands for a text is what the pairs will be made of: its first copy that has all scores, or
    the first uncut one.
    """
    weights = rule.score if isinstance(rule.score, dict) else {}
    texts = [
        _said(one) if _may_be_ranked(one, scores, rule) else ""
        for one, scores in zip(described, rated, strict=True)
    ]
    stands_for: dict[str, int] = {}
    for number, text in enumerate(texts):
        before = described[stands_for[text]] if text in stands_for else None
        is_uncut = described[number]["finish_reason"] != "length"
        if text and (before is None or (before["finish_reason"] == "length" and is_uncut)):
            stands_for[text] = number
    made = combine_scores([rated[n] for n in stands_for.values()], weights, rule.combine)
    totals = dict(zip(stands_for, made, strict=True))
    return [totals.get(text) for text in texts]


def _may_be_ranked(one: Row, scores: Scores, rule: PreferencePairs) -> bool:
    reason = one["finish_reason"]
    is_whole = is_answer(reason) and (reason != "length" or rule.truncated_rejected)
    has_all = all(is_score(scores[name]) for name in rule.scores)
    return is_whole and has_all and not is_blank(_said(one))


def _said(one: Row) -> str:
    return said(one["text"], one.get("tool_calls"), one.get("turns"))


def responses_of(
    row: Row, rule: DpoPreference, scores: Sequence[str]
) -> tuple[Candidate, Candidate, dict[int, Row]]:
    """Both responses of a judged row, and what is recorded of each, by the candidate's id()."""
    described = [
        _response(row, name, scores) for name in (rule.response_a_field, rule.response_b_field)
    ]
    a, b = (
        Candidate(
            text=one["text"],
            tool_calls=one["tool_calls"],
            score=_turned(one["scores"].get(rule.score or ""), rule),
            finish_reason=one["finish_reason"],
            tokens=tokens_of(one),
        )
        for one in described
    )
    return a, b, {id(a): described[0], id(b): described[1]}
