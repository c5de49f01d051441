"""The journal: append, repair, look up. Knows nothing of engines.

One JSON object a line, `{"key":…,"value":…,"v":1,"crc":…}`, the checksum over what stands before
it. Where `key`, `v` and `crc` stand is the same in every version; records from before there was a
`v` have none, and are of version 1.
Each process writes a file that it alone has created, so no two writers ever share one; what a
kill or a full disk has cut short is passed over and its work is done again.
"""

import os
import re
import threading
import time
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from zlib import crc32

import numpy as np
import orjson

from prefdata.errors import PrefdataError
from prefdata.storage.disk import make_folder, sync, whole_file

VERSION = 1
"""Of the records that are written; raised when what they hold changes its form or meaning."""
FSYNC_SECONDS = 2.0
FILE_SECONDS = 300.0
"""After so long a file is closed and another one begun: mounted buckets keep closed files alone.

In the n-th hour it is n times as long, so that a run of days leaves no thousands of files.
"""
OPEN_FILES = 64
"""Journal files held open for reading: an array job restarted often leaves thousands."""
_STATED = re.compile(rb',"v":(\d+),"crc":"[0-9a-f]{8}"}\n\Z')


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a journal file that hold no whole record."""

    file: str
    offset: int
    length: int

    def __str__(self) -> str:
        return (
            f"journal {self.file}: {self.length:,} bytes at {self.offset:,} hold no whole record "
            "(a write was cut short, or the file was changed); what they held is done again, "
            "everything else is kept"
        )


class Journal:
    """Finished completions and scores by key: those of earlier runs, and this run's to be added.

    A record is with the operating system when `append` returns, so killing the process loses
    none; it is on the disk at most `FSYNC_SECONDS` later.
    """

    def __init__(
        self, folder: Path, worker: str = "w0", *, file_seconds: float = FILE_SECONDS
    ) -> None:
        """Index what earlier runs have finished; `folder` is made at the first append.

        `file_seconds`: how long a file is written in the first hour, before the next one is begun.

        Raises:
            PrefdataError: a record is of a version that is not known here.
        """
        self._folder, self._worker = folder, worker
        self._file_seconds, self._begun = file_seconds, time.monotonic()
        self._earlier = _Index(sorted(folder.glob("*.jsonl")))
        self._own: _OwnFile | None = None
        self._lock = threading.Lock()

    @property
    def damage(self) -> list[Damage]:
        """What could not be read of earlier runs' files."""
        return self._earlier.damage

    def __len__(self) -> int:
        """Records of earlier runs."""
        return len(self._earlier)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def refresh(self) -> None:
        """Read again, so that what this run has appended is found as well; from any thread."""
        read = _Index(sorted(self._folder.glob("*.jsonl")))
        with self._lock:
            self._earlier.close()
            self._earlier = read

    def get(self, key: str) -> list[Any]:
        """The values that earlier runs have written under this key, the earliest first."""
        with self._lock:
            return self._earlier.get(bytes.fromhex(key))

    def unread(self) -> dict[Path, tuple[int, int]]:
        """Records of earlier runs, and their bytes, that `get` has not given; by file."""
        return self._earlier.unread()

    def drop_unread(self) -> None:
        """Remove them; each file is as it was or as it is to be, whenever this is killed."""
        self._earlier.drop_unread()

    def append(self, records: Sequence[tuple[str, Any]]) -> None:
        """Write (key, value) records; they are safe from a kill when this returns.

        Raises:
            OSError: the disk is full, read-only …; what was appended before is kept.
        """
        lines = b"".join(_line(key, value) for key, value in records)
        with self._lock:
            if self._own is not None and self._is_old(self._own):
                old, self._own = self._own, None
                old.close()
            if self._own is None:
                self._own = _OwnFile(self._folder, self._worker)
            self._own.append(lines)

    def _is_old(self, own: "_OwnFile") -> bool:
        hours = (own.begun - self._begun) / 3600
        return time.monotonic() > own.begun + self._file_seconds * max(1.0, hours)

    def close(self) -> None:
        """Bring the last records to the disk; the journal cannot be used afterwards."""
        self._earlier.close()
        if self._own is not None:
            self._own.close()
            self._own = None


def read_values(file: Path) -> Iterator[tuple[str, Any]]:
    """Key and value of every whole record of a journal file, in order."""
    with file.open("rb") as lines:
        for line in lines:
            if (key := _checked_key(line)) is not None:
                yield key.hex(), orjson.loads(line)["value"]


class _OwnFile:
    """The file that this process writes; a thread brings it to the disk."""

    def __init__(self, folder: Path, worker: str) -> None:
        make_folder(folder)
        self._file = _create(folder, worker)
        sync(folder)
        self.begun = time.monotonic()
        self._end, self._synced = 0, 0
        self._failure: OSError | None = None
        self._closing = threading.Event()
        # a thread, so that the last record is not left to the next one, which may be long in
        # coming, and a slow file server does not hold up the event loop
        self._thread = threading.Thread(target=self._sync_often, name="journal", daemon=True)
        self._thread.start()

    def append(self, data: bytes) -> None:
        if self._failure is not None:
            raise self._failure
        done = 0
        try:
            while done < len(data):  # at a given place: a record cut short is written over
                done += os.pwrite(self._file, data[done:], self._end + done)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise
        self._end += done

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)
        if self._failure is not None:
            raise self._failure

    def _sync_often(self) -> None:
        while not self._closing.wait(FSYNC_SECONDS):
            end = self._end
            if end == self._synced:
                continue
            try:
                os.fsync(self._file)
            except OSError as err:  # the next append tells it
                self._failure = err
                return
            self._synced = end


