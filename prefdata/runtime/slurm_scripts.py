"""The batch scripts of a sharded run. Submits nothing."""

import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from prefdata.runtime.disk import make_folder, write_text
from prefdata.shards import FOLDER

GRACE_SECONDS = 120
"""Between the signal that a time limit or a preemption comes, and its coming."""


@dataclass(frozen=True)
class Cluster:
    """What is asked of Slurm.

    Attributes:
        nodes: tasks at the same time, each on a node of its own.
        gpus: of each node; 0 runs on CPUs.
        shards: tasks in all.
        options: further lines of `#SBATCH`, of the array and of the merge.
        container: image for `srun --container-image` (Pyxis); None runs as it is installed here.
        max_requeues: times that one task may be started again.
    """

    nodes: int
    gpus: int
    shards: int
    options: tuple[str, ...] = ()
    container: str | None = None
    max_requeues: int = 20


@dataclass(frozen=True)
class Scripts:
    """Where the two scripts lie."""

    array: Path
    merge: Path


def write_scripts(
    recipe: Path, overrides: Sequence[str], out: Path, cluster: Cluster, missing: Sequence[int]
) -> Scripts:
    """Write `out/slurm/array.sbatch` and `merge.sbatch`.

    Args:
        recipe: the recipe's file.
        overrides: of the command line.
        out: the run folder, on a file system that all nodes share.
        cluster: what is asked.
        missing: numbers of the shards that are to be made.
    """
    out, place = out.absolute(), out.absolute() / "slurm"
    make_folder(place / "logs")
    build = _command(cluster, "build", recipe, overrides, out, f"--gpus {cluster.gpus}")
    gpus = (f"--gpus-per-node={cluster.gpus}",) if cluster.gpus else ()
    common = {
        "out": out,
        "here": shlex.quote(str(Path.cwd())),  # paths on the command line are seen from here
        "name": f"prefdata-{out.name}",
        "logs": shlex.quote(str(place / "logs")),
        "count": cluster.shards,
    }
    scripts = Scripts(place / "array.sbatch", place / "merge.sbatch")
    array = {
        "numbers": as_ranges(missing),
        "nodes": cluster.nodes,
        "options": (*gpus, *cluster.options),
        "grace": GRACE_SECONDS,
        "shards": shlex.quote(str(out / FOLDER)),
        "max_requeues": cluster.max_requeues,
        "command": build,
    }
    merge = _command(cluster, "merge", recipe, overrides, out)
    _write(scripts.array, common | array)
    _write(scripts.merge, common | {"options": cluster.options, "command": merge})
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


def _command(
    cluster: Cluster, verb: str, recipe: Path, overrides: Sequence[str], out: Path, *more: str
) -> str:
    """The line of a shell that runs prefdata on a node."""
    words = [str(recipe.absolute()), *overrides, "--out", str(out)]
    told = " ".join([*map(shlex.quote, words), *more])
    if cluster.container is None:
        return f"{shlex.quote(sys.executable)} -m prefdata {verb} {told}"
    mounts = ",".join(sorted({f"{path}:{path}" for path in (recipe.absolute().parent, out)}))
    inside = (f"--container-image={cluster.container}", f"--container-mounts={mounts}")
    return f"srun --ntasks=1 {' '.join(map(shlex.quote, inside))} prefdata {verb} {told}"


def _write(place: Path, values: dict[str, object]) -> None:
    environment = Environment(
        loader=PackageLoader("prefdata.runtime", "."),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    template = environment.get_template(f"{place.name}.j2")
    write_text(place, template.render(values))
    place.chmod(0o755)
