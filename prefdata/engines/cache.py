"""What is worked out once a machine, or once by processes that share a cache. Knows no model."""

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import blake2b, file_digest
from pathlib import Path
from secrets import token_hex

PATIENCE = 900.0
"""Seconds after which nobody waits for the first any more."""
SETTLED = 2.0
"""Seconds since its last change after which a file's times tell a further change apart."""
THREADS = 8


def cache_folder() -> Path:
    """Where what is computed once is kept: `$XDG_CACHE_HOME/prefdata`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prefdata"


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
        if (text := _read(place)) is None:
            _write(place, text := make())
        return text


def hash_files(files: Iterable[Path], *, settled: float = SETTLED) -> list[str]:
    """32 hex digits of the whole content of each file, in order.

    A hash is remembered under the file's device, inode, size and times of change, in
    `$XDG_CACHE_HOME/prefdata/file-hashes`: whatever is written to the file changes one of them.
    """
    with ThreadPoolExecutor(THREADS) as pool:  # hashlib lets other threads run
        return list(pool.map(partial(_hash, settled=settled), files))


def _hash(file: Path, settled: float) -> str:
    found = file.stat()
    name = f"{found.st_dev}-{found.st_ino}-{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}"
    memo = cache_folder() / "file-hashes" / name
    if len(known := _read(memo) or "") == 32:
        return known
    with file.open("rb") as content:
        digest = file_digest(content, lambda: blake2b(digest_size=16)).hexdigest()
    if time.time() - max(found.st_mtime, found.st_ctime) > settled:
        _write(memo, digest)
    return digest


def _read(place: Path) -> str | None:
    with suppress(OSError):
        return place.read_text()
    return None


def _write(place: Path, text: str) -> None:
    with suppress(OSError):  # a cache that cannot be written costs time, nothing else
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished = place.with_name(f"{place.name}.{token_hex(4)}.tmp")
        unfinished.write_text(text)
        unfinished.replace(place)


def _lock(lock: int, mark: Path, patience: float) -> None:
    until = time.monotonic() + patience
    with suppress(OSError):  # a file system without locks
        while not mark.exists() and time.monotonic() < until:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.2)
