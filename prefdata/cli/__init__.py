"""The command line: parse, call, print. What is heavy is imported by the command that needs it."""

import typer

from prefdata.cli.cluster import slurm
from prefdata.cli.hub import publish
from prefdata.cli.results import export, inspect, pairs, report
from prefdata.cli.runs import build, merge, plan
from prefdata.cli.training import train

app = typer.Typer(
    help="Build preference datasets: prompts, candidates, scores, pairs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
COMMANDS = (build, plan, slurm, merge, pairs, export, publish, report, inspect, train)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Entry point of the `prefdata` command."""
    app()
