"""The command line: parse, call, print. What is heavy is imported by the command that needs it."""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from prefdata.errors import PrefdataError

app = typer.Typer(
    help="Build preference datasets: prompts, candidates, scores, pairs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe in YAML.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Override recipe fields: models.0.model=… num_records=10"
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="The run folder; wins over the recipe's output_dir.")
]

DONE, BUG, FIXABLE, LOW_YIELD, INTERRUPTED = 0, 1, 2, 3, 130


@app.command()
def build(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="GPUs to use; 0: CPU; default: one if there is one.")
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="On a CPU: processes a model, sharing the cores.")
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show full records of a few rows, keep nothing.")
    ] = False,
    rows: Annotated[
        int | None, typer.Option("-n", min=1, help="Rows of the preview; 2 where left out.")
    ] = None,
    rehearse: Annotated[
        bool,
        typer.Option(
            "--rehearse", help="Run with scripted answers instead of models, in <out>-rehearsal."
        ),
    ] = False,
) -> None:
    """Build the dataset of a recipe; run again, it goes on where it stopped."""
    with _exit_codes():
        if rows and not preview:
            raise PrefdataError(
                f"-n {rows} is of --preview; add it, or set num_records={rows} for a small run"
            )
        loaded = _load(recipe, overrides, out)
        if preview:
            _preview(loaded, rows or 2, rehearse, _find_machine(gpus, replicas, rehearse))
            return
        machine = _find_machine(gpus, replicas, rehearse)
        from prefdata.build import build as run

        folder = Path(loaded.recipe.output_dir)
        if rehearse:
            folder = folder.with_name(folder.name + "-rehearsal")
            loaded = loaded.changed(output_path=None)
        record = run(loaded, folder, machine=machine, rehearse=rehearse, say=_say)
        from prefdata.summary import print_summary

        print_summary(record, folder)
        _check_yield(record, loaded.recipe.min_yield)


@app.command()
def plan(recipe: RecipeFile, overrides: Overrides = None, out: Out = None) -> None:
    """Show passes, model loads, requests, tokens, GPU-hours and disk. Runs no model."""
    with _exit_codes():
        loaded = _load(recipe, overrides, out)
        from prefdata.summary import print_plan

        print_plan(loaded)


@app.command()
def pairs(
    source: Annotated[
        Path,
        typer.Argument(metavar="RUN|FILE", help="A finished run, or a JSONL of scored candidates."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Pair rules: strategy=exhaustive min_margin=0.5 test_size=0.05 …",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write; a run is rewritten in place by default.")
    ] = None,
    group: Annotated[
        str, typer.Option(help="FILE: field whose equal values are one turn.")
    ] = "prompt",
    prompt: Annotated[
        str, typer.Option(help="FILE: field with the prompt, a text or a list of messages.")
    ] = "prompt",
    text: Annotated[str, typer.Option(help="FILE: field with the candidate's text.")] = "text",
    score: Annotated[str, typer.Option(help="FILE: field with its score.")] = "score",
    seed: Annotated[int, typer.Option(help="FILE: seed of draws, samples and splits.")] = 0,
) -> None:
    """Choose pairs again, from a finished run or from scored candidates made elsewhere."""
    with _exit_codes():
        from prefdata.recipe import GivenCandidates
        from prefdata.repick import pairs_of_file, pairs_of_run
        from prefdata.summary import print_summary

        if not source.exists():
            raise PrefdataError(f"{source}: there is no such run folder and no such file")
        if source.is_dir():
            record, folder = pairs_of_run(source, overrides or (), out or source), out or source
        else:
            if out is None:
                raise PrefdataError(f"{source}: say with --out DIR where the pairs go")
            fields = GivenCandidates(group_by=(group,), prompt=prompt, text=text, score=score)
            record, folder = (
                pairs_of_file(source, fields, overrides or (), out, seed=seed, say=_say),
                out,
            )
        print_summary(record, folder)


def _load(recipe: Path, overrides: list[str] | None, out: Path | None) -> Any:
    from prefdata.recipe_loader import load_recipe  # yaml, pydantic: not needed for --help

    given = [*(overrides or ())]
    if out:  # in quotes: a folder may be called 2024 or a: b, and ${ is no interpolation here
        quoted = str(out).replace("${", r"\${").replace("'", "''")
        given.append(f"output_dir='{quoted}'")
    return load_recipe(recipe, given)


def _find_machine(gpus: int | None, replicas: int | None, rehearse: bool) -> Any:
    if gpus == 0:  # set before importing torch: it reads the list once
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from prefdata.runtime.machine import Machine, find_machine

    return Machine() if rehearse else find_machine(gpus, replicas)


def _preview(loaded: Any, rows: int, rehearse: bool, machine: Any) -> None:
    from prefdata.build import build as run
    from prefdata.summary import print_records

    with tempfile.TemporaryDirectory(prefix="prefdata-preview-") as folder:
        run(
            loaded.changed(num_records=rows, output_path=None),
            Path(folder),
            machine=machine,
            rehearse=rehearse,
            say=_say,
        )
        print_records(Path(folder))


def _check_yield(record: dict[str, Any], min_yield: float) -> None:
    share = record["prompts"] / record["rows"]
    if share < min_yield:
        _say(f"the yield is {share:.1%}, below min_yield {min_yield:.1%}: {record['prompts']:,} of {record['rows']:,} rows have a pair")  # fmt: skip  # noqa: E501
        raise typer.Exit(LOW_YIELD)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _exit_codes() -> Iterator[None]:
    """What the user can fix: message and 2. Ctrl-C and SIGTERM: 130. A bug keeps its traceback."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except PrefdataError as err:
        _say(f"error: {err}")
        raise typer.Exit(FIXABLE) from err
    except KeyboardInterrupt as err:
        _say("interrupted; the same command goes on where it stopped")
        raise typer.Exit(INTERRUPTED) from err


def main() -> None:
    """Entry point of the `prefdata` command."""
    app()
