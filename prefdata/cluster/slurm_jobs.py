"""Slurm's commands: submit, and ask what is in the queue. Writes no script."""

import subprocess
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from prefdata.cluster.jobs import Jobs, keep_jobs
from prefdata.cluster.slurm_scripts import Scripts
from prefdata.errors import PrefdataError


def submit(scripts: Scripts, out: Path, jobs: Jobs, tasks: Mapping[str, Collection[int]]) -> Jobs:
    """Submit the array, if it has tasks, and the merge to follow it.

    `jobs`: what is to be kept; the ids are filled in. `tasks`: those of earlier arrays that are
    still in the queue; the merge waits for them too.

    Raises:
        PrefdataError: Slurm is not here, or refuses.
    """
    # single tasks: an array of which one has failed counts as failed, whatever became of that shard
    after = [f"{array}_{task}" for array, waiting in tasks.items() for task in sorted(waiting)]
    jobs = replace(jobs, arrays=tuple(tasks), merge=None, submitted=time.time())
    if scripts.array is not None:
        after.append(array := _sbatch(str(scripts.array)))
        jobs = replace(jobs, arrays=(*jobs.arrays, array))
        keep_jobs(jobs, out)
    dependency = (f"--dependency=afterok:{':'.join(after)}",) if after else ()
    jobs = replace(jobs, merge=_sbatch(*dependency, str(scripts.merge)))
    keep_jobs(jobs, out)
    return jobs


def tasks_in_queue(jobs: Jobs) -> dict[str, dict[int, bool]]:
    """The tasks that are pending or running, and whether they run, by the id of their array.

    Raises:
        PrefdataError: Slurm is not here, or refuses.
    """
    found: dict[str, dict[int, bool]] = {}
    for array in jobs.arrays:
        for line in _queue(array):
            name, _, state = line.partition(" ")
            job, _, task = name.partition("_")
            if task:
                found.setdefault(job, {})[int(task)] = state == "RUNNING"
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
    asked = ("squeue", "--noheader", "--array", "--format=%i %T", f"--jobs={job}")
    return _run(*asked).splitlines()


def _sbatch(*words: str) -> str:
    return _run("sbatch", "--parsable", *words).partition(";")[0].strip()


def _run(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError as err:
        raise PrefdataError(
            f"{words[0]} was not found: this is not a node of a Slurm cluster, or its module is "
            "not loaded; run the command on a login node, or without --submit"
        ) from err
    if done.returncode and "Invalid job id" in done.stderr:
        return ""  # Slurm has forgotten the job: it ended long ago
    if done.returncode:
        raise PrefdataError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
