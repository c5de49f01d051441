"""How the judges of a run have judged: agreement of the two orders, position bias, ties."""

from collections import Counter
from pathlib import Path

import orjson

from prefdata.recipe.reads import compared_columns
from prefdata.recipe.schema import META_SUFFIX, LlmJudge, Recipe
from prefdata.storage.folders import read_schema, read_tables

Counts = dict[str, int]


def count_verdicts(scored: Path, recipe: Recipe) -> dict[str, Counts]:
    """Counts for every judge that compares two responses in both orders.

    Rows that were rejected on their way are not among them.

    Returns:
        By column: `rows`; `agreed`, rows whose orders say the same; `ties`, rows that are a tie in
        the end; `first`, `second` and `neither`, what single verdicts prefer by the place in which
        the response was shown. An unbiased judge names first as often as second.
    """
    columns = [c for c in recipe.columns if isinstance(c, LlmJudge)]
    both = [c for c in columns if c.both_orders and compared_columns(c, recipe.columns)]
    present = set(read_schema(scored).names)
    return {c.name: _count(scored, c) for c in both if c.name + META_SUFFIX in present}


def _count(scored: Path, judge: LlmJudge) -> Counts:
    counts: Counter[str] = Counter(rows=0, agreed=0, ties=0, first=0, second=0, neither=0)
    name = judge.name + META_SUFFIX
    for table in read_tables(scored, columns=[name]):
        for meta in table[name].to_pylist():
            said = [_winner(text, judge.winner_field) for text in meta["verdicts"]]
            counts["rows"] += 1
            counts["agreed"] += bool(meta["agreed"])
            counts["ties"] += not meta["agreed"] or said[0] not in ("A", "B")
            for word in said:  # A is what was shown first, in either order
                counts[{"A": "first", "B": "second"}.get(word, "neither")] += 1
    return dict(counts)


def _winner(verdict: str, key: str) -> str:
    return str(orjson.loads(verdict).get(key)).strip().upper()
