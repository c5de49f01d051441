"""Folders of parquet files: whole, or not there. Knows no stage and no recipe.

Everything is written under a temporary name beside its place, brought to the disk, then renamed.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from prefdata.errors import PrefdataError
from prefdata.rows import Row, is_json

ROWS_PER_GROUP = 10_000
ROWS_PER_FILE = 500_000
_FIXABLE = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EROFS: "the file system is read-only; choose another folder with --out",
    errno.EACCES: "this user may not write there; choose another folder with --out",
    errno.EPERM: "this user may not write there; choose another folder with --out",
    errno.EFBIG: "the file is larger than this process may write; raise the limit (ulimit -f)",
}


class Damaged(Exception):
    """A folder's parquet files are not whole."""


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn what the user can mend (full disk, no permission) into a PrefdataError."""
    try:
        yield
    except OSError as err:
        if err.errno not in _FIXABLE:
            raise
        raise PrefdataError(
            f"{err.filename or place}: cannot write: {_FIXABLE[err.errno]} and run the same "
            "command "
            "again. Everything finished so far is kept."
        ) from err


class RowsWriter:
    """Writes one folder of parquet files; it appears under its name when the writer is closed.

    Leaving the context by an exception removes the unfinished folder.
    """

    def __init__(self, folder: Path, schema: pa.Schema, *, stem: str = "rows") -> None:
        """Start writing.

        Args:
            folder: what the finished folder is called; an existing one is replaced at the end.
            schema: of every table that is written.
            stem: files are called `<stem>-00000-of-00001.parquet`.
        """
        self.folder, self.schema, self.rows = folder, schema, 0
        self._temporary = temporary_name(folder)
        self._outputs: dict[str, _Output] = {}
        self._stem = stem

    def __enter__(self) -> Self:
        self._temporary.mkdir(parents=True)
        self._output(self._stem)
        return self

    def write(self, table: pa.Table, stem: str | None = None) -> None:
        """Append rows, to the files of another stem if one is named."""
        self.rows += table.num_rows
        self._output(stem or self._stem).write(table)

    def _output(self, stem: str) -> "_Output":
        if stem not in self._outputs:
            self._outputs[stem] = _Output(self._temporary, stem, self.schema)
        return self._outputs[stem]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if err is None:
            for output in self._outputs.values():
                output.finish()
            publish(self._temporary, self.folder)
            return
        for output in self._outputs.values():
            output.abandon()
        shutil.rmtree(self._temporary, ignore_errors=True)


class _Output:
    """The files of one stem: row groups of ROWS_PER_GROUP, files of ROWS_PER_FILE."""

    def __init__(self, folder: Path, stem: str, schema: pa.Schema) -> None:
        self._folder, self._stem, self._schema = folder, stem, schema
        self._waiting: list[pa.Table] = []
        self._files: list[Path] = []
        self._writer: pq.ParquetWriter | None = None
        self._in_file = 0

    def write(self, table: pa.Table) -> None:
        self._waiting.append(table)
        if sum(t.num_rows for t in self._waiting) >= ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        group = pa.concat_tables(self._waiting) if self._waiting else self._schema.empty_table()
        self._waiting.clear()
        if self._writer is None:
            self._files.append(self._folder / f"{self._stem}-{len(self._files):05d}.parquet")
            self._writer, self._in_file = pq.ParquetWriter(self._files[-1], self._schema), 0
        self._writer.write_table(group)
        self._in_file += group.num_rows
        if self._in_file >= ROWS_PER_FILE:
            self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def finish(self) -> None:
        if self._waiting or not self._files:
            self._flush()
        self._close()
        for number, file in enumerate(self._files):
            sync(file)
            file.rename(
                file.with_name(f"{self._stem}-{number:05d}-of-{len(self._files):05d}.parquet")
            )

    def abandon(self) -> None:
        try:
            self._close()
        except OSError:  # the very error that is already on its way up
            self._writer = None


def publish(temporary: Path, place: Path) -> None:
    """Give a finished file or folder its name, in the place of what had it."""
    sync(temporary)
    if temporary.is_dir() and place.exists():
        old = temporary_name(place.with_name(f"{place.name}.old"))
        place.rename(old)
        temporary.rename(place)
        shutil.rmtree(old)
    else:
        temporary.replace(place)
    sync(place.parent)


def temporary_name(place: Path) -> Path:
    """A name beside `place` that no other process uses; leading dot, so that loaders skip it."""
    return place.with_name(f".{place.name}.{os.getpid()}.tmp")


def sync(path: Path) -> None:
    """Bring a file or a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(place: Path, text: str) -> None:
    """Write a whole text file, or leave the old one."""
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(place)
    try:
        temporary.write_text(text, encoding="utf-8")
        publish(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left unfinished; those still running are left alone."""
    for path in folder.glob(".*.tmp"):
        owner = path.name.split(".")[-2]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def read_schema(folder: Path) -> pa.Schema:
    """The Arrow schema of a folder's rows."""
    return pq.read_schema(_files(folder)[0])


def count_rows(folder: Path) -> int:
    """Rows of a folder, from the footers of its files.

    Raises:
        Damaged: a file is cut short or missing.
    """
    try:
        return sum(pq.read_metadata(file).num_rows for file in _files(folder))
    except (pa.ArrowInvalid, OSError) as err:
        raise Damaged(f"{folder}: {err}") from err


def read_tables(
    folder: Path, *, columns: Sequence[str] | None = None, stem: str | None = None, size: int = 1000
) -> Iterator[pa.Table]:
    """Tables of at most `size` rows, in order, of one stem or of all."""
    for file in _files(folder):
        if stem is None or file.name.startswith(f"{stem}-"):
            with pq.ParquetFile(file) as parquet:
                for batch in parquet.iter_batches(size, columns=columns):
                    yield pa.Table.from_batches([batch])


def read_rows(folder: Path) -> Iterator[Row]:
    """Rows as Python dicts, in order; columns of JSON texts are parsed."""
    coded = [field.name for field in read_schema(folder) if is_json(field)]
    for table in read_tables(folder):
        for row in table.to_pylist():
            yield row | {name: orjson.loads(row[name]) for name in coded} if coded else row


def _files(folder: Path) -> list[Path]:
    """The parquet files of a folder, all of those that their names promise.

    Raises:
        Damaged: one is missing.
    """
    found: dict[tuple[str, int], list[Path]] = {}
    for file in sorted(folder.glob("*-of-*.parquet")):
        stem, _, _, count = file.stem.rsplit("-", 3)
        found.setdefault((stem, int(count)), []).append(file)
    if not found or any(len(files) != count for (_, count), files in found.items()):
        raise Damaged(f"{folder}: parquet files are missing")
    return [file for files in found.values() for file in files]
