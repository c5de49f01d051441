"""Slurm's commands, and what a run's files tell of its shards. Writes no script."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson

from prefdata.errors import PrefdataError
from prefdata.runtime.disk import write_text
from prefdata.runtime.slurm_scripts import Scripts
from prefdata.shards import Shard

State = Literal["done", "running", "failed", "waiting"]
STATES: tuple[State, ...] = ("done", "running", "waiting", "failed")
ALIVE_SECONDS = 120.0
"""A shard whose journal has not grown for so long is not taken for running."""
JOBS = "jobs.json"


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One shard as its files tell it.

    Attributes:
        rows: that are finished; known once the shard is.
        seconds: of the whole shard, once it is done.
        reason: why it failed.
        answers: records in its journal, of completions and scores.
    """

    shard: Shard
    state: State
    seconds: float | None = None
    reason: str | None = None
    answers: int = 0


@dataclass(frozen=True, slots=True)
class Jobs:
    """Ids of what was submitted."""

    array: str | None
    merge: str

    def __str__(self) -> str:
        tasks = "nothing else" if self.array is None else f"the array {self.array}"
        return f"{tasks}, and the merge {self.merge}"


def look_at_shards(out: Path, count: int, *, now: float | None = None) -> list[ShardStatus]:
    """The state of every shard, from the files on the disk alone."""
    now = time.time() if now is None else now
    return [_look(Shard(number, count), out, now) for number in range(count)]


def _look(shard: Shard, out: Path, now: float) -> ShardStatus:
    folder = shard.folder(out)
    journals = list((folder / "journal").glob("*.jsonl"))
    answers = sum(file.read_bytes().count(b"\n") for file in journals)
    if (folder / "shard.json").is_file():
        record = orjson.loads((folder / "shard.json").read_bytes())
        return ShardStatus(shard, "done", record["seconds"]["total"], None, answers)
    if (folder / "failed").is_file():
        reason = (folder / "failed").read_text().strip()
        return ShardStatus(shard, "failed", None, reason, answers)
    touched = max((file.stat().st_mtime for file in [*journals, folder / "attempt"] if file.exists()), default=0.0)  # fmt: skip  # noqa: E501
    state: State = "running" if now - touched < ALIVE_SECONDS else "waiting"
    return ShardStatus(shard, state, None, None, answers)


def submit(scripts: Scripts, out: Path, *, has_tasks: bool) -> Jobs:
    """Submit the array, if it has tasks, and the merge to follow it.

    Raises:
        PrefdataError: Slurm is not here, or refuses.
    """
    array: str | None = None
    after: tuple[str, ...] = ()
    if has_tasks:
        array = _sbatch(str(scripts.array))
        # without the second, a merge whose array has failed would wait for ever
        after = (f"--dependency=afterok:{array}", "--kill-on-invalid-dep=yes")
    merge = _sbatch(*after, str(scripts.merge))
    told = {"array": array, "merge": merge, "submitted": time.time()}
    write_text(out / "slurm" / JOBS, orjson.dumps(told).decode())
    return Jobs(array, merge)


def shards_in_queue(out: Path) -> set[int]:
    """Numbers of the shards whose tasks are pending or running, of the last submission.

    Raises:
        PrefdataError: Slurm is not here, or refuses.
    """
    file = out / "slurm" / JOBS
    if not file.is_file():
        return set()
    array = orjson.loads(file.read_bytes())["array"]
    if array is None:
        return set()
    lines = _run(
        "squeue", "--noheader", "--array", "--format=%i", f"--jobs={array}", missing_is_empty=True
    )
    return {int(line.partition("_")[2]) for line in lines.split() if "_" in line}


def _sbatch(*words: str) -> str:
    return _run("sbatch", "--parsable", *words).partition(";")[0].strip()


def _run(*words: str, missing_is_empty: bool = False) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError as err:
        raise PrefdataError(
            f"{words[0]} is not here, so this is no node of a Slurm cluster; run the command on a "
            "login node, or without --submit and --status"
        ) from err
    if done.returncode and missing_is_empty and "Invalid job id" in done.stderr:
        return ""  # Slurm has forgotten the job: it ended long ago
    if done.returncode:
        raise PrefdataError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
