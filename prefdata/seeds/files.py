"""Lines of seeds: from jsonl, json, csv, parquet, saved datasets and the Hub. Checks no column.

A line that cannot be read is a Line with the reason; a file that cannot be read is an error.
"""

import csv
import os
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from prefdata.errors import PrefdataError
from prefdata.recipe.schema import SeedDataset
from prefdata.rows import Row
from prefdata.storage.ownership import is_own

if TYPE_CHECKING:  # slow to import, and not needed for files
    from datasets import Dataset, DatasetDict

BATCH = 10_000
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
MAX_DEPTH = 100
"""Levels of lists and objects in a row; deeper ones are more than parquet and orjson take."""


class Line(NamedTuple):
    """One row as read: its fields, or the reason why it could not be read."""

    source: str
    fields: Row | None
    reason: str = ""
    detail: str = ""
    raw: str = ""


def read_lines(
    config: SeedDataset, path: str, notes: list[str], out: Path | None = None
) -> Iterator[Line]:
    """Every line of the seeds, readable or not; notes for the user are appended to `notes`.

    Files that prefdata has made, for the run in `out` or another, are no seeds where a folder or
    a glob finds them.

    Raises:
        PrefdataError: the file, dataset or split does not exist, or is incomplete.
    """
    local = Path(path)
    if (local / "state.json").exists() or (local / "dataset_dict.json").exists():
        return _lines_of_dataset(_saved(config, local), path)
    files, found = seed_files(local, out), seed_files(local)
    if len(files) < len(found):
        notes.append(
            f"seed_dataset.path: {path}: {len(found) - len(files)} files of runs of prefdata are "
            "there, and are not read"
        )
    if files:
        unread = [key for key in ("name", "split", "revision") if getattr(config, key) is not None]
        if unread:
            notes.append(f"seed_dataset: {', '.join(unread)} ignored: {path} is not a Hub dataset")
        root = local if local.is_dir() else Path(os.path.commonpath([f.parent for f in files]))
        return (line for f in files for line in _lines_of_file(f, str(f.relative_to(root)), notes))
    if local.is_dir():
        raise PrefdataError(
            f"seed_dataset.path: the folder {path!r} has no file of a supported type "
            f"({', '.join(SUFFIXES)}); give another path"
        )
    if not may_be_hub_id(path):
        raise PrefdataError(
            f"seed_dataset.path: file not found: {path!r}; give a file "
            f"({', '.join(SUFFIXES)}), a folder, a glob or the id of a Hub dataset"
        )
    return _lines_of_dataset(_from_hub(config, path), path)


def may_be_hub_id(path: str) -> bool:
    """Whether a path that leads nowhere here may be the id of a dataset on the Hub."""
    is_place = Path(path).is_absolute() or path.startswith(".") or Path(path).suffix in SUFFIXES
    return not is_place and not _is_glob(path)


def _is_glob(path: str) -> bool:
    return any(c in path for c in "*?[")


def seed_files(local: Path, out: Path | None = None) -> list[Path]:
    """Files of seeds, in order.

    Args:
        local: a file, a folder or a glob.
        out: the run folder; what runs have made is left out where it is given.
    """
    if local.is_file():
        return [local]
    found = _find(local)
    if out is None or not found:
        return found
    run = out.resolve()
    root = local.resolve() if local.is_dir() else Path(found[0].anchor)
    return [file for file in found if not is_own(file.resolve(), root, run)]


def _find(local: Path) -> list[Path]:
    if local.is_dir():
        inside = ((f, f.relative_to(local).parts) for f in local.rglob("*") if f.suffix in SUFFIXES)
        return sorted(f for f, parts in inside if not any(p.startswith(".") for p in parts))
    if not _is_glob(str(local)):
        return []
    try:
        place = local.absolute()
        found = Path(place.anchor).glob(str(place.relative_to(place.anchor)))
        return sorted(f for f in found if f.is_file())
    except ValueError as err:
        raise PrefdataError(f"seed_dataset.path: {local} is not a valid glob: {err}") from err


def _lines_of_file(file: Path, name: str, notes: list[str]) -> Iterator[Line]:
    match file.suffix:
        case ".jsonl" | ".ndjson":
            yield from _jsonl(file, name)
        case ".json":
            yield from _json(file, name)
        case ".csv":
            yield from _csv(file, name, notes)
        case ".parquet":
            yield from _parquet(file, name)
        case _:
            raise PrefdataError(
                f"seed_dataset.path: the type of {file} is not supported; use one of: "
                f"{', '.join(SUFFIXES)}"
            )


def _jsonl(file: Path, name: str) -> Iterator[Line]:
    with file.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            if number == 1:
                raw = raw.removeprefix(BOM_UTF8)
            if raw.strip():
                yield _json_line(raw, f"{name}:{number}")


def _json_line(raw: bytes, source: str) -> Line:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as err:
        shown = raw.decode("utf-8", "replace").strip()
        return Line(source, None, "bad_line", f"not valid JSON: {err}", shown)
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        shown = raw.decode("utf-8", "replace").strip()
        detail = f"lists or objects are nested more than {MAX_DEPTH} deep; flatten the row"
        return Line(source, None, "bad_line", detail, shown)
    return _object(value, source)


def _is_deeper(value: Any, levels: int) -> bool:
    parts = value.values() if isinstance(value, dict) else value
    return isinstance(value, list | dict) and (
        levels == 0 or any(_is_deeper(part, levels - 1) for part in parts)
    )


