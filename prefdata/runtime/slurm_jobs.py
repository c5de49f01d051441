"""Slurm's commands: submit, and ask what is in the queue. Writes no script."""

import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from prefdata.errors import PrefdataError
from prefdata.runtime.disk import write_text
from prefdata.runtime.slurm_scripts import Scripts

JOBS = "slurm/jobs.json"


@dataclass(frozen=True, slots=True)
class Jobs:
    """Ids of what was submitted.

    Attributes:
        arrays: of shards, in the order in which they were submitted.
        merge: of the job that follows them.
        submitted: when, in seconds since 1970.
        shards: how many there are in all.
    """

    arrays: tuple[str, ...]
    merge: str
    submitted: float
    shards: int

    def __str__(self) -> str:
        after = f"the array {self.arrays[-1]}, and " if self.arrays else ""
        return f"{after}the merge {self.merge}"


def read_jobs(out: Path) -> Jobs | None:
    """What was submitted last for a run."""
    file = out / JOBS
    if not file.is_file():
        return None
    told = orjson.loads(file.read_bytes())
    return Jobs(tuple(told["arrays"]), told["merge"], told["submitted"], told["shards"])


def submit(scripts: Scripts, out: Path, shards: int, *, earlier: tuple[str, ...] = ()) -> Jobs:
    """Submit the array, if it has tasks, and the merge to follow it.

    Args:
        scripts: both.
        out: the run folder, where the ids are kept.
        shards: how many there are in all.
        earlier: ids of arrays that still have tasks in the queue; the merge waits for them too.

    Raises:
        PrefdataError: Slurm is not here, or refuses.
    """
    arrays = (*earlier, *((_sbatch(str(scripts.array)),) if scripts.array else ()))
    # without the second, a merge whose array has failed would wait for ever
    after = (f"--dependency=afterok:{':'.join(arrays)}", "--kill-on-invalid-dep=yes")
    merge = _sbatch(*(after if arrays else ()), str(scripts.merge))
    jobs = Jobs(arrays, merge, time.time(), shards)
    write_text(out / JOBS, orjson.dumps(asdict(jobs)).decode())
    return jobs


def tasks_in_queue(jobs: Jobs | None) -> dict[str, set[int]]:
    """Numbers of the tasks that are pending or running, by the id of their array.

    Raises:
        PrefdataError: Slurm is not here, or refuses.
    """
    if jobs is None:
        return {}
    found: dict[str, set[int]] = {}
    for array in jobs.arrays:
        for line in _queue(array):
            job, _, task = line.partition("_")
            if task:
                found.setdefault(job, set()).add(int(task))
    return found


def is_in_queue(job: str) -> bool:
    """Whether a job is pending or running.

    Raises:
        PrefdataError: Slurm is not here, or refuses.
    """
    return bool(_queue(job))


def cancel(job: str) -> None:
    """Take a job out of the queue.

    Raises:
        PrefdataError: Slurm is not here, or refuses.
    """
    _run("scancel", job)


def _queue(job: str) -> list[str]:
    return _run("squeue", "--noheader", "--array", "--format=%i", f"--jobs={job}").split()


def _sbatch(*words: str) -> str:
    return _run("sbatch", "--parsable", *words).partition(";")[0].strip()


def _run(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError as err:
        raise PrefdataError(
            f"{words[0]} is not here, so this is no node of a Slurm cluster; run the command on a "
            "login node, or without --submit"
        ) from err
    if done.returncode and "Invalid job id" in done.stderr:
        return ""  # Slurm has forgotten the job: it ended long ago
    if done.returncode:
        raise PrefdataError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
