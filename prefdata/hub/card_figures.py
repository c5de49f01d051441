"""The figures of a dataset card: scores, margins, lengths of the pairs. Writes no text."""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from prefdata.rows import Row

MEASURED = (
    "chosen_score", "rejected_score", "margin", "chosen_characters", "rejected_characters",
    "chosen_completion_tokens", "rejected_completion_tokens",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spread:
    """A number over the pairs that have it.

    Attributes:
        low: 10th percentile.
        high: 90th percentile.
    """

    mean: float
    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class PairFigures:
    """What the pairs look like.

    Attributes:
        spreads: by name, of those of MEASURED that some pair has.
        longer: share of the pairs whose chosen has more characters.
        shorter: share of those whose chosen has fewer.
        correlation: Pearson's, of margin and difference in characters; None where one of them
            does not vary.
        ties: pairs that are marked as equally good.
        sides: (alias, temperature) to how often its texts are chosen and rejected.
    """

    spreads: dict[str, Spread]
    longer: float
    shorter: float
    correlation: float | None
    ties: int
    sides: dict[tuple[str, float | None], tuple[int, int]]


def measure_pairs(rows: Iterable[Row]) -> PairFigures:
    """Look at every pair once."""
    seen = _Seen()
    for row in rows:
        seen.add(row)
    return PairFigures(
        spreads={name: _spread(values) for name, values in seen.values.items() if values},
        longer=seen.longer / max(seen.pairs, 1),
        shorter=seen.shorter / max(seen.pairs, 1),
        correlation=_correlation(seen.margins, seen.differences),
        ties=seen.ties,
        sides={key: (seen.chosen[key], seen.rejected[key]) for key in sorted(
            seen.chosen.keys() | seen.rejected.keys(), key=lambda k: (k[0], k[1] or 0.0)
        )},
    )  # fmt: skip


@dataclass
class _Seen:
    values: dict[str, "array[float]"] = field(
        default_factory=lambda: {name: array("d") for name in MEASURED}
    )
    margins: "array[float]" = field(default_factory=lambda: array("d"))
    differences: "array[float]" = field(default_factory=lambda: array("d"))
    chosen: Counter[tuple[str, float | None]] = field(default_factory=Counter)
    rejected: Counter[tuple[str, float | None]] = field(default_factory=Counter)
    pairs: int = 0
    longer: int = 0
    shorter: int = 0
    ties: int = 0

    def add(self, row: Row) -> None:
        sizes = {f"{side}_characters": len(row[side]) for side in ("chosen", "rejected")}
        difference = sizes["chosen_characters"] - sizes["rejected_characters"]
        for name in MEASURED:
            value = sizes[name] if name in sizes else row[name]
            if value is not None:
                self.values[name].append(value)
        if row["margin"] is not None:
            self.margins.append(row["margin"])
            self.differences.append(difference)
        for side, counts in (("chosen", self.chosen), ("rejected", self.rejected)):
            if row[f"{side}_alias"] is not None:
                counts[row[f"{side}_alias"], row[f"{side}_temperature"]] += 1
        self.pairs += 1
        self.longer += difference > 0
        self.shorter += difference < 0
        self.ties += bool(row["is_tie"])


def _spread(values: "array[float]") -> Spread:
    found = np.asarray(values)
    low, median, high = np.percentile(found, (10, 50, 90))
    return Spread(float(found.mean()), float(low), float(median), float(high))


def _correlation(margins: "array[float]", differences: "array[float]") -> float | None:
    a, b = np.asarray(margins), np.asarray(differences)
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])
