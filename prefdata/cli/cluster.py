"""`slurm`: a run on a cluster."""

from pathlib import Path
from typing import Annotated

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


def slurm(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    nodes: Annotated[
        int, typer.Option(min=1, help="Maximum number of tasks at the same time, one node each.")
    ] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs per node; 0: run on the CPU.")] = 8,
    shards: Annotated[
        int | None,
        typer.Option(min=1, help="Number of shards, one task each; as many as nodes by default."),
    ] = None,
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
    setup: Annotated[
        list[str] | None,
        typer.Option(help="A line of shell before the command: 'module load cuda'; repeatable."),
    ] = None,
    max_requeues: Annotated[
        int, typer.Option(min=0, help="How often a failed task is started again.")
    ] = 20,
    submit: Annotated[
        bool, typer.Option("--submit", help="Submit the unfinished shards, and print the job ids.")
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Show the progress of the shards, from their files.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --status: as JSON.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="With --status: look again until it is over.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace scripts that were edited.")
    ] = False,
    rehearse: Rehearse = False,
    no_publish: NoPublish = False,
) -> None:
    """Write batch scripts that make a run in shards on a cluster, and join them."""
    with exit_codes():
        if recipe.startswith("hf://"):
            raise PrefdataError(
                f"{recipe}: a recipe on the Hub would be downloaded by every node; download "
                "it first with `hf download`, then give its local path"
            )
        if submit and status:
            raise PrefdataError("--status does not submit anything; leave out --submit or --status")
        if (as_json or watch) and not status:
            raise PrefdataError("--json and --watch are for --status; add it, or leave them out")
        loaded = load(recipe, overrides, out)
        from prefdata.cluster.slurm import run_on_slurm, shards_submitted
        from prefdata.cluster.slurm_scripts import Cluster
        from prefdata.run.shards import count_shards

        folder = run_folder(loaded, rehearse).absolute()
        count = count_shards(folder, shards, default=shards_submitted(folder) or nodes)
        if status:
            _show_status(folder, count, as_json=as_json, watch=watch)
            return
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
        told = [str(Path(recipe).absolute()), *(overrides or ())]
        words = [*told, "--out", str(Path(loaded.recipe.output_dir).absolute())]
        words += ["--rehearse"] * rehearse
        run_on_slurm(
            loaded, words, folder, cluster, is_submitted=submit, time=time, rehearse=rehearse,
            force=force, say=print,
        )  # fmt: skip


def _show_status(folder: Path, count: int, *, as_json: bool, watch: bool) -> None:
    """Once, or again and again: on a terminal in one place, elsewhere where something is new."""
    from functools import partial

    import orjson

    from prefdata.cli.terminal import open_console
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
