"""The batch scripts of a sharded run. Submits nothing."""

import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from prefdata.run.shards import FOLDER
from prefdata.storage.disk import make_folder
from prefdata.storage.ownership import check_file, claim_folder, write_own

_OURS = ("HF_HOME", "HF_HUB_OFFLINE", "HF_TOKEN")
"""Variables whose value here counts in a container, whatever its image says."""
_GPU_OPTIONS = ("--gres", "--gpu", "-G", "--cpus-per-gpu", "--mem-per-gpu", "--ntasks-per-gpu")
GRACE_SECONDS = 120
"""Between the signal that a time limit or a preemption comes, and its coming."""


@dataclass(frozen=True)
class Cluster:
    """What is asked of Slurm.

    Attributes:
        nodes: tasks at the same time, each on a node of its own.
        gpus: of each node; 0 runs on CPUs.
        shards: tasks in all.
        options: further lines of `#SBATCH`, of the array and of the merge; what asks for GPUs is
            left out for the merge.
        merge_partition: of the merge, where it is another one.
        container: image for `srun --container-image` (Pyxis); None runs as it is installed here.
        mounts: folders that the container sees under the names they have here.
        cache: `HF_HOME` of the container, which images tend to set for themselves.
        max_requeues: times that one task may be started again.
        is_published: whether the merge publishes, where the recipe says so.
    """

    nodes: int
    gpus: int
    shards: int
    options: tuple[str, ...] = ()
    merge_partition: str | None = None
    container: str | None = None
    mounts: tuple[str, ...] = ()
    cache: str = ""
    max_requeues: int = 20
    is_published: bool = True


@dataclass(frozen=True)
class Scripts:
    """Where the two scripts lie; there is no array where nothing is missing."""

    array: Path | None
    merge: Path


def write_scripts(
    words: Sequence[str], out: Path, cluster: Cluster, missing: Sequence[int]
) -> Scripts:
    """Write `out/slurm/array.sbatch` and `merge.sbatch`.

    Args:
        words: recipe, overrides and flags, as `build` and `merge` take both.
        out: the run folder, on a file system that all nodes share.
        cluster: what is asked.
        missing: numbers of the shards that are to be made.
    """
    out, place = out.absolute(), out.absolute() / "slurm"
    make_folder(place / "logs")
    gpus = (f"--gres=gpu:{cluster.gpus}",) if cluster.gpus else ()
    common = {
        "out": out,
        "here": shlex.quote(str(Path.cwd())),  # paths on the command line are seen from here
        "name": re.sub(r"[^\w.-]+", "-", f"prefdata-{out.name}"),
        "logs": shlex.quote(str(place / "logs").replace("%", "%%")),
        "logs_here": shlex.quote(str(place / "logs")),
        "count": cluster.shards,
        "before": _before(cluster),
    }
    scripts = Scripts(place / "array.sbatch" if missing else None, place / "merge.sbatch")
    array = {
        "numbers": as_ranges(missing),
        "nodes": cluster.nodes,
        "options": (*gpus, *cluster.options),
        "grace": GRACE_SECONDS,
        "shards": shlex.quote(str(out / FOLDER)),
        "max_requeues": cluster.max_requeues,
        "command": _command(cluster, "build", [*words, "--gpus", str(cluster.gpus)]),
    }
    for script in (scripts.array, scripts.merge):
        if script is not None:
            check_file(script, out)
    claim_folder(out)
    if scripts.array is not None:
        _write(scripts.array, out, common | array)
    merged = [*words, *(() if cluster.is_published else ("--no-publish",))]
    options = [option for option in cluster.options if not option.startswith(_GPU_OPTIONS)]
    if cluster.merge_partition:
        options = [option for option in options if not option.startswith(("--partition", "-p"))]
        options.append(f"--partition={cluster.merge_partition}")
    merge = {"options": options, "command": _command(cluster, "merge", merged)}
    _write(scripts.merge, out, common | merge)
    return scripts


def as_ranges(numbers: Iterable[int]) -> str:
    """Numbers as Slurm writes them: 0-3,7,9-10."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _command(cluster: Cluster, verb: str, words: Sequence[str]) -> str:
    """The line of a shell that runs prefdata on a node."""
    told = " ".join(map(shlex.quote, words))
    if cluster.container is None:
        return f"{shlex.quote(sys.executable)} -m prefdata {verb} {told}"
    mounts = ",".join(f"{folder}:{folder}" for folder in cluster.mounts)
    inside = (
        f"--container-image={cluster.container}",
        f"--container-mounts={mounts}",
        f"--container-env={','.join(_OURS)}",
    )
    return f"srun --ntasks=1 {' '.join(map(shlex.quote, inside))} prefdata {verb} {told}"


def _before(cluster: Cluster) -> list[str]:
    """Lines of a script that runs in a container: what the image and srun would leave out."""
    if cluster.container is None:
        return []
    cores = '[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK'
    return [f"export HF_HOME={shlex.quote(cluster.cache)}", cores]


def _write(place: Path, out: Path, values: dict[str, object]) -> None:
    environment = Environment(
        loader=PackageLoader("prefdata.slurm", "."),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    template = environment.get_template(f"{place.name}.j2")
    write_own(place, out, template.render(values))
    place.chmod(0o755)
