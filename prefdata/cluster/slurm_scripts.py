"""The batch scripts of a sharded run. Submits nothing."""

import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prefdata.cluster.files import write_files
from prefdata.errors import Say
from prefdata.run.shards import FOLDER
from prefdata.storage.disk import make_folder

CACHES = (
    "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "XDG_CACHE_HOME", "VLLM_CACHE_ROOT",
    "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR",
)  # fmt: skip
"""Variables that name folders of caches: as they are here, the scripts set them on every node."""
_HANDED_ON = ("HF_HUB_OFFLINE", "HF_TOKEN")
"""Variables that a container gets from outside, whatever its image says: no script has a token."""
_GPU_OPTIONS = ("--gres", "--gpu", "-G", "--cpus-per-gpu", "--mem-per-gpu", "--ntasks-per-gpu")
GRACE_SECONDS = 120
"""Between the signal that a time limit or a preemption comes, and its coming."""


@dataclass(frozen=True)
class Cluster:
    """What is asked of Slurm.

    Attributes:
        nodes: tasks at the same time, each on a node of its own.
        gpus: of each node; 0 runs on CPUs.
        options: further lines of `#SBATCH`, of the array and of the merge; what asks for GPUs is
            left out for the merge.
        setup: lines of shell that run before the command, on every node.
        merge_partition: of the merge, where it is another one.
        container: image for `srun --container-image` (Pyxis); None runs as it is installed here.
        mounts: folders that the container sees under the names they have here.
        caches: folders by the variables that name them; images tend to set some for themselves.
        max_requeues: times that one task may be started again.
        is_published: whether the merge publishes, where the recipe says so.
    """

    nodes: int
    gpus: int
    shards: int
    options: tuple[str, ...] = ()
    array_options: tuple[str, ...] = ()
    merge_options: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    merge_partition: str | None = None
    container: str | None = None
    mounts: tuple[str, ...] = ()
    caches: Mapping[str, str] = field(default_factory=dict)
    max_requeues: int = 20
    is_published: bool = True


@dataclass(frozen=True)
class Scripts:
    """Where the two scripts lie; there is no array where nothing is missing."""

    array: Path | None
    merge: Path


def write_scripts(
    words: Sequence[str],
    out: Path,
    cluster: Cluster,
    missing: Sequence[int],
    *,
    force: bool = False,
    say: Say = print,
) -> Scripts:
    """Write `out/slurm/array.sbatch` and `merge.sbatch`, and say what differs from those there.

    `words`: recipe, overrides and flags, as `build` and `merge` take both. `out`: the run folder,
    on a file system that all nodes share.

    Raises:
        PrefdataError: a script was edited.
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
        "before": [*_before(cluster), *_setup(cluster)],
    }
    scripts = Scripts(place / "array.sbatch" if missing else None, place / "merge.sbatch")
    array = {
        "numbers": as_ranges(missing),
        "nodes": cluster.nodes,
        "options": (*gpus, *cluster.options, *cluster.array_options),
        "grace": GRACE_SECONDS,
        "shards": shlex.quote(str(out / FOLDER)),
        "max_requeues": cluster.max_requeues,
        "command": _command(cluster, "build", [*words, "--gpus", str(cluster.gpus)]),
    }
    merged = [*words, *(() if cluster.is_published else ("--no-publish",))]
    options = [option for option in cluster.options if not option.startswith(_GPU_OPTIONS)]
    if cluster.merge_partition:
        options = [option for option in options if not option.startswith(("--partition", "-p"))]
        options.append(f"--partition={cluster.merge_partition}")
    merge = {
        "options": [*options, *cluster.merge_options],
        "command": _command(cluster, "merge", merged),
    }
    files = {} if scripts.array is None else {scripts.array: ("array.sbatch.j2", common | array)}
    files[scripts.merge] = ("merge.sbatch.j2", common | merge)
    write_files(files, out, force=force, say=say)
    for script in files:
        script.chmod(0o755)
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
        f"--container-env={','.join((*cluster.caches, *_HANDED_ON))}",
    )
    return f"srun --ntasks=1 {' '.join(map(shlex.quote, inside))} prefdata {verb} {told}"


def _before(cluster: Cluster) -> list[str]:
    """Lines of both scripts before the command: what images and srun would leave out."""
    caches = [f"export {name}={shlex.quote(folder)}" for name, folder in cluster.caches.items()]
    cores = '[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK'
    return [*caches, *([cores] if cluster.container else [])]


def _setup(cluster: Cluster) -> list[str]:
    """The user's lines, which may read variables that are not set, and may fail."""
    lines = [
        f"{{ {line}; }} || fail {shlex.quote(f'--setup {line!r} has failed')}"
        for line in cluster.setup
    ]
    return ["set +u", *lines, "set -u"] if lines else []
