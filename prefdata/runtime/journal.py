"""The journal: append, repair, look up. Knows nothing of engines.

One JSON object a line, `{"key":…,"value":…,"crc":…}`, the checksum over what stands before it.
Each process appends to a file that it alone has created, so no two writers ever share one; a
tail that a kill or a full disk has cut short is passed over and its work is done again.
"""

import mmap
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from zlib import crc32

import orjson

FSYNC_SECONDS = 2.0
_CRC = b',"crc":'


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a journal file that hold no whole record."""

    file: str
    offset: int
    length: int

    def __str__(self) -> str:
        return (
            f"journal {self.file}: {self.length} bytes at {self.offset} hold no whole record "
            "(a write was cut short); what they held is done again, everything else is kept"
        )


class Journal:
    """Finished completions and scores by key: those of earlier runs, and this run's to be added.

    A record is with the operating system when `append` returns, so killing the process loses
    none; it is on the disk at most `FSYNC_SECONDS` later, while records keep coming.
    """

    def __init__(self, folder: Path, worker: str = "w0") -> None:
        """Index what earlier runs have finished; `folder` is made at the first append."""
        self._folder, self._worker = folder, worker
        self._maps: list[mmap.mmap] = []
        self._at: dict[bytes, tuple[int, int]] = {}
        self._file: int | None = None
        self._synced = 0.0
        self.damage: list[Damage] = []
        for path in sorted(folder.glob("*.jsonl")):
            if path.stat().st_size:
                self._index(path)

    def __len__(self) -> int:
        return len(self._at)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def get(self, key: str) -> Any | None:
        """The value that an earlier run has finished under this key."""
        place = self._at.get(bytes.fromhex(key))
        if place is None:
            return None
        file, offset = place
        lines = self._maps[file]
        return orjson.loads(lines[offset : lines.find(b"\n", offset)])["value"]

    def append(self, records: Sequence[tuple[str, Any]]) -> None:
        """Write (key, value) records; they are safe from a kill when this returns.

        Raises:
            OSError: the disk is full, read-only …; a record cut short is found at the next open.
        """
        if self._file is None:
            self._file = self._create()
        data = b"".join(_line(key, value) for key, value in records)
        while data:
            data = data[os.write(self._file, data) :]
        if time.monotonic() - self._synced > FSYNC_SECONDS:
            os.fsync(self._file)
            self._synced = time.monotonic()

    def close(self) -> None:
        """Bring the last records to the disk; the journal cannot be used afterwards."""
        if self._file is not None:
            os.fsync(self._file)
            os.close(self._file)
            self._file = None
        for lines in self._maps:
            lines.close()
        self._maps.clear()

    def _create(self) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        number = sum(1 for _ in self._folder.glob(f"{self._worker}-*.jsonl"))
        while True:
            path = self._folder / f"{self._worker}-{number:03d}.jsonl"
            try:
                return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            except FileExistsError:  # another process took the number
                number += 1

    def _index(self, path: Path) -> None:
        with path.open("rb") as file:
            lines = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._maps.append(lines)
        for offset, line in _lines(lines):
            key = _checked_key(line)
            if key is None:
                self.damage.append(Damage(path.name, offset, len(line)))
            else:
                self._at.setdefault(key, (len(self._maps) - 1, offset))


def _line(key: str, value: Any) -> bytes:
    body = orjson.dumps({"key": key, "value": value})
    return b'%b%b"%08x"}\n' % (body[:-1], _CRC, crc32(body))


def _lines(data: mmap.mmap) -> Iterator[tuple[int, bytes]]:
    offset, end = 0, len(data)
    while offset < end:
        stop = data.find(b"\n", offset)
        stop = end if stop < 0 else stop + 1
        yield offset, data[offset:stop]
        offset = stop


def _checked_key(line: bytes) -> bytes | None:
    """The key of a whole record, None for anything else."""
    at = line.rfind(_CRC)
    if at < 0 or not line.endswith(b'"}\n'):
        return None
    body = line[:at] + b"}"
    if line[at + len(_CRC) + 1 : -3] != b"%08x" % crc32(body):
        return None
    key = body[8:40]  # after {"key":"
    return bytes.fromhex(key.decode())
