"""A checklist of a row: what a good answer must do, by items with a weight and perhaps a check."""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeGuard

from prefdata.errors import RowError


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that an answer must do.

    Attributes:
        weight: above 0; RLCF's are from 0 to 100.
        check: the column that rates it, in the place of a model.
        description: what the recipe says of a criterion that it names.
    """

    text: str
    weight: float = 1.0
    check: str | None = None
    description: str = ""


def read_checklist(value: Any, checks: Sequence[str], most: int) -> list[Item]:
    """The first `most` items of a cell; items whose weight is 0 do not count.

    The cell is a list, or an object with one list in it, or either as JSON: of texts, or of objects
    with `item`, and perhaps `weight` and `check`, the name of a column that the recipe allows: no
    code of a model's is ever run.

    Raises:
        RowError: `checklist`; it is something else, or has no item.
    """
    if isinstance(value, str):
        with suppress(json.JSONDecodeError):
            value = json.loads(value)
    if isinstance(value, dict):
        lists = [part for part in value.values() if isinstance(part, list)]
        value = lists[0] if len(lists) == 1 else value
    if not isinstance(value, list):
        raise RowError("checklist", f"it is no list of items: {value!r}")
    items = [item for item in (_item(one, checks) for one in value) if item.weight > 0]
    if not items:
        raise RowError("checklist", "it has no item that counts")
    return items[:most]


def _item(value: Any, checks: Sequence[str]) -> Item:
    told = {"item": value} if isinstance(value, str) else value
    text = told.get("item") if isinstance(told, dict) else None
    if not isinstance(told, dict) or not isinstance(text, str) or not text.strip():
        raise RowError("checklist", f"an item is no text and no object with 'item': {value!r}")
    weight, check = told.get("weight"), told.get("check") or None
    weight = 1.0 if weight is None else weight
    if not _is_weight(weight):
        raise RowError("checklist", f"the weight {weight!r} of {text!r} is no number from 0 up")
    if check is not None and check not in checks:
        known = ", ".join(checks) or "none"
        raise RowError("checklist", f"{text!r} names the check {check!r}; 'checks' has: {known}")
    return Item(text, float(weight), check)


def _is_weight(value: Any) -> TypeGuard[float]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0
