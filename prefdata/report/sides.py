"""Chosen against rejected: who wins, who is longer. Counts tables of pairs, knows no page."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prefdata.report.spreads import Values, numbers, wilson

Group = tuple[str, float | None]
"""Who wrote a text: alias, or model where there is none, and temperature."""
UNKNOWN = "unknown"
"""Who wrote a text that came without alias and model."""

RATIO_EDGES = (-3.0, -2.0, -1.0, -0.5, -0.25, -0.1, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0)
"""Bounds, in powers of two, of how much longer chosen is than rejected."""


@dataclass
class Wins:
    """How often each writer's texts are chosen and rejected; ties are counted apart.

    Attributes:
        ties: pairs that are kept although neither side is better.
    """

    chosen: Counter[Group] = field(default_factory=Counter)
    rejected: Counter[Group] = field(default_factory=Counter)
    against: Counter[tuple[Group, Group]] = field(default_factory=Counter)
    ties: int = 0

    def add(self, chosen: Sequence[Group], rejected: Sequence[Group], tied: Sequence[bool]) -> None:
        """Count pairs."""
        for winner, loser, is_tie in zip(chosen, rejected, tied, strict=True):
            if is_tie:
                self.ties += 1
                continue
            self.chosen[winner] += 1
            self.rejected[loser] += 1
            if winner != loser:
                self.against[winner, loser] += 1

    @property
    def groups(self) -> list[Group]:
        """All writers, those chosen most often first."""
        names = self.chosen.keys() | self.rejected.keys()
        return sorted(names, key=lambda g: (-self.share(g)[0], str(g)))

    def share(self, group: Group) -> tuple[float, float, float]:
        """Share of a writer's appearances in which it is chosen, with its 95% interval."""
        return wilson(self.chosen[group], self.chosen[group] + self.rejected[group])

    def duels(self, group: Group) -> tuple[int, int]:
        """(won, lost) against other writers."""
        won = sum(n for (winner, _), n in self.against.items() if winner == group)
        lost = sum(n for (_, loser), n in self.against.items() if loser == group)
        return won, lost


@dataclass
class Lengths:
    """Characters of chosen against rejected.

    Attributes:
        ratios: pairs by log2 of chosen over rejected, between RATIO_EDGES and beyond.
    """

    pairs: int = 0
    longer: int = 0
    shorter: int = 0
    chosen: int = 0
    rejected: int = 0
    chosen_tokens: int = 0
    rejected_tokens: int = 0
    counted_tokens: int = 0
    ratios: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(len(RATIO_EDGES) + 1, np.int64)
    )
    _moments: Values = field(default_factory=lambda: np.zeros(6))

    def add(self, table: pa.Table) -> None:
        """Count the pairs of a table."""
        chosen, rejected = (numbers(pc.utf8_length(table[side])) for side in ("chosen", "rejected"))
        self.pairs += len(chosen)
        self.longer += int((chosen > rejected).sum())
        self.shorter += int((chosen < rejected).sum())
        self.chosen, self.rejected = (
            self.chosen + int(chosen.sum()), self.rejected + int(rejected.sum())
        )  # fmt: skip
        ratio = np.log2(np.maximum(chosen, 1) / np.maximum(rejected, 1))
        np.add.at(self.ratios, np.searchsorted(RATIO_EDGES, ratio, side="right"), 1)
        self._count_tokens(table)
        margin = numbers(table["margin"])
        known = np.isfinite(margin)
        x, y = ratio[known], margin[known]
        self._moments += (len(x), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum())

    def _count_tokens(self, table: pa.Table) -> None:
        chosen, rejected = (
            numbers(table[f"{s}_completion_tokens"]) for s in ("chosen", "rejected")
        )
        known = np.isfinite(chosen) & np.isfinite(rejected)
        self.counted_tokens += int(known.sum())
        self.chosen_tokens += int(chosen[known].sum())
        self.rejected_tokens += int(rejected[known].sum())

    @property
    def share(self) -> tuple[float, float, float]:
        """Share of pairs of different lengths whose chosen is the longer, with its interval."""
        return wilson(self.longer, self.longer + self.shorter)

    @property
    def correlation(self) -> float | None:
        """Pearson's, of log2 of the ratio of lengths with the margin."""
        n, x, y, xx, yy, xy = self._moments
        if n < 3:
            return None
        both = (n * xx - x * x) * (n * yy - y * y)
        return None if both <= 1e-12 * n**2 else float((n * xy - x * y) / math.sqrt(both))


def sides_of(table: pa.Table, side: str) -> list[Group]:
    """Who wrote the chosen, or the rejected, of each pair."""
    parts = [table[f"{side}_{name}"].to_pylist() for name in ("alias", "model", "temperature")]
    return [(alias or model or UNKNOWN, heat) for alias, model, heat in zip(*parts, strict=True)]
