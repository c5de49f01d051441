"""What verdicts about pairs of texts say of each text, and how far judges agree. Knows no judge."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prefdata.recipe.tournament import Panel

WON = {"A": 1.0, "B": 0.0}
"""What the first of two has won by a verdict; any other word is a tie."""
PRIOR = 4.0
"""Variance of a strength before anything is judged: two points of log-odds are common."""
_STEP, _ENOUGH, _MOST = 2.0, 1e-9, 100

Won = tuple[int, int, float]
"""Two places, and what the first has won of the second: 1, 0, or between."""


def word_of(verdict: Mapping[str, Any], key: str) -> str:
    """Which of the two a verdict names, in capitals."""
    return str(verdict.get(key)).strip().upper()


@dataclass(frozen=True, slots=True)
class Strengths:
    """A score for each text, and its standard error; both mean nothing where it met none."""

    scores: list[float]
    errors: list[float]


def bradley_terry(texts: int, results: Sequence[Won], anchor: int | None = None) -> Strengths:
    """Strengths s with P(i beats j) = 1 / (1 + exp(s_j - s_i)), in log-odds.

    The model is Bradley and Terry's (Biometrika 39, 1952); a tie is half a win for each, as in
    Arena-Hard. Every strength is drawn to 0 by a normal prior of variance `PRIOR`, so that a text
    that has won everything, or has met nobody who has met the others, stays finite; the errors are
    of the normal approximation at the maximum.

    Args:
        texts: how many there are.
        results: of comparisons; one pair may have several.
        anchor: the text whose strength is 0; without one their mean is about 0.
    """
    won = np.zeros((texts, texts))
    for first, second, value in results:
        won[first, second] += value
        won[second, first] += 1 - value
    met, strength = won + won.T, np.zeros(texts)
    for _ in range(_MOST):  # Newton's method; the logarithm of the posterior is concave
        chance = 1 / (1 + np.exp(strength[None, :] - strength[:, None]))
        slope = (won - met * chance).sum(axis=1) - strength / PRIOR
        bend = met * chance * (1 - chance)
        curvature = np.diag(bend.sum(axis=1) + 1 / PRIOR) - bend
        step = np.linalg.solve(curvature, slope)
        strength += step * min(1.0, _STEP / max(np.abs(step).max(initial=0.0), _ENOUGH))
        if np.abs(step).max(initial=0.0) < _ENOUGH:
            break
    spread = np.linalg.inv(curvature) if texts else curvature
    variance = spread.diagonal()
    if anchor is not None:
        variance = variance + spread[anchor, anchor] - 2 * spread[anchor]
        strength = strength - strength[anchor]
    errors = np.sqrt(np.maximum(variance, 0.0))
    return Strengths(strength.round(9).tolist(), errors.round(9).tolist())


def win_rates(texts: int, results: Sequence[Won]) -> Strengths:
    """The share that each has won; the error is that of the share with two more, one of them won.

    (Agresti and Coull, The American Statistician 52, 1998: all won of two is no certainty.)
    """
    won, met = np.zeros(texts), np.zeros(texts)
    for first, second, value in results:
        won[first] += value
        won[second] += 1 - value
        met[[first, second]] += 1
    share = (won + 1) / (met + 2)
    errors = np.sqrt(share * (1 - share) / (met + 2))
    return Strengths((won / np.maximum(met, 1)).tolist(), errors.tolist())


def panel_says(values: Sequence[float], how: Panel) -> float:
    """What several judges together say that the first of two has won.

    Args:
        values: of every judge: 1, 0, or a half.
        how: `majority`: what more than half of them say, else a tie; `mean`; `minimum`: a win, or
            a loss, as far as the judge says so who says it least.
    """
    if how == "mean":
        return sum(values) / len(values)
    if how == "minimum":
        return (min(values) + max(values)) / 2
    half = len(values) / 2
    if sum(one > 0.5 for one in values) > half:
        return 1.0
    return 0.0 if sum(one < 0.5 for one in values) > half else 0.5


@dataclass
class Agreement:
    """Krippendorff's alpha of judges who rate the same things, summed up thing by thing.

    For interval data (Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011, with
    squared differences): 1 is full agreement, 0 what chance makes, below 0 worse than that.
    """

    units: int = 0
    _apart: float = 0.0
    _all: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])

    def add(self, ratings: Iterable[float]) -> None:
        """The ratings of one thing; one alone agrees with nobody and does not count."""
        rated = [*ratings]
        count, total, square = len(rated), sum(rated), sum(one * one for one in rated)
        if count < 2:
            return
        self.units += 1
        self._apart += 2 * (count * square - total * total) / (count - 1)
        self._all = [a + b for a, b in zip(self._all, (count, total, square), strict=True)]

    @property
    def alpha(self) -> float | None:
        """None where nothing was rated twice, or all ratings are the same."""
        count, total, square = self._all
        by_chance = 2 * (count * square - total * total)
        return 1 - (count - 1) * self._apart / by_chance if by_chance > 1e-12 else None
