"""Who meets whom in a tournament. Knows no text and no model: places in, pairs out."""

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from itertools import combinations, zip_longest

from prefdata.recipe.tournament import Tournament

Pair = tuple[int, int]
"""Two places, the smaller one first."""
Results = Mapping[Pair, float]
"""What the first of a pair has won: 1, 0, or a half; a panel's mean may lie between."""
Schedule = Generator[list[Pair], Results, None]
"""Yields the pairs of a round, is sent their results."""


def schedule(
    tournament: Tournament, players: Sequence[int], reference: int | None = None
) -> Schedule:
    """The rounds of a tournament.

    Args:
        tournament: its type.
        players: places, in the order that decides between equals.
        reference: the place of the text that all others meet.
    """
    match tournament.type:
        case "swiss":
            return _swiss(players, tournament.rounds_of(len(players)))
        case "knockout":
            return _knockout(players)
        case "against":
            return _at_once([_pair(one, reference or 0) for one in players])
        case _:
            return _at_once([*combinations(sorted(players), 2)])


def pair_number(pair: Pair) -> int:
    """A number for each pair that more texts do not change: what was judged stays judged."""
    first, second = pair
    return second * (second - 1) // 2 + first


def _at_once(pairs: list[Pair]) -> Schedule:
    if pairs:
        yield pairs


def _swiss(players: Sequence[int], rounds: int) -> Schedule:
    """Of an odd number the last that has sat out least sits out, for half a point."""
    points = dict.fromkeys(players, 0.0)
    met: set[Pair] = set()
    sat: Counter[int] = Counter()
    for _ in range(rounds):
        waiting = sorted(players, key=lambda one: -points[one])
        if len(waiting) % 2:
            out = min(reversed(waiting), key=lambda one: sat[one])
            waiting.remove(out)
            sat[out] += 1
            points[out] += 0.5
        pairs: list[Pair] = []
        while waiting:
            one = waiting.pop(0)
            fresh = [other for other in waiting if _pair(one, other) not in met]
            if fresh:
                waiting.remove(fresh[0])
                pairs.append(_pair(one, fresh[0]))
        if not pairs:
            return
        met.update(pairs)
        results = yield pairs
        for (first, second), won in results.items():
            points[first] += won
            points[second] += 1 - won


def _knockout(players: Sequence[int]) -> Schedule:
    """A tie sends on whom the order of players names first; an odd one goes on alone."""
    left = [*players]
    while len(left) > 1:
        bouts = [*zip_longest(left[::2], left[1::2])]
        results = yield [_pair(one, other) for one, other in bouts if other is not None]
        left = [_winner(one, other, results) for one, other in bouts]


def _winner(one: int, other: int | None, results: Results) -> int:
    if other is None:
        return one
    won = results[_pair(one, other)]
    won = won if one < other else 1 - won
    return one if won >= 0.5 else other


def _pair(one: int, other: int) -> Pair:
    return min(one, other), max(one, other)