def _create(folder: Path, worker: str) -> int:
    number = sum(1 for _ in folder.glob(f"{worker}-*.jsonl"))
    while True:
        try:
            path = folder / f"{worker}-{number:03d}.jsonl"
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:  # another process took the number
            number += 1


class _Index:
    """Where the records of some files lie: 25 bytes a record in memory, the values on the disk."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._open: dict[int, int] = {}
        self.damage: list[Damage] = []
        # half of each key: the record itself, which has all of it, is compared when it is read
        halves, offsets, lengths, sources = array("Q"), array("Q"), array("I"), array("I")
        for number, path in enumerate(files):
            count = self._read(path, halves, offsets, lengths)
            sources.extend([number] * count)
        order = np.argsort(np.asarray(halves), kind="stable")
        self._halves, self._offsets, self._lengths, self._sources = (
            _ordered(values, order) for values in (halves, offsets, lengths, sources)
        )
        self._is_read = bytearray(len(halves))

    def __len__(self) -> int:
        return len(self._halves)

    def get(self, key: bytes) -> list[Any]:
        """The values of all records of a key, in the order of the files."""
        half = int.from_bytes(key[:8])
        place, found = bisect_left(self._halves, half), []
        while place < len(self._halves) and self._halves[place] == half:
            line = self._line(place)
            if _checked_key(line) == key:
                self._is_read[place] = True
                found.append(orjson.loads(line)["value"])
            place += 1
        return found

    def unread(self) -> dict[Path, tuple[int, int]]:
        sources = np.asarray(self._sources)[np.frombuffer(self._is_read, bool) == 0]
        lengths = np.asarray(self._lengths)[np.frombuffer(self._is_read, bool) == 0]
        counts = np.bincount(sources, minlength=len(self._files)).tolist()
        sizes = np.bincount(sources, lengths, minlength=len(self._files)).tolist()
        return {
            path: (count, int(size))
            for path, count, size in zip(self._files, counts, sizes, strict=True)
            if count
        }

    def drop_unread(self) -> None:
        is_read = np.frombuffer(self._is_read, bool)
        for path in self.unread():
            is_here = np.asarray(self._sources) == self._files.index(path)
            kept = set(np.asarray(self._offsets)[is_read & is_here].tolist())
            if not kept:
                path.unlink()
                continue
            with path.open("rb") as lines, whole_file(path) as file:
                offset = 0
                for line in lines:
                    if offset in kept:
                        file.write(line)
                    offset += len(line)

    def close(self) -> None:
        for handle in self._open.values():
            os.close(handle)
        self._open.clear()

    def _read(
        self, path: Path, halves: "array[int]", offsets: "array[int]", lengths: "array[int]"
    ) -> int:
        """Index one file; returns how many records it holds."""
        offset, before = 0, len(halves)
        with path.open("rb") as lines:
            for line in lines:
                key = _checked_key(line)
                if key is None:
                    self._note_damage(path.name, offset, len(line))
                elif (version := _version(line)) > VERSION:
                    raise PrefdataError(
                        f"journal {path}: a record is of version {version}, written by a newer "
                        f"prefdata; this one reads versions up to {VERSION} and would generate "
                        "everything again. Update prefdata, or build into another folder with --out"
                    )
                else:
                    halves.append(int.from_bytes(key[:8]))
                    offsets.append(offset)
                    lengths.append(len(line))
                offset += len(line)
        return len(halves) - before

    def _note_damage(self, file: str, offset: int, length: int) -> None:
        last = self.damage[-1] if self.damage else None
        if last is not None and last.file == file and last.offset + last.length == offset:
            self.damage[-1] = Damage(file, last.offset, last.length + length)
        else:
            self.damage.append(Damage(file, offset, length))

    def _line(self, place: int) -> bytes:
        file = self._handle(self._sources[place])
        return os.pread(file, self._lengths[place], self._offsets[place])

    def _handle(self, number: int) -> int:
        """The open file; the one that was used longest ago makes room for it."""
        handle = self._open.pop(number, None)
        if handle is None:
            handle = os.open(self._files[number], os.O_RDONLY)
            if len(self._open) == OPEN_FILES:
                os.close(self._open.pop(next(iter(self._open))))
        self._open[number] = handle
        return handle


def _ordered(values: "array[int]", order: Any) -> "array[int]":
    """An array, not numpy's: a single item of it is had without a detour."""
    return array(values.typecode, np.asarray(values)[order].tobytes())


def _line(key: str, value: Any) -> bytes:
    body = orjson.dumps({"key": key, "value": value, "v": VERSION})
    return body[:-1] + _seal(body)


def _checked_key(line: bytes) -> bytes | None:
    """The key of a whole record, None for anything else."""
    at = line.rfind(b',"crc":')
    body = line[:at] + b"}"
    if at < 0 or line[at:] != _seal(body):
        return None
    key = body[8:40]  # after {"key":"
    return bytes.fromhex(key.decode())


def _version(line: bytes) -> int:
    found = _STATED.search(line)
    return int(found[1]) if found else 1


def _seal(body: bytes) -> bytes:
    return b',"crc":"%08x"}\n' % crc32(body)
