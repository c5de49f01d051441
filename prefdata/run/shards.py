"""Shards: which slice of the seeds one task makes, and in which folder. Runs nothing."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from prefdata.errors import PrefdataError
from prefdata.fingerprint import digest
from prefdata.seeds.seeds import Seeds

FOLDER = "shards"
_NAME = re.compile(r"(\d{5,})-of-(\d{5,})")


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several slices of the seeds, adjacent and in order, as equal as can be.

    Attributes:
        number: from 0.
    """

    number: int
    count: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.number:05d}-of-{self.count:05d}"

    def folder(self, out: Path) -> Path:
        """Where it is made, within the run folder."""
        return out / FOLDER / self.name

    def slice(self, seeds: Seeds) -> Seeds:
        """Its rows; rejects and notes are the whole run's."""
        rows = seeds.table.num_rows
        start, end = (rows * edge // self.count for edge in (self.number, self.number + 1))
        fingerprint = digest(seeds.fingerprint, self.number, self.count)
        table = seeds.table.slice(start, end - start)
        return replace(seeds, table=table, rejects=[], fingerprint=fingerprint, notes=[])


def read_shard(text: str) -> Shard:
    """The shard of `i/N`.

    Raises:
        PrefdataError: it is none.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if found is None or not int(found[1]) < int(found[2]):
        raise PrefdataError(
            f"--shard {text}: expected the number of the shard, from 0, and the number of "
            "shards, as in 0/64 for the first and 63/64 for the last"
        )
    return Shard(int(found[1]), int(found[2]))


def count_shards(out: Path, wanted: int | None = None, *, default: int | None = None) -> int:
    """How many shards a run folder is divided into, by the folders that are there.

    `wanted`: how many somebody has asked for; None for those that are there. `default`: how many
    there are to be where there are none yet; None where there must be.

    Raises:
        PrefdataError: there are no shards, or the folders are of several numbers of shards, or of
            another number than `wanted`.
    """
    names = [folder.name for folder in sorted((out / FOLDER).glob("*-of-*"))]
    counts = sorted({int(found[2]) for name in names if (found := _NAME.fullmatch(name))})
    if not counts:
        if wanted is not None or default is not None:
            return wanted or default or 1
        raise PrefdataError(
            f"{out}: there are no shards; make them with prefdata build … --shard i/N"
        )
    if wanted in counts:
        return wanted
    if wanted is not None:
        raise PrefdataError(
            f"{out / FOLDER}: the run is already divided into {_named(counts)} shards, not "
            f"into {wanted}; leave out --shards, or delete that folder to start again"
        )
    if len(counts) > 1:
        raise PrefdataError(
            f"{out / FOLDER}: found both {_named(counts, '-way')} shards; choose one with --shards"
        )
    return counts[0]


def _named(counts: list[int], ending: str = "") -> str:
    return " and ".join(f"{count}{ending}" for count in counts)
