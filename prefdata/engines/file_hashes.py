"""Hashes of large files, each computed once a machine. Knows no checkpoint."""

import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from hashlib import blake2b, file_digest
from pathlib import Path
from secrets import token_hex

SETTLED = 2.0
"""Seconds since its last change after which a file's times tell a further change apart."""
THREADS = 8


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
    with suppress(OSError):  # there is none, or it cannot be read: the file itself is
        known = memo.read_text()
        if len(known) == 32:
            return known
    with file.open("rb") as content:
        digest = file_digest(content, lambda: blake2b(digest_size=16)).hexdigest()
    if time.time() - max(found.st_mtime, found.st_ctime) > settled:
        with suppress(OSError):  # a cache that cannot be written costs time, nothing else
            _remember(memo, digest)
    return digest


def _remember(memo: Path, digest: str) -> None:
    memo.parent.mkdir(parents=True, exist_ok=True)
    unfinished = memo.with_name(f"{memo.name}.{token_hex(4)}.tmp")
    unfinished.write_text(digest)
    unfinished.replace(memo)


def cache_folder() -> Path:
    """Where what is computed once is kept: `$XDG_CACHE_HOME/prefdata`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prefdata"
