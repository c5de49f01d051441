"""How far a run on a cluster is: from the files on the disk, where Slurm is also from its queue."""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prefdata.cluster.jobs import Jobs, read_jobs
from prefdata.cluster.slurm_jobs import is_in_queue, tasks_in_queue
from prefdata.errors import PrefdataError
from prefdata.run.shard_status import STATES, ShardState, look_at_shards
from prefdata.storage.disk import disk_errors
from prefdata.storage.record import Record, read_record

WATCH_SECONDS = 10.0


@dataclass(frozen=True)
class RunStatus:
    """What is known about the shards of a run.

    Attributes:
        shards: in order; empty where the run is merged, or nothing was submitted.
        record: of the merged run that is there, if any.
        is_merged: and that is the run that was submitted last.
        queue: shards in the queue and whether they run; None where Slurm was not asked.
    """

    out: Path
    shards: Sequence[ShardState] = ()
    record: Record | None = None
    is_merged: bool = False
    queue: Mapping[int, bool] | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def states(self) -> Counter[str]:
        """Shards by state."""
        return Counter(one.state for one in self.shards)

    @property
    def lost(self) -> list[ShardState]:
        """Shards that wait, and that the queue does not have."""
        queue = self.queue
        if queue is None:
            return []
        waiting = (one for one in self.shards if one.state == "waiting")
        return [one for one in waiting if one.shard.number not in queue]

    @property
    def is_over(self) -> bool:
        """Whether nothing will change by itself."""
        if self.is_merged or not self.shards:
            return True
        if self.states["done"] == len(self.shards):  # the merge is still to come, or is lost
            return self.queue is not None and bool(self.notes)
        return self.states["running"] + self.states["waiting"] == len(self.lost)

    @property
    def rows(self) -> tuple[int, int] | None:
        """Rows through all passes, those of a running shard by its share of the work; of how many.

        The second is estimated where a shard has not begun; None where none has.
        """
        statuses = [one.status for one in self.shards if one.status is not None]
        if not statuses:
            return None
        of_rows = sum(s.of_rows for s in statuses) * len(self.shards) / len(statuses)
        return round(sum(s.fraction * s.of_rows for s in statuses)), round(of_rows)

    @property
    def seconds_left(self) -> float | None:
        """By the throughput of the attempts so far; None before there is one."""
        running = self.states["running"]
        statuses = [one.status for one in self.shards if one.status is not None]
        done = sum(s.fraction for s in statuses)
        if not running or not done:
            return None
        seconds = sum(s.seconds for s in statuses) / done
        undone = sum(1 - (one.status.fraction if one.status else 0.0) for one in self.shards)
        return seconds * undone / running

    def lines(self) -> Iterator[str]:
        """What a person reads: shards by state, rows, the time left; then what needs somebody."""
        if self.is_merged and self.record:
            yield f"finished and merged: {_told(self.record, self.out)}"
            return
        if not self.shards:
            yield f"nothing was submitted for {self.out} yet"
            return
        told = ", ".join(f"{self.states[state]} {state}" for state in STATES)
        yield f"{count_shards(len(self.shards))}: {told}"
        about = "" if all(one.status for one in self.shards) else "about "
        yield f"{self.rows[0]:,} of {about}{self.rows[1]:,} rows" if self.rows else "no row is done yet"  # fmt: skip  # noqa: E501
        if (left := self.seconds_left) is not None:
            yield f"{_as_time(left)} left, with {self.states['running']} at a time"
        if self.record:
            yield f"a finished run of another recipe or pair rule is there: {_told(self.record, self.out)}"  # fmt: skip  # noqa: E501
        yield from self.notes
        for one in self.shards:
            if one.state == "failed":
                yield f"shard {one.shard.number} failed: {one.reason}; see {_log(self.out, one)}"
            elif one.state == "waiting" and one.reason:
                yield f"shard {one.shard.number} waits; its last attempt ended: {one.reason}"
        if self.lost:
            yield (
                f"not in the queue: {count_shards(len(self.lost))}: "
                f"{_listed([one.shard.number for one in self.lost])}; see "
                f"{_log(self.out, self.lost[0]).parent}, then submit them again with the same "
                "command and --submit"
            )

    def told(self) -> dict[str, Any]:
        """The same for a program."""
        rows, of_rows = self.rows or (None, None)
        record = self.record if self.is_merged else None
        return {
            "out": str(self.out),
            "is_merged": self.is_merged,
            "is_over": self.is_over,
            "shards": {state: self.states[state] for state in STATES},
            "rows": record["rows"] if record else rows,
            "of_rows": record["rows"] if record else of_rows,
            "pairs": sum(record["pairs"].values()) if record else None,
            "seconds_left": self.seconds_left,
            "failed": [
                _named(one) | {"log": str(_log(self.out, one))}
                for one in self.shards
                if one.state == "failed"
            ],
            "errors": [_named(o) for o in self.shards if o.state == "waiting" and o.reason],
            "not_in_queue": [one.shard.number for one in self.lost],
            "notes": list(self.notes),
        }


