"""Statistics of a run's judges: agreement of the two orders, position bias, ties."""

from collections import Counter
from pathlib import Path

import orjson

from prefdata.recipe.schema import Recipe
from prefdata.recipe.values import META_SUFFIX
from prefdata.storage.folders import read_schema, read_tables

Counts = dict[str, int]


def count_verdicts(scored: Path, recipe: Recipe, *, both_orders: bool = True) -> dict[str, Counts]:
    """Counts for every judge that compares two responses in both orders, or in one order only.

    Rows that were rejected on their way are not among them.

    Returns:
        By column: `rows`; `agreed`, rows whose orders say the same; `ties`, rows that are a tie in
        the end; `first`, `second` and `neither`, which response single verdicts prefer, by the
        position in which it was shown. An unbiased judge names first as often as second.
    """
    present = set(read_schema(scored).names)
    return {
        column.name: _count(scored, column.name + META_SUFFIX, column.winner_key)
        for column in recipe.columns
        if column.winner_key and column.compared(recipe.columns)
        if bool(column.swapped(recipe.columns)) == both_orders
        if column.name + META_SUFFIX in present
    }


def _count(scored: Path, name: str, key: str) -> Counts:
    counts: Counter[str] = Counter(rows=0, agreed=0, ties=0, first=0, second=0, neither=0)
    for table in read_tables(scored, columns=[name]):
        for meta in table[name].to_pylist():
            said = [str(orjson.loads(text).get(key)).strip().upper() for text in meta["verdicts"]]
            counts["rows"] += 1
            counts["agreed"] += bool(meta["agreed"])
            counts["ties"] += not meta["agreed"] or said[0] not in ("A", "B")
            for word in said:  # A is what was shown first, in either order
                counts[{"A": "first", "B": "second"}.get(word, "neither")] += 1
    return dict(counts)
