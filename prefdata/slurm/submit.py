"""`prefdata slurm`: a run as an array of tasks on a cluster, and how far it is. Makes no rows."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from prefdata.errors import PrefdataError
from prefdata.recipe.loader import LoadedRecipe
from prefdata.run.merging import find_finished
from prefdata.run.places import check_places
from prefdata.run.shard_status import STATES, ShardState, forget_attempts, look_at_shards
from prefdata.slurm.jobs import (
    Jobs,
    cancel,
    is_in_queue,
    read_jobs,
    shards_in_queue,
    submit,
    tasks_in_queue,
)
from prefdata.slurm.scripts import Cluster, write_scripts
from prefdata.storage.disk import disk_errors, make_folder
from prefdata.storage.record import Record, read_record

Say = Callable[[str], None]


def run_on_slurm(
    loaded: LoadedRecipe,
    words: Sequence[str],
    out: Path,
    cluster: Cluster,
    *,
    is_submitted: bool,
    rehearse: bool = False,
    say: Say = print,
) -> Jobs | None:
    """Write the scripts for what is missing, and submit them if that is wanted.

    Args:
        loaded: the recipe.
        words: recipe, overrides and flags, as `prefdata build` takes them.
        out: the run folder, shared by all nodes.
        cluster: what is asked of Slurm.
        is_submitted: whether to submit; only written otherwise.
        rehearse: whether tasks answer with the scripted engines; `words` say so too.
        say: is called with what was written and submitted.

    Returns:
        The ids of the jobs; None where none was submitted.

    Raises:
        PrefdataError: the recipe cannot run, or Slurm is not here or refuses.
    """
    check_places(loaded, out)
    with disk_errors(out):
        finished = find_finished(loaded, out, cluster.shards, rehearse=rehearse, say=say)
        if finished.is_merged:
            say(f"nothing to do: the run in {out} is finished")
            return None
        if (other := read_record(out)) is not None:
            say(f"{out}: there is a finished run of {other['rows']:,} rows, of another recipe or "
                "pair rule; this run replaces it")  # fmt: skip
        wanted = Jobs((), None, cluster.shards, finished.scored, finished.fingerprint)
        before = read_jobs(out) if is_submitted else None
        queued = _tasks_in_queue(before, wanted)
        there = finished.shards.union(*queued.values())
        missing = [number for number in range(cluster.shards) if number not in there]
        make_folder(out)
        scripts = write_scripts(words, out, _with_mounts(cluster, loaded, out), missing)
        waiting = len(there) - len(finished.shards)
        say(f"{_shards(cluster.shards)}: {len(finished.shards)} done, {waiting} in the queue")
        say(f"wrote {' and '.join(str(file) for file in (scripts.array, scripts.merge) if file)}")
        if not is_submitted:
            say("look at the scripts, then submit them with the same command and --submit")
            return None
        if before is not None and before.merge is not None and is_in_queue(before.merge):
            if not missing and before.fingerprint == wanted.fingerprint:
                say(
                    f"nothing to submit: the rest is in the queue, and the merge {before.merge} too"
                )
                return before
            cancel(before.merge)  # it waits for less, or makes other pairs
        forget_attempts(out, cluster.shards, missing)
        jobs = submit(scripts, out, wanted, queued)
        told = f"the array {jobs.arrays[-1]}, and " if missing else ""
        say(f"submitted {told}the merge {jobs.merge}")
        return jobs


def _tasks_in_queue(before: Jobs | None, wanted: Jobs) -> dict[str, set[int]]:
    """Numbers of the shards that are in the queue, by the id of their array."""
    queued = tasks_in_queue(before) if before is not None else {}
    if before is None or not queued:
        return {}
    away = f"cancel them first: scancel {' '.join(queued)}"
    if before.shards != wanted.shards:
        raise PrefdataError(
            f"tasks of {before.shards} shards are in the queue, not {wanted.shards}; leave out "
            f"--shards, or {away}"
        )
    if before.scored != wanted.scored:
        raise PrefdataError(
            "tasks of another recipe, other seeds or other models are in the queue for this "
            f"folder; wait for them, or {away}"
        )
    return queued


def shards_submitted(out: Path) -> int | None:
    """How many shards the last submission was of."""
    jobs = read_jobs(out)
    return jobs.shards if jobs else None


def _with_mounts(cluster: Cluster, loaded: LoadedRecipe, out: Path) -> Cluster:
    """With the folders that a container needs: of the run, of what the recipe names, the cache."""
    recipe = loaded.recipe
    named = [name for m in recipe.models for name in (m.model, m.adapter) if name]
    named += recipe.seed_dataset.path or ()
    places = [Path(loaded.locate(name)) for name in named]
    folders = {place if place.is_dir() else place.parent for place in places if place.is_absolute()}
    cache = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    folders |= {loaded.folder, out.parent, cache}
    if recipe.output_path is not None:
        folders.add(Path(recipe.output_path).absolute().parent)
    found = {folder for folder in folders if folder.is_dir()}
    mounts = sorted(str(folder) for folder in found if found.isdisjoint(folder.parents))
    return replace(cluster, mounts=tuple(mounts), cache=str(cache))


def tell_status(out: Path, count: int) -> list[str]:
    """Shards by state, rows, the time left; then a line for what needs somebody.

    From the files on the disk; where Slurm is, also from its queue.
    """
    with disk_errors(out):
        jobs, record = read_jobs(out), read_record(out)
        if record and (jobs is None or record["fingerprint"] == jobs.fingerprint):
            return [f"finished and merged: {_told(record, out)}"]
        found = look_at_shards(out, count, run=jobs.scored if jobs else None)
    if jobs is None and not any(one.status for one in found):
        return [f"nothing was submitted for {out} yet"]
    queue, lines = _ask_slurm(jobs, found)
    if queue is not None:
        found = [_corrected(one, queue) for one in found]
    states = Counter(one.state for one in found)
    told = ", ".join(f"{states[state]} {state}" for state in STATES)
    head = [f"{_shards(count)}: {told}", _rows(found)]
    if (left := _seconds_left(found)) is not None:
        head.append(f"{_as_time(left)} left, with {states['running']} at a time")
    if record:
        head.append(f"a finished run of another recipe or pair rule is there: {_told(record, out)}")
    failed = [one for one in found if one.state == "failed"]
    lines += [f"shard {o.shard.number} failed: {o.reason}; see {_log(out, o)}" for o in failed]
    lost = [
        o
        for o in found
        if queue is not None and o.state == "waiting" and o.shard.number not in queue
    ]
    if lost:
        numbers = _named([one.shard.number for one in lost])
        lines.append(
            f"not in the queue: {_shards(len(lost))}: {numbers}; see {_log(out, lost[0]).parent}, "
            "then submit them again with the same command and --submit"
        )
    return head + lines


def _ask_slurm(
    jobs: Jobs | None, found: Sequence[ShardState]
) -> tuple[dict[int, bool] | None, list[str]]:
    """Shards in the queue and whether they run, None where Slurm is not; what is to be said."""
    if jobs is None or shutil.which("squeue") is None:
        return None, []
    try:
        queue = shards_in_queue(jobs)
        is_last = all(one.state == "done" for one in found)
        if is_last and (jobs.merge is None or not is_in_queue(jobs.merge)):
            return queue, [
                "the merge is not in the queue; submit it with the same command and --submit"
            ]
        return queue, []
    except PrefdataError as err:  # what the files tell is true all the same
        return None, [f"the queue could not be read: {err}"]


def _corrected(one: ShardState, queue: Mapping[int, bool]) -> ShardState:
    """A task that has just gone leaves fresh files."""
    is_gone = one.state == "running" and not queue.get(one.shard.number, False)
    return replace(one, state="waiting") if is_gone else one


def _told(record: Record, out: Path) -> str:
    pairs = sum(record["pairs"].values())
    return f"{record['rows']:,} rows, {pairs:,} pairs in {out / 'pairs'}"


def _shards(count: int) -> str:
    return f"{count} shard{'s' * (count != 1)}"


def _rows(found: Sequence[ShardState]) -> str:
    """Rows that went through all passes; those of a running shard by its share of the work."""
    statuses = [one.status for one in found if one.status is not None]
    if not statuses:
        return "no row is done yet"
    of_rows = sum(s.of_rows for s in statuses) * len(found) / len(statuses)
    rows = sum(s.fraction * s.of_rows for s in statuses)
    about = "" if len(statuses) == len(found) else "about "
    return f"{rows:,.0f} of {about}{of_rows:,.0f} rows"


def _seconds_left(found: Sequence[ShardState]) -> float | None:
    """By the throughput of the attempts so far; None before there is one."""
    running = sum(one.state == "running" for one in found)
    statuses = [one.status for one in found if one.status is not None]
    done = sum(s.fraction for s in statuses)
    if not running or not done:
        return None
    seconds = sum(s.seconds for s in statuses) / done
    undone = sum(1 - (one.status.fraction if one.status else 0.0) for one in found)
    return seconds * undone / running


def _as_time(seconds: float) -> str:
    if seconds < 60:
        return "less than a minute"
    return (
        f"about {seconds / 3600:,.1f} hours"
        if seconds > 7200
        else f"about {seconds / 60:,.0f} minutes"
    )


def _log(out: Path, one: ShardState) -> Path:
    return out / "slurm" / "logs" / f"shard-{one.shard.number}.log"


def _named(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:10])) + (" …" if len(numbers) > 10 else "")
