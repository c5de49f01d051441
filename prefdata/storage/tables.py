"""Rows of a table by their places, in pieces that Arrow can hold. Reads no file.

`Table.take` joins the chunks of a column first: that copies everything at each call, and fails
where a column has more than 2 GiB of text, which is what the offsets of one array can tell.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_PIECE_ROWS = 100_000
_PIECE_BYTES = 2**28


def reorder(table: pa.Table, places: NDArray[np.int64], *, at_once: int = _PIECE_ROWS) -> pa.Table:
    """The rows at these places, in this order; a place may come several times."""
    batches = table.to_batches()
    size = int(_PIECE_BYTES * table.num_rows / max(table.nbytes, 1))
    size = max(1, min(size, at_once))
    pieces = (places[start : start + size] for start in range(0, len(places), size))
    tables = [table.slice(0, 0), *(take_rows(batches, piece) for piece in pieces)]
    return pa.concat_tables(tables)


def take_rows(batches: Sequence[pa.RecordBatch], places: NDArray[np.int64]) -> pa.Table:
    """Rows by their places in the batches laid end to end; few enough for one array a column."""
    starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
    numbers = np.searchsorted(starts, places, side="right") - 1
    order = np.argsort(numbers, kind="stable")
    parts = [
        batches[number].take(pa.array(places[mine] - starts[number]))
        for number, mine in _runs(numbers, order)
    ]
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return pa.Table.from_batches(parts).take(pa.array(back))


def _runs(
    numbers: NDArray[np.int64], order: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each number once, with where it stands in `numbers`."""
    found, first = np.unique(numbers[order], return_index=True)
    yield from zip(found.tolist(), np.split(order, first[1:]), strict=True)
