"""`train` and `rounds`: on a run's pairs, here or as a job."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from prefdata.cli.program import (
    Overrides,
    RecipeFile,
    Run,
    exit_codes,
    load,
    run_of,
    say,
    tell_stale,
    verbosity,
)
from prefdata.errors import PrefdataError


class Backend(StrEnum):
    """Where `prefdata train` trains."""

    trl = "trl"
    nemo_customizer = "nemo_customizer"


def train(
    run: Run,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings: learning_rate=1e-6 epochs=2 …"),
    ] = None,
    backend: Annotated[
        Backend,
        typer.Option(help="trl: DPO on this machine; nemo_customizer: a job on that platform."),
    ] = Backend.trl,
    settings: Annotated[
        Path | None, typer.Option(help="YAML file with settings; KEY=VALUE overrides it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output folder; <RUN>/trained/<backend> by default.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="nemo_customizer: write the files and print the requests without sending them.",
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what was trained there on other pairs.")
    ] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="nemo_customizer: cancel the running job.")
    ] = False,
) -> None:
    """Train a model on a run's pairs; run again, it goes on where it stopped."""
    with exit_codes():
        from prefdata.recipe.loader import load_settings

        run = run_of(run)
        folder = out or run / "trained" / backend.value
        if backend is Backend.nemo_customizer:
            _train_on_customizer(run, settings, overrides or [], folder, dry_run, cancel, force)
        else:
            if dry_run or cancel:
                raise PrefdataError(
                    "--dry-run and --cancel are only for nemo_customizer; remove them"
                )
            from prefdata.cli.summary import print_training
            from prefdata.train.trl import train_trl
            from prefdata.train.trl_settings import TrlSettings

            chosen = load_settings(TrlSettings, settings, overrides or ())
            print_training(train_trl(run, chosen, folder, force=force, say=say), folder)
        tell_stale(run)


def rounds(
    recipe: RecipeFile,
    overrides: Overrides = None,
    count: Annotated[int, typer.Option("--rounds", min=1, help="Rounds, at most.")] = 3,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the rounds; <output_dir>-rounds by default.")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(help="YAML file with settings of the training.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="As for build.")] = None,
    min_gain: Annotated[
        float,
        typer.Option(help="A round that gains no more is the last; a share of right answers."),
    ] = 0.0,
) -> None:
    """Policy, pairs, training, the next policy: again and again; run again, it goes on."""
    with exit_codes():
        loaded = _load_for_rounds(recipe, overrides or [])
        from prefdata.train.rounds import run_rounds

        folder = out or Path(f"{loaded.recipe.output_dir}-rounds")
        made = run_rounds(
            loaded, recipe, overrides or (), folder, count=count, settings=settings,
            options=() if gpus is None else ("--gpus", str(gpus)), verbosity=verbosity(),
            min_gain=min_gain, say=say,
        )  # fmt: skip
        for one in made:
            told = [f"{name} {before:.1%} -> {after:.1%}" for name, before, after in one.scores]
            pairs = sum(one.record["pairs"].values())
            print(f"round {one.number}: {pairs:,} pairs, {', '.join(told) or 'not evaluated'}")
        print(f"side by side: {folder / 'index.html'}")


def _load_for_rounds(recipe: str, overrides: list[str]) -> Any:
    """The recipe; a setting of the training among its keys is told as that."""
    try:
        return load(recipe, overrides, None)
    except PrefdataError as err:
        from prefdata.recipe.loader import override_path
        from prefdata.recipe.schema import Recipe
        from prefdata.train.trl_settings import TrlSettings

        known = TrlSettings.model_fields.keys() - Recipe.model_fields.keys()
        of_training = [one for one in overrides if override_path(one)[0] in known]
        try:
            load(recipe, [one for one in overrides if one not in of_training], None)
        except PrefdataError:
            raise err from None  # there is another fault
        raise PrefdataError(
            f"{', '.join(of_training)}: the recipe has no such key, but the training has such a "
            "setting; write it into the file of --settings"
        ) from err


def _train_on_customizer(
    run: Path,
    file: Path | None,
    overrides: list[str],
    out: Path,
    dry_run: bool,
    cancel: bool,
    force: bool,
) -> None:
    from prefdata.recipe.environment import mask
    from prefdata.recipe.loader import load_settings
    from prefdata.train.nemo_customizer.settings import CustomizerSettings
    from prefdata.train.nemo_customizer.train import cancel_customizer
    from prefdata.train.submit import train_on_customizer

    settings = load_settings(CustomizerSettings, file, overrides)
    written = "\n".join([file.read_text("utf-8") if file else "", *overrides])

    def tell(line: str) -> None:
        """What would be sent is shown without what stands for `${oc.env:…}`."""
        (print if dry_run else say)(mask(line, written))

    if cancel:
        cancel_customizer(settings, out, say=tell)
    else:
        train_on_customizer(run, settings, out, dry_run=dry_run, force=force, say=tell)
