"""Several scores as one: ranks within a prompt, weighted. Knows no candidate and no row."""

import math
from collections.abc import Mapping, Sequence


def combine_ranks(
    rated: Sequence[Mapping[str, float | None]], weights: Mapping[str, float]
) -> list[float | None]:
    """Weighted mean of each text's ranks: 0 is the worst and 1 the best text of every score.

    Ranks make scores of different scales comparable. Equal scores share their mean rank; a
    negative weight turns a score round; a text that lacks one of the scores gets None.

    Args:
        rated: the scores of every text of one prompt, by column; None where there is none.
        weights: of the columns, none of them 0.
    """
    complete = [n for n, scores in enumerate(rated) if all(_is_told(scores[c]) for c in weights)]
    total = sum(abs(weight) for weight in weights.values())
    sums = dict.fromkeys(complete, 0.0)
    for column, weight in weights.items():
        for n, rank in _ranks({n: rated[n][column] or 0.0 for n in complete}).items():
            sums[n] += abs(weight) / total * (rank if weight > 0 else 1 - rank)
    return [sums.get(n) for n in range(len(rated))]


def _is_told(score: float | None) -> bool:
    return score is not None and math.isfinite(score)


def _ranks(scores: Mapping[int, float]) -> dict[int, float]:
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
