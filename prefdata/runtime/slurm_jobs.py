"""Slurm's commands: submit, and ask what is in the queue. Writes no script."""

import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import orjson

from prefdata.errors import PrefdataError
from prefdata.runtime.disk import write_text
from prefdata.runtime.slurm_scripts import Scripts

JOBS = "slurm/jobs.json"


@dataclass(frozen=True, slots=True)
class Jobs:
    """What was submitted for a run.

    Attributes:
        arrays: ids, in the order in which they were submitted.
        merge: id of the job that follows them; None where Slurm refused it.
        shards: how many there are in all.
        scored: fingerprint of the run up to its scores, which the arrays make.
        fingerprint: of the whole run, which the merge makes.
        submitted: when, in seconds since 1970.
    """

    arrays: tuple[str, ...]
    merge: str | None
    shards: int
    scored: str
    fingerprint: str
    submitted: float = 0.0


def read_jobs(out: Path) -> Jobs | None:
    """What was submitted last for a run."""
    file = out / JOBS
    if not file.is_file():
        return None
    told = orjson.loads(file.read_bytes())
    return Jobs(**told | {"arrays": tuple(told["arrays"])})


def submit(scripts: Scripts, out: Path, jobs: Jobs, tasks: Mapping[str, set[int]]) -> Jobs:
    """Submit the array, if it has tasks, and the merge to follow it.

    Args:
        scripts: both.
        out: the run folder, where the ids are kept.
        jobs: what is to be kept; the ids are filled in.
        tasks: those of earlier arrays that are still in the queue; the merge waits for them too.

    Raises:
        PrefdataError: Slurm is not here, or refuses.
    """
    # single tasks: an array of which one has failed counts as failed, whatever became of that shard
    after = [f"{array}_{task}" for array, waiting in tasks.items() for task in sorted(waiting)]
    jobs = replace(jobs, arrays=tuple(tasks), merge=None, submitted=time.time())
    if scripts.array is not None:
        after.append(array := _sbatch(str(scripts.array)))
        jobs = replace(jobs, arrays=(*jobs.arrays, array))
        _keep(jobs, out)
    # without the second, a merge whose array has failed would wait for ever
    dependency = (f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes")
    jobs = replace(jobs, merge=_sbatch(*(dependency if after else ()), str(scripts.merge)))
    _keep(jobs, out)
    return jobs


def _keep(jobs: Jobs, out: Path) -> None:
    write_text(out / JOBS, orjson.dumps(asdict(jobs)).decode())


def tasks_in_queue(jobs: Jobs) -> dict[str, set[int]]:
    """Numbers of the tasks that are pending or running, by the id of their array.

    Raises:
        PrefdataError: Slurm is not here, or refuses.
    """
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
