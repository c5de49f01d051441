"""The progress of a shard: written to disk by its task, read by whoever asks. Makes no rows."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import orjson

from prefdata.errors import PrefdataError
from prefdata.run.shards import Shard
from prefdata.storage.disk import write_text
from prefdata.storage.fence import ATTEMPT

State = Literal["done", "running", "failed", "waiting"]
STATES: tuple[State, ...] = ("done", "running", "waiting", "failed")
ALIVE_SECONDS = 120.0
"""A shard without a sign of life for so long is not taken for running: clocks differ a little."""
RECORD = "shard.json"
FAILED, AGAIN = "failed", "again"
"""What the batch script leaves: why the shard has failed, or that it is tried once more."""
ERROR = "error"
"""What an attempt leaves that has ended by an error: its message."""
_PROGRESS = "progress.json"


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """How far an attempt at a shard has come.

    Attributes:
        rows: finished rows of the pass that runs.
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
        status: of the latest attempt that has begun a pass.
        reason: why it has failed; of one that waits, the error by which the last attempt ended.
    """

    shard: Shard
    state: State
    status: ShardStatus | None = None
    reason: str | None = None


def write_status(folder: Path, status: ShardStatus) -> None:
    """Write the status to the folder of a shard."""
    write_text(folder / _PROGRESS, orjson.dumps(asdict(status)).decode())


@contextmanager
def keep_error(folder: Path) -> Iterator[None]:
    """Leave the error by which an attempt ends in the folder of its shard; none if it goes well."""
    file = folder / ERROR
    file.unlink(missing_ok=True)
    try:
        yield
    except PrefdataError as err:
        with suppress(OSError):  # the disk may be what the error is about
            write_text(file, str(err))
        raise


def forget_attempts(out: Path, count: int, numbers: Iterable[int]) -> None:
    """Shards that are submitted anew have not failed, and nobody is there."""
    for folder in (Shard(number, count).folder(out) for number in numbers):
        for name in (FAILED, AGAIN, ATTEMPT, ERROR):
            (folder / name).unlink(missing_ok=True)


def look_at_shards(
    out: Path, count: int, *, run: str | None = None, now: float | None = None
) -> list[ShardState]:
    """The state of every shard, from the files on the disk alone.

    `run`: fingerprint of the run; shards that were finished for another one do not count. None lets
    all count. `now`: seconds since 1970; the clock's by default.
    """
    now = time.time() if now is None else now
    return [_look(Shard(number, count), out, run, now) for number in range(count)]


def _look(shard: Shard, out: Path, run: str | None, now: float) -> ShardState:
    folder = shard.folder(out)
    told = _text(folder / _PROGRESS)
    status = ShardStatus(**orjson.loads(told)) if told else None
    record = orjson.loads(_text(folder / RECORD) or "{}")
    if record and run in (None, record["run"]):
        return ShardState(shard, "done", status)
    if record:  # of another run, as is the progress beside it; who begins anew takes it away
        status = None
    if (reason := _text(folder / FAILED)) is not None:
        return ShardState(shard, "failed", status, reason.strip())
    signs = [_touched(folder / name) for name in (ATTEMPT, _PROGRESS)]
    is_alive = not record and now - max(signs) < ALIVE_SECONDS
    error = _text(folder / ERROR)
    if is_alive and error is None:
        return ShardState(shard, "running", status)
    return ShardState(shard, "waiting", status, error)


def _touched(file: Path) -> float:
    """Seconds since 1970; 0 where there is no such file."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _text(file: Path) -> str | None:
    try:
        return file.read_text()
    except FileNotFoundError:
        return None
