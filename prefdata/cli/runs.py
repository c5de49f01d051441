"""`build`, `plan`, `merge`, `clean`: from a recipe to a run, and what it leaves behind."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from prefdata.cli.hub import check_hub, publish_built
from prefdata.cli.program import (
    Force,
    NoPublish,
    Out,
    Overrides,
    RecipeFile,
    Rehearse,
    Run,
    check_yield,
    exit_codes,
    is_quiet,
    load,
    run_folder,
    run_of,
    say,
    tell_stale,
)
from prefdata.errors import PrefdataError


def build(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="GPUs to use; 0: CPU; by default one if there is one.")
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option(min=1, help="On a CPU: number of processes per model; they share the cores."),
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show a few rows in full, and keep nothing.")
    ] = False,
    rows: Annotated[
        int | None, typer.Option("-n", min=1, help="Rows of the preview; 2 by default.")
    ] = None,
    rehearse: Rehearse = False,
    no_publish: NoPublish = False,
    force: Force = False,
    metrics: Annotated[
        Path | None,
        typer.Option(help="Name of two files that tell of each replica: NAME.prom, NAME.jsonl."),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Allow models of a recipe from the Hub to run their own code.",
        ),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Make one of N slices of the rows, counted from 0."),
    ] = None,
    attempt: Annotated[
        str | None,
        typer.Option(
            help="Which attempt at the shard this is: 1234.0, or next; earlier ones are ended."
        ),
    ] = None,
) -> None:
    """Build the dataset of a recipe; run again, it goes on where it stopped."""
    with exit_codes() as command:
        if rows and not preview:
            raise PrefdataError(
                f"-n {rows} is for --preview; add --preview, or set num_records={rows} for a "
                "small run"
            )
        loaded = load(recipe, overrides, out, trust_remote_code)
        if attempt and not shard:
            raise PrefdataError("--attempt is for --shard; leave it out")
        if preview and shard:
            raise PrefdataError("--preview shows a few of all rows; leave out --shard")
        if preview:
            _preview(loaded, rows or 2, gpus, replicas, rehearse=rehearse)
            return
        how: dict[str, Any] = {
            "machine": _find_machine(gpus, replicas, rehearse),
            "rehearse": rehearse, "force": force, "say": say, "progress": not is_quiet(),
            "metrics": metrics,
        }  # fmt: skip
        from prefdata.pipeline import build as run
        from prefdata.pipeline import build_shard
        from prefdata.run.shards import read_shard

        command.folder = folder = run_folder(loaded, rehearse)
        if rehearse:
            loaded = _rehearsed(loaded, force)
        if shard:
            part = read_shard(shard)
            build_shard(loaded, folder, part, attempt=attempt, **how)
            say(
                f"shard {shard} is finished, in {part.folder(folder)}; run prefdata merge once all "
                "shards are finished"
            )
            return
        publish = None if rehearse or no_publish else loaded.recipe.publish
        if publish is not None:
            check_hub(publish)
        _end(run(loaded, folder, **how), folder, loaded.recipe.min_yield, publish)


def _end(record: dict[str, Any], folder: Path, min_yield: float, publish: Any) -> None:
    """Tell what a run has made, and publish it where that is wanted."""
    from prefdata.cli.summary import print_summary

    print_summary(record, folder)
    tell_stale(folder)
    check_yield(record, min_yield)
    if publish is not None:
        publish_built(folder, publish)


def merge(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    shards: Annotated[
        int | None,
        typer.Option(min=1, help="Number of shards; by default, as many as there are folders."),
    ] = None,
    rehearse: Rehearse = False,
    no_publish: NoPublish = False,
    force: Force = False,
) -> None:
    """Make of finished shards the run that one task would have made, row for row."""
    with exit_codes() as command:
        loaded = load(recipe, overrides, out)
        from prefdata.pipeline import merge as join

        command.folder = folder = run_folder(loaded, rehearse)
        if rehearse:
            loaded = _rehearsed(loaded, force)
        record = join(loaded, folder, shards, rehearse=rehearse, force=force, say=say)
        publish = None if rehearse or no_publish else loaded.recipe.publish
        _end(record, folder, loaded.recipe.min_yield, publish)


def clean(
    run: Run,
    is_meant: Annotated[
        bool, typer.Option("--yes", help="Remove it; without this it is only shown.")
    ] = False,
) -> None:
    """Remove stages and journal records that a run needs no more, after saying how much."""
    with exit_codes():
        from prefdata.cli.summary import print_unneeded
        from prefdata.run.cleaning import clean_run

        given = load(str(run), None, None) if run.is_file() else None
        folder = run_of(run)
        found = clean_run(folder, given, is_meant=is_meant, say=say, progress=not is_quiet())
        print_unneeded(folder, found, is_meant=is_meant)


def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs that would share the work.")] = None,
    price: Annotated[
        float | None, typer.Option(min=0, help="Of one GPU for an hour, in any currency.")
    ] = None,
) -> None:
    """Show passes, model loads, requests, tokens, GPU-hours and disk. Runs no model."""
    with exit_codes():
        loaded = load(recipe, overrides, out)
        from prefdata.cli.summary import print_plan

        print_plan(loaded, gpus=gpus, price=price)


def _rehearsed(loaded: Any, force: bool) -> Any:
    """The recipe without its copies of the pairs, once the run itself could write where it is to.

    Raises:
        PrefdataError: it could not.
    """
    from prefdata.run.places import check_places

    check_places(loaded, run_folder(loaded, False), is_forced=force)
    return loaded.changed(output_path=None)


def _find_machine(gpus: int | None, replicas: int | None, rehearse: bool) -> Any:
    if gpus == 0:  # set before importing torch: it reads the list once
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from prefdata.workers.machine import Machine, find_machine

    return Machine() if rehearse else find_machine(gpus, replicas)


def _preview(
    loaded: Any, rows: int, gpus: int | None, replicas: int | None, *, rehearse: bool
) -> None:
    from prefdata.api.building import preview
    from prefdata.api.terminal import open_console

    records = preview(
        loaded, rows, gpus=gpus, replicas=replicas, rehearse=rehearse, say=say,
        progress=not is_quiet(),
    )  # fmt: skip
    records.print(open_console())
