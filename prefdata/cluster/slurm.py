"""`prefdata slurm`: a run as an array of tasks on a cluster. Makes no rows."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from prefdata.cluster.checks import check_run, check_slurm_options, read_time
from prefdata.cluster.jobs import Jobs, read_jobs
from prefdata.cluster.slurm_jobs import cancel, is_in_queue, submit, tasks_in_queue
from prefdata.cluster.slurm_scripts import CACHES, Cluster, write_scripts
from prefdata.cluster.status import count_shards
from prefdata.errors import PrefdataError, Say
from prefdata.recipe.loader import LoadedRecipe
from prefdata.run.places import inputs_of
from prefdata.run.shard_status import forget_attempts
from prefdata.storage.disk import disk_errors, make_folder


def run_on_slurm(
    loaded: LoadedRecipe,
    words: Sequence[str],
    out: Path,
    cluster: Cluster,
    *,
    is_submitted: bool,
    time: str | None = None,
    rehearse: bool = False,
    force: bool = False,
    say: Say = print,
) -> Jobs | None:
    """Write the scripts for what is missing, and submit them if that is wanted.

    `words`: recipe, overrides and flags, as `prefdata build` takes them. `is_submitted`: whether to
    submit; only written otherwise. `rehearse`: whether tasks answer with the scripted engines;
    `words` say so too.

    Returns:
        The ids of the jobs; None where none was submitted.

    Raises:
        PrefdataError: the recipe cannot run, or Slurm is not here or refuses.
    """
    check_slurm_options(cluster, out, None if rehearse else time)
    with disk_errors(out):
        finished = check_run(loaded, out, cluster.shards, cluster.gpus, rehearse=rehearse, say=say)
        if finished is None:
            return None
        wanted = Jobs((), None, cluster.shards, finished.scored, finished.fingerprint)
        before = read_jobs(out, ("slurm",)) if is_submitted else None
        queued = _tasks_in_queue(before, wanted)
        there = finished.shards.union(*queued.values())
        missing = [number for number in range(cluster.shards) if number not in there]
        make_folder(out)
        scripts = write_scripts(
            words, out, _with_mounts(cluster, loaded, out), missing, force=force, say=say
        )
        waiting = len(there) - len(finished.shards)
        say(f"{count_shards(cluster.shards)}: {len(finished.shards)} done, {waiting} in the queue")
        say(f"wrote {' and '.join(str(file) for file in (scripts.array, scripts.merge) if file)}")
        if time is not None and (limit := read_time(time) or 3600) < 3600:
            say(f"--time {time} gives a task {limit / 60:g} minutes")
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


def _tasks_in_queue(before: Jobs | None, wanted: Jobs) -> dict[str, dict[int, bool]]:
    """Numbers of the shards that are in the queue, by the id of their array."""
    if before is None or not (queued := tasks_in_queue(before)):
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


def _with_mounts(cluster: Cluster, loaded: LoadedRecipe, out: Path) -> Cluster:
    """With the caches, and what a container needs besides: folders of the run and the recipe."""
    places = [one.path.absolute() for one in inputs_of(loaded)]
    folders = {place if place.is_dir() else place.parent for place in places}
    caches = {"HF_HOME": str(Path.home() / ".cache" / "huggingface")}
    caches |= {name: os.environ[name] for name in CACHES if name in os.environ}
    folders |= {loaded.folder, out.parent, *map(Path, caches.values())}
    if loaded.recipe.output_path is not None:
        folders.add(Path(loaded.recipe.output_path).absolute().parent)
    found = {folder for folder in folders if folder.is_dir()}
    mounts = sorted(str(folder) for folder in found if found.isdisjoint(folder.parents))
    return replace(cluster, mounts=tuple(mounts), caches=caches)
