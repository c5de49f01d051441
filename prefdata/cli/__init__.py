"""The command line: parse, call, print. What is heavy is imported by the command that needs it."""

from typing import Annotated

import typer

from prefdata.cli.cluster import k8s, sky, slurm
from prefdata.cli.hub import publish
from prefdata.cli.program import with_verbosity
from prefdata.cli.results import diff, export, inspect, pairs, report
from prefdata.cli.runs import build, clean, merge, plan
from prefdata.cli.start import check, init, quickstart, schema
from prefdata.cli.training import rounds, train

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    quickstart,
    init,
    check,
    schema,
    build,
    plan,
    slurm,
    k8s,
    sky,
    merge,
    clean,
    pairs,
    diff,
    export,
    publish,
    report,
    inspect,
    train,
    rounds,
)
for command in COMMANDS:
    app.command()(with_verbosity(command))


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version  # slow to import

        print(version("prefdata"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Build preference datasets: prompts, candidates, scores, pairs."""


def main() -> None:
    """Entry point of the `prefdata` command."""
    app()
