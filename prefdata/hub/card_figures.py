"""The figures of a dataset card, counted as the report counts them. Writes no text."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefdata.report.sides import UNKNOWN, Group, Lengths, Wins, sides_of
from prefdata.report.spreads import Spread, Values, grid_over, numbers, spread_of

SCORES = {"chosen": "chosen_score", "rejected": "rejected_score", "margin": "margin"}
TOKENS = {f"{side}, tokens": f"{side}_completion_tokens" for side in ("chosen", "rejected")}


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
    wins, lengths, found = Wins(), Lengths(), dict[str, list[Values]]()
    for table in tables:
        sides = sides_of(table, "chosen"), sides_of(table, "rejected")
        wins.add(*sides, table["is_tie"].to_pylist())
        lengths.add(table)
        for side in ("chosen", "rejected"):
            letters = numbers(pc.utf8_length(table[side]))
            found.setdefault(f"{side}, characters", []).append(letters)
        for told, name in (TOKENS | SCORES).items():
            found.setdefault(told, []).append(numbers(table[name]))
    spreads = {told: spread for told, parts in found.items() if (spread := _spread(parts))}
    known = sorted((g for g in wins.groups if g[0] != UNKNOWN), key=lambda g: (g[0], g[1] or 0.0))
    return PairFigures(
        {told: spread for told, spread in spreads.items() if told in SCORES},
        {told: spread for told, spread in spreads.items() if told not in SCORES},
        {group: (wins.chosen[group], wins.rejected[group]) for group in known},
        lengths,
        wins.ties,
    )


def _spread(parts: list[Values]) -> Spread | None:
    grid = grid_over(parts)
    return None if grid is None else spread_of(np.concatenate(parts), grid)
