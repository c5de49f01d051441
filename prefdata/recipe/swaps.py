"""What changes places in a judge's second order: the two responses, and all that is made of one."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefdata.recipe.contract import Column, Scored

_NAME = re.compile(r"[^\W\d]\w*")
_FIRST, _SECOND = frozenset((0,)), frozenset((1,))


@dataclass(frozen=True, slots=True)
class Swap:
    """How a row becomes the row of the second order.

    Attributes:
        partners: by column, the one whose value it gets; in both directions.
        keyed: columns whose values are dicts by response; their keys change places, too.
        stuck: columns that the judge sees and that cannot follow, each with the response or
            responses that it is made of.
    """

    partners: Mapping[str, str]
    keyed: frozenset[str]
    stuck: Mapping[str, tuple[str, ...]]

    def apply(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row of the second order."""
        values = {name: row.get(self.partners.get(name, name), row[name]) for name in row}
        for name in self.keyed & values.keys():
            scores = values[name] or {}
            values[name] = {self.partners.get(key, key): score for key, score in scores.items()}
        return values


def swap_of(shown: frozenset[str], compared: tuple[str, str], columns: Sequence[Column]) -> Swap:
    """How the columns that a judge sees change places.

    A column is on the side of a response if it is made of it, or if the response is a part of it.
    Its partner is the column of the same definition on the other side; scores by response have
    both sides in one column. Columns on no side stay, such as the prompt.

    `columns`: of the recipe, in order; their templates must have been checked.
    """
    makers = {name: column for column in columns for name in column.makes}
    sides = _sides(compared, columns, makers)
    partners = _known_partners(compared, makers)
    for column in columns:  # what a column reads has its partner before it
        for other in columns:
            if other is not column and column.makes and column.makes[0] not in partners:
                partners |= _matched(column, other, partners, sides)
    keyed = frozenset(name for name in shown if name in sides and _is_keyed(makers.get(name)))
    both = {name for name in keyed if _covers(makers[name], partners)}
    stuck = {
        name: tuple(compared[side] for side in sorted(sides[name]))
        for name in sorted(shown & sides.keys())
        if name not in both and partners.get(name) not in shown
    }
    return Swap(partners, keyed, stuck)


def _sides(
    compared: tuple[str, str], columns: Sequence[Column], makers: Mapping[str, Column]
) -> dict[str, frozenset[int]]:
    sides = {compared[0]: _FIRST, compared[1]: _SECOND}
    for name, side in ((compared[0], _FIRST), (compared[1], _SECOND)):
        source = makers[name].source if name in makers else None
        while source is not None:
            sides[source] = sides.get(source, frozenset()) | side
            source = makers[source].source if source in makers else None
    for column in columns:
        if set(compared) <= set(column.makes):
            continue  # other parts of one text that has both belong to neither
        side = frozenset[int]().union(*(sides.get(name, frozenset()) for name in column.reads))
        for name in column.makes if side else ():
            sides.setdefault(name, side)
    return sides


def _known_partners(compared: tuple[str, str], makers: Mapping[str, Column]) -> dict[str, str]:
    """The two responses, the texts of which they are parts, and the other parts of these."""
    partners: dict[str, str] = {}
    first, second = compared
    while True:
        partners |= {first: second, second: first}
        a, b = makers.get(first), makers.get(second)
        if a is None or b is None or a is b or a.source is None or b.source is None:
            return partners
        if len(a.makes) == len(b.makes):
            for one, other in zip(a.makes, b.makes, strict=True):
                partners.setdefault(one, other)
                partners.setdefault(other, one)
        first, second = a.source, b.source
        if first == second:
            return partners


def _matched(
    column: Column,
    other: Column,
    partners: Mapping[str, str],
    sides: Mapping[str, frozenset[int]],
) -> dict[str, str]:
    """Partners by position, if the columns lie on two sides and are defined alike."""
    lie = (sides.get(column.makes[0]), sides.get(other.makes[0]))
    if lie not in ((_FIRST, _SECOND), (_SECOND, _FIRST)) or len(column.makes) != len(other.makes):
        return {}
    pairs = list(zip((column.name, *column.makes), (other.name, *other.makes), strict=True))
    found = dict(pairs) | {b: a for a, b in pairs}
    alike = _renamed(column.model_dump(), {**partners, **found}) == other.model_dump()
    return found if alike else {}


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """A definition with other column names in its texts and lists."""
    if isinstance(value, str):
        return _NAME.sub(lambda found: names.get(found[0], found[0]), value)
    if isinstance(value, Mapping):
        return {key: _renamed(part, names) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_renamed(part, names) for part in value)
    return value


def _is_keyed(column: Column | None) -> bool:
    return isinstance(column, Scored) and bool(column.responses)


def _covers(column: Column, partners: Mapping[str, str]) -> bool:
    """Whether scores by response hold the partner of every response."""
    responses = set(column.responses or ()) if isinstance(column, Scored) else set()
    return all(partners.get(name) in responses for name in responses)
