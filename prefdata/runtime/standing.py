"""How far a shard is: left on the disk by its task, read by whoever asks. Makes no rows."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import orjson

from prefdata.runtime.disk import write_text
from prefdata.runtime.fence import ATTEMPT
from prefdata.shards import Shard

State = Literal["done", "running", "failed", "waiting"]
STATES: tuple[State, ...] = ("done", "running", "waiting", "failed")
ALIVE_SECONDS = 120.0
"""A shard without a sign of life for so long is not taken for running: clocks differ a little."""
RECORD = "shard.json"
FAILED = "failed"
_PROGRESS = "progress.json"


@dataclass(frozen=True, slots=True)
class Standing:
    """How far an attempt at a shard has come.

    Attributes:
        passes: that are finished.
        of_passes: of the recipe.
        rows: finished rows of the pass that runs.
        of_rows: rows of that pass.
        seconds: since the attempt began.
    """

    passes: int
    of_passes: int
    rows: int
    of_rows: int
    seconds: float

    @property
    def fraction(self) -> float:
        """Of the shard's work, passes taken for equal; from 0 to 1."""
        part = self.rows / self.of_rows if self.of_rows else 1.0
        return (self.passes + part) / self.of_passes


@dataclass(frozen=True, slots=True)
class ShardState:
    """One shard as its files tell it.

    Attributes:
        standing: of the latest attempt that has begun a pass.
        reason: why the shard has failed.
    """

    shard: Shard
    state: State
    standing: Standing | None = None
    reason: str | None = None


def write_standing(folder: Path, standing: Standing) -> None:
    """Leave word in the folder of a shard."""
    write_text(folder / _PROGRESS, orjson.dumps(asdict(standing)).decode())


def look_at_shards(out: Path, count: int, *, now: float | None = None) -> list[ShardState]:
    """The state of every shard, from the files on the disk alone.

    Args:
        out: the run folder.
        count: of shards.
        now: seconds since 1970; the clock's by default.
    """
    now = time.time() if now is None else now
    return [_look(Shard(number, count), out, now) for number in range(count)]


def _look(shard: Shard, out: Path, now: float) -> ShardState:
    folder = shard.folder(out)
    standing = _read(folder / _PROGRESS)
    if (folder / RECORD).is_file():
        return ShardState(shard, "done", standing)
    if (folder / FAILED).is_file():
        return ShardState(shard, "failed", standing, (folder / FAILED).read_text().strip())
    signs = [file.stat().st_mtime for file in (folder / ATTEMPT, folder / _PROGRESS) if file.exists()]  # fmt: skip  # noqa: E501
    is_alive = now - max(signs, default=0.0) < ALIVE_SECONDS
    return ShardState(shard, "running" if is_alive else "waiting", standing)


def _read(file: Path) -> Standing | None:
    return Standing(**orjson.loads(file.read_bytes())) if file.is_file() else None
