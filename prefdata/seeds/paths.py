"""Values in a line of data by their paths, such as `annotations.helpfulness.Rating`."""

from collections.abc import Mapping
from typing import Any

from prefdata.errors import RowError, suggest
from prefdata.recipe.layout import Layout
from prefdata.rows import Row

MISSING = object()
"""What a path that leads nowhere has: null is a value."""


def find(line: Any, path: str) -> Any:
    """The value at a path; `MISSING` where there is none. Of several paths one with a value.

    A field whose name is the whole path goes before the parts of the path.
    """
    if isinstance(line, dict) and path in line:
        return line[path]
    found = [one for way in path.split("|") if (one := _walk(line, way.strip())) is not MISSING]
    return next((one for one in found if one is not None), found[0] if found else MISSING)


def is_there(line: Row, path: str, layout: Layout) -> bool:
    """Whether a path leads to something in the line, or in one of its objects."""
    if find(line, path) is not MISSING:
        return True
    objects = find(line, layout.each) if layout.each else ()
    if isinstance(objects, Mapping):
        objects = [objects]
    return isinstance(objects, list) and any(find(one, path) is not MISSING for one in objects)


def _walk(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        if path in value:
            return value[path]
        parts = path.split(".")
        for size in range(len(parts) - 1, 0, -1):
            head = ".".join(parts[:size])
            if head in value:
                return _walk(value[head], ".".join(parts[size:]))
    if isinstance(value, list | tuple):
        head, _, rest = path.partition(".")
        if head.isdecimal() and int(head) < len(value):
            return _walk(value[int(head)], rest) if rest else value[int(head)]
    return MISSING


def needed(line: Row, path: str) -> Any:
    """The value at a path.

    Raises:
        RowError: there is none, or it is null.
    """
    value = find(line, path)
    if value is None:
        raise RowError("missing_field", f"{path!r} is null")
    if value is MISSING:
        raise RowError("missing_field", f"there is no {path!r}; {suggest(path, line)}")
    return value
