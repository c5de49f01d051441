"""What nothing of a run needs any more: stages of earlier recipes, and answers in its journal.

A stage is needed if run.json or the recipe names its folder, an answer if a pass of theirs asks
for it: the passes are gone through once, asking the journal alone.
"""

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from prefdata.errors import PrefdataError, Say
from prefdata.recipe.loader import LoadedRecipe
from prefdata.recipe.plan import plan_passes
from prefdata.run.finished import open_run
from prefdata.run.growth import read_growth
from prefdata.run.stage_folders import make_stage_folders
from prefdata.run.steps import Building
from prefdata.seeds.seeds import seeds_of
from prefdata.storage.ownership import TABLE, hold_run, is_run_folder
from prefdata.storage.record import Record, read_record
from prefdata.workers.fleet import Fleet
from prefdata.workers.throughput import measure_throughput

SLACK = 60
"""Seconds by which the clock of a file server may differ from this machine's."""
_STAGE = re.compile(r"(\d+-.+-[0-9a-f]{8})(?:\.rejects)?(\.damaged-\d+)?")


@dataclass
class Unneeded:
    """What can be removed, or has been.

    Attributes:
        stages: bytes that each folder takes which is nowhere else.
        journals: records that nothing asks for, and their bytes, by file.
        note: why the journal is left as it is; None where it is not.
    """

    stages: dict[Path, int] = field(default_factory=dict)
    journals: dict[Path, tuple[int, int]] = field(default_factory=dict)
    note: str | None = None

    @property
    def bytes(self) -> int:
        """Of all."""
        return sum(self.stages.values()) + sum(size for _, size in self.journals.values())


def clean_run(
    out: Path, given: LoadedRecipe | None = None, *, is_meant: bool, say: Say, progress: bool = True
) -> Unneeded:
    """Find what nothing needs any more in a run folder, and remove it.

    Args:
        out: the run folder.
        given: the recipe that is being built there, if it may be another than the finished run's.
        is_meant: whether to remove it.
        say: called with each message for the user.
        progress: whether to show it.

    Raises:
        PrefdataError: no run is there, or one was begun of which nothing is known here.
    """
    if not is_run_folder(out):
        raise PrefdataError(f"{out}: prefdata made no run there, so there is nothing to clean")
    with hold_run(out):
        record = read_record(out) or {}
        saved = open_run(out).loaded if record else None
        if given is not None:
            needed = _stages_of(given, out, say, rehearse=bool(record.get("rehearsed")))
        elif record:
            needed = set()
            _check_begun(out, record)
        else:
            raise PrefdataError(
                f"{out}: no finished run is there, so what it needs is not known; give its recipe "
                "in the place of the folder"
            )
        finished = set(record.get("stages", ()))
        beside = _stages_beside(out, needed | finished)
        found = Unneeded({folder: _own_bytes(folder) for folder in beside})
        if not needed <= finished:
            found.note = "it asks for other rows than a finished run's, and may need any answer"
        elif finished and not any((out / "stages" / name).exists() for name in finished):
            if (out / "journal").is_dir():
                found.note = "the stages of the run are not there, so what it asks for is not known"
        elif saved is not None and finished:
            _clean_journal(saved, out, record, found, is_meant=is_meant, say=say, progress=progress)
        if is_meant:
            for folder in found.stages:
                shutil.rmtree(folder)
    return found


def _check_begun(out: Path, record: Record) -> None:
    """See that no later build has left there what only its recipe can tell."""
    end = record.get("started", time.time()) + record["seconds"]["total"] + SLACK
    places = [*out.glob("journal/*.jsonl"), *out.glob("stages/*-*")]
    if any(place.stat().st_mtime > end for place in places):
        raise PrefdataError(
            f"{out}: after this run was finished, a build was begun there and is not at its end, "
            "or the folder was copied without the times of its files; finish the build first, or "
            "give its recipe in the place of the folder"
        )


def _stages_of(loaded: LoadedRecipe, out: Path, say: Say, *, rehearse: bool) -> set[str]:
    """Names of the stages of a recipe, whether they are there or not."""
    seeds = seeds_of(loaded.recipe, loaded.locate, loaded.place, out)
    with Fleet(loaded, out, machine=None, rehearse=rehearse, say=say) as fleet:
        stages = make_stage_folders(loaded, fleet.checkpoints, seeds.fingerprint, out)
    return {folder.name for folder in stages.folders}


def _stages_beside(out: Path, needed: set[str]) -> Iterator[Path]:
    """Stages, and what was set aside as damaged, that are ours and that nobody needs."""
    for folder in sorted((out / "stages").glob("*")):
        found = _STAGE.fullmatch(folder.name)
        if found is None or folder.is_symlink() or not folder.is_dir():
            continue
        is_ours = all(TABLE.fullmatch(file.name) for file in folder.iterdir())
        if is_ours and (found[1] not in needed or found[2]):
            yield folder


def _own_bytes(folder: Path) -> int:
    """What its files take; those that have a second name elsewhere take it there."""
    files = [file.stat() for file in folder.iterdir()]
    return sum(file.st_size for file in files if file.st_nlink == 1)


def _clean_journal(
    loaded: LoadedRecipe,
    out: Path,
    record: Record,
    found: Unneeded,
    *,
    is_meant: bool,
    say: Say,
    progress: bool,
) -> None:
    """Look up all that the passes of a finished run ask for; the rest is not needed."""
    passes = plan_passes(loaded.recipe)
    folders = [out / "stages" / name for name in record["stages"]]
    with (
        Fleet(loaded, out, machine=None, rehearse=record["rehearsed"], say=say) as fleet,
        measure_throughput(fleet.work) as throughput,
    ):
        run = Building(loaded, out, fleet, throughput, say, time.time(), progress=progress)
        if record.get("growth"):
            run.times = read_growth(out)["times"]
        waiting = [run.look_up(*step) for step in zip(passes, folders[:-1], strict=True)]
        waiting += [one.look_up(test.step, known) for _, _, test, known, one in run.judging()]
        if any(waiting):
            found.note = (
                f"{sum(waiting):,} rows ask for what is not in it, so what else they need is not "
                "known"
            )
            return
        found.journals = fleet.journal.unread()
        if is_meant:
            fleet.journal.drop_unread()
