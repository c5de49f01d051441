"""`prefdata inspect`: a run's pairs or rejects in the terminal, one after another."""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from prefdata.cli.terminal import print_row
from prefdata.errors import PrefdataError
from prefdata.pairs.files import pairs_in_order
from prefdata.rows import Row
from prefdata.run.finished import open_run
from prefdata.storage.folders import read_rows

Ask = Callable[[str], str]
HELP = "enter: next, b: back, a number: that one, /words: search, q: quit"
IDS = ("id", "row_id")
KEPT = 100
"""Rows that are kept to go back to; further back the run is read again."""


class Shelf:
    """Rows by place, from a stream that can be opened again."""

    def __init__(self, open_rows: Callable[[], Iterator[Row]]) -> None:
        self._open = open_rows
        self._rows, self._read = open_rows(), 0
        self._kept: deque[Row] = deque(maxlen=KEPT)

    def get(self, place: int) -> Row | None:
        """The row at a place, counted from 0; None where the rows end before."""
        if place < self._read - len(self._kept):
            self._rows, self._read = self._open(), 0
            self._kept.clear()
        while self._read <= place:
            row = next(self._rows, None)
            if row is None:
                return None
            self._kept.append(row)
            self._read += 1
        return self._kept[place - self._read]


def find_rows(run: Path, *, rejects: bool = False, search: str = "") -> Callable[[], Iterator[Row]]:
    """Opens the pairs of a finished run, train first, or its rejects.

    Args:
        run: its folder.
        rejects: rejects instead of pairs.
        search: words that a row has to hold, in any case and any of its texts; or its id.

    Raises:
        PrefdataError: no finished run is there.
    """
    folder = open_run(run).folder
    return partial(_rows, folder, rejects, search.casefold().split())


def print_rows(console: Console, rows: Iterator[Row], kind: str) -> None:
    """Print all of them."""
    for number, row in enumerate(rows, start=1):
        print_row(console, f"{kind} {number}", row)


def page_rows(console: Console, shelf: Shelf, kind: str, ask: Ask) -> None:
    """Show one row at a time, until the user or the rows have come to their end.

    Args:
        console: a terminal.
        shelf: read as far as the user pages.
        kind: what a row is called.
        ask: shows a prompt and returns what the user types.

    Raises:
        PrefdataError: there is no row.
    """
    if shelf.get(0) is None:
        raise PrefdataError(
            f"there is no {kind} to show; search for other words, or open another run"
        )
    place: int | None = 0
    while place is not None:
        print_row(console, f"{kind} {place + 1}", shelf.get(place) or {})
        place = _go_on(console, shelf, place, ask)


def _go_on(console: Console, shelf: Shelf, place: int, ask: Ask) -> int | None:
    """Where to go on; None where the user has had enough or there is nothing more."""
    while True:
        try:
            said = ask(f"[{HELP}] ").strip()
        except EOFError:
            return None
        if said in ("q", "quit"):
            return None
        wanted = _place(shelf, place, said)
        if wanted is not None:
            return wanted
        if not said:
            console.print("that was the last one")
            return None
        if said.startswith("/"):
            console.print(f"no later row contains {said[1:]!r}")
        else:
            console.print(f"there is no row {said!r}")


def _place(shelf: Shelf, place: int, said: str) -> int | None:
    """The place that the answer means; None where there is no row."""
    if said.startswith("/"):
        words, place = said[1:].casefold().split(), place + 1
        while (row := shelf.get(place)) is not None:
            if holds(row, words):
                return place
            place += 1
        return None
    wanted = {"": place + 1, "b": place - 1}.get(said)
    if said.isdecimal():
        wanted = int(said) - 1
    return wanted if wanted is not None and wanted >= 0 and shelf.get(wanted) else None


def _rows(folder: Path, rejects: bool, words: list[str]) -> Iterator[Row]:
    for row in _rejects(folder) if rejects else _pairs(folder):
        if holds(row, words):
            yield row


def _pairs(folder: Path) -> Iterator[Row]:
    for split, row in pairs_in_order(folder / "pairs"):
        first = {name: row.pop(name) for name in ("id", "prompt", "chosen", "rejected")}
        yield {**first, "split": split, **row}


def _rejects(folder: Path) -> Iterator[Row]:
    for row in read_rows(folder / "rejects"):
        yield {**row, "row": orjson.loads(row["row"]) if row["row"] else None}


def holds(row: Row, words: list[str]) -> bool:
    """Whether all words are in texts of the row, or are its id; they are in small letters."""
    ids = [row.get(name) for name in IDS]  # whole: they are letters and digits at random
    text = _text({name: value for name, value in row.items() if name not in IDS})
    return all(word in text or word in ids for word in words)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(_text(one) for one in value.values())
    if isinstance(value, list):
        return "\n".join(_text(one) for one in value)
    return value.casefold() if isinstance(value, str) else ""
