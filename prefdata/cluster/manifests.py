"""What Kubernetes and SkyPilot are given: the shards of a run, and the merge. Starts nothing.

Both start a task again that was preempted or has failed, know the one from the other, and count the
failures alone; so a task is the bare command, and its journal is where it goes on.
"""

import os
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefdata.cluster.checks import check_run
from prefdata.cluster.files import write_files
from prefdata.cluster.slurm_jobs import Jobs, keep_jobs
from prefdata.cluster.status import count_shards
from prefdata.errors import PrefdataError, Say
from prefdata.recipe.loader import LoadedRecipe
from prefdata.run.ending import LAST_SECONDS
from prefdata.run.places import inputs_of
from prefdata.storage.disk import disk_errors

Engine = Literal["k8s", "sky"]
RANK: dict[Engine, str] = {"k8s": "JOB_COMPLETION_INDEX", "sky": "SKYPILOT_JOB_RANK"}
"""Variables that hold a task's number."""
_IS_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


@dataclass(frozen=True)
class Tasks:
    """What is asked of Kubernetes or SkyPilot.

    Attributes:
        shards: tasks.
        nodes: tasks at the same time; SkyPilot starts all.
        gpus: of each task; 0 runs on CPUs.
        image: of the container; SkyPilot does without one.
        volume: name of the claim or volume that all tasks see; of SkyPilot's also a bucket's URL.
        mount: where tasks see it.
        accelerators: as SkyPilot wants it: H100:8.
        cpus: of each task, and `memory`, in the engine's words.
        setup: lines of shell that run before the command.
        max_restarts: times that a task that has failed is started again; preemptions do not count.
        secret: name of the Kubernetes Secret that holds the token and the keys of servers.
        is_spot: whether SkyPilot takes spot machines for the shards.
        is_published: whether the merge publishes, where the recipe says so.
    """

    shards: int
    gpus: int
    image: str | None
    volume: str
    mount: str
    nodes: int = 1
    accelerators: str | None = None
    cpus: str | None = None
    memory: str | None = None
    setup: tuple[str, ...] = ()
    max_restarts: int = 3
    secret: str = "prefdata"
    is_spot: bool = True
    is_published: bool = True

    @property
    def is_bucket(self) -> bool:
        """Whether the volume is a bucket."""
        return "://" in self.volume


def write_manifests(
    engine: Engine,
    loaded: LoadedRecipe,
    told: Sequence[str],
    out: Path,
    tasks: Tasks,
    *,
    rehearse: bool = False,
    force: bool = False,
    say: Say = print,
) -> None:
    """Write `shards.yaml` and `merge.yaml` into `out/k8s` or `out/sky`; say what starts them.

    Args:
        engine: who is to run them.
        loaded: the recipe; it and all that it reads lie in the working directory, which is what
            tasks see: Kubernetes' as the root of the volume, SkyPilot's as its `workdir`.
        told: its file, or the name of one that ships, and the overrides.
        out: the run folder in that directory; SkyPilot's tasks have it on the volume.
        tasks: what is asked for.
        rehearse: whether tasks answer with the scripted engines.
        force: replace files that were edited.
        say: called with each line for the user.

    Raises:
        PrefdataError: the recipe cannot run so, or a file was edited.
    """
    _check(engine, loaded, told, out, tasks)
    with disk_errors(out):
        found = check_run(loaded, out, tasks.shards, tasks.gpus, rehearse=rehearse, say=say)
        if found is None:
            return
        shards, merge = (out / engine / f"{name}.yaml" for name in ("shards", "merge"))
        name = _job_name(out)
        words = _words(engine, loaded, told, tasks) + ["--rehearse"] * rehearse
        unpublished = ["--no-publish"] * (not tasks.is_published)
        values = {
            "rank": RANK[engine],
            "out": f"{tasks.mount}/{_seen(out)}",
            "tasks": tasks,
            "secrets": _secrets(loaded),
            "setup": [_line(engine, line) for line in tasks.setup],
            "grace": 3 * LAST_SECONDS,
        }
        build = _shell("build", [*words, "--gpus", str(tasks.gpus)])
        join = _shell("merge", [*words, *unpublished])
        files = {
            shards: {"name": name, "is_merge": False, "command": _line(engine, build)},
            merge: {"name": f"{name}-merge", "is_merge": True, "command": _line(engine, join)},
        }
        write_files(
            {file: (f"{engine}.yaml.j2", values | more) for file, more in files.items()},
            out, force=force, say=say,
        )  # fmt: skip
        wanted = Jobs((), None, tasks.shards, found.scored, found.fingerprint, time.time())
        keep_jobs(wanted, out, engine)
    say(f"{count_shards(tasks.shards)}: {len(found.shards)} done here")
    say(f"wrote {shards} and {merge}")
    for line in _how_to_start(engine, name, shards, merge, tasks, _secrets(loaded)):
        say(line)


