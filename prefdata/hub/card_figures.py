"""The figures of a dataset card, counted as the report counts them. Writes no text."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from prefdata.pairs.pair import SIDES
from prefdata.report.sides import (
    UNKNOWN,
    Group,
    Lengths,
    count_wins,
    measure_lengths,
    read_sides,
)
from prefdata.report.spreads import Spread, grid_over, spread_of

SCORES = {"chosen": "chosen_score", "rejected": "rejected_score", "margin": "margin"}
SIZES = {f"{side}, characters": side for side in SIDES} | {
    f"{side}, tokens": f"{side}_tokens" for side in SIDES
}


@dataclass(frozen=True)
class PairFigures:
    """What the pairs look like; numbers that no pair has are left out.

    Attributes:
        sides: how often a writer's texts are chosen and rejected, ties left out.
    """

    scores: dict[str, Spread]
    sizes: dict[str, Spread]
    sides: dict[Group, tuple[int, int]]
    lengths: Lengths
    ties: int

    def share(self, pairs: int) -> float:
        """Of all pairs."""
        return pairs / max(self.lengths.pairs, 1)


def measure_pairs(tables: Iterable[pa.Table]) -> PairFigures:
    """Look at every pair once."""
    sides = read_sides(tables)
    wins = count_wins(sides)
    known = sorted((g for g in wins.groups if g[0] != UNKNOWN), key=lambda g: (g[0], g[1] or 0.0))
    return PairFigures(
        _spreads(sides, SCORES),
        _spreads(sides, SIZES),
        {group: wins.count(group) for group in known},
        measure_lengths(sides),
        wins.ties,
    )


def _spreads(sides: Any, names: Mapping[str, str]) -> dict[str, Spread]:
    columns = {told: sides[name].to_numpy() for told, name in names.items()}
    grids = {told: grid_over([values]) for told, values in columns.items()}
    return {
        told: spread
        for told, grid in grids.items()
        if grid is not None and (spread := spread_of(columns[told], grid))
    }
