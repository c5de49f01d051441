"""The folder of pairs: what the selection has kept, by split and in order. Picks nothing."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from prefdata.pairs.selection import VERDICTS, Verdict
from prefdata.recipe.schema import Recipe
from prefdata.rows import ID, REJECTS, Row, is_json, reject
from prefdata.storage.folders import RowsWriter, read_rows, read_schema, read_tables
from prefdata.storage.ownership import own_file
from prefdata.storage.tables import reorder

SPLITS = ("train", "test")
JSONL_COLUMNS = ("prompt", "chosen", "rejected")
THOUGHTS = ("chosen_reasoning", "rejected_reasoning")


def pairs_in_order(pairs: Path) -> Iterator[tuple[str, Row]]:
    """(split, row) of every pair of a folder, train first."""
    for split in SPLITS:
        for row in read_rows(pairs, stem=split):
            yield split, row


@dataclass
class Kept:
    """Rows with a pair, and rows whose pairs were all dropped, with the reason of the first."""

    pairs: dict[str, int] = field(default_factory=lambda: {"train": 0, "test": 0})
    rows: set[str] = field(default_factory=set)
    lost: dict[str, Verdict] = field(default_factory=dict)


def keep_pairs(
    picks: Path, pairs: Path, codes: Any, order: Callable[[pa.Table], pa.Table] | None
) -> Kept:
    """The second stream: kept pairs to their split; rows that lost all their pairs are noted.

    Where there is an `order`, a split is held in memory until it can be written in it.
    """
    kept, names, start = Kept(), list(VERDICTS), 0
    held: dict[str, list[pa.Table]] = {"train": [], "test": []}
    with RowsWriter(pairs, read_schema(picks), stem="train") as writer:
        for table in read_tables(picks):
            mine = codes[start : start + table.num_rows].tolist()
            start += table.num_rows
            for split in SPLITS:
                places = [n for n, code in enumerate(mine) if names[code] == split]
                if not places:
                    continue
                kept.pairs[split] += len(places)
                if order is None:
                    writer.write(table.take(pa.array(places)), stem=split)
                else:
                    held[split].append(table.take(pa.array(places)))
            for row, code in zip(table["row_id"].to_pylist(), mine, strict=True):
                if names[code] in kept.pairs:
                    kept.rows.add(row)
                else:
                    kept.lost.setdefault(row, names[code])
        for split, tables in held.items():
            if order is not None and tables:
                writer.write(order(pa.concat_tables(tables)), stem=split)
    kept.lost = {row: reason for row, reason in kept.lost.items() if row not in kept.rows}
    return kept


def easy_first(table: pa.Table, group: str | None) -> pa.Table:
    """Pairs by falling margin; those of a group together, groups by their falling mean margin."""
    margins = table["margin"].to_pylist()
    keys = table[group].to_pylist() if group else list(range(len(margins)))
    told = [as_text(key) for key in keys]
    sums: dict[str, list[float]] = {}
    for key, margin in zip(told, margins, strict=True):
        sums.setdefault(key, []).append(margin or 0.0)
    means = {key: fmean(found) for key, found in sums.items()}
    order = sorted(range(len(told)), key=lambda n: (-means[told[n]], told[n], -(margins[n] or 0.0)))
    return reorder(table, np.array(order, dtype=np.int64))


def reject_unselected(scored: Path, kept: Kept, rejects: RowsWriter) -> None:
    """A reject for every row whose pairs were all dropped, with the reason of the first."""
    if not kept.lost:
        return
    for table in read_tables(scored):
        places = [n for n, row in enumerate(table[ID].to_pylist()) if row in kept.lost]
        rows = table.take(pa.array(places, pa.int64())).to_pylist()
        refused = [
            reject(
                row, stage="pairs", reason=kept.lost[row[ID]], detail=VERDICTS[kept.lost[row[ID]]]
            )
            for row in rows
        ]
        rejects.write(pa.Table.from_pylist(refused, schema=REJECTS))


def mean_scores(pairs: Path, scores: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Mean of each score column over chosen and over rejected, nulls left out."""
    seen = {name: (array("d"), array("d")) for name in scores}
    if not seen:
        return {}
    for table in read_tables(pairs, columns=["chosen_scores", "rejected_scores"]):
        for at, column in enumerate(table.columns):
            for row in column.to_pylist():
                for name, value in (row or {}).items():  # a source may have no scores
                    if value is not None:
                        seen[name][at].append(value)
    return {name: (fmean(c), fmean(r)) for name, (c, r) in seen.items() if c and r}


def count_lengths(pairs: Path) -> tuple[int, int]:
    """Pairs whose chosen has more characters than its rejected, and those whose has fewer."""
    longer = shorter = 0
    for table in read_tables(pairs, columns=["chosen", "rejected"]):
        chosen, rejected = (pc.utf8_length(column) for column in table.columns)
        longer += pc.sum(pc.greater(chosen, rejected)).as_py() or 0
        shorter += pc.sum(pc.less(chosen, rejected)).as_py() or 0
    return longer, shorter


def copies_of(recipe: Recipe) -> dict[str, Path]:
    """JSONL files that a recipe asks for, by split."""
    if recipe.output_path is None:
        return {}
    place = Path(recipe.output_path).absolute()
    splits = {"train": place}
    if recipe.output_projection.test_size:
        splits["test"] = place.with_name(f"{place.stem}.test{place.suffix}")
    return splits


def write_jsonl(out: Path, split: str, place: Path, *, reasoning: str | None) -> None:
    """Write one split of a run's pairs as JSON lines, texts alone, whole or not at all.

    `reasoning`: `keep` for the thoughts as well.
    """
    pairs, columns = out / "pairs", JSONL_COLUMNS + (THOUGHTS if reasoning == "keep" else ())
    with own_file(place, out) as file:
        coded = [field.name for field in read_schema(pairs) if is_json(field)]
        for table in read_tables(pairs, columns=columns, stem=split):
            for row in table.to_pylist():
                row |= {name: orjson.loads(row[name]) for name in coded if name in row}
                file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


def as_text(value: Any) -> str:
    """A text as it is, of anything else one canonical text."""
    if isinstance(value, str):
        return value
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
