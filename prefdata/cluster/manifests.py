"""What Kubernetes and SkyPilot are given: the shards of a run, and the merge. Starts nothing.

Both start a task again that was preempted or has failed, know the one from the other, and count the
failures alone; so a task is the bare command, and its journal is where it goes on.
"""

import os
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from prefdata.cluster.checks import check_run
from prefdata.cluster.files import write_files
from prefdata.cluster.jobs import Jobs, keep_jobs
from prefdata.cluster.status import count_shards
from prefdata.errors import PrefdataError, Say
from prefdata.recipe.environment import variables_in
from prefdata.recipe.loader import LoadedRecipe, Written, override_of_out, read_written
from prefdata.recipe.shipped import shipped
from prefdata.run.ending import LAST_SECONDS
from prefdata.run.places import inputs_of, modules_of
from prefdata.seeds.files import seed_files
from prefdata.storage.disk import disk_errors

Engine = Literal["k8s", "sky"]
RANK: dict[Engine, str] = {"k8s": "JOB_COMPLETION_INDEX", "sky": "SKYPILOT_JOB_RANK"}
"""Variables that hold a task's number."""
_LABEL = "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_NAME = rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*"
_BUCKET = r"(?:s3|gs|r2|cos|oci|nebius|cw|https)://\w[\w.-]*(?:/[\w.-]+)*/?"
_IMAGE = r"(?:[\w.-]+(?::\d+)?/)?[a-z0-9][a-z0-9._/-]*(?::\w[\w.-]*)?(?:@\w+:[0-9a-f]+)?"
_FOLDER = r"(?!/(?:dev|proc|sys)(?:/|$))(?:/(?!\.\.?(?:/|$))[\w.@+-]+)+"
_NUMBER = r"\d+(?:\.\d+)?"
_LETTERS = "small letters, digits, '-' and '.'"
_FORMS: dict[tuple[str, Engine | None], tuple[str, str]] = {
    ("image", None): (_IMAGE, "name of a container image; give one as registry/lab/prefdata:1"),
    ("mount", None): (_FOLDER, "absolute path of a folder for a volume; give one as /work"),
    ("secret", None): (_NAME, f"name of a Secret; give one of {_LETTERS}"),
    ("volume", "k8s"): (_NAME, f"name of a claim ({_LETTERS}); a pod mounts no bucket"),
    ("volume", "sky"): (
        f"{_NAME}|{_BUCKET}",
        f"name of a volume ({_LETTERS}) or bucket (s3://mine)",
    ),
    ("cpus", "k8s"): (f"{_NUMBER}m?", "quantity of Kubernetes; give one as 64"),
    ("memory", "k8s"): (f"{_NUMBER}(?:[KMGTPE]i?|k)?", "quantity of Kubernetes; give one as 400Gi"),
    ("cpus", "sky"): (rf"{_NUMBER}\+?", "number of cores of SkyPilot; give one as 16+"),
    ("memory", "sky"): (
        rf"(?:{_NUMBER}|\d+(?i:[kmgtp][bi]))\+?",
        "GB of SkyPilot; give one as 64+",
    ),
}
"""How options look, by their names in `Tasks` and the engine, and what they are."""
_UNSAFE = re.compile("[^\t\n -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What YAML does not keep as it is, or takes for the end of a line."""


@dataclass(frozen=True)
class Tasks:
    """What is asked of Kubernetes or SkyPilot.

    Attributes:
        engine: who is to run them.
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

    engine: Engine
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

    def line(self, text: str) -> str:
        """Shell as it stands in the file: Kubernetes puts variables of its own for $(NAME)."""
        return text.replace("$", "$$") if self.engine == "k8s" else text


def write_manifests(
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
    check_words(told, out, tasks)
    _check_inputs(loaded, told, out, tasks)
    engine, seen_out = tasks.engine, str(_out_of_tasks(loaded, tasks))
    written = read_written(Path(told[0]), [*told[1:], override_of_out(seen_out)])
    _check_paths(written, tasks)
    secrets = _secrets(loaded, written)
    with disk_errors(out):
        found = check_run(loaded, out, tasks.shards, tasks.gpus, rehearse=rehearse, say=say)
        if found is None:
            return
        shards, merge = (out / engine / f"{name}.yaml" for name in ("shards", "merge"))
        place = str(Path(tasks.mount) / _seen(out, tasks.mount))
        name = job_name(f"{tasks.volume}{place}")
        recipe = _seen(Path(told[0]), tasks.mount) if Path(told[0]).is_file() else told[0]
        words = shlex.join([recipe, *told[1:], "--out", seen_out, *["--rehearse"] * rehearse])
        unpublished = "" if tasks.is_published else " --no-publish"
        values = {
            "rank": RANK[engine],
            "out": place,
            "tasks": tasks,
            "secrets": secrets,
            "setup": [tasks.line(line) for line in tasks.setup],
            "grace": 3 * LAST_SECONDS,
        }
        build = tasks.line(f"prefdata build {words} --gpus {tasks.gpus}")
        join = tasks.line(f"prefdata merge {words}{unpublished}")
        files = {
            shards: {"name": name, "is_merge": False, "command": build},
            merge: {"name": f"{name}-merge", "is_merge": True, "command": join},
        }
        write_files(
            {file: (f"{engine}.yaml.j2", values | more) for file, more in files.items()},
            out, force=force, say=say,
        )  # fmt: skip
        wanted = Jobs((), None, tasks.shards, found.scored, found.fingerprint, time.time())
        keep_jobs(wanted, out, engine)
    say(f"{count_shards(tasks.shards)}: {len(found.shards)} done here")
    say(f"wrote {shards} and {merge}")
    for line in _how_to_start(name, shards, merge, tasks, secrets):
        say(line)


def _how_to_start(
    name: str, shards: Path, merge: Path, tasks: Tasks, secrets: Sequence[str]
) -> tuple[str, ...]:
    first, last = (shlex.quote(str(file)) for file in (shards, merge))
    if tasks.engine == "k8s":
        return (
            f"pods read {', '.join(secrets)} from the Secret {tasks.secret}",
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


def check_words(told: Sequence[str], out: Path, tasks: Tasks) -> None:
    """See that what is given comes to the engine and the tasks as it is."""
    for (name, of), (form, what) in _FORMS.items():
        value = getattr(tasks, name)
        if of in (None, tasks.engine) and value is not None and not re.fullmatch(form, value):
            option = "mem" if name == "memory" else name
            raise PrefdataError(f"--{option} {value!r}: it is no {what}")
    for text in (*told, *tasks.setup, str(out), str(Path.cwd())):
        if found := _UNSAFE.search(text):
            raise PrefdataError(
                f"{text!r}: {found[0]!r} in it would not come to the tasks as it is; leave it out, "
                "or write the text in the recipe or in a prompt_file"
            )


def _check_inputs(loaded: LoadedRecipe, told: Sequence[str], out: Path, tasks: Tasks) -> None:
    """See that what the recipe reads and makes is where tasks see it."""
    for place in (*_files(loaded, told, out), out):
        _seen(place, tasks.mount)
    beside = {*modules_of(loaded)}
    for one in modules_of(loaded, os.environ.get("PYTHONPATH", "")):
        if one not in beside:
            raise PrefdataError(
                f"{one.path}: {one.what} is found by PYTHONPATH, which tasks do not have; put it "
                "beside the recipe, or install it in the image"
            )


def _files(loaded: LoadedRecipe, told: Sequence[str], out: Path) -> Iterator[Path]:
    """What tasks read, the files in its folders too; not what the tasks' prefdata has as well."""
    is_shipped, recipes = not Path(told[0]).is_file(), shipped("").resolve()
    for one in inputs_of(loaded):
        if not (is_shipped and one.path.resolve().is_relative_to(recipes)):
            yield one.path
            yield from one.path.rglob("*") if one.is_whole else seed_files(one.path, out)


def _check_paths(written: Written, tasks: Tasks) -> None:
    """See that what is written names on the volume what it names here."""
    start = tasks.mount if tasks.engine == "k8s" else "~/sky_workdir"
    for key, path in written.paths.items():
        is_on_volume = Path(os.path.normpath(Path(start) / path)).is_relative_to(tasks.mount)
        if key == "output_path" and not is_on_volume:
            raise PrefdataError(
                f"output_path: {path}: it lies outside of {tasks.mount}, the volume, which alone "
                "is kept when a task ends; write output_path='${output_dir}/pairs.jsonl'"
            )
        is_here = Path(path).is_absolute() and Path(path).resolve().is_relative_to(Path.cwd())
        if is_here and not is_on_volume:
            raise PrefdataError(
                f"{key}: {path} is a path of this machine, which tasks do not have; write "
                f"{Path(path).resolve().relative_to(Path.cwd())}, which is seen from the folder "
                "where this command runs"
            )


def _out_of_tasks(loaded: LoadedRecipe, tasks: Tasks) -> Path:
    """The recipe's `output_dir` of tasks, on the volume."""
    out = Path(_seen(Path(loaded.recipe.output_dir), tasks.mount))
    return out if tasks.engine == "k8s" else tasks.mount / out


def _seen(path: Path, mount: str) -> str:
    """A path as tasks see it: relative to the working directory, or on the volume as it is."""
    here, place = Path.cwd(), Path(os.path.abspath(path))  # noqa: PTH100  resolves no links
    if place.is_relative_to(mount) and not place.is_relative_to(here):
        return str(place)
    if not place.is_relative_to(here):
        raise PrefdataError(
            f"{place}: it lies outside of {here}, which is all that tasks see and keep; move it "
            "there, or call the command from a folder that holds everything"
        )
    for link in (one for one in (place, *place.parents) if one.is_symlink()):
        target = Path(os.path.normpath(link.parent / link.readlink()))
        is_kept = not link.readlink().is_absolute() and target.is_relative_to(here)
        if not is_kept and not target.is_relative_to(mount):
            raise PrefdataError(
                f"{link}: it is a link to {target}, and lies outside of {here} or is absolute, "
                "so tasks would not find it; put what it links to in its place"
            )
        if is_kept and link.exists():  # no circle
            _seen(target, mount)
    return str(place.relative_to(here))


def _secrets(loaded: LoadedRecipe, written: Written) -> list[str]:
    """Variables that hold the token, the keys of the recipe's servers and what it reads itself."""
    far = loaded.recipe.providers
    read = written.variables | variables_in({one.name: loaded.tell(one.endpoint) for one in far})
    names = {one.api_key for one in far if one.api_key} | (read & os.environ.keys())
    return ["HF_TOKEN", *sorted(names - {"HF_TOKEN"})]


def job_name(place: str) -> str:
    """One for each place; of letters of DNS, and so short that a pod's number fits behind it."""
    letters = re.sub(r"[^a-z0-9]+", "-", Path(place).name.lower())[-26:].strip("-")
    return "-".join(filter(None, ("prefdata", letters, sha256(place.encode()).hexdigest()[:8])))
