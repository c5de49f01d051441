"""`publish`, also at the end of `build` and `merge`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from prefdata.cli.program import Run, exit_codes, run_of, say, tell_stale
from prefdata.errors import PrefdataError


def publish(
    run: Run,
    repo_id: Annotated[
        str | None, typer.Option("--repo-id", help="owner/name; the recipe's by default.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="The branch; created if it does not exist, main by default.")
    ] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request instead; no tag is made.")
    ] = False,
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public",
            help="Visibility of a new dataset; the recipe's by default, else private.",
        ),
    ] = None,
) -> None:
    """Bring a finished run to the Hub with its card, load it back, compare; twice does nothing."""
    with exit_codes():
        options = {"repo_id": repo_id, "revision": revision, "private": private}
        _publish(run_of(run), create_pr=create_pr, **options)


def check_hub(settings: Any) -> None:
    """See that the recipe's `publish` can be done, before anything is made for it."""
    from prefdata.hub.publish import check_publishing

    try:
        check_publishing(settings, say=say)
    except PrefdataError as err:
        raise PrefdataError(
            f"{err}; or build with --no-publish, and run `prefdata publish` later"
        ) from err


def publish_built(run: Path, settings: Any) -> None:
    """Publish what has just been made, as its recipe says."""
    try:
        _publish(run, settings=settings)
    except PrefdataError as err:
        raise PrefdataError(
            f"{err}. The run itself is complete: run `prefdata publish {run}` to try again"
        ) from err


def _publish(run: Path, **options: Any) -> None:
    from prefdata.cli.summary import print_publication
    from prefdata.hub.publish import publish_run

    print_publication(publish_run(run, say=say, **options))
    tell_stale(run)
