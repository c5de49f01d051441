"""Statistics of a run's judges: agreement of the two orders, position bias, ties."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from prefdata.recipe.contract import Column
from prefdata.recipe.schema import Recipe
from prefdata.recipe.tournament import Panel
from prefdata.recipe.values import META_SUFFIX
from prefdata.rows import Row
from prefdata.stages.strength import WON, Agreement, panel_says, word_of
from prefdata.storage.folders import read_schema, read_tables

Counts = dict[str, float]
_AGREEING = (("A", "B"), ("B", "A"), ("TIE", "TIE"))
"""What the two orders say where they mean the same."""


def count_verdicts(scored: Path, recipe: Recipe, *, both_orders: bool = True) -> dict[str, Counts]:
    """Counts for every judge that compares responses in both orders, or in one order only.

    Rows that were rejected on their way are not among them.

    Returns:
        By column: `rows`, or comparisons of a tournament, each judge's; `agreed`, those whose
        orders say the same; `ties`, those that are a tie in the end; `first`, `second` and
        `neither`, which response single verdicts prefer, by the position in which it was shown. An
        unbiased judge names first as often as second. Of a panel `alpha`, how far its judges
        agree (see `Agreement`), if that can be said.
    """
    present = set(read_schema(scored).names)
    return {
        column.name: _count(scored, column)
        for column in recipe.columns
        if column.winner_key and column.name + META_SUFFIX in present
        if column.compares_many or column.compared(recipe.columns)
        if _asks_twice(column, recipe) == both_orders
    }


def panels(record: Mapping[str, Any]) -> dict[str, float]:
    """Of every panel of a finished run, how far its judges agree."""
    told = {**record["judges"], **record.get("one_order", {})}
    return {name: counts["alpha"] for name, counts in told.items() if "alpha" in counts}


def _asks_twice(column: Column, recipe: Recipe) -> bool:
    if column.compares_many:
        return column.wants_both_orders
    return column.swapped(recipe.columns) is not None


def _count(scored: Path, column: Column) -> Counts:
    name, key = column.name + META_SUFFIX, column.winner_key or ""
    says: Panel = getattr(column, "says", "majority")
    counts: Counter[str] = Counter(rows=0, agreed=0, ties=0, first=0, second=0, neither=0)
    agreement = Agreement()
    for table in read_tables(scored, columns=[name]):
        for meta in filter(None, table[name].to_pylist()):  # null where it is skipped
            for said, agreed, is_tie in _judged(meta, key, says):
                counts["rows"] += 1
                counts["agreed"] += agreed
                counts["ties"] += is_tie
                for word in said:  # A is what was shown first, in either order
                    counts[{"A": "first", "B": "second"}.get(word, "neither")] += 1
            for ratings in _ratings(meta):
                agreement.add(ratings)
    alpha = agreement.alpha
    return dict(counts) | ({} if alpha is None else {"alpha": alpha})


def _judged(meta: Row, key: str, says: Panel) -> Iterator[tuple[list[str], bool, bool]]:
    """What was said in each order, whether that agrees, and whether it is a tie."""
    for said, won in _verdicts(meta, key):
        if won is None:
            [rated] = [*_ratings(meta)] or [[WON.get(said[0], 0.5)]]
            is_split = "panel" not in meta and meta["agreed"] is False
            yield said, bool(meta["agreed"]), is_split or panel_says(rated, says) == 0.5
        else:
            yield said, len(said) == 2 and (said[0], said[1]) in _AGREEING, won == 0.5


def single_verdicts(meta: Mapping[str, Any], key: str) -> Iterator[tuple[float, str]]:
    """Of each verdict what the first of two has won by it, and the place that it names."""
    for said, settled in _verdicts(meta, key):
        if settled is not None and len(said) != 2:
            yield from ((settled, word) for word in said)
            continue
        # every second one was asked the other way
        is_turned = settled is not None or meta["agreed"] is not None
        for number, word in enumerate(said):
            won = WON.get(word, 0.5)
            yield (1 - won if is_turned and number % 2 else won), word


def _verdicts(meta: Mapping[str, Any], key: str) -> Iterator[tuple[list[str], float | None]]:
    """The words of each comparison; of one in a tournament also what its first text has won."""
    if "comparisons" not in meta:
        yield [_winner(text, key) for text in meta["verdicts"]], None
        return
    for one in meta["comparisons"]:
        for won, texts in zip(one["judges"], one["verdicts"], strict=True):
            yield [_winner(text, key) for text in texts], won


def _ratings(meta: Row) -> Iterator[list[float]]:
    """What several judges say of one thing, as numbers."""
    if "comparisons" in meta:
        yield from (one["judges"] for one in meta["comparisons"])
    elif "panel" in meta:
        yield [WON.get(word, 0.5) for word in meta["panel"]]


def _winner(verdict: str, key: str) -> str:
    return word_of(orjson.loads(verdict), key)