def look_at_run(out: Path, count: int) -> RunStatus:
    """The state of a run of so many shards."""
    with disk_errors(out):
        jobs, record = read_jobs(out), read_record(out)
        if record and (jobs is None or record["fingerprint"] == jobs.fingerprint):
            return RunStatus(out, record=record, is_merged=True)
        found = look_at_shards(out, count, run=jobs.scored if jobs else None)
    if jobs is None and not any(o.status or o.reason or o.state != "waiting" for o in found):
        return RunStatus(out)
    queue, notes = _ask_slurm(jobs, found)
    if queue is not None:
        found = [_corrected(one, queue) for one in found]
    return RunStatus(out, found, record, queue=queue, notes=notes)


def watch_run(
    look: Callable[[], RunStatus],
    show: Callable[[RunStatus], None],
    *,
    wait: Callable[[float], None] = time.sleep,
) -> RunStatus:
    """Look and show until nothing will change by itself; returns the last status."""
    while True:
        show(status := look())
        if status.is_over:
            return status
        wait(WATCH_SECONDS)


def count_shards(count: int) -> str:
    """`1 shard`, `3 shards`."""
    return f"{count} shard{'s' * (count != 1)}"


def _ask_slurm(
    jobs: Jobs | None, found: Sequence[ShardState]
) -> tuple[dict[int, bool] | None, list[str]]:
    """Shards in the queue and whether they run, None where Slurm is not; what is to be said."""
    if jobs is None or not (jobs.arrays or jobs.merge) or shutil.which("squeue") is None:
        return None, []
    try:
        queue: dict[int, bool] = {}
        for tasks in tasks_in_queue(jobs).values():
            queue |= {task: queue.get(task, False) or runs for task, runs in tasks.items()}
        is_last = all(one.state == "done" for one in found)
        if is_last and (jobs.merge is None or not is_in_queue(jobs.merge)):
            return queue, [
                "the merge is not in the queue; submit it with the same command and --submit"
            ]
        return queue, []
    except PrefdataError as err:  # what the files tell is true all the same
        return None, [f"the queue could not be read: {err}"]


def _corrected(one: ShardState, queue: Mapping[int, bool]) -> ShardState:
    """A task that has just gone leaves fresh files."""
    is_gone = one.state == "running" and not queue.get(one.shard.number, False)
    return replace(one, state="waiting") if is_gone else one


def _told(record: Record, out: Path) -> str:
    pairs = sum(record["pairs"].values())
    return f"{record['rows']:,} rows, {pairs:,} pairs in {out / 'pairs'}"


def _as_time(seconds: float) -> str:
    if seconds < 60:
        return "less than a minute"
    if seconds > 7200:
        return f"about {seconds / 3600:,.1f} hours"
    return f"about {seconds / 60:,.0f} minutes"


def _named(one: ShardState) -> dict[str, Any]:
    return {"shard": one.shard.number, "reason": one.reason}


def _log(out: Path, one: ShardState) -> Path:
    return out / "slurm" / "logs" / f"shard-{one.shard.number}.log"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:10])) + (" …" if len(numbers) > 10 else "")
