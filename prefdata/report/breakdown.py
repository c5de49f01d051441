"""Pairs by the values of a seed column that they keep: how many, who wins, how long they are."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefdata.report.cells import Cell, Chart, Table, label, number, percent
from prefdata.report.sides import Lengths, Wins, sides_of
from prefdata.report.spreads import numbers

MOST_VALUES = 30
"""Values of a column that are told apart; a column where nearly each pair has its own is none."""


@dataclass
class Slice:
    """The pairs with one value."""

    wins: Wins = field(default_factory=Wins)
    lengths: Lengths = field(default_factory=Lengths)
    margins: float = 0.0
    with_margin: int = 0

    def add(self, table: pa.Table) -> None:
        """Count the pairs of a table."""
        ties = table["is_tie"].to_pylist()
        self.wins.add(sides_of(table, "chosen"), sides_of(table, "rejected"), ties)
        self.lengths.add(table)
        margin = numbers(table["margin"])
        known = np.isfinite(margin)
        self.margins += float(margin[known].sum())
        self.with_margin += int(known.sum())


@dataclass
class Breakdown:
    """Slices by value, those with the most pairs first."""

    column: str
    slices: dict[str, Slice]
    others: int = 0

    def add(self, table: pa.Table) -> None:
        """Count the pairs of a table."""
        values = _texts(table[self.column])
        for value, part in self.slices.items():
            if (mine := table.filter(pc.equal(values, value))).num_rows:
                part.add(mine)


def plan_breakdowns(tables: Iterable[pa.Table], columns: Sequence[str]) -> list[Breakdown]:
    """Which columns can be broken down, and by which values.

    `tables`: of the pairs; these columns of them are read.
    """
    counts: dict[str, Counter[str]] = {name: Counter() for name in columns}
    for table in tables:
        for name in counts:
            if _is_told(table.schema.field(name).type):
                counts[name].update(_texts(table[name]).to_pylist())
    return [
        Breakdown(
            name,
            {v: Slice() for v, _ in seen.most_common(MOST_VALUES)},
            max(0, len(seen) - MOST_VALUES),
        )  # fmt: skip  # noqa: E501
        for name, seen in counts.items()
        if 1 < len(seen) <= seen.total() / 2
    ]


def breakdown_cell(breakdowns: Sequence[Breakdown]) -> Cell:
    """A chart and a table for each column."""
    if not breakdowns:
        return Cell("The pairs of this run keep no column that could be told apart.", is_empty=True)
    told, charts, tables = [], [], []
    for one in breakdowns:
        counts = [part.lengths.pairs for part in one.slices.values()]
        told.append(f"{one.column} has {len(one.slices) + one.others:,} values.")
        charts.append(Chart("bars", f"Pairs by {one.column}", list(one.slices), [("pairs", counts)], "pairs", ""))  # fmt: skip  # noqa: E501
        rows = [(value, *_row(part)) for value, part in one.slices.items()]
        more = f", {one.others:,} values with fewer pairs left out" if one.others else ""
        heads = (one.column, "pairs", "mean margin", "longer one chosen", "characters, chosen : rejected", "wins most")  # fmt: skip  # noqa: E501
        tables.append((f"By {one.column}{more}", Table(heads, rows, is_open=True)))
    return Cell(" ".join(told), charts, tables)


def _row(part: Slice) -> tuple[str, ...]:
    found, wins = part.lengths, part.wins
    mean = number(part.margins / part.with_margin) if part.with_margin else "–"
    lengths = f"{found.chosen / found.pairs:,.0f} : {found.rejected / found.pairs:,.0f}"
    best = wins.groups[0] if wins.groups else None
    winner = f"{label(best)}, {percent(wins.share(best)[0])}" if best else "–"
    return f"{found.pairs:,}", mean, percent(found.share[0]), lengths, winner


def _is_told(kind: pa.DataType) -> bool:
    return any(one(kind) for one in (pa.types.is_string, pa.types.is_integer, pa.types.is_boolean))


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(pc.cast(column, pa.string()), "none")
