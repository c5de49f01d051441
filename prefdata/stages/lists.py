"""`expand`: the items of a list that a model wrote, in any common format."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pyarrow as pa

from prefdata.errors import RowError
from prefdata.fingerprint import digest
from prefdata.recipe.chats import plain_turns, read_chat
from prefdata.recipe.columns import Expand
from prefdata.recipe.values import META_SUFFIX
from prefdata.rows import CHAT, EXPAND_META, ID, Row
from prefdata.stages.patterns import Pattern

_MARK = re.compile(
    r"\(?\d{1,3}\\?[.)](?:\s+|$|(?=[^\W\d]))|[-*+\u2013\u2014](?:\s+|$)|[\u2022\u2023\u25aa\u25cf\u25e6]\s*"
)
"""A number or a bullet in front of an item; `-5`, `3.5` and a year are not."""
_FENCED = re.compile(r"```(?:json)?\s*(\[.*\])\s*```", re.DOTALL)
_QUOTES = ('""', "''", "``", "\u201c\u201d", "\u2018\u2019", "\u00ab\u00bb", "**", "__")


def expand_fields(column: Expand) -> list[pa.Field]:
    """The item, and whose it is."""
    item = CHAT if column.turns else pa.string()
    return [pa.field(column.name, item), pa.field(column.name + META_SUFFIX, EXPAND_META)]


def expand(column: Expand) -> Callable[[Row], list[Row]]:
    """What the children of a row have more than the row; `id` takes the place of its own.

    A child's id comes from its parent's, the column and the item, not from its place in the list.
    """
    if column.turns:
        return _turns(column)
    find = _finder(column)

    def children(row: Row) -> list[Row]:
        text, meta = row[column.column], row.get(column.column + META_SUFFIX) or {}
        if not isinstance(text, str):
            raise RowError("no_items", f"{column.column!r} contains no text: {text!r}")
        found = find(text)
        if meta.get("finish_reason") == "length":  # the last item was cut off
            found = found[:-1]
        unlike: dict[str, str] = {}
        for item in filter(None, map(clean_item, found)):
            unlike.setdefault(item.casefold(), item)
        items = list(unlike.values())[: column.max_items]
        if not items:
            raise RowError("no_items", f"{column.column!r} contains no item: {text!r}")
        return _children(row, column.name, items)

    return children


def _children(row: Row, name: str, items: Sequence[Any]) -> list[Row]:
    return [
        {
            ID: digest(row[ID], name, item, size=10),
            name: item,
            name + META_SUFFIX: {"parent": row[ID], "item": n, "items": len(items)},
        }
        for n, item in enumerate(items)
    ]


def _turns(column: Expand) -> Callable[[Row], list[Row]]:
    """The chat up to each turn of the user."""

    def children(row: Row) -> list[Row]:
        try:
            given = read_chat(row[column.column])
        except RowError as err:
            raise RowError(err.reason, f"column {column.column!r}: {err.detail}") from err
        ends = [n + 1 for n, message in enumerate(given) if message["role"] == "user"]
        ends = ends[: column.max_items]
        if not ends:
            raise RowError("no_items", f"column {column.column!r} has no turn of the user")
        chat = plain_turns(given[: ends[-1]])
        return _children(row, column.name, [chat[:end] for end in ends])

    return children


def clean_item(text: str) -> str:
    """An item without number, bullet, quotes, emphasis and the comma of its list."""
    before = None
    while text != before:
        before = text
        text = _MARK.sub("", text.strip(), count=1) if _MARK.match(text.strip()) else text.strip()
        text = text.rstrip(",;").rstrip()
        for quote in _QUOTES:
            first, last = (quote, quote) if quote in ("**", "__") else (quote[0], quote[1])
            inside = text[len(first) : -len(last)]
            if text.startswith(first) and text.endswith(last) and inside and first not in inside:
                text = inside
    return "" if re.fullmatch(r"\W*", text) else text


def _finder(column: Expand) -> Callable[[str], list[str]]:
    if column.regex is not None:
        pattern = Pattern(column.name, column.regex)
        return lambda text: [m[1] or "" if pattern.groups else m[0] for m in pattern.finditer(text)]
    if column.json_list:
        return _json_items
    if column.lines:
        return _lines
    separator = column.separator or ""
    return lambda text: [item for line in _lines(text) for item in line.split(separator)]


def _lines(text: str) -> list[str]:
    """Lines with something on them; an introduction such as `Here are five:` is skipped."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[1:] if len(lines) > 1 and lines[0].rstrip().endswith(":") else lines


def _json_items(text: str) -> list[str]:
    fenced = _FENCED.search(text)
    try:
        value: Any = orjson.loads(fenced[1] if fenced else text)
    except orjson.JSONDecodeError as err:
        raise RowError("no_items", f"the text is not valid JSON ({err}): {text!r}") from err
    if not isinstance(value, list) or not all(isinstance(v, str | int | float) for v in value):
        raise RowError("no_items", f"the text is not a JSON list of texts: {text!r}")
    return [str(item) for item in value]
