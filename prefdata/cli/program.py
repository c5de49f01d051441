"""What commands share: arguments, exit codes, how a recipe is loaded."""

import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from traceback import format_exception, print_exc
from typing import Annotated, Any

import click
import typer

from prefdata.errors import PrefdataError
from prefdata.run.ending import interrupt

RecipeFile = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe in YAML, the name of one that ships, or hf://datasets/…/recipe.yaml.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Override recipe fields: models.0.model=… num_records=10"
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="The run folder; overrides the recipe's output_dir.")
]
Run = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder of a finished run, or its recipe.")
]
Rehearse = Annotated[
    bool,
    typer.Option(
        "--rehearse", help="Run with scripted answers instead of models, in <out>-rehearsal."
    ),
]
NoPublish = Annotated[
    bool, typer.Option("--no-publish", help="Do not publish, whatever the recipe says.")
]

Force = Annotated[
    bool,
    typer.Option("--force", help="Replace a file of yours that is in the way."),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print results and errors only: no progress, no notes."),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Print what libraries log, and where an error comes from."
    ),
]
LOG = logging.getLogger("prefdata")
"""Its level says how much commands tell."""

DONE, BUG, FIXABLE, LOW_YIELD, INTERRUPTED, UNREAD = 0, 1, 2, 3, 130, 141


@dataclass
class Command:
    """One call of a command.

    Attributes:
        folder: of the run, as soon as it is known.
    """

    folder: Path | None = None


@contextmanager
def exit_codes() -> Iterator[Command]:
    """What the user can fix: message and 2. A signal to end: 130. A bug: its log and 1."""
    from prefdata.storage.disk import disk_errors  # what it imports is not for --help

    command = Command()
    # the last of them is what srun hands on
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, interrupt)
    try:
        _check_arguments()
        with disk_errors():
            yield command
            sys.stdout.flush()
    except PrefdataError as err:
        if LOG.isEnabledFor(logging.DEBUG):
            print_exc()
        complain(f"error: {err}")
        raise typer.Exit(FIXABLE) from err
    except KeyboardInterrupt as err:
        complain("interrupted; run the same command again to continue")
        raise typer.Exit(INTERRUPTED) from err
    except (typer.Exit, click.ClickException):
        raise
    except Exception as err:
        if isinstance(err, BrokenPipeError) and _reader_has_left():
            raise typer.Exit(UNREAD) from err
        complain(_tell_bug(err, command.folder))
        raise typer.Exit(BUG) from err


def _check_arguments() -> None:
    """See that every argument is text: what is not could be written nowhere."""
    for number, argument in enumerate(sys.argv[1:], 1):
        if any("\ud800" <= one <= "\udfff" for one in argument):
            raise PrefdataError(
                f"argument {number} of the command, {ascii(argument)}, is not UTF-8; write it in "
                "UTF-8, and rename a file that is called so"
            )


def _reader_has_left() -> bool:
    """Whether nobody reads the output any more, as behind `| head`; what is left goes nowhere."""
    poll = select.poll()
    poll.register(sys.stdout, select.POLLOUT)
    has_left = any(event & select.POLLERR for _, event in poll.poll(0))
    if has_left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return has_left


def _tell_bug(err: Exception, folder: Path | None) -> str:
    """What happened, where its traceback lies, and what is kept."""
    from importlib.metadata import version
    from tempfile import gettempdir

    text = f"prefdata {version('prefdata')}\n{sys.argv}\n\n" + "".join(format_exception(err))
    logs = folder / "logs" if folder is not None and folder.is_dir() else Path(gettempdir())
    log = logs / f"prefdata-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    kept = (
        f" What was finished is kept in {folder}; the same command goes on from there."
        if folder is not None
        else ""
    )
    told = f"unexpected error: {type(err).__name__}: {err}\nThis is a bug in prefdata."
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(text)
    except OSError as unwritable:
        return f"{text}\n{told} Its log could not be written ({unwritable}).{kept}"
    return f"{told} The traceback is in {log}; please report it with that file.{kept}"


def say(line: str) -> None:
    """A line for the user, beside the results on standard output; none with --quiet."""
    if LOG.isEnabledFor(logging.INFO):
        complain(line)


def complain(line: str) -> None:
    """A line that also --quiet lets through: why a command has not done what it was to do."""
    print(line, file=sys.stderr, flush=True)


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the two options that all commands have."""

    @wraps(command)
    def run(*, quiet: bool, verbose: bool, **arguments: Any) -> None:
        if quiet and verbose:
            raise typer.BadParameter("--quiet and --verbose exclude each other")
        LOG.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
        if verbose:  # what libraries tell
            logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
        command(**arguments)

    told = signature(command)
    more = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in (("quiet", Quiet), ("verbose", Verbose))
    ]
    vars(run)["__signature__"] = told.replace(parameters=[*told.parameters.values(), *more])
    run.__annotations__ = command.__annotations__ | {"quiet": Quiet, "verbose": Verbose}
    return run


def is_quiet() -> bool:
    """Whether the command was called with --quiet."""
    return not LOG.isEnabledFor(logging.INFO)


def verbosity() -> tuple[str, ...]:
    """The option that makes another command tell as much as this one."""
    if is_quiet():
        return ("--quiet",)
    return ("--verbose",) if LOG.isEnabledFor(logging.DEBUG) else ()


def load(
    recipe: str, overrides: list[str] | None, out: Path | None, trust_remote_code: bool = False
) -> Any:
    """The recipe of a file or of the Hub, with the overrides of the command line."""
    from prefdata.api.loading import HUB  # yaml, pydantic: not for --help
    from prefdata.api.loading import load as load_any

    source = recipe if recipe.startswith(HUB) else Path(recipe)
    return load_any(source, overrides or (), out, trust_remote_code=trust_remote_code)


def run_folder(loaded: Any, rehearse: bool) -> Path:
    """Where the run lies; that of a rehearsal beside the real one."""
    from prefdata.api.loading import run_folder as place

    return place(loaded.recipe.output_dir, rehearse)


def run_of(place: Path) -> Path:
    """The run folder that is named: itself, or the `output_dir` of a recipe."""
    if not (place.is_file() and place.suffix in (".yaml", ".yml")):
        return place
    return Path(load(str(place), None, None).recipe.output_dir)


def tell_stale(run: Path) -> None:
    """Say what lies beside a run's pairs and was made of earlier ones."""
    from prefdata.run.stale import find_stale

    for line in find_stale(run):
        say(line)


def check_yield(record: dict[str, Any], min_yield: float) -> None:
    """Leave with a code of its own where too few rows have a pair."""
    share = record["prompts"] / record["rows"]
    if not record["prompts"]:
        reasons = record["rejects"] or {"there are no rows": 0}
        reason = max(reasons, key=lambda name: reasons[name])
        complain(f"no row has a pair; the commonest reason: {reason} ({reasons[reason]:,} rows)")
        raise typer.Exit(LOW_YIELD)
    if share < min_yield:
        complain(
            f"the yield is {share:.1%}, below min_yield {min_yield:.1%}: {record['prompts']:,} "
            f"of {record['rows']:,} rows have a pair"
        )
        raise typer.Exit(LOW_YIELD)
