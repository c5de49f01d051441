"""Rows of a dataset, whatever they come from: measured, and loaded back from the Hub to compare."""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import orjson
import pyarrow as pa
from datasets import load_dataset

from prefdata.errors import PrefdataError
from prefdata.hub.access import HTTP_ERRORS, describe

_CANONICAL = orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
BATCH = 1000


@dataclass(frozen=True, slots=True)
class Content:
    """Rows of one split.

    Attributes:
        hash: 32 hex digits of the rows as canonical JSON, one a line, in order.
    """

    rows: int
    hash: str


Contents = Mapping[str, Mapping[str, Content]]
"""By config and split."""


def measure_content(tables: Iterable[pa.Table]) -> Content:
    """The content of a split; how it is cut into tables does not matter."""
    rows, hasher = 0, blake2b(digest_size=16)
    for table in tables:
        rows += table.num_rows
        for row in table.to_pylist():
            hasher.update(orjson.dumps(row, default=str, option=_CANONICAL))
    return Content(rows, hasher.hexdigest())


def read_back(repo_id: str, commit: str, sent: Contents) -> None:
    """Load every split of a commit, over the network and past every cache.

    Raises:
        PrefdataError: it cannot be loaded, or has other rows than were sent.
    """
    try:
        _read_back(repo_id, commit, sent)
    except HTTP_ERRORS:
        raise
    except (OSError, ValueError, pa.ArrowException) as err:
        raise PrefdataError(
            f"publish: {repo_id}: what was sent cannot be loaded back: {describe(err)}; publish "
            "again: what the Hub has is not sent twice"
        ) from err


def _read_back(repo_id: str, commit: str, sent: Contents) -> None:
    # a plain owner/name would be looked up as a folder of this machine first
    place = f"hf://datasets/{repo_id}"
    with tempfile.TemporaryDirectory(prefix="prefdata-read-back-") as empty:
        for config, splits in sent.items():
            found = load_dataset(place, config, revision=commit, streaming=True, cache_dir=empty)
            if set(found) != set(splits):
                raise _differs(
                    repo_id, config, f"splits {sorted(found)}, sent were {sorted(splits)}"
                )
            for split, content in splits.items():
                batches = found[split].with_format("arrow").iter(BATCH)
                _compare(repo_id, f"{config}/{split}", content, measure_content(batches))


def _compare(repo_id: str, name: str, sent: Content, found: Content) -> None:
    if found.rows != sent.rows:
        raise _differs(repo_id, name, f"{found.rows:,} rows instead of {sent.rows:,}")
    if found.hash != sent.hash:
        raise _differs(repo_id, name, f"other rows (hash {found.hash}, sent was {sent.hash})")


def _differs(repo_id: str, name: str, what: str) -> PrefdataError:
    return PrefdataError(
        f"publish: {repo_id}: {name}, loaded back, has {what}, so it differs from what was sent; "
        "publish again, and if it happens again report it as a bug of prefdata"
    )