def _object(value: Any, source: str) -> Line:
    if isinstance(value, dict):
        return Line(source, value)
    shown = orjson.dumps(value).decode()
    return Line(
        source,
        None,
        "bad_line",
        f"a row must be a JSON object, but this is {kind_of(value) or 'null'}",
        shown,
    )


def _json(file: Path, name: str) -> Iterator[Line]:
    raw = file.read_bytes().removeprefix(BOM_UTF8)
    if _is_json_lines(raw):
        yield from _jsonl(file, name)
        return
    try:
        content = orjson.loads(raw)
    except orjson.JSONDecodeError as err:
        raise PrefdataError(
            f"seed_dataset.path: {file} is not valid JSON: {err}; fix it, or use .jsonl"
        ) from err
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(lists) == 1 else None
    if not isinstance(content, list):
        raise PrefdataError(
            f"seed_dataset.path: {file} must contain a list of objects, or one object with "
            "one such list"
        )
    for number, value in enumerate(content, start=1):
        yield _object(value, f"{name}:item {number}")


def _is_json_lines(raw: bytes) -> bool:
    """Whether a .json file has an object on each line, as many tools write it."""
    first, _, rest = raw.lstrip().partition(b"\n")
    return bool(rest.strip()) and _json_line(first, "").fields is not None


def _csv(file: Path, name: str, notes: list[str]) -> Iterator[Line]:
    csv.field_size_limit(2**31 - 1)  # texts are longer than csv's default of 128 KiB
    # -sig: spreadsheets begin with a byte order mark; bytes that are no UTF-8 show as surrogates
    with file.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as text:
        reader = csv.DictReader(text, strict=True)
        _check_header(reader.fieldnames or (), file, notes)
        rows = iter(reader)
        while True:
            try:
                row = next(rows, None)
            except csv.Error as err:
                yield Line(f"{name}:{reader.line_num}", None, "bad_line", f"not valid CSV: {err}")
                continue
            if row is None:
                return
            yield _csv_row(row, f"{name}:{reader.line_num}")


def _check_header(names: Sequence[str], file: Path, notes: list[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise PrefdataError(
            f"seed_dataset.path: the header of {file} names {', '.join(map(repr, twice))} twice; "
            "rename one"
        )
    if "" in names:
        notes.append(f"{file.name}: the column without a name (an index?) is ignored")


def _csv_row(row: dict[str | Any, Any], source: str) -> Line:
    # DictReader's marks: cells beyond the header under None, missing cells with the value None
    if None in row or None in row.values():
        shown = orjson.dumps(row, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        header = len(row) - (None in row)
        return Line(
            source,
            None,
            "bad_line",
            f"the header has {header} columns, but this line has a different number",
            shown,
        )
    if not all(cell.isascii() or _is_utf8(cell) for cell in row.values()):
        shown = ",".join(row.values()).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return Line(source, None, "bad_line", "not valid UTF-8; save the file as UTF-8", shown)
    return Line(source, {name: cell or None for name, cell in row.items() if name})


def _is_utf8(cell: str) -> bool:
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parquet(file: Path, name: str) -> Iterator[Line]:
    try:
        with pq.ParquetFile(file) as parquet:
            number = 0
            for batch in parquet.iter_batches(BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield Line(f"{name}:row {number}", row)
    except pa.ArrowInvalid as err:
        raise PrefdataError(
            f"seed_dataset.path: {file} is truncated or corrupt, or not a parquet file: {err}"
        ) from err


def _lines_of_dataset(dataset: "Dataset", name: str) -> Iterator[Line]:
    for number, row in enumerate(dataset, start=1):
        yield Line(f"{Path(name).name}:row {number}", dict(row))


def _saved(config: SeedDataset, folder: Path) -> "Dataset":
    from datasets import load_from_disk

    try:
        return _one_split(load_from_disk(str(folder)), config, str(folder))
    except (OSError, ValueError) as err:  # pyarrow's ArrowInvalid is a ValueError
        raise PrefdataError(
            f"seed_dataset.path: the saved dataset {folder} is incomplete or corrupt: {err}"
        ) from err


def _from_hub(config: SeedDataset, path: str) -> "Dataset":
    from datasets import DownloadConfig, load_dataset
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    try:
        loaded = load_dataset(
            path,
            config.name,
            split=config.split,
            revision=config.revision,
            download_config=DownloadConfig(max_retries=3),
        )
    except DatasetNotFoundError as err:
        raise PrefdataError(
            f"seed_dataset.path: {path!r} was not found locally or on the Hub (or it is "
            f"private: log in with `hf auth login`): {err}"
        ) from err
    # what `datasets` and the Hub raise for a network, a name, a script or a split they cannot use
    except (DatasetsError, OSError, ValueError, RuntimeError) as err:
        raise PrefdataError(
            f"seed_dataset.path: {path!r} was not found locally, and could not be loaded "
            f"from the Hub: {err}"
        ) from err
    return _one_split(loaded, config, path)


def _one_split(loaded: "Dataset | DatasetDict", config: SeedDataset, path: str) -> "Dataset":
    from datasets import DatasetDict

    if not isinstance(loaded, DatasetDict):
        return loaded
    if config.split in loaded:
        return loaded[config.split]
    if config.split is None and len(loaded) == 1:
        return next(iter(loaded.values()))
    what = f"there is no split {config.split!r}" if config.split else "it has several splits"
    raise PrefdataError(
        f"seed_dataset.split: {what} in {path!r}; set it to one of: {', '.join(map(str, loaded))}"
    )


def kind_of(value: Any) -> str | None:
    """The type of a JSON-like value in words; None for null."""
    match value:
        case None:
            return None
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return type(value).__name__
