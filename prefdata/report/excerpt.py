"""The pairs and rejects that a report shows in full: which, and in what form. Counts nothing.

A page holds so many rows and so many bytes. Above that it is a sample, drawn by the hash of the
row's id, so that the reports of two runs over the same seeds show the same rows.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from prefdata.rows import ID, Row, rows_of
from prefdata.storage.folders import read_rows, read_schema, read_tables

MOST_ROWS = 20_000
MOST_BYTES = 64 * 2**20
CANDIDATE_BYTES = 32 * 2**20
LONGEST = 50_000
"""Characters of a text after which the page does not show it."""
ROWS_PER_PART = 500
"""So many rows make one JSON text, so that the browser can read them a part at a time."""
SPLIT = "_split"
"""Where a pair lies: train or test."""
_EXACT = 2**53
"""Above this, integers lose digits in a browser."""
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}  # fmt: skip  # noqa: E501


def embed(value: Any) -> Markup:
    """JSON for the inside of a script element: no text in it can end the element."""
    text = orjson.dumps(value, default=str).decode()
    for sign, escape in _ESCAPES.items():
        text = text.replace(sign, escape)
    return Markup(text)


@dataclass(frozen=True)
class Excerpt:
    """What is shown of a folder.

    Attributes:
        fields: names of the values of a row, in order.
    """

    folder: Path
    rows: int
    shown: int
    fields: tuple[str, ...]
    _below: int

    @property
    def is_whole(self) -> bool:
        """Whether all rows are shown."""
        return self.shown == self.rows

    def parts(self) -> Iterator[Markup]:
        """JSON lists of rows, each the list of its values."""
        rows = self._rows()
        while part := list(islice(rows, ROWS_PER_PART)):
            yield embed(part)

    def _rows(self) -> Iterator[list[Any]]:
        is_pairs = SPLIT in self.fields
        for stem in ("train", "test") if is_pairs else (None,):
            for row in read_rows(self.folder, stem=stem):
                if _ticket(row["row_id" if is_pairs else ID]) >= self._below:
                    continue
                if is_pairs:
                    row[SPLIT] = stem
                else:
                    row["row"] = orjson.loads(row["row"] or "null")
                yield [_shown(row[name]) for name in self.fields]


@dataclass(frozen=True)
class Candidates:
    """Every candidate of the rows whose pairs are shown."""

    folder: Path
    column: str
    scores: tuple[str, ...]
    _below: int

    def parts(self) -> Iterator[Markup]:
        """JSON lists of [row, [[alias or model, temperature, finish reason, text, scores], …]]."""
        tables = read_tables(self.folder, columns=[ID, self.column, *self.scores])
        rows = (
            [row[ID], [self._told(row, at) for at in range(len(row[self.column]))]]
            for table in tables
            for row in rows_of(self._with_more(table))
            if _ticket(row[ID]) < self._below
        )
        while part := list(islice(rows, ROWS_PER_PART)):
            yield embed(part)

    def _with_more(self, table: pa.Table) -> pa.Table:
        """Rows with more candidates than the two that a pair has."""
        return table.filter(pc.greater(pc.list_value_length(table[self.column]), 2))

    def _told(self, row: Row, at: int) -> list[Any]:
        one = row[self.column][at]
        writer = one.get("alias") or one.get("model")
        scores = [row[name][at] for name in self.scores]
        text = _shown(one["text"])
        return [writer, one.get("temperature"), one.get("finish_reason"), text, scores]


def take_candidates(folder: Path, column: str, scores: Sequence[str], pairs: Excerpt) -> Candidates:
    """All candidates of rows whose pairs are shown, as far as their bytes allow."""
    whole = take_excerpt(folder, most_bytes=CANDIDATE_BYTES)
    return Candidates(folder, column, tuple(scores), min(whole._below, pairs._below))


def take_excerpt(
    folder: Path, *, most_rows: int = MOST_ROWS, most_bytes: int = MOST_BYTES
) -> Excerpt:
    """Choose what is shown of `pairs/` or `rejects/`; of each row two numbers are held."""
    names = read_schema(folder).names
    is_pairs = "row_id" in names
    tickets, sizes = array("Q"), array("d")
    for table in read_tables(folder):
        found = table["row_id" if is_pairs else ID].to_pylist()
        tickets.extend(map(_ticket, found))
        sizes.extend([table.nbytes // max(table.num_rows, 1)] * len(found))
    drawn = np.asarray(tickets, np.uint64)
    order = np.argsort(drawn)
    too_many = np.cumsum(np.asarray(sizes)[order]) > most_bytes
    too_many[most_rows:] = True
    # the first that is too many goes, and so do all pairs of its row
    below = int(drawn[order][too_many][0]) if too_many.any() else 2**64
    shown = sum(ticket < below for ticket in tickets)
    fields = (*names, SPLIT) if is_pairs else tuple(names)
    return Excerpt(folder, len(tickets), shown, fields, below)


def _ticket(row: str | None) -> int:
    return int.from_bytes(blake2b((row or "").encode(), digest_size=8).digest())


def _shown(value: Any) -> Any:
    """The value as a browser can hold it: whole integers, texts not longer than LONGEST."""
    if isinstance(value, str) and len(value) > LONGEST:
        return f"{value[:LONGEST]} […and {len(value) - LONGEST:,} more characters]"
    if isinstance(value, int) and abs(value) > _EXACT:
        return str(value)
    if isinstance(value, list):
        return [_shown(one) for one in value]
    if isinstance(value, dict):
        return {name: _shown(one) for name, one in value.items()}
    return value
