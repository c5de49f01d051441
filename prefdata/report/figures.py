"""The numbers of a report: tables of a run in, plain figures out. Knows no page and no words.

Every figure is over all rows, read once in tables; of the rows themselves nothing is kept.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefdata.recipe.values import META_SUFFIX
from prefdata.report.sides import WRITER, Group, writers_of
from prefdata.report.spreads import Values, numbers
from prefdata.rows import CONTAMINATED, ID

LARGEST = 20
MOST_MATCHES = 1000


@dataclass(frozen=True)
class Sources:
    """Which columns of `candidates/` hold what is counted.

    Attributes:
        candidates: the list column, or None where single responses are compared.
        stages: names of the recipe's columns, in order.
    """

    candidates: str | None
    responses: tuple[str, ...]
    scores: tuple[str, ...]
    prompt: str
    stages: tuple[str, ...]

    @property
    def texts(self) -> list[str]:
        """Columns with the texts themselves."""
        return [f"{self.candidates}.list.element.text"] if self.candidates else [*self.responses]

    def meta(self, *names: str) -> list[str]:
        """Columns with these parts of what is known about the texts."""
        stems = [f"{self.candidates}.list.element"] if self.candidates else [
            response + META_SUFFIX for response in self.responses
        ]  # fmt: skip
        return [f"{stem}.{name}" for stem in stems for name in names]


# the funnel


@dataclass(frozen=True)
class Step:
    """Rows that have come to a step, and what became of them there."""

    name: str
    rows: int
    lost: int


def funnel(record: Mapping[str, Any], stages: Sequence[str]) -> list[Step]:
    """Rows from seeds to those with a pair."""
    lost: Counter[str] = Counter()
    for reason, count in record["rejects"].items():
        lost[reason.partition(": ")[0]] += count
    known = ["seeds", *stages]
    rest = sorted(lost.keys() - {*known, "pairs"})
    rows = record["seeds"]
    steps = []
    for name in [*known, *rest, "pairs"]:
        rows += record["added"].get(name, 0)
        steps.append(Step(name, rows, lost[name]))
        rows -= lost[name]
    return [*steps, Step("with a pair", rows, 0)]


def matches_in(
    rejects: Iterable[pa.Table], candidates: Iterable[pa.Table], filters: Sequence[str]
) -> list[tuple[str, str]]:
    """(row, item of a benchmark and overlap) of the first texts that are contaminated.

    Args:
        rejects: of the run.
        candidates: its rows, with ids.
        filters: columns that say why candidates are left out.
    """
    found = [
        (row[ID], row["detail"])
        for table in rejects
        for row in table.filter(pc.equal(table["reason"], CONTAMINATED)).to_pylist()
    ]
    found += [
        (row[ID], one["detail"])
        for table in (candidates if filters else ())
        for row in table.to_pylist()
        for name in filters
        for one in row[name] or ()
        if one is not None and one["reason"] == CONTAMINATED
    ]
    return found[:MOST_MATCHES]


# distributions


def texts_of(table: pa.Table, sources: Sources) -> Iterator[tuple[pa.Array, dict[str, Values]]]:
    """(what is known about texts, their scores) of the texts of a table, parallel to each other."""
    if sources.candidates:
        meta = table[sources.candidates].combine_chunks().flatten()
        yield meta, {n: numbers(table[n].combine_chunks().flatten()) for n in sources.scores}
        return
    for response in sources.responses:
        column = response + META_SUFFIX
        known = column in table.column_names
        named = pa.array([{"alias": response}] * table.num_rows)  # a seed brought the text along
        scores = {
            name: numbers(pc.struct_field(table[name].combine_chunks(), response))
            for name in sources.scores
        }
        yield table[column].combine_chunks() if known else named, scores


def scores_by_writer(
    tables: Iterable[pa.Table], sources: Sources
) -> dict[str, dict[Group, Values]]:
    """Every score, by its column and by who wrote the text; eight bytes each are kept."""
    found: dict[str, dict[Group, list[Values]]] = {name: {} for name in sources.scores}
    for table in tables:
        for meta, scores in texts_of(table, sources):
            groups = groups_of(meta)
            for group in set(groups):
                mine = np.fromiter((g == group for g in groups), np.bool_, len(groups))
                for name, values in scores.items():
                    found[name].setdefault(group, []).append(values[mine])
    return {
        name: {group: np.concatenate(parts[group]) for group in sorted(parts, key=str)}
        for name, parts in found.items()
    }


def groups_of(meta: pa.Array) -> list[Group]:
    """Who wrote each text, from a struct array."""
    present = {meta.type.field(n).name for n in range(meta.type.num_fields)}
    unknown = pa.nulls(len(meta))
    return writers_of(
        *(pc.struct_field(meta, name) if name in present else unknown for name in WRITER)
    )


# rows


@dataclass(frozen=True)
class Sized:
    """One of the largest rows, or of the slowest."""

    id: str
    size: float
    where: str = ""


def largest_rows(tables: Iterable[pa.Table], sources: Sources, *, by: str) -> list[Sized]:
    """Rows whose texts are the longest together, by `completion_tokens` or by `characters`."""
    found: list[tuple[float, str]] = []
    for table in tables:
        sizes = np.zeros(table.num_rows)
        for name in (sources.candidates,) if sources.candidates else sources.responses:
            held = name if sources.candidates or by == "characters" else name + META_SUFFIX
            if held not in table.column_names:
                continue
            column = table[held].combine_chunks()
            if sources.candidates:
                parents = np.asarray(pc.list_parent_indices(column))
                sizes += np.bincount(
                    parents, np.nan_to_num(_sizes(column.flatten(), by)), table.num_rows
                )
            else:
                sizes += np.nan_to_num(_sizes(column, by))
        named = zip(sizes.tolist(), table[ID].to_pylist(), strict=True)
        found = nlargest(LARGEST, [*found, *named])
    return [Sized(name, size) for size, name in found if size]


def _sizes(texts: pa.Array, by: str) -> Values:
    if by == "characters":
        written = pc.struct_field(texts, "text") if pa.types.is_struct(texts.type) else texts
        return numbers(pc.utf8_length(written))
    return numbers(pc.struct_field(texts, by))


def slowest_rows(record: Mapping[str, Any]) -> list[Sized]:
    """Rows that were longest in flight in one pass; none where the run did not note it."""
    noted = [
        Sized(row, seconds, name)
        for name, rows in record.get("slowest", {}).items()
        for row, seconds in rows
    ]
    return nlargest(LARGEST, noted, key=lambda row: row.size)


# time


@dataclass(frozen=True)
class Rates:
    """Work a second, at the middle of equal parts of the run.

    Attributes:
        requests: texts and scores that models have made.
        passes: (second, name) of each pass that began.
        loads: (from, to, name) of each model that was loaded.
    """

    lasted: float
    seconds: list[float]
    requests: list[float]
    tokens: list[float]
    passes: list[tuple[float, str]]
    loads: list[tuple[float, float, str]]


def rates(record: Mapping[str, Any], parts: int = 60) -> Rates | None:
    """Throughput over time, None where the run did not note it or has lasted no time."""
    noted = record.get("throughput", record.get("pace"))  # its earlier name
    if not noted or len(noted["samples"]) < 3:
        return None
    at = {name: n for n, name in enumerate(noted["columns"])}
    samples = np.asarray(noted["samples"], np.float64)
    when = samples[:, at["seconds"]]
    if when[-1] <= 0:
        return None
    edges = np.linspace(0, when[-1], min(parts, len(when) - 1) + 1)
    width = edges[1] - edges[0]

    def speed(done: Values) -> list[float]:
        return [float(n) for n in np.diff(np.interp(edges, when, done)) / width]

    made = samples[:, at["generated"]] + samples[:, at["scored"]]
    middles = ((edges[1:] + edges[:-1]) / 2).tolist()
    tokens = samples[:, at["completion_tokens"]]
    passes = [(float(second), str(name)) for second, name in noted["passes"]]
    loads = [(begun, ended, f"loading {name}") for name, begun, *ends in noted.get("loads", ()) for ended in ends]  # fmt: skip  # noqa: E501
    return Rates(float(when[-1]), middles, speed(made), speed(tokens), passes, loads)
