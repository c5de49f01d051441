"""`prefdata inspect`: rows of a run in the terminal, a screen each. Changes nothing."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from prefdata.api.terminal import print_row
from prefdata.cli.screens import print_screen, print_values
from prefdata.errors import PrefdataError
from prefdata.pairs.files import pairs_in_order
from prefdata.rows import Row
from prefdata.run.finished import open_run
from prefdata.run.passes import rejects_of
from prefdata.storage.folders import count_rows, find_row, read_rows
from prefdata.storage.record import read_record

Ask = Callable[[str], str]
KEYS = "enter next  b back  c candidates  m more values  / search  ? help  q quit"
HELP = """\
enter, n   the next one            /words   only those with these words
b, p       the one before          /        all of them again
12         number 12               c        all candidates of this prompt
f          this one in full        m        all other values of this one
q          quit                    ?        this help"""
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


@dataclass(frozen=True)
class Opened:
    """Rows of a run, all or those with some words.

    Attributes:
        kind: `pair`, `reject`, or `row` of a run that is not finished.
        count: of them, or of those with the words.
        scored: folder with the row of every pair.
    """

    kind: str
    read: Callable[[], Iterator[Row]]
    count: int
    scored: Path | None = None
    words: tuple[str, ...] = ()
    note: str = ""

    def rows(self) -> Iterator[Row]:
        """Those with the words."""
        return (row for row in self.read() if holds(row, self.words))

    def search(self, words: str) -> "Opened":
        """Those of all rows that hold these words, in any case and any text, or have such an id."""
        wanted = replace(self, words=tuple(words.casefold().split()))
        return replace(wanted, count=sum(1 for _ in wanted.rows()))


def open_rows(run: Path, *, rejects: bool = False) -> Opened:
    """The pairs of a run, train first, or its rejects; of an unfinished run the latest stage.

    Raises:
        PrefdataError: no run is there, or it has not come to its first stage.
    """
    if read_record(run) is None and (stages := _finished_stages(run)):
        note = f"the run is not finished; as after {'-'.join(stages[-1].name.split('-')[1:-1])}"
        if rejects:
            return _open_rejects([rejects_of(stage) for stage in stages], note)
        return Opened("row", partial(read_rows, stages[-1]), count_rows(stages[-1]), note=note)
    folder = open_run(run).folder
    if rejects:
        return _open_rejects([folder / "rejects"])
    read, count = partial(_pairs, folder), count_rows(folder / "pairs")
    return Opened("pair", read, count, folder / "candidates")


def _open_rejects(folders: Sequence[Path], note: str = "") -> Opened:
    return Opened("reject", partial(_rejects, folders), sum(map(count_rows, folders)), note=note)


def print_rows(console: Console, rows: Iterator[Row], kind: str) -> None:
    """Print all of them with all their values."""
    for number, row in enumerate(rows, start=1):
        print_row(console, f"{kind} {number}", row)


def page_rows(console: Console, opened: Opened, ask: Ask) -> None:
    """Show one row at a time, until the user or the rows have come to their end.

    Raises:
        PrefdataError: there is no row.
    """
    if not opened.count:
        found = " with these words" if opened.words else ""
        raise PrefdataError(
            f"there is no {opened.kind}{found} to show; search for other words, or open another run"
        )
    shelf, place, is_new = Shelf(opened.rows), 0, True
    while True:
        row = shelf.get(place) or {}
        if is_new:
            _show(console, opened, row, place)
        try:
            said = ask(f"[{KEYS}] ").strip()
        except EOFError:
            return
        is_new = False
        if said in ("q", "quit"):
            return
        if said.startswith("/"):
            hits = opened.search(said[1:])
            if hits.count:
                opened, shelf, place, is_new = hits, Shelf(hits.rows), 0, True
            else:
                console.print(f"0 {opened.kind}s contain {said[1:].strip()!r}")
        elif said in VIEWS:
            VIEWS[said](console, opened, row)
        elif (wanted := _place(place, said)) is None or not 0 <= wanted < opened.count:
            if said in ("", "n"):
                console.print("that was the last one; q leaves, a number goes back to it")
            else:
                console.print(f"there is no {opened.kind} {said!r}; ? shows the keys")
        else:
            place, is_new = wanted, True


def _place(place: int, said: str) -> int | None:
    """The place that an answer means, be there a row or not."""
    if said.isdecimal():
        return int(said) - 1
    return {"": place + 1, "n": place + 1, "b": place - 1, "p": place - 1}.get(said)


def _show(console: Console, opened: Opened, row: Row, place: int) -> None:
    found = f" with {' '.join(opened.words)!r}" if opened.words else ""
    parts = (
        f"{opened.kind} {place + 1:,} of {opened.count:,}{found}",
        row.get("split"),
        opened.note,
    )
    if console.is_terminal and console.color_system:
        console.clear()
    title = "   ".join(part for part in parts if part)
    print_screen(console, title, row, opened.kind, lines=_room(console))


def _room(console: Console) -> int:
    """Lines of the screen, but for the keys and the cursor."""
    return console.height - 2


def _show_candidates(console: Console, opened: Opened, row: Row, *, is_whole: bool = False) -> None:
    """The row that a pair was made of, with every candidate and its scores."""
    if opened.scored is None:
        console.print("there is nothing but this row")
        return
    scored, lines = find_row(opened.scored, row["row_id"]), None if is_whole else _room(console)
    title = "all candidates of this prompt"
    print_screen(console, title, scored or {}, "row", lines=lines, key="cf")


def _show_values(console: Console, opened: Opened, row: Row) -> None:
    if opened.kind == "pair":
        print_values(console, row)
    else:
        print_row(console, "all values", row)


VIEWS: dict[str, Callable[[Console, Opened, Row], None]] = {
    "?": lambda console, opened, row: console.print(HELP),
    "m": _show_values,
    "f": lambda console, opened, row: print_screen(
        console, "in full", row, opened.kind, lines=None
    ),
    "c": _show_candidates,
    "cf": partial(_show_candidates, is_whole=True),
}
"""What a key shows below the screen."""


def _finished_stages(run: Path) -> list[Path]:
    """Folders of the stages that are whole, the latest last."""
    found = [
        folder
        for folder in (run / "stages").glob("[0-9]*-*-????????")
        if rejects_of(folder).exists()
    ]
    return sorted(
        found, key=lambda folder: (int(folder.name.split("-")[0]), folder.stat().st_mtime)
    )


def _pairs(folder: Path) -> Iterator[Row]:
    for split, row in pairs_in_order(folder / "pairs"):
        first = {name: row.pop(name) for name in ("id", "prompt", "chosen", "rejected")}
        yield {**first, "split": split, **row}


def _rejects(folders: Sequence[Path]) -> Iterator[Row]:
    for row in chain.from_iterable(map(read_rows, folders)):
        yield {**row, "row": orjson.loads(row["row"]) if row["row"] else None}


def holds(row: Row, words: tuple[str, ...]) -> bool:
    """Whether all words are in texts of the row, or are its id; they are in small letters."""
    if not words:
        return True
    ids = [row.get(name) for name in IDS]  # whole: they are letters and digits at random
    text = _text({name: value for name, value in row.items() if name not in IDS})
    return all(word in text or word in ids for word in words)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(_text(one) for one in value.values())
    if isinstance(value, list):
        return "\n".join(_text(one) for one in value)
    return value.casefold() if isinstance(value, str) else ""
