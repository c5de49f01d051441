"""What the panels of a report are made of: charts, tables, sentences; and how numbers are said."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefdata.report.figures import Sized, Step
from prefdata.report.sides import Group, Lengths, Wins
from prefdata.report.spreads import Grid, Spread
from prefdata.run.oddities import find_oddities


@dataclass(frozen=True)
class Chart:
    """What the page draws.

    Attributes:
        kind: `bars` lie; `columns` stand; `steps` and `lines` have numbers on both axes.
        labels: of the bars, or the x of the points; of steps, where they begin, and the last ends.
        marks: (x, name) of lines across the plot.
        lasts: where the axis of `lines`, which begins at 0, has its end.
        bands: (from, to, name) of what lasted for a while.
    """

    kind: str
    title: str
    labels: Sequence[Any]
    series: Sequence[tuple[str, Sequence[float | None]]]
    x: str
    y: str
    marks: Sequence[tuple[float, str]] = ()
    is_percent: bool = False
    lasts: float | None = None
    bands: Sequence[tuple[float, float, str]] = ()


@dataclass(frozen=True)
class Figure:
    """A number at the head of the page, as a text and, where two can be compared, as a number."""

    name: str
    text: str
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its heading, which may be a row's id; counts are ints."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str | int]]
    has_ids: bool = False
    is_open: bool = False


@dataclass(frozen=True)
class Cell:
    """What one run has to say in a panel.

    Attributes:
        summary: the finding in a sentence or two.
        tables: (caption, table); those of a chart hold its numbers.
        is_empty: the run has nothing of the kind; the summary says so beside another run.
    """

    summary: str
    charts: Sequence[Chart] = ()
    tables: Sequence[tuple[str, Table]] = ()
    warnings: Sequence[str] = ()
    is_empty: bool = False


@dataclass(frozen=True)
class Panel:
    """A section of the page with a cell for each run."""

    id: str
    title: str
    lead: str
    cells: Sequence[Cell]

    @property
    def is_empty(self) -> bool:
        """Whether no run has anything to show in it."""
        return all(cell.is_empty for cell in self.cells)

    @property
    def is_wide(self) -> bool:
        """Whether it has a table that stands open."""
        return any(table.is_open for cell in self.cells for _, table in cell.tables)


@dataclass
class Numbers:
    """All figures of one run.

    Attributes:
        largest_by: `completion_tokens` or `characters`.
        excerpts: beginnings of the prompts of the rows named in tables, by id.
        matches: rows with an item of a benchmark, and the item.
    """

    name: str
    record: Mapping[str, Any]
    steps: list[Step]
    scores: dict[str, dict[Group, Spread]]
    margins: Spread | None
    wins: Wins
    lengths: Lengths
    largest: list[Sized]
    largest_by: str
    excerpts: dict[str, str] = field(default_factory=dict)
    breakdown: Cell = Cell("", is_empty=True)
    matches: Sequence[tuple[str, str]] = ()

    @property
    def warnings(self) -> list[str]:
        """What is odd about the run; runs of earlier versions have not counted lengths."""
        return find_oddities(
            {**self.record, "lengths": (self.lengths.longer, self.lengths.shorter)}
        )


def histogram(
    title: str, grid: Grid, series: Sequence[tuple[str, Sequence[float]]], x: str, y: str
) -> Chart:
    """Bins, or a column for each value where there are few."""
    if not grid.points:
        return Chart("steps", title, grid.edges, series, x, y)
    places = {grid.place(point): number(point) for point in reversed(grid.points)}
    columns = [(name, [values[at] for at in sorted(places)]) for name, values in series]
    return Chart("columns", title, [places[at] for at in sorted(places)], columns, x, y)


def label(group: Group) -> str:
    """A writer in a word: `bold, 0.9`."""
    name, temperature = group
    return name if temperature is None else f"{name}, {temperature:g}"


def number(value: float) -> str:
    """Four digits, as many as a reader wants."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:,.4g}"


def percent(share: float) -> str:
    """A share as a reader wants it."""
    return "–" if math.isnan(share) else f"{share:.1%}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
