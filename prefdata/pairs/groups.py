"""Rows of a folder in groups of equal values, wherever they lie. Picks nothing."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from prefdata.pairs.files import as_text
from prefdata.rows import Row, rows_of
from prefdata.seeds.identity import prompt_identity
from prefdata.storage.folders import read_tables
from prefdata.storage.tables import take_rows

_ROWS_AT_ONCE = 1000


def read_groups(folder: Path, group_by: Sequence[str], prompt: str) -> Iterator[list[Row]]:
    """Rows with equal values in `group_by`, in order; groups in the order of their first rows.

    The folder is held in memory, as Arrow has it. Values of the column `prompt` are equal if they
    are one prompt.
    """
    batches: list[pa.RecordBatch] = []
    places: dict[str, list[int]] = defaultdict(list)
    count = 0
    for table in read_tables(folder):
        batches += table.to_batches()
        for key in group_keys(table, group_by, prompt):
            places[key].append(count)
            count += 1
    for groups in _some_at_once(list(places.values())):
        members = np.fromiter(chain.from_iterable(groups), dtype=np.int64)
        rows = iter(rows_of(take_rows(batches, members)))
        yield from (list(islice(rows, len(group))) for group in groups)


def group_keys(table: pa.Table, group_by: Sequence[str], prompt: str) -> Iterator[str]:
    """A text for each row, equal for rows of one group; `prompt` is the column with prompts."""
    for row in rows_of(table.select(group_by)):
        yield as_text([prompt_identity(row[n]) if n == prompt else row[n] for n in group_by])


def _some_at_once(groups: list[list[int]]) -> Iterator[list[list[int]]]:
    waiting: list[list[int]] = []
    rows = 0
    for group in groups:
        waiting.append(group)
        rows += len(group)
        if rows >= _ROWS_AT_ONCE:
            yield waiting
            waiting, rows = [], 0
    if waiting:
        yield waiting
