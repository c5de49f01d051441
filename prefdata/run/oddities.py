"""What is odd about a finished run, in sentences, from its record. Reads no row."""

from collections.abc import Iterator, Mapping
from math import sqrt
from typing import Any

ENOUGH = 30
"""Fewest texts, rows, pairs or verdicts on which something is called odd."""
FEW_TESTS = 20
"""Pairs in test below which an accuracy on them means little."""
IDENTICAL, TIES, CUT = 1 / 2, 1 / 3, 1 / 3
"""Shares of texts that repeat another, of rows that are ties, of texts cut off: odd above these."""
LENGTH_BIAS = 0.6
"""Share of pairs with the longer text chosen, or with the shorter, above which it is odd."""
POSITION_BIAS, ONE_PLACE = 0.6, 0.95
"""Shares of verdicts that name one place: odd above the first, no judgement above the second."""


def find_oddities(record: Mapping[str, Any]) -> list[str]:
    """What the user should look at; nothing of a rehearsal, whose texts mean nothing."""
    if record["rehearsed"]:
        return []
    kinds = (_identical, _cut_off, _ties, _positions, _lengths, _sources, _few_tests)
    return [told for kind in kinds for told in kind(record)]


def _sources(record: Mapping[str, Any]) -> Iterator[str]:
    counts = record.get("sources", {})
    for name, count in counts.items():
        if not count and any(counts.values()):
            yield (
                f"The source {name!r} of the mix has no pair; the set is made of the others. See "
                "its pairs alone, without the mix, or remove it."
            )


def _identical(record: Mapping[str, Any]) -> Iterator[str]:
    same, texts = record["drops"].get("identical", 0), record["candidates"]
    if texts >= ENOUGH and same > IDENTICAL * texts:
        yield (
            f"Few different texts: {same:,} of {texts:,} ({same / texts:.1%}) are the same as "
            "another text of their prompt and make no pair. Raise the temperature, or take fewer "
            "samples."
        )


def _cut_off(record: Mapping[str, Any]) -> Iterator[str]:
    for column, aliases in record.get("outcomes", {}).items():
        for alias, ended in aliases.items():
            cut, texts = ended.get("length", 0), sum(ended.values())
            if texts >= ENOUGH and cut > CUT * texts:
                yield (
                    f"Many texts are cut off: {cut / texts:.1%} of those of {alias!r} in column "
                    f"{column!r} reach max_tokens, and none of these is chosen. Raise max_tokens."
                )


def _ties(record: Mapping[str, Any]) -> Iterator[str]:
    ties, rows = record["rejects"].get("pairs: tie", 0), record["rows"]
    if rows < ENOUGH or ties <= TIES * rows:
        return
    told = f"Many ties: {ties:,} of {rows:,} rows ({ties / rows:.1%}) have no better text."
    if record["judges"]:
        yield f"{told} Often the two orders of a judge disagree: a stronger judge decides more."
    else:
        yield f"{told} A finer score decides more: a reward model, or a rubric with more criteria."


def _positions(record: Mapping[str, Any]) -> Iterator[str]:
    for name, counts in record["judges"].items():
        yield from position_bias(name, counts)
    for name, counts in record.get("one_order", {}).items():
        named = counts["first"] + counts["second"]
        if named >= ENOUGH and max(counts["first"], counts["second"]) > ONE_PLACE * named:
            place = "A" if counts["first"] > counts["second"] else "B"
            share = max(counts["first"], counts["second"]) / named
            yield (
                f"One-sided judge: {name} answers {place} in {share:.1%} of its verdicts. It is "
                "asked in one order only; both_orders: true tells whether it reads the texts."
            )


def position_bias(name: str, counts: Mapping[str, int]) -> Iterator[str]:
    """A warning about a judge asked in both orders, if it prefers a place.

    `counts`: of its verdicts, as `count_verdicts` has them.
    """
    named = counts["first"] + counts["second"]
    if named < ENOUGH or max(counts["first"], counts["second"]) <= POSITION_BIAS * named:
        return
    place, letter = ("first", "A") if counts["first"] > counts["second"] else ("second", "B")
    share = counts[place] / named
    if share > ONE_PLACE:
        yield (
            f"A judge that does not judge: {name} answers {letter} in {share:.1%} of its verdicts, "
            "whichever text that is. Change its prompt or its model."
        )
    else:
        yield (
            f"Position bias: {name} names the response shown {place} in {share:.1%} of its "
            f"verdicts (reported above {POSITION_BIAS:.0%}). A row whose two orders disagree is a "
            "tie."
        )


def _lengths(record: Mapping[str, Any]) -> Iterator[str]:
    """Runs of earlier versions have not counted them."""
    longer, shorter = record.get("lengths", (0, 0))
    if longer + shorter < ENOUGH or max(longer, shorter) <= LENGTH_BIAS * (longer + shorter):
        return
    side = "longer" if longer > shorter else "shorter"
    share = max(longer, shorter) / (longer + shorter)
    yield (
        f"Length bias: the {side} text is chosen in {share:.1%} of {longer + shorter:,} pairs "
        f"(reported above {LENGTH_BIAS:.0%}). A model trained on these pairs may learn the length; "
        "see max_length_ratio, or a loss that allows for length."
    )


def _few_tests(record: Mapping[str, Any]) -> Iterator[str]:
    tests = record["pairs"].get("test", 0)
    if 0 < tests < FEW_TESTS <= record["pairs"].get("train", 0):
        yield (
            f"Small test split: an accuracy on {tests} pairs is known to ± "
            f"{0.98 / sqrt(tests):.0%} only. Build more rows, or raise test_size."
        )
