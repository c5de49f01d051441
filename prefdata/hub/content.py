"""What rows are, whatever file or library they come from: how many, and a hash of them in order."""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import orjson
import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Content:
    """Rows of one split.

    Attributes:
        hash: 32 hex digits of the rows as canonical JSON, one a line, in order.
    """

    rows: int
    hash: str


def measure_content(tables: Iterable[pa.Table]) -> Content:
    """The content of a split; how it is cut into tables does not matter."""
    rows, hasher = 0, blake2b(digest_size=16)
    for table in tables:
        rows += table.num_rows
        for row in table.to_pylist():
            hasher.update(orjson.dumps(row, default=str, option=_CANONICAL))
    return Content(rows, hasher.hexdigest())


_CANONICAL = orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
