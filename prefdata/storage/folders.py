"""Folders of parquet files: whole, or not there. Knows no stage and no recipe."""

import filecmp
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from prefdata.rows import ID, Row, rows_of
from prefdata.storage.disk import Damaged, make_folder, publish, temporary_name

ROWS_PER_GROUP = 10_000
ROWS_PER_FILE = 500_000


class RowsWriter:
    """Writes one folder of parquet files; it appears under its name when the writer is closed.

    Leaving the context by an exception removes the unfinished folder.
    """

    def __init__(self, folder: Path, schema: pa.Schema, *, stem: str = "rows") -> None:
        """Start writing.

        `folder`: what the finished folder is called; an existing one is replaced at the end.
        `stem`: files are called `<stem>-00000-of-00001.parquet`.
        """
        self.folder, self.schema, self.rows = folder, schema, 0
        self._temporary = temporary_name(folder)
        self._outputs: dict[str, _Output] = {}
        self._stem = stem

    def __enter__(self) -> Self:
        make_folder(self._temporary)
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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                for output in self._outputs.values():
                    output.finish()
                publish(self._temporary, self.folder)
        finally:
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
            self._writer = pq.ParquetWriter(self._files[-1], self._schema, write_page_checksum=True)
            self._in_file = 0
        if group.num_rows:  # `datasets` loads a file without row groups, not one with an empty one
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
            file.rename(
                file.with_name(f"{self._stem}-{number:05d}-of-{len(self._files):05d}.parquet")
            )

    def abandon(self) -> None:
        with suppress(OSError, pa.ArrowException):  # the error itself is already on its way up
            self._close()
        self._writer = None


def link_parts(sources: Sequence[Path], target: Path) -> None:
    """Show folders, one after another, as one folder of the same rows; no copy where links work.

    `sources`: whole folders of one schema, with files of one stem. `target`: what the new folder is
    called; appears at the end.
    """
    files = [file for source in sources for file in _files(source)]
    stem = files[0].stem.rsplit("-", 3)[0]
    temporary = temporary_name(target)
    make_folder(temporary)
    try:
        for number, file in enumerate(files):
            name = f"{stem}-{number:05d}-of-{len(files):05d}.parquet"
            _hard_link(str(file), str(temporary / name))
        publish(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def link_file(source: Path, target: Path) -> None:
    """Show a file under a second name, unless it is there; another file of that name stays too."""
    make_folder(target.parent)
    places = (target.with_stem(f"{target.stem}{more}") for more in _suffixes())
    place = next(place for place in places if not place.exists() or _is_same(source, place))
    if not place.exists():
        _hard_link(str(source), str(place))


def _is_same(file: Path, other: Path) -> bool:
    return file.samefile(other) or filecmp.cmp(file, other, shallow=False)


def _suffixes() -> Iterator[str]:
    """Nothing at first, then -2, -3 and so on."""
    yield ""
    yield from (f"-{number}" for number in count(2))


def _hard_link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def read_schema(folder: Path) -> pa.Schema:
    """The Arrow schema of a folder's rows.

    Raises:
        Damaged: a file is cut short or missing.
    """
    file = _files(folder)[0]
    with _damage(file):
        return pq.read_schema(file)


def count_rows(folder: Path) -> int:
    """Rows of a folder, from the footers of its files.

    Raises:
        Damaged: a file is cut short or missing.
    """
    rows = 0
    for file in _files(folder):
        with _damage(file):
            rows += pq.read_metadata(file).num_rows
    return rows


def read_tables(
    folder: Path, *, columns: Sequence[str] | None = None, stem: str | None = None, size: int = 1000
) -> Iterator[pa.Table]:
    """Tables of at most `size` rows, in order, of one stem or of all.

    Raises:
        Damaged: a file is cut short or missing, or a page is not as it was written.
    """
    for file in _files(folder):
        if stem is None or file.name.startswith(f"{stem}-"):
            with _damage(file), pq.ParquetFile(file, page_checksum_verification=True) as parquet:
                for batch in parquet.iter_batches(size, columns=columns):
                    yield pa.Table.from_batches([batch])


def row_bytes(folder: Path) -> int:
    """What a row holds in memory, in the mean: its columns before they were compressed."""
    size = rows = 0
    for file in _files(folder):
        with _damage(file):
            metadata = pq.read_metadata(file)
        rows += metadata.num_rows
        size += sum(metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups))
    return size // max(1, rows)


def read_rows(folder: Path, *, stem: str | None = None) -> Iterator[Row]:
    """Rows as Python dicts, in order, of one stem or of all; columns of JSON texts are parsed."""
    for table in read_tables(folder, stem=stem):
        yield from rows_of(table)


def find_row(folder: Path, name: str) -> Row | None:
    """The row with an id, read without the others; None where there is none.

    Raises:
        Damaged: a file is cut short or missing.
    """
    for file in _files(folder):
        with _damage(file):
            found = pq.read_table(file, filters=[(ID, "=", name)])
        if found.num_rows:
            return rows_of(found)[0]
    return None


def _files(folder: Path) -> list[Path]:
    """The parquet files of a folder, all of those that their names promise."""
    found: dict[tuple[str, int], list[Path]] = {}
    for file in sorted(folder.glob("*-[0-9]*-of-[0-9]*.parquet")):
        stem, _, _, count = file.stem.rsplit("-", 3)
        found.setdefault((stem, int(count)), []).append(file)
    if not found or any(len(files) != count for (_, count), files in found.items()):
        raise Damaged(folder, "parquet files are missing")
    return [file for files in found.values() for file in files]


@contextmanager
def _damage(file: Path) -> Iterator[None]:
    """Tell a file that is not whole from a disk that cannot be read."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as err:
        if isinstance(err, OSError) and err.errno is not None:
            raise
        raise Damaged(file, str(err)) from err
