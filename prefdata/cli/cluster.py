"""`slurm`, `k8s`, `sky`: a run on a cluster."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefdata.cli.hub import check_hub
from prefdata.cli.program import (
    FIXABLE,
    NoPublish,
    Out,
    Overrides,
    RecipeFile,
    Rehearse,
    exit_codes,
    load,
    run_folder,
)
from prefdata.errors import PrefdataError

if TYPE_CHECKING:  # slow to import, and not for --help
    from prefdata.recipe.loader import LoadedRecipe

Nodes = Annotated[
    int, typer.Option(min=1, help="Maximum number of tasks at the same time, one node each.")
]
Gpus = Annotated[int, typer.Option(min=0, help="GPUs per node; 0: run on the CPU.")]
Shards = Annotated[
    int | None,
    typer.Option(min=1, help="Number of shards, one task each; as many as nodes by default."),
]
Setup = Annotated[
    list[str] | None,
    typer.Option(help="A line of shell before the command: 'module load cuda'; repeatable."),
]
ShowStatus = Annotated[
    bool, typer.Option("--status", help="Show the progress of the shards, from their files.")
]
AsJson = Annotated[bool, typer.Option("--json", help="With --status: as JSON.")]
Watch = Annotated[bool, typer.Option("--watch", help="With --status: look again until it is over.")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that were edited.")]
Image = Annotated[
    str | None, typer.Option(help="Container image with prefdata, and vLLM where it is needed.")
]
Volume = Annotated[str | None, typer.Option(help="Name of the volume that all tasks write on.")]
Mount = Annotated[str, typer.Option(help="Where tasks see the volume.")]
Cpus = Annotated[str | None, typer.Option(help="Cores of one task, in the engine's words.")]
Memory = Annotated[str | None, typer.Option("--mem", help="Memory of one task, likewise.")]
MaxRestarts = Annotated[
    int,
    typer.Option(min=0, help="How often a failed task is started again; preemptions do not count."),
]


def slurm(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    nodes: Nodes = 1,
    gpus: Gpus = 8,
    shards: Shards = None,
    partition: Annotated[str | None, typer.Option(help="Partition, as for sbatch.")] = None,
    time: Annotated[str | None, typer.Option(help="Time limit of one task, as for sbatch.")] = None,
    merge_partition: Annotated[
        str | None, typer.Option(help="Partition of the merge job, which needs no GPU.")
    ] = None,
    account: Annotated[str | None, typer.Option(help="Account, as for sbatch.")] = None,
    cpus_per_task: Annotated[
        int | None, typer.Option(min=1, help="Cores of one task; many clusters give one.")
    ] = None,
    mem: Annotated[
        str | None, typer.Option(help="Memory of one task, as for sbatch: 400G.")
    ] = None,
    container: Annotated[
        str | None, typer.Option(help="Container image for srun --container-image (Pyxis).")
    ] = None,
    sbatch_extra: Annotated[
        list[str] | None,
        typer.Option(help="Another #SBATCH option, for example --qos=high; can be repeated."),
    ] = None,
    merge_extra: Annotated[
        list[str] | None,
        typer.Option(help="The same for the merge job alone, for example --mem=32G."),
    ] = None,
    setup: Setup = None,
    max_requeues: Annotated[
        int, typer.Option(min=0, help="How often a failed task is started again.")
    ] = 20,
    submit: Annotated[
        bool, typer.Option("--submit", help="Submit the unfinished shards, and print the job ids.")
    ] = False,
    status: ShowStatus = False,
    as_json: AsJson = False,
    watch: Watch = False,
    force: Force = False,
    rehearse: Rehearse = False,
    no_publish: NoPublish = False,
) -> None:
    """Write batch scripts that make a run in shards on a cluster, and join them."""
    with exit_codes():
        if submit and status:
            raise PrefdataError("--status does not submit anything; leave out --submit or --status")
        look = status, as_json, watch
        loaded, folder, count = _open(recipe, overrides, out, shards, nodes, rehearse, look)
        from prefdata.cluster.slurm import run_on_slurm
        from prefdata.cluster.slurm_scripts import Cluster

        if submit and loaded.recipe.publish and not (rehearse or no_publish):
            check_hub(loaded.recipe.publish)
        named = {"partition": partition, "time": time, "account": account}
        options = [f"--{name}={value}" for name, value in named.items() if value]
        task = {"cpus-per-task": cpus_per_task, "mem": mem}
        own = tuple(f"--{name}={value}" for name, value in task.items() if value)
        cluster = Cluster(
            nodes, gpus, count, (*options, *(sbatch_extra or ())), own,
            (*(merge_extra or ()),), (*(setup or ()),), merge_partition, container,
            max_requeues=max_requeues, is_published=not no_publish,
        )  # fmt: skip
        file = Path(recipe).absolute()
        told = [str(file) if file.is_file() else recipe, *(overrides or ())]
        words = [*told, "--out", str(Path(loaded.recipe.output_dir).absolute())]
        words += ["--rehearse"] * rehearse
        run_on_slurm(
            loaded, words, folder, cluster, is_submitted=submit, time=time, rehearse=rehearse,
            force=force, say=print,
        )  # fmt: skip


def k8s(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    nodes: Nodes = 1,
    gpus: Gpus = 8,
    shards: Shards = None,
    image: Image = None,
    volume: Volume = None,
    mount: Mount = "/work",
    secret: Annotated[
        str, typer.Option(help="Name of the Secret that holds HF_TOKEN and keys of servers.")
    ] = "prefdata",
    cpus: Cpus = None,
    memory: Memory = None,
    setup: Setup = None,
    max_restarts: MaxRestarts = 3,
    status: ShowStatus = False,
    as_json: AsJson = False,
    watch: Watch = False,
    force: Force = False,
    rehearse: Rehearse = False,
    no_publish: NoPublish = False,
) -> None:
    """Write Kubernetes manifests: an Indexed Job over the shards, and a Job that joins them."""
    with exit_codes():
        look = status, as_json, watch
        loaded, folder, count = _open(recipe, overrides, out, shards, nodes, rehearse, look)
        if image is None:
            raise PrefdataError(
                "--image is missing: a pod runs prefdata from a container image; give one, such as "
                "the one that Dockerfile.gpu builds"
            )
        _check_volume(volume)
        from prefdata.cluster.manifests import Tasks, write_manifests

        tasks = Tasks(
            "k8s", count, gpus, image, volume or "", mount, nodes, cpus=cpus, memory=memory,
            setup=(*(setup or ()),), max_restarts=max_restarts, secret=secret,
            is_published=not no_publish,
        )  # fmt: skip
        told = [recipe, *(overrides or ())]
        write_manifests(loaded, told, folder, tasks, rehearse=rehearse, force=force)


def sky(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    gpus: Annotated[
        str, typer.Option(help="GPUs of each task, as for sky: H100:8; 0: run on the CPU.")
    ] = "0",
    shards: Annotated[
        int | None, typer.Option(min=1, help="Number of shards, one job each.")
    ] = None,
    image: Image = None,
    volume: Annotated[
        str | None,
        typer.Option(help="Volume that all tasks write on, or a bucket, as in s3://mine."),
    ] = None,
    mount: Mount = "/work",
    cpus: Cpus = None,
    memory: Memory = None,
    setup: Setup = None,
    max_restarts: MaxRestarts = 3,
    on_demand: Annotated[bool, typer.Option("--on-demand", help="Take no spot machines.")] = False,
    status: ShowStatus = False,
    as_json: AsJson = False,
    watch: Watch = False,
    force: Force = False,
    rehearse: Rehearse = False,
    no_publish: NoPublish = False,
) -> None:
    """Write SkyPilot tasks: a managed job per shard on spot machines, and one that joins them."""
    with exit_codes():
        look = status, as_json, watch
        loaded, folder, count = _open(recipe, overrides, out, shards, 1, rehearse, look)
        if not (image or setup):
            raise PrefdataError(
                "nothing brings prefdata to the machines: --image and --setup are missing; give a "
                "container image that has it, or --setup 'pip install …'"
            )
        found = re.fullmatch(r"0|[A-Za-z][\w.-]*(?::([1-9]\d*))?", gpus)
        if found is None:
            raise PrefdataError(f"--gpus {gpus}: give kind and number, as in H100:8, or 0 for none")
        _check_volume(volume)
        from prefdata.cluster.manifests import Tasks, write_manifests

        tasks = Tasks(
            "sky", count, int(found[1] or gpus != "0"), image, volume or "", mount,
            accelerators=gpus if gpus != "0" else None, cpus=cpus, memory=memory,
            setup=(*(setup or ()),), max_restarts=max_restarts, is_spot=not on_demand,
            is_published=not no_publish,
        )  # fmt: skip
        told = [recipe, *(overrides or ())]
        write_manifests(loaded, told, folder, tasks, rehearse=rehearse, force=force)


def _open(
    recipe: str,
    overrides: list[str] | None,
    out: Path | None,
    shards: int | None,
    nodes: int,
    rehearse: bool,
    look: tuple[bool, bool, bool],
) -> "tuple[LoadedRecipe, Path, int]":
    """The recipe, the run folder and the number of shards; with --status that is shown, and all.

    `look`: --status, --json, --watch.
    """
    status, as_json, watch = look
    if recipe.startswith("hf://"):
        raise PrefdataError(
            f"{recipe}: a recipe on the Hub would be downloaded by every node; download "
            "it first with `hf download`, then give its local path"
        )
    if (as_json or watch) and not status:
        raise PrefdataError("--json and --watch are for --status; add it, or leave them out")
    loaded = load(recipe, overrides, out)
    from prefdata.cluster.jobs import shards_submitted
    from prefdata.run.shards import count_shards

    folder = run_folder(loaded, rehearse).absolute()
    count = count_shards(folder, shards, default=shards_submitted(folder) or nodes)
    if status:
        _show_status(folder, count, as_json=as_json, watch=watch)
        raise typer.Exit
    return loaded, folder, count


def _check_volume(volume: str | None) -> None:
    if volume is None:
        raise PrefdataError(
            "--volume is missing: tasks keep what is finished on a volume that all of them see, "
            "else each would begin anew; give its name"
        )


def _show_status(folder: Path, count: int, *, as_json: bool, watch: bool) -> None:
    """Once, or again and again: on a terminal in one place, elsewhere where something is new."""
    from functools import partial

    import orjson

    from prefdata.api.terminal import open_console
    from prefdata.cluster.status import RunStatus, look_at_run, watch_run

    console, last = open_console(), ""

    def show(status: RunStatus) -> None:
        nonlocal last
        text = orjson.dumps(status.told()).decode() if as_json else "\n".join(status.lines())
        if text != last:
            if watch and not as_json:
                console.clear()  # nothing where no terminal is
            print(last := text, flush=True)

    look = partial(look_at_run, folder, count)
    if watch:
        if not watch_run(look, show).is_merged:
            raise typer.Exit(FIXABLE)
    else:
        show(look())
