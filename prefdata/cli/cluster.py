"""`slurm`: a run on a cluster."""

from pathlib import Path
from typing import Annotated

import typer

from prefdata.cli.hub import check_hub
from prefdata.cli.program import (
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
    account: Annotated[str | None, typer.Option(help="Partition, as for sbatch.")] = None,
    container: Annotated[
        str | None, typer.Option(help="Container image for srun --container-image (Pyxis).")
    ] = None,
    sbatch_extra: Annotated[
        list[str] | None,
        typer.Option(help="Another #SBATCH option, for example --qos=high; can be repeated."),
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
        loaded = load(recipe, overrides, out)
        from prefdata.run.shards import count_shards
        from prefdata.slurm.scripts import Cluster
        from prefdata.slurm.submit import run_on_slurm, shards_submitted, tell_status

        folder = run_folder(loaded, rehearse).absolute()
        count = count_shards(folder, shards, default=shards_submitted(folder) or nodes)
        if status:
            print("\n".join(tell_status(folder, count)))
            return
        if submit and loaded.recipe.publish and not (rehearse or no_publish):
            check_hub(loaded.recipe.publish)
        named = {"partition": partition, "time": time, "account": account}
        options = [f"--{name}={value}" for name, value in named.items() if value]
        cluster = Cluster(
            nodes, gpus, count, (*options, *(sbatch_extra or ())), merge_partition, container,
            max_requeues=max_requeues, is_published=not no_publish,
        )  # fmt: skip
        told = [str(Path(recipe).absolute()), *(overrides or ())]
        words = [*told, "--out", str(Path(loaded.recipe.output_dir).absolute())]
        words += ["--rehearse"] * rehearse
        run_on_slurm(
            loaded, words, folder, cluster, is_submitted=submit, rehearse=rehearse, say=print
        )
