"""The whole journey: recipe -> seeds -> passes -> pairs, in one piece or in shards.

A finished step is a folder named after a fingerprint of everything that went into it; an unfinished
one is made again, and completions that are in the journal are not generated again.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from prefdata.errors import Say
from prefdata.recipe.loader import LoadedRecipe
from prefdata.run.ending import Ending
from prefdata.run.growth import Growth, refuse_growth
from prefdata.run.merging import (
    find_part,
    find_parts,
    join_parts,
    withdraw_shard_record,
    write_shard_record,
)
from prefdata.run.places import check_places
from prefdata.run.shard_status import keep_error
from prefdata.run.shards import Shard, count_shards
from prefdata.run.stage_folders import make_stage_folders
from prefdata.run.steps import Building
from prefdata.storage.disk import disk_errors, hold
from prefdata.storage.fence import fence, read_attempt
from prefdata.storage.ownership import claim_folder, hold_run
from prefdata.storage.record import Record
from prefdata.workers.fleet import Fleet
from prefdata.workers.gauges import Gauges, find_meter, watch
from prefdata.workers.machine import Machine
from prefdata.workers.throughput import measure_throughput

PATIENCE = 30.0
"""Seconds given to an earlier attempt at a shard to end: it checks every two, then finishes its
requests.
"""


def build(
    loaded: LoadedRecipe,
    out: Path,
    *,
    machine: Machine | None = None,
    rehearse: bool = False,
    force: bool = False,
    say: Say = print,
    progress: bool = True,
    metrics: Path | None = None,
    ending: Ending | None = None,
) -> Record:
    """Run a recipe, or continue an earlier run of it; returns the content of `run.json`.

    Args:
        loaded: a checked recipe.
        out: the run folder; made if missing.
        machine: the devices that models may use; by default the CPU, in this process.
        rehearse: answer with the scripted engines, without loading a model.
        force: replace a file of the user's where the recipe writes one; never one that it reads.
        say: called with each message for the user, one line at a time.
        metrics: name of two files, `.prom` and `.jsonl`, that tell of each replica meanwhile.
        progress: whether to show it.
        ending: asked, from another thread, where the run is to end.

    Raises:
        PrefdataError: an error that the user can fix; everything finished so far is kept.
    """
    check_places(loaded, out, is_forced=force)
    machine = machine or Machine()
    with (
        disk_errors(out),
        hold_run(out),
        _begin(
            loaded, out, machine, rehearse, say, metrics, progress=progress,
            ending=ending or Ending(),
        ) as run,
    ):  # fmt: skip
        growth = Growth(run)
        while True:
            seeds = run.load_seeds()
            identity = run.identify(seeds)
            stages = make_stage_folders(run.loaded, run.fleet.checkpoints, identity, out)
            if finished := run.finished(stages.pairs, stages.fingerprint):
                return finished
            run.make_readable(seeds, stages, out)
            run.run_passes(seeds, stages)
            if not growth.goes_on(seeds, stages):
                return run.conclude(seeds, stages, more=growth.told())


def build_shard(
    loaded: LoadedRecipe,
    out: Path,
    shard: Shard,
    *,
    attempt: str | None = None,
    machine: Machine | None = None,
    rehearse: bool = False,
    force: bool = False,
    say: Say = print,
    progress: bool = True,
    metrics: Path | None = None,
) -> Record:
    """Make one slice of the rows, up to their scores; `merge` makes pairs of all slices.

    `out`: the folder of the whole run; the shard has a folder of its own in it. `attempt`:
    `job.restart`, two numbers, or `next`; earlier attempts that still run are ended.

    Returns:
        The content of the shard's `shard.json`.

    Raises:
        PrefdataError: as from `build`.
    """
    refuse_growth(loaded.recipe)
    check_places(loaded, out, is_forced=force)
    with disk_errors(out):
        claim_folder(out)
    here, machine = shard.folder(out), machine or Machine()
    with (
        disk_errors(here),
        fence(here, read_attempt(attempt, here), say) if attempt else nullcontext(),
        hold(here, patience=PATIENCE if attempt else None),
        keep_error(here),
        disk_errors(here),  # within, so that what the disk says is kept too
        _begin(
            loaded, here, machine, rehearse, say, metrics, progress=progress, is_shard=True
        ) as run,
    ):  # fmt: skip
        everything, checkpoints = run.load_seeds(), run.fleet.checkpoints
        seeds = shard.slice(everything)
        if not len(seeds):
            say(
                f"shard {shard.number}/{shard.count} has no rows: the run has "
                f"{len(everything):,}, fewer than shards; choose fewer shards"
            )
        part = find_part(loaded, checkpoints, seeds.fingerprint, here)
        if part.is_finished:
            say(f"nothing to do: shard {shard.name} is finished")
            return part.record
        whole = make_stage_folders(loaded, checkpoints, everything.fingerprint, out)
        run.make_readable(everything, whole, out)
        withdraw_shard_record(here)
        run.run_passes(seeds, part.stages)
        run.check_rows(seeds, part.stages)
        named = {"fingerprint": part.stages.fingerprint, "run": whole.fingerprint}
        return write_shard_record(here, run.spent() | named)


def merge(
    loaded: LoadedRecipe,
    out: Path,
    count: int | None = None,
    *,
    rehearse: bool = False,
    force: bool = False,
    say: Say = print,
) -> Record:
    """Join finished shards into the run that a single task would have made; row for row the same.

    `out`: the folder of the run, with the shards in it. `count`: number of shards; None to read it
    from the folder.

    Raises:
        PrefdataError: a shard is missing or unfinished, or was made by another recipe.
    """
    refuse_growth(loaded.recipe)
    check_places(loaded, out, is_forced=force)
    with disk_errors(out), hold_run(out), _begin(loaded, out, None, rehearse, say) as run:
        seeds, checkpoints = run.load_seeds(), run.fleet.checkpoints
        stages = make_stage_folders(loaded, checkpoints, seeds.fingerprint, out)
        if finished := run.finished(stages.pairs):
            return finished
        parts = find_parts(loaded, checkpoints, seeds, out, count_shards(out, count))
        run.save_seeds(seeds, stages.folders[0])
        join_parts(parts, stages, out)
        return run.conclude(seeds, stages, [part.record for part in parts])


@contextmanager
def _begin(
    loaded: LoadedRecipe,
    out: Path,
    machine: Machine | None,
    rehearse: bool,
    say: Say,
    metrics: Path | None = None,
    **more: Any,
) -> Iterator[Building]:
    """A run that may ask models; without a machine it asks none."""
    started = time.time()
    with (
        Fleet(loaded, out, machine=machine, rehearse=rehearse, say=say) as fleet,
        measure_throughput(fleet.work) as throughput,
        watch(Gauges(fleet.replicas, find_meter() if fleet.gpus else None, metrics)) as gauges,
    ):
        yield Building(loaded, out, fleet, throughput, say, started, gauges=gauges, **more)
