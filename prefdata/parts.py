"""Finished shards of a run: found, checked, joined. Makes no rows."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from prefdata.chain import Chain, make_chain
from prefdata.errors import PrefdataError
from prefdata.recipe_loader import LoadedRecipe
from prefdata.record import Record
from prefdata.runtime.disk import write_text
from prefdata.runtime.fleet import Fleet
from prefdata.runtime.folders import link_file, link_parts
from prefdata.runtime.machine import Machine
from prefdata.runtime.passes import rejects_of
from prefdata.seeds import Seeds, seeds_of
from prefdata.shards import Shard

RECORD = "shard.json"


@dataclass(frozen=True)
class Part:
    """A finished shard.

    Attributes:
        folder: its run folder.
        record: what its shard.json holds.
    """

    folder: Path
    chain: Chain
    record: Record


def read_shard_record(folder: Path) -> Record | None:
    """What a finished shard tells about itself; None where it is not finished."""
    file = folder / RECORD
    if not file.is_file():
        return None
    record: Record = orjson.loads(file.read_bytes())
    return record


def write_shard_record(folder: Path, record: Record) -> Record:
    """Vouch for a shard: written last."""
    write_text(folder / RECORD, orjson.dumps(record, option=orjson.OPT_INDENT_2).decode())
    return record


def finished_shards(
    loaded: LoadedRecipe, out: Path, count: int, say: Callable[[str], None]
) -> set[int]:
    """Numbers of the shards that are finished and of this recipe, its seeds and its models."""
    found = set()
    with Fleet(loaded, out, machine=Machine(), rehearse=False, say=say) as fleet:
        seeds = seeds_of(loaded)
        for number in range(count):
            shard = Shard(number, count)
            folder, fingerprint = shard.folder(out), shard.slice(seeds).fingerprint
            chain = make_chain(loaded, fleet.checkpoints, fingerprint, folder)
            record = read_shard_record(folder)
            if record is not None and record["fingerprint"] == chain.fingerprint:
                found.add(number)
    return found


def find_parts(
    loaded: LoadedRecipe, checkpoints: Mapping[str, str], seeds: Seeds, out: Path, count: int
) -> list[Part]:
    """All shards of a run, in order.

    Raises:
        PrefdataError: one is missing, unfinished, or made of other seeds, recipe or models.
    """
    parts, missing, strange = [], [], []
    for number in range(count):
        shard = Shard(number, count)
        folder, fingerprint = shard.folder(out), shard.slice(seeds).fingerprint
        chain = make_chain(loaded, checkpoints, fingerprint, folder)
        record = read_shard_record(folder)
        if record is None:
            missing.append(number)
        elif record["fingerprint"] != chain.fingerprint:
            strange.append(number)
        else:
            parts.append(Part(folder, chain, record))
    _refuse(out, count, "are not finished", missing)
    _refuse(out, count, "were made of other seeds, another recipe or other models", strange)
    return parts


def _refuse(out: Path, count: int, what: str, numbers: Sequence[int]) -> None:
    if not numbers:
        return
    named = ", ".join(map(str, numbers[:10])) + (" …" if len(numbers) > 10 else "")
    raise PrefdataError(
        f"{out}: of {count} shards {len(numbers)} {what}: {named}; build each with the same "
        f"command and --shard {numbers[0]}/{count}, then merge again"
    )


def join_parts(parts: Sequence[Part], chain: Chain, out: Path) -> None:
    """Lay the folders of all shards one after another under the names of the whole run.

    Their files get a second name, so nothing is copied where the file system knows links; their
    journals too, so that the whole run finds what was answered.
    """
    for number, target in enumerate(chain.folders[1:], start=1):
        sources = [part.chain.folders[number] for part in parts]
        link_parts([rejects_of(source) for source in sources], rejects_of(target))
        link_parts(sources, target)
    for part in parts:
        for file in sorted((part.folder / "journal").glob("*.jsonl")):
            link_file(file, out / "journal" / f"{part.folder.name}-{file.name}")


def add_up(parts: Iterable[Record]) -> Record:
    """What several processes have spent together; loads are those of all.

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
    }
