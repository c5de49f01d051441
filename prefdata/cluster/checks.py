"""What would fail in the queue after hours of waiting, refused before it. Asks no Slurm."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from prefdata.cluster.slurm_scripts import GRACE_SECONDS, Cluster
from prefdata.engines.options import check_options
from prefdata.errors import PrefdataError, Say
from prefdata.recipe.loader import LoadedRecipe
from prefdata.recipe.plan import roles_of
from prefdata.recipe.providers import ENGINES
from prefdata.run.growth import refuse_growth
from prefdata.run.merging import Finished, find_finished
from prefdata.run.places import check_places
from prefdata.storage.record import read_record
from prefdata.workers.machine import Machine

_WHY_OURS = {
    "the shards are the array; use --shards and --nodes": ("array", "a"),
    "a task runs on one node; use --nodes for tasks at the same time": ("nodes", "N"),
    "a task is one process; use --shards for more of them": ("ntasks", "n", "ntasks-per-node"),
    "--status and the script itself read the logs in the run folder": ("output", "o", "error", "e"),
    "a task that is started again goes on in its log": ("open-mode",),
    f"a task is told {GRACE_SECONDS} s before its end, so that nothing is lost": ("signal",),
    "a task that is told to end goes back into the queue": ("requeue", "no-requeue"),
    "the merge follows the array": ("dependency", "d", "kill-on-invalid-dep"),
    "paths of the recipe are seen from the folder where this command runs": ("chdir", "D"),
    "the script has its own command": ("wrap",),
    "the script exports its own variables": ("export-file",),
}
OURS = {option: why for why, options in _WHY_OURS.items() for option in options}
"""Options of sbatch that the scripts give themselves, and why."""
_TIME = re.compile(
    r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>[0-5]?\d)(?::(?P<third>[0-5]?\d))?)?"
)
_NO_LIMIT = ("unlimited", "infinite")


def check_run(
    loaded: LoadedRecipe, out: Path, shards: int, gpus: int, *, rehearse: bool, say: Say
) -> Finished | None:
    """See that tasks with so many GPUs each could make a run, and what there is of it.

    `rehearse`: whether they answer with the scripted engines.

    Returns:
        None where the run is finished.

    Raises:
        PrefdataError: the recipe cannot run so, or there are more shards than rows.
    """
    refuse_growth(loaded.recipe)
    check_places(loaded, out)
    if not rehearse:
        _check_models(loaded, gpus)
    finished = find_finished(loaded, out, shards, rehearse=rehearse, say=say)
    if finished.is_merged:
        say(f"nothing to do: the run in {out} is finished")
        return None
    if (other := read_record(out)) is not None:
        say(f"{out}: there is a finished run of {other['rows']:,} rows, of another recipe or "
            "pair rule; this run replaces it")  # fmt: skip
    if shards > max(finished.rows, 1):
        raise PrefdataError(
            f"there are {shards} shards, but the seeds have only {finished.rows:,} rows, so some "
            "tasks would wait for a node and do nothing; give at most --shards "
            f"{max(finished.rows, 1)}"
        )
    return finished


def check_slurm_options(cluster: Cluster, out: Path, time: str | None) -> None:
    """See that Slurm's options are some, one a line, and leave the scripts as they are.

    Raises:
        PrefdataError: they are not.
    """
    for place in (out.absolute(), Path.cwd()):
        if len(str(place).splitlines()) > 1:
            raise PrefdataError(
                f"{str(place)!r}: scripts name it in a line, and it has more; choose another folder"
            )
    own = (f"--partition={cluster.merge_partition}",) if cluster.merge_partition else ()
    _check_extra("--sbatch-extra", (*cluster.options, *cluster.array_options, *own))
    _check_extra("--merge-extra", cluster.merge_options)
    if time is not None and (seconds := read_time(time)) is not None and seconds <= GRACE_SECONDS:
        raise PrefdataError(
            f"--time {time} is {seconds / 60:g} min to Slurm, and a task is told of its end "
            f"{GRACE_SECONDS // 60} min before it, so it could do nothing; give hours as 4:00:00"
        )


def read_time(text: str) -> int | None:
    """Seconds of a time limit as Slurm reads it; None for no limit.

    Raises:
        PrefdataError: Slurm would not understand it.
    """
    if text.lower() in _NO_LIMIT:
        return None
    found = _TIME.fullmatch(text)
    if found is None:
        raise PrefdataError(
            f"--time {text!r}: Slurm reads minutes, minutes:seconds, hours:minutes:seconds, "
            "days-hours, days-hours:minutes or days-hours:minutes:seconds; give 4:00:00 for four "
            "hours"
        )
    days, *parts = (found[name] for name in ("days", "first", "second", "third"))
    first, second, third = (int(part or 0) for part in parts)
    if days is not None:
        return int(days) * 86400 + first * 3600 + second * 60 + third
    return first * 3600 + second * 60 + third if parts[2] is not None else first * 60 + second


def _check_models(loaded: LoadedRecipe, gpus: int) -> None:
    machine = Machine(tuple(map(str, range(gpus))))
    for alias, role in roles_of(loaded.recipe).items():
        model = loaded.recipe.model(alias)
        if loaded.recipe.endpoint(model) is None:
            machine.places(model)
            engines = tuple(ENGINES) if model.provider == "auto" else (model.provider,)
            check_options(model, role, engines)


def _check_extra(option: str, lines: Sequence[str]) -> None:
    for line in lines:
        name = re.split(r"[=\s]", line.lstrip("-"), maxsplit=1)[0]
        if not _is_one_option(line):
            raise PrefdataError(
                f"{line!r}: it is not one option of sbatch; write one in one line, a value with "
                f"blanks in quotes, as {option} takes it: --qos=high"
            )
        if not line.startswith("--"):  # -n4 is short for -n 4
            name = name[:1]
        if name in OURS:
            raise PrefdataError(
                f"{option} {line!r}: the scripts set this themselves: {OURS[name]}; leave it out"
            )


def _is_one_option(line: str) -> bool:
    """Whether sbatch reads a line as one option: `--qos=high`, `--qos high`, `-p gpu`, `-n4`."""
    try:
        words = shlex.split(line)
    except ValueError:  # a quote without its other one
        return False
    most = 1 if words and "=" in words[0] else 2
    return line.startswith("-") and line.splitlines() == [line] and len(words) <= most
