"""Several scores of the texts of one prompt as one. Knows no candidate and no row."""

import math
from collections.abc import Callable, Mapping, Sequence

from prefdata.pairs.bounds import spread_of
from prefdata.pairs.pair import is_score
from prefdata.recipe.projection import Combine

Scores = Mapping[int, float]


def combine_scores(
    rated: Sequence[Mapping[str, float | None]], weights: Mapping[str, float], how: Combine
) -> list[float | None]:
    """One score of each text, from scores whose scales differ; within the prompt alone.

    - `rank`: the weighted mean of the text's ranks, 0 for the worst and 1 for the best text of
      every score; equal scores share their mean rank.
    - `z_score`: the weighted mean of the text's z-scores, which are differences from the prompt's
      mean in its deviations (population): unlike ranks they know by how much a text is better.
    - `min`: the lowest of the z-scores, as cautious as the most critical score (worst-case
      optimisation, arXiv 2310.02743). Rewards have no common zero across prompts and models
      (arXiv 2312.09244), so they are made comparable within the prompt first.

    A negative weight turns a score round; of `min` the sign alone counts. A text that lacks one of
    the scores gets None.

    `rated`: the scores of every text of one prompt, by column; None where there is none. `weights`:
    of the columns, none of them 0.
    """
    complete = [n for n, scores in enumerate(rated) if all(is_score(scores[c]) for c in weights)]
    told: dict[int, list[tuple[float, float]]] = {n: [] for n in complete}
    scale = _SCALES[how]
    for column, weight in weights.items():
        turned = {n: math.copysign(1.0, weight) * (rated[n][column] or 0.0) for n in complete}
        for n, score in scale(turned).items():
            told[n].append((abs(weight), score))
    made = {
        n: min(score for _, score in parts) if how == "min" else _mean(parts)
        for n, parts in told.items()
    }
    return [made.get(n) for n in range(len(rated))]


def _mean(parts: Sequence[tuple[float, float]]) -> float:
    total = math.fsum(weight for weight, _ in parts)
    return sum(weight / total * score for weight, score in parts)


def _ranks(scores: Scores) -> dict[int, float]:
    """From 0 to 1; 0.5 for a single one."""
    if len(scores) < 2:
        return dict.fromkeys(scores, 0.5)
    ordered = sorted(scores.values())
    first: dict[float, int] = {}
    last: dict[float, int] = {}
    for place, score in enumerate(ordered):
        first.setdefault(score, place)
        last[score] = place
    return {n: (first[s] + last[s]) / 2 / (len(ordered) - 1) for n, s in scores.items()}


def _z_scores(scores: Scores) -> dict[int, float]:
    """0 where all are equal."""
    if not scores:
        return {}
    mean, sigma = spread_of(scores.values())
    return {n: (one - mean) / sigma if sigma else 0.0 for n, one in scores.items()}


_SCALES: Mapping[Combine, Callable[[Scores], dict[int, float]]] = {
    "rank": _ranks,
    "z_score": _z_scores,
    "min": _z_scores,
}
