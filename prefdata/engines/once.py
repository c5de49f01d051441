"""What processes that share a cache do once: the first does it, the others wait and find it."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

PATIENCE = 900.0
"""Seconds after which nobody waits for the first any more."""


@contextmanager
def once(folder: Path, name: str, *, patience: float = PATIENCE) -> Iterator[None]:
    """Go on alone where this was never done with this folder; else at once.

    The first leaves a mark when it is through; one that dies or fails lets the next be the first.
    Where the folder cannot be written or locked, everybody goes on.

    `folder`: shared by those who wait for one another, on one machine or on several. `patience`:
    seconds to wait for the first.
    """
    mark = folder / f"{name}.done"
    if mark.exists():
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        yield
        return
    try:
        _lock(lock, mark, patience)
        if mark.exists():
            fcntl.flock(lock, fcntl.LOCK_UN)
        yield
        with suppress(OSError):
            mark.touch()
    finally:
        os.close(lock)


def remember(place: Path, make: Callable[[], str]) -> str:
    """The text of a small file, made by whoever first wants it."""
    with once(place.parent, place.name):
        with suppress(OSError):
            return place.read_text()
        text = make()
        with suppress(OSError):  # a cache that cannot be written costs time, nothing else
            unfinished = place.with_name(f"{place.name}.{token_hex(4)}.tmp")
            unfinished.write_text(text)
            unfinished.replace(place)
        return text


def _lock(lock: int, mark: Path, patience: float) -> None:
    until = time.monotonic() + patience
    with suppress(OSError):  # a file system without locks
        while not mark.exists() and time.monotonic() < until:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.2)
