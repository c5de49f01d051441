"""Rows as a notebook shows them, and as text elsewhere."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from prefdata.api.terminal import open_console, print_row
from prefdata.errors import PrefdataError
from prefdata.recipe.loader import LoadedRecipe
from prefdata.rows import Row
from prefdata.run.examples import Example, example_requests
from prefdata.storage.folders import read_rows
from prefdata.storage.record import Record

FIRST = ("prompt", "chosen", "rejected", "reason", "detail")
"""What of a row is shown at once; the rest is folded."""
_STYLE = "white-space:pre-wrap;text-align:left;margin:0 0 .5em 1em"


@dataclass(frozen=True)
class Records:
    """Rows to look at.

    Attributes:
        rows: (title, row).
        requests: one of every column, where they were asked for.
    """

    rows: tuple[tuple[str, Row], ...]
    requests: tuple[Example, ...] = ()

    def print(self, console: Console) -> None:
        """All of them in full."""
        print_examples(console, self.requests)
        for title, row in self.rows:
            print_row(console, title, row)

    def __repr__(self) -> str:
        text = StringIO()
        self.print(open_console(text))
        return text.getvalue().rstrip("\n")

    def _repr_html_(self) -> str:
        asked = (
            _folded(f"{one.column} asks {one.alias}", [("", one.text)]) for one in self.requests
        )
        return "".join((*asked, *(_shown(title, row) for title, row in self.rows)))


def print_examples(console: Console, examples: Iterable[Example]) -> None:
    """Requests, as their models will read them."""
    for one in examples:
        how = "as the model reads it" if one.is_rendered else "as messages"
        console.print(f"{one.column} asks {one.alias}, {how}:", style="bold", soft_wrap=True)
        console.print(one.text, soft_wrap=True)


def records_of(run: Path, loaded: LoadedRecipe) -> Records:
    """A request of every column, then every row: candidates or responses, pairs, rejects."""
    first = next(read_rows(run / "candidates"), None)
    requests = () if first is None else tuple(example_requests(loaded, first))
    kinds = (("row", "candidates"), ("pair", "pairs"), ("reject", "rejects"))
    return Records(
        tuple(r for title, name in kinds for r in _numbered(title, run / name)), requests
    )


def pairs_or_rejects(run: Path, n: int) -> Records:
    """The first pairs of a run, or its first rejects where it has none."""
    check_count(n)
    pairs = tuple(islice(_numbered("pair", run / "pairs"), n))
    return Records(pairs or tuple(islice(_numbered("reject", run / "rejects"), n)))


def check_count(n: int) -> None:
    """Raise PrefdataError where so many rows cannot be shown."""
    if type(n) is not int or n < 1:
        raise PrefdataError(f"n is {n!r}; give a whole number of at least 1")


def figures_of(record: Record) -> Iterator[tuple[str, str]]:
    """What a run has made, in a few figures."""
    splits = ", ".join(f"{count:,} {split}" for split, count in record["pairs"].items() if count)
    yield "rows", f"{record['rows']:,}"
    yield "pairs", f"{splits or 0} from {record['prompts']:,} prompts"
    yield "rejects", f"{sum(record['rejects'].values()):,}"
    for name, (chosen, rejected) in record["means"].items():
        yield f"mean {name}", f"chosen {chosen:.3f}, rejected {rejected:.3f}"


def table(lines: Iterable[tuple[str, str]]) -> str:
    """Names and values as a table of HTML."""
    cells = (f"<tr><td>{escape(a)}</td><td>{escape(b)}</td></tr>" for a, b in lines)
    return f"<table>{''.join(cells)}</table>"


def _numbered(title: str, folder: Path) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(read_rows(folder), start=1):
        if title == "reject":
            row["row"] = json.loads(row["row"] or "null")
        yield f"{title} {number}", row


def _shown(title: str, row: Row) -> str:
    there = {name: value for name, value in row.items() if value is not None}
    first = [(name, there.pop(name)) for name in FIRST if name in there]
    rest = _folded(title if not first else "more", there.items())
    head = f"<b>{escape(title)}</b>" if first else ""
    return f"<div>{head}{''.join(_field(*one) for one in first)}{rest}</div>"


def _folded(title: str, fields: Iterable[tuple[str, Any]]) -> str:
    inside = "".join(_field(name, value) for name, value in fields)
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"


def _field(name: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False, default=str)  # fmt: skip  # noqa: E501
    name = f"<i>{escape(name)}</i>" if name else ""
    return f'{name}<pre style="{_STYLE}">{escape(text)}</pre>'
