"""What differs between two runs: fields of their recipes, key figures. Reads no row."""

from collections.abc import Iterator
from typing import Any

import orjson
import yaml

from prefdata.report.cells import number

NAMES = ("alias", "name")
"""Keys by which entries of a list are the same entry."""
PLACES = ("output_dir", "output_path")
"""Fields that say where, not what."""


def recipe_differences(one: str, other: str) -> list[tuple[str, str, str]]:
    """(field, value in one, value in the other) of every field that is not the same."""
    fields = [dict(_flat("", yaml.safe_load(text) or {})) for text in (one, other)]
    names = dict.fromkeys(name for found in fields for name in found)
    told = [(name, *(found.get(name, "–") for found in fields)) for name in names]
    return [(name, a, b) for name, a, b in told if a != b and name not in PLACES]


def delta(one: float | None, other: float | None) -> str:
    """How much more the other has."""
    if one is None or other is None:
        return ""
    more = number(other - one)
    return "–" if more == "0" else f"+{more}" if other > one else more.replace("-", "−")


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and (value or not path):
        for key, part in value.items():
            yield from _flat(f"{path}.{key}" if path else str(key), part)
    elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
        for at, part in enumerate(value):
            named = next((part[key] for key in NAMES if key in part), at)
            yield from _flat(f"{path}.{named}", part)
    else:
        yield path, value if isinstance(value, str) else orjson.dumps(value).decode()
