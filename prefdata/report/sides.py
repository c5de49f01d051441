"""Chosen against rejected: who wins, who is longer. Counts pairs, knows no page."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prefdata.pairs.pair import SIDES
from prefdata.report.spreads import numbers, wilson

Group = tuple[str, float | None]
"""Who wrote a text: alias, or model where there is none, and temperature."""
UNKNOWN = "unknown"
"""Who wrote a text that came without alias and model."""
WRITER = ("alias", "model", "temperature")
"""What tells writers apart."""

RATIO_EDGES = (-3.0, -2.0, -1.0, -0.5, -0.25, -0.1, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0)
"""Bounds, in powers of two, of how much longer chosen is than rejected."""


def read_sides(tables: Iterable[pa.Table], kept: Sequence[str] = ()) -> Any:
    """A row (of pandas') for each pair: tie, margin; scores, characters, tokens, writers.

    `kept`: further columns of the pairs, as texts.
    """
    import pandas as pd  # slow to import

    floats = [f"{side}{what}" for side in SIDES for what in ("", "_tokens", "_score")]
    kinds: dict[str, Any] = {"is_tie": bool, "margin": float} | dict.fromkeys(floats, float)
    kinds |= dict.fromkeys((*(f"{side}_by" for side in SIDES), *kept), object)
    parts: dict[str, list[Any]] = {name: [np.empty(0, kind)] for name, kind in kinds.items()}
    known: dict[Group, Group] = {}
    for table in tables:
        parts["is_tie"].append(table["is_tie"].to_numpy())
        parts["margin"].append(numbers(table["margin"]))
        for side in SIDES:
            parts[side].append(numbers(pc.utf8_length(table[side])))
            parts[f"{side}_tokens"].append(numbers(table[f"{side}_completion_tokens"]))
            parts[f"{side}_score"].append(numbers(table[f"{side}_score"]))
            writers = writers_of(*(table[f"{side}_{name}"] for name in WRITER))
            held = np.empty(len(writers), object)  # numpy would make a table of tuples
            held[:] = [known.setdefault(writer, writer) for writer in writers]
            parts[f"{side}_by"].append(held)
        for name in kept:
            texts = pc.fill_null(pc.cast(table[name], pa.string()), "none")
            parts[name].append(np.array(texts.to_pylist(), object))
    return pd.DataFrame({name: np.concatenate(found) for name, found in parts.items()})


def writers_of(*columns: pa.Array) -> list[Group]:
    """Who wrote each text, by the columns WRITER."""
    told = zip(*(column.to_pylist() for column in columns), strict=True)
    return [(alias or model or UNKNOWN, heat) for alias, model, heat in told]


@dataclass(frozen=True)
class Wins:
    """How often each writer's texts are chosen and rejected; ties are counted apart.

    Attributes:
        pairs: by who wrote chosen and who wrote rejected.
        ties: pairs that are kept although neither side is better.
    """

    pairs: Counter[tuple[Group, Group]]
    ties: int

    @property
    def groups(self) -> list[Group]:
        """All writers, those chosen most often first."""
        names = {writer for both in self.pairs for writer in both}
        return sorted(names, key=lambda g: (-self.share(g)[0], str(g)))

    def count(self, group: Group) -> tuple[int, int]:
        """How often a writer's texts are chosen, and how often they are rejected."""
        chosen = sum(n for (winner, _), n in self.pairs.items() if winner == group)
        return chosen, sum(n for (_, loser), n in self.pairs.items() if loser == group)

    def share(self, group: Group) -> tuple[float, float, float]:
        """Share of a writer's appearances in which it is chosen, with its 95% interval."""
        chosen, rejected = self.count(group)
        return wilson(chosen, chosen + rejected)

    def duels(self, group: Group) -> tuple[int, int]:
        """(won, lost) against other writers."""
        own = self.pairs[group, group]
        chosen, rejected = self.count(group)
        return chosen - own, rejected - own


def count_wins(sides: Any) -> Wins:
    """Of pairs as `read_sides` has them."""
    decided = sides[~sides.is_tie]
    both = zip(decided.chosen_by, decided.rejected_by, strict=True)
    return Wins(Counter(both), int(sides.is_tie.sum()))


@dataclass(frozen=True)
class Lengths:
    """Characters of chosen against rejected.

    Attributes:
        chosen: mean, and so `rejected`; NaN of no pair.
        tokens: of chosen and of rejected, means of the pairs in which both are known.
        ratios: pairs by log2 of chosen over rejected, between RATIO_EDGES and beyond.
        correlation: Pearson's, of log2 of the ratio with the margin; None where it means nothing.
    """

    pairs: int
    longer: int
    shorter: int
    chosen: float
    rejected: float
    tokens: tuple[float, float] | None
    ratios: NDArray[np.int64]
    correlation: float | None

    @property
    def share(self) -> tuple[float, float, float]:
        """Share of pairs of different lengths whose chosen is the longer, with its interval."""
        return wilson(self.longer, self.longer + self.shorter)


def measure_lengths(sides: Any) -> Lengths:
    """Of pairs as `read_sides` has them."""
    known = sides[["chosen_tokens", "rejected_tokens"]].dropna()
    ratio = np.log2(np.maximum(sides.chosen, 1) / np.maximum(sides.rejected, 1))
    places = np.searchsorted(RATIO_EDGES, ratio, side="right")
    scored = np.isfinite(sides.margin)
    x, y = ratio[scored], sides.margin[scored]
    varies = len(x) > 2 and len(x) ** 2 * x.var() * y.var() > 1e-12
    return Lengths(
        len(sides),
        int((sides.chosen > sides.rejected).sum()),
        int((sides.chosen < sides.rejected).sum()),
        float(sides.chosen.mean()),
        float(sides.rejected.mean()),
        (float(known.chosen_tokens.mean()), float(known.rejected_tokens.mean()))
        if len(known)
        else None,
        np.bincount(places, minlength=len(RATIO_EDGES) + 1),
        float(np.corrcoef(x, y)[0, 1]) if varies else None,
    )