def _how_to_start(
    engine: Engine, name: str, shards: Path, merge: Path, tasks: Tasks, secrets: Sequence[str]
) -> tuple[str, ...]:
    first, last = (shlex.quote(str(file)) for file in (shards, merge))
    if engine == "k8s":
        return (
            "look at them, then start the shards:",
            f"  kubectl apply -f {first}",
            "and the merge, once all are finished:",
            f"  kubectl wait --for=condition=complete --timeout=-1s job/{name} && "
            f"kubectl apply -f {last}",
        )
    given = " ".join(f"--secret {one}" for one in secrets)
    return (
        f"look at them, then start the shards from {shlex.quote(str(Path.cwd()))}:",
        f"  sky jobs launch --num-jobs {tasks.shards} {given} {first}",
        "and the merge, once `sky jobs queue` shows that all have succeeded:",
        f"  sky jobs launch {given} {last}",
    )


def _check(
    engine: Engine, loaded: LoadedRecipe, told: Sequence[str], out: Path, tasks: Tasks
) -> None:
    if not tasks.is_bucket and not _IS_NAME.fullmatch(tasks.volume):
        raise PrefdataError(
            f"--volume {tasks.volume!r}: it is no name of a volume, which has small letters, "
            "digits, '-' and '.'; give the name of "
            + ("a PersistentVolumeClaim" if engine == "k8s" else "a volume, or a bucket as s3://…")
        )
    if engine == "k8s" and tasks.is_bucket:
        raise PrefdataError(
            f"--volume {tasks.volume}: a pod mounts a claim, not a bucket; give the name of a "
            "PersistentVolumeClaim"
        )
    if not tasks.mount.startswith("/") or tasks.mount.endswith("/"):
        raise PrefdataError(
            f"--mount {tasks.mount}: it is no absolute path of a folder; give one as /work"
        )
    is_shipped = not Path(told[0]).exists()  # by its name; the tasks' prefdata has it too
    for one in inputs_of(loaded):
        if not (is_shipped and one.path in loaded.files):
            _seen(one.path)
    _seen(out)
    if loaded.recipe.output_path is not None:
        root = Path.cwd() if engine == "k8s" else out
        _seen(Path(loaded.recipe.output_path), root)


def _words(engine: Engine, loaded: LoadedRecipe, told: Sequence[str], tasks: Tasks) -> list[str]:
    """Recipe, overrides and run folder as a task sees them."""
    recipe, *overrides = told
    if Path(recipe).exists():  # else it ships
        recipe = _seen(Path(recipe))
    out = _seen(Path(loaded.recipe.output_dir))
    return [recipe, *overrides, "--out", out if engine == "k8s" else f"{tasks.mount}/{out}"]


def _seen(path: Path, root: Path | None = None) -> str:
    """A path relative to what the tasks see, the working directory by default."""
    root, path = root or Path.cwd(), Path(os.path.abspath(path))  # noqa: PTH100  resolves no links
    if not path.is_relative_to(root):
        raise PrefdataError(
            f"{path}: it lies outside of {root}, which is all that tasks see and keep; move it "
            "there, or call the command from a folder that holds everything"
        )
    return str(path.relative_to(root))


def _shell(verb: str, words: Sequence[str]) -> str:
    return f"prefdata {verb} {shlex.join(words)}"


def _line(engine: Engine, text: str) -> str:
    """Shell as it stands in the file: Kubernetes would put variables of its own for $(NAME)."""
    return text.replace("$", "$$") if engine == "k8s" else text


def _secrets(loaded: LoadedRecipe) -> list[str]:
    """Variables that hold the token, and the keys of the recipe's servers."""
    keys = {one.api_key for one in loaded.recipe.providers if one.api_key}
    return ["HF_TOKEN", *sorted(keys - {"HF_TOKEN"})]


def _job_name(out: Path) -> str:
    """Of letters that a name in DNS may have, and so short that a pod's number fits behind it."""
    return re.sub(r"[^a-z0-9]+", "-", f"prefdata-{out.name}".lower())[:50].strip("-")
