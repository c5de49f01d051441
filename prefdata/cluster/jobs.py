"""What was last started for a run, by whichever engine: written beside its scripts, and read."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from prefdata.storage.disk import write_text

JOBS = "jobs.json"
ENGINES = ("slurm", "k8s", "sky")
"""Folders in the run folder in which that file may lie."""


@dataclass(frozen=True, slots=True)
class Jobs:
    """What was submitted for a run.

    Attributes:
        arrays: ids, in the order in which they were submitted; only Slurm's are known.
        merge: id of the job that follows them; None where Slurm refused it.
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


def read_jobs(out: Path, engines: Sequence[str] = ENGINES) -> Jobs | None:
    """What was submitted last for a run; to Kubernetes and SkyPilot, what was last written."""
    found = []
    for file in (out / engine / JOBS for engine in engines):
        if file.is_file():
            told = orjson.loads(file.read_bytes())
            found.append(Jobs(**told | {"arrays": tuple(told["arrays"])}))
    return max(found, key=lambda jobs: jobs.submitted, default=None)


def shards_submitted(out: Path) -> int | None:
    """How many shards the last submission was of."""
    jobs = read_jobs(out)
    return jobs.shards if jobs else None


def keep_jobs(jobs: Jobs, out: Path, engine: str = "slurm") -> None:
    """Write what was submitted, for `read_jobs`."""
    write_text(out / engine / JOBS, orjson.dumps(asdict(jobs)).decode())
