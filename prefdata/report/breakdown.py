"""Pairs by the values of a seed column that they keep: how many, who wins, how long they are."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from prefdata.report.cells import Cell, Chart, Table, label, number, percent
from prefdata.report.sides import count_wins, measure_lengths

MOST_VALUES = 30
"""Values of a column that are told apart; a column where nearly each pair has its own is none."""
HEADS = ("pairs", "mean margin", "longer one chosen", "characters, chosen : rejected", "wins most")


def can_be_told(kind: pa.DataType) -> bool:
    """Whether values of a column can be told apart by their texts."""
    return any(one(kind) for one in (pa.types.is_string, pa.types.is_integer, pa.types.is_boolean))


def breakdown_cell(sides: Any, columns: Sequence[str]) -> Cell:
    """A chart and a table for each of these columns that can be broken down."""
    told, charts, tables = [], [], []
    for name in columns:
        counts = sides[name].value_counts()
        if not 1 < len(counts) <= len(sides) / 2:
            continue
        others, counts = len(counts[MOST_VALUES:]), counts[:MOST_VALUES]
        told.append(f"{name} has {len(counts) + others:,} values.")
        series = [("pairs", counts.tolist())]
        charts.append(Chart("bars", f"Pairs by {name}", counts.index.tolist(), series, "pairs", ""))
        rows = [(value, *_row(sides[sides[name] == value])) for value in counts.index]
        more = f", {others:,} values with fewer pairs left out" if others else ""
        tables.append((f"By {name}{more}", Table((name, *HEADS), rows, is_open=True)))
    if not told:
        return Cell("The pairs of this run keep no column that could be told apart.", is_empty=True)
    return Cell(" ".join(told), charts, tables)


def _row(sides: Any) -> Iterator[str | int]:
    found, wins = measure_lengths(sides), count_wins(sides)
    yield found.pairs
    yield number(sides.margin.mean()) if sides.margin.notna().any() else "–"
    yield percent(found.share[0])
    yield f"{found.chosen:,.0f} : {found.rejected:,.0f}"
    best = wins.groups[0] if wins.groups else None
    yield f"{label(best)}, {percent(wins.share(best)[0])}" if best else "–"
