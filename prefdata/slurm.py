"""`prefdata slurm`: a run as an array of tasks on a cluster, and how far it is."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from prefdata.parts import finished_shards
from prefdata.recipe_loader import LoadedRecipe
from prefdata.runtime.disk import disk_errors
from prefdata.runtime.slurm_jobs import (
    STATES,
    Jobs,
    ShardStatus,
    look_at_shards,
    shards_in_queue,
    submit,
)
from prefdata.runtime.slurm_scripts import Cluster, write_scripts

Say = Callable[[str], None]


def run_on_slurm(
    loaded: LoadedRecipe,
    recipe: Path,
    overrides: Sequence[str],
    out: Path,
    cluster: Cluster,
    *,
    is_submitted: bool,
    say: Say = print,
) -> Jobs | None:
    """Write the scripts for what is missing, and submit them if that is wanted.

    Args:
        loaded: the recipe.
        recipe: its file.
        overrides: of the command line.
        out: the run folder, shared by all nodes.
        cluster: what is asked of Slurm.
        is_submitted: whether to submit; only written otherwise.
        say: told what was written and submitted.

    Returns:
        The ids of the jobs; None where none was submitted.

    Raises:
        PrefdataError: the recipe cannot run, or Slurm is not here or refuses.
    """
    with disk_errors(out):
        finished = finished_shards(loaded, out, cluster.shards, say)
        queued = shards_in_queue(out) if is_submitted else set()
        missing = [n for n in range(cluster.shards) if n not in finished | queued]
        scripts = write_scripts(recipe, overrides, out, cluster, missing)
        say(f"{len(finished)} of {cluster.shards} shards are finished, {len(queued)} in the queue")
        say(f"wrote {scripts.array} and {scripts.merge}")
        if not is_submitted:
            say("submit them with --submit, or look at them and use sbatch")
            return None
        if not missing and queued:
            say("nothing to submit: what is missing is in the queue")
            return None
        jobs = submit(scripts, out, has_tasks=bool(missing))
        say(f"submitted {jobs}")
        return jobs


def tell_status(out: Path, count: int) -> list[str]:
    """One line a state, then one a failed shard; rows and the time left as far as files tell."""
    found = look_at_shards(out, count)
    states = Counter(one.state for one in found)
    told = ", ".join(f"{states[state]} {state}" for state in STATES)
    answers = sum(one.answers for one in found)
    lines = [f"{count} shards: {told}; {answers:,} answers in the journals"]
    if (left := _seconds_left(found)) is not None:
        lines.append(f"about {left / 60:,.0f} minutes left, if shards go on as those that are done")
    lines += [f"shard {one.shard.number} failed: {one.reason}" for one in found if one.state == "failed"]  # fmt: skip  # noqa: E501
    return lines


def _seconds_left(found: Sequence[ShardStatus]) -> float | None:
    done = [one.seconds for one in found if one.seconds is not None]
    running = sum(one.state == "running" for one in found)
    open_shards = sum(one.state in ("running", "waiting") for one in found)
    if not done or not running:
        return None
    return sum(done) / len(done) * open_shards / running
