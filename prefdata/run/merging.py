"""Finished shards of a run: found, checked, joined. Makes no rows."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from prefdata.errors import PrefdataError, Say
from prefdata.recipe.loader import LoadedRecipe
from prefdata.run.passes import rejects_of
from prefdata.run.shard_status import RECORD
from prefdata.run.shards import Shard
from prefdata.run.stage_folders import StageFolders, make_stage_folders
from prefdata.seeds.seeds import Seeds, seeds_of
from prefdata.storage.disk import Damaged, write_text
from prefdata.storage.folders import count_rows, link_file, link_parts
from prefdata.storage.record import Record, lost_files, read_record
from prefdata.workers.fleet import Fleet


@dataclass(frozen=True)
class Part:
    """A shard.

    Attributes:
        stages: the folders in it that the recipe asks for.
        record: the content of its shard.json; empty if there is none that can be read.
    """

    folder: Path
    stages: StageFolders
    record: Record

    @property
    def is_finished(self) -> bool:
        """Whether it was made of these seeds, this recipe and these models, and is whole."""
        return self.is_of_this_recipe and all(map(_is_whole, self.stages.folders))

    @property
    def is_of_this_recipe(self) -> bool:
        """Whether its record is."""
        return self.record.get("fingerprint") == self.stages.fingerprint


def find_part(
    loaded: LoadedRecipe, checkpoints: Mapping[str, str], seeds: str, folder: Path
) -> Part:
    """One shard, finished or not."""
    stages = make_stage_folders(loaded, checkpoints, seeds, folder)
    return Part(folder, stages, _read(folder, RECORD))


def write_shard_record(folder: Path, record: Record) -> Record:
    """Record that a shard is finished: written last."""
    write_text(folder / RECORD, orjson.dumps(record, option=orjson.OPT_INDENT_2).decode())
    return record


def withdraw_shard_record(folder: Path) -> None:
    """Say that the shard is being made: what was finished may be of another recipe."""
    (folder / RECORD).unlink(missing_ok=True)


@dataclass(frozen=True)
class Finished:
    """What there is of a run already, of this recipe, its seeds and its models.

    Attributes:
        is_merged: the whole run is, whether its shards are still there or not.
        scored: fingerprint of the run up to its scores.
    """

    shards: frozenset[int]
    is_merged: bool
    scored: str
    fingerprint: str
    rows: int


def find_finished(
    loaded: LoadedRecipe, out: Path, count: int, *, rehearse: bool, say: Say
) -> Finished:
    """Look at all shards, and at the merged run."""
    with Fleet(loaded, out, machine=None, rehearse=rehearse, say=say) as fleet:
        seeds = seeds_of(loaded.recipe, loaded.locate, loaded.place, out)
        parts = _parts(loaded, fleet.checkpoints, seeds, out, count)
        shards = frozenset(number for number, part in enumerate(parts) if part.is_finished)
        stages = make_stage_folders(loaded, fleet.checkpoints, seeds.fingerprint, out)
    record, wanted = _read(out, "run.json"), stages.pairs
    is_merged = record.get("fingerprint") == wanted and not lost_files(out, record)
    return Finished(shards, is_merged, stages.fingerprint, wanted, seeds.table.num_rows)


def find_parts(
    loaded: LoadedRecipe, checkpoints: Mapping[str, str], seeds: Seeds, out: Path, count: int
) -> list[Part]:
    """All shards of a run, in order.

    Raises:
        PrefdataError: one is missing, unfinished, or made of other seeds, recipe or models.
    """
    parts = list(_parts(loaded, checkpoints, seeds, out, count))
    strange = [n for n, part in enumerate(parts) if part.record and not part.is_of_this_recipe]
    what = (
        "were made from other seeds, another recipe or other models (was an override left out?), "
        "or by another version of prefdata:"
    )
    _refuse(out, count, what, strange)
    missing = [n for n, part in enumerate(parts) if not part.is_finished]
    _refuse(out, count, "are unfinished or damaged:", missing)
    return parts


def _parts(
    loaded: LoadedRecipe, checkpoints: Mapping[str, str], seeds: Seeds, out: Path, count: int
) -> Iterator[Part]:
    for shard in (Shard(number, count) for number in range(count)):
        fingerprint = shard.slice(seeds).fingerprint
        yield find_part(loaded, checkpoints, fingerprint, shard.folder(out))


def _read(folder: Path, name: str) -> Record:
    """A record; empty where there is none or a damaged one, which vouches for nothing."""
    try:
        return read_record(folder, name) or {}
    except Damaged:
        return {}


def _is_whole(folder: Path) -> bool:
    try:
        return all(count_rows(part) >= 0 for part in (folder, rejects_of(folder)))
    except Damaged:  # or not there
        return False


def _refuse(out: Path, count: int, what: str, numbers: Sequence[int]) -> None:
    if not numbers:
        return
    named = ", ".join(map(str, numbers[:10])) + (" …" if len(numbers) > 10 else "")
    raise PrefdataError(
        f"{out}: of {count} shards {len(numbers)} {what} {named}; start their tasks again, or make "
        f"each with `prefdata build … --shard {numbers[0]}/{count}`, then merge again"
    )


def join_parts(parts: Sequence[Part], stages: StageFolders, out: Path) -> None:
    """Lay the folders of all shards one after another under the names of the whole run.

    Their files get a second name, so nothing is copied where the file system knows links; their
    journals too, so that the whole run finds what was answered.
    """
    for part in parts:  # first, so that a build of the whole has them whatever comes after
        for file in sorted((part.folder / "journal").glob("*.jsonl")):
            link_file(file, out / "journal" / f"{part.folder.name}-{file.name}")
    for number, target in enumerate(stages.folders[1:], start=1):
        sources = [part.stages.folders[number] for part in parts]
        link_parts([rejects_of(source) for source in sources], rejects_of(target))
        link_parts(sources, target)


def add_up(parts: Iterable[Record]) -> Record:
    """What several processes have spent together; loads and replicas are those of all.

    How fast they were, and which rows were slow, is told of a run in one piece alone.
    """
    parts = list(parts)
    if len(parts) == 1:
        return parts[0]
    sums: dict[str, Counter[str]] = {name: Counter() for name in ("requests", "tokens", "seconds")}
    for part in parts:
        for name, total in sums.items():
            total.update(part[name])
    loads: list[Any] = [load for part in parts for load in part["loads"]]
    return {
        "checkpoints": parts[-1]["checkpoints"],
        "loads": loads,
        **{name: dict(total) for name, total in sums.items()},
        "started": min(part["started"] for part in parts),
        "replicas": {
            f"shard {number}: {name}": told
            for number, part in enumerate(parts)
            for name, told in part.get("replicas", {}).items()
        },
        "gold": parts[0].get("gold", {}),
        "failures": {k: v for part in parts for k, v in part.get("failures", {}).items()},
    }
