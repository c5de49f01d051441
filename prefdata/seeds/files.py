"""Lines of seeds: from files, packed or not, saved datasets and the Hub. Checks no column.

A line that cannot be read is a Line with the reason; a file that cannot be read is an error.
"""

import csv
import gzip
import lzma
import os
import zlib
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, NoReturn, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from prefdata.errors import PrefdataError
from prefdata.fingerprint import digest
from prefdata.recipe.schema import SeedDataset
from prefdata.rows import ID, Row, reject, rows_of
from prefdata.storage.ownership import is_own

if TYPE_CHECKING:  # slow to import, and not needed for files
    from datasets import Dataset, IterableDataset

BATCH = 10_000
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
PACKED = (".gz", ".xz", ".zst")
"""What files of text may be packed with."""
Place = Callable[[str], str]
"""Where a key of a source stands, as messages call it."""
SEEDS: Place = "seed_dataset.{}".format
_KINDS = {
    bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list",
    dict: "an object",
}  # fmt: skip
MAX_DEPTH = 100
"""Levels of lists and objects in a row; deeper ones are more than parquet and orjson take."""


class Misread(PrefdataError):
    """Lines that cannot be read, told of a key of their source; of the seeds unless `at` says."""

    def __init__(self, told: str, key: str = "path", at: Place = SEEDS) -> None:
        super().__init__(f"{at(key)}: {told}")
        self.key, self.told = key, told


class Line(NamedTuple):
    """One row as read: its fields, or the reason why it could not be read."""

    source: str
    fields: Row | None
    reason: str = ""
    detail: str = ""
    raw: str = ""

    def reject(self, fields: Row, reason: str, detail: str) -> Row:
        """Its row of `rejects/`, with these fields."""
        row = reject(fields, stage="seeds", reason=reason, detail=detail, source=self.source)
        return {**row, ID: digest(self.source, fields, size=10)}


def read_lines(
    config: SeedDataset, path: str, notes: list[str], out: Path | None = None, at: Place = SEEDS
) -> Iterator[Line]:
    """Every line of the seeds, readable or not; notes for the user are appended to `notes`.

    Files that prefdata has made, for the run in `out` or another, are no seeds where a folder or
    a glob finds them. `at`: what keys of `config` are called in messages.

    Raises:
        PrefdataError: the file, dataset or split does not exist, or is incomplete.
    """
    try:
        yield from _lines(config, path, notes, out, at)
    except Misread as err:
        raise Misread(err.told, err.key, at) from err


def _lines(
    config: SeedDataset, path: str, notes: list[str], out: Path | None, at: Place
) -> Iterator[Line]:
    local = Path(path)
    if (local / "state.json").exists() or (local / "dataset_dict.json").exists():
        return _lines_of_dataset(_saved(config, local), path)
    files, found = seed_files(local, out), seed_files(local)
    splits = splits_of(local, files, config.name) if local.is_dir() and files else {}
    if len(files) < len(found):
        notes.append(
            f"{at('path')}: {path}: {len(found) - len(files)} files of runs of prefdata are "
            "there, and are not read"
        )
    if splits:
        files, left = _of_split(files, splits, config.split, path)
        if left and not configs_of(local):
            notes.append(f"{at('path')}: {path}: files in no split are not read: {left}")
    if files:
        keys = ("revision",) if splits else ("name", "split", "revision")
        unread = [key for key in keys if getattr(config, key) is not None]
        if unread:
            told = ", ".join(map(at, unread))
            notes.append(f"{told}: ignored, since {path} is not a Hub dataset")
        root = local if local.is_dir() else Path(os.path.commonpath([f.parent for f in files]))
        return (line for f in files for line in _lines_of_file(f, str(f.relative_to(root)), notes))
    if local.is_dir():
        raise Misread(
            f"the folder {path!r} has no file of a supported type ({', '.join(SUFFIXES)}); give "
            "another path"
        )
    if not may_be_hub_id(path):
        raise Misread(
            f"file not found: {path!r}; give a file ({', '.join(SUFFIXES)}), a folder, a glob or "
            "the id of a Hub dataset"
        )
    return _lines_of_dataset(_from_hub(config, path), path)


def may_be_hub_id(path: str) -> bool:
    """Whether a path that leads nowhere here may be the id of a dataset on the Hub."""
    is_place = Path(path).is_absolute() or path.startswith(".") or is_data_file(path)
    return not is_place and not _is_glob(path)


def is_data_file(name: str | Path) -> bool:
    """Whether a name ends like one of a file of seeds."""
    return _kind(Path(name))[0] in SUFFIXES


def _kind(file: Path) -> tuple[str, str]:
    """(what it holds, what it is packed with), both as suffixes; files of text alone are packed."""
    is_packed = file.suffix in PACKED and Path(file.stem).suffix not in ("", ".parquet")
    return (Path(file.stem).suffix, file.suffix) if is_packed else (file.suffix, "")


def splits_of(folder: Path, files: Iterable[Path], config: str | None) -> dict[str, set[Path]]:
    """Files by split, as `load_dataset` of the folder has them; empty where it has none.

    A README with `configs` says it, as in a clone of a Hub dataset, or else names such as `train`
    and `test` do.

    Raises:
        PrefdataError: there is no such configuration, or none is given and there are several.
    """
    configs, known = configs_of(folder), {file.resolve() for file in files}
    chosen = configs.get(config) if config else _default(configs)
    if configs and chosen is None:
        what = "it has several configurations" if config is None else f"there is no {config!r}"
        raise Misread(f"{what} in {folder}; set it to one of: {', '.join(configs)}", "name")
    base = folder / str((chosen or {}).get("data_dir", ""))
    told = (chosen or {}).get("data_files")
    found = _named_splits(base) if told is None else _resolved(told, base)
    splits = {split: some & known for split, some in found.items() if some & known}
    return splits if configs or len(splits) > 1 else {}


def _default(configs: dict[str, Row]) -> Row | None:
    named = [one for name, one in configs.items() if one.get("default") or name == "default"]
    return next(iter(named or configs.values())) if named or len(configs) == 1 else None


def configs_of(folder: Path) -> dict[str, Row]:
    """Configurations that the README of a folder tells of, by name."""
    card = folder / "README.md"
    head = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    if not head.startswith("---\n"):
        return {}
    try:
        told = yaml.safe_load(head.split("---\n", 2)[1])
    except yaml.YAMLError:
        return {}
    configs = told.get("configs") if isinstance(told, dict) else None
    entries = [one for one in configs if isinstance(one, dict)] if isinstance(configs, list) else []
    return {str(one.get("config_name", "default")): one for one in entries}


def _named_splits(folder: Path) -> dict[str, set[Path]]:
    from datasets.data_files import EmptyDatasetError, get_data_patterns

    try:
        return _resolved(get_data_patterns(str(folder)), folder)
    except (EmptyDatasetError, FileNotFoundError):
        return {}


def _resolved(patterns: Any, base: Path) -> dict[str, set[Path]]:
    """Files by split of patterns in any of the forms that a README may have them in."""
    from datasets.data_files import resolve_pattern, sanitize_patterns

    found: dict[str, set[Path]] = {}
    for split, some in sanitize_patterns(patterns).items():
        for pattern in some:
            with suppress(FileNotFoundError):  # a pattern of which this copy has no file
                places = resolve_pattern(pattern, str(base))
                found.setdefault(str(split), set()).update(Path(one).resolve() for one in places)
    return found


def _of_split(
    files: Sequence[Path], splits: Mapping[str, set[Path]], split: str | None, path: str
) -> tuple[list[Path], int]:
    """The files of the split that is read, and how many are in none."""
    if split is None and len(splits) > 1 or split not in (None, *splits):
        _refuse_split(split, path, splits)
    chosen = splits[split] if split is not None else next(iter(splits.values()))
    known = set().union(*splits.values())
    places = {file: file.resolve() for file in files}
    return [f for f in files if places[f] in chosen], sum(p not in known for p in places.values())


def _is_glob(path: str) -> bool:
    return any(c in path for c in "*?[")


def seed_files(local: Path, out: Path | None = None) -> list[Path]:
    """Files of seeds, in order.

    `out`: the run folder; what runs have made is left out where it is given.
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
        inside = ((f, f.relative_to(local).parts) for f in local.rglob("*") if is_data_file(f))
        return sorted(f for f, parts in inside if not any(p.startswith(".") for p in parts))
    if not _is_glob(str(local)):
        return []
    try:
        place = local.absolute()
        found = Path(place.anchor).glob(str(place.relative_to(place.anchor)))
        return sorted(f for f in found if f.is_file())
    except ValueError as err:
        raise Misread(f"{local} is not a valid glob: {err}") from err


def _lines_of_file(file: Path, name: str, notes: list[str]) -> Iterator[Line]:
    kind, packed = _kind(file)
    if kind == ".parquet":
        yield from _parquet(file, name)
        return
    if kind not in SUFFIXES:
        raise Misread(
            f"the type of {file} is not supported; use one of: {', '.join(SUFFIXES)}, packed "
            f"({', '.join(PACKED)}) or not"
        )
    try:
        with _open(file, packed) as content:
            match kind:
                case ".json":
                    yield from _json(content, file, name)
                case ".csv":
                    yield from _csv(content, file, name, notes)
                case _:
                    yield from _jsonl(content, name)
    except (EOFError, lzma.LZMAError, zlib.error, OSError) as err:
        # an OSError of what unpacks has no number, unlike one of the file system
        if isinstance(err, OSError) and (not packed or err.errno is not None):
            raise
        raise Misread(f"{file} is truncated or corrupt: {err}") from err


def _open(file: Path, packed: str) -> BinaryIO:
    match packed:
        case ".gz":
            return cast(BinaryIO, gzip.open(file))  # noqa: SIM115
        case ".xz":
            return cast(BinaryIO, lzma.open(file))  # noqa: SIM115
        case ".zst":
            return BufferedReader(pa.CompressedInputStream(str(file), "zstd"))
        case _:
            return file.open("rb")


def _jsonl(lines: Iterable[bytes], name: str) -> Iterator[Line]:
    for number, raw in enumerate(lines, start=1):
        if number == 1:
            raw = raw.removeprefix(BOM_UTF8)
        if raw.strip():
            yield _json_line(raw, f"{name}:{number}")


def _json_line(raw: bytes, source: str) -> Line:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as err:
        return _bad(source, f"not valid JSON: {err}", raw)
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        detail = f"lists or objects are nested more than {MAX_DEPTH} deep; flatten the row"
        return _bad(source, detail, raw)
    return _object(value, source)


def _bad(source: str, detail: str, raw: bytes = b"") -> Line:
    return Line(source, None, "bad_line", detail, raw.decode("utf-8", "replace").strip())


def _is_deeper(value: Any, levels: int) -> bool:
    parts = value.values() if isinstance(value, dict) else value
    return isinstance(value, list | dict) and (
        levels == 0 or any(_is_deeper(part, levels - 1) for part in parts)
    )


def _object(value: Any, source: str) -> Line:
    if isinstance(value, dict):
        return Line(source, value)
    detail = f"a row must be a JSON object, but this is {kind_of(value) or 'null'}"
    return _bad(source, detail, orjson.dumps(value))


def _json(content: BinaryIO, file: Path, name: str) -> Iterator[Line]:
    raw = content.read().removeprefix(BOM_UTF8)
    if _is_json_lines(raw):
        yield from _jsonl(raw.splitlines(keepends=True), name)
        return
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as err:
        raise Misread(f"{file} is not valid JSON: {err}; fix it, or use .jsonl") from err
    if isinstance(value, dict):
        lists = [one for one in value.values() if isinstance(one, list)]
        value = lists[0] if len(lists) == 1 else None
    if not isinstance(value, list):
        raise Misread(f"{file} must contain a list of objects, or one object with one such list")
    for number, one in enumerate(value, start=1):
        yield _object(one, f"{name}:item {number}")


def _is_json_lines(raw: bytes) -> bool:
    """Whether a .json file has an object on each line, as many tools write it."""
    first, _, rest = raw.lstrip().partition(b"\n")
    return bool(rest.strip()) and _json_line(first, "").fields is not None


def _csv(content: BinaryIO, file: Path, name: str, notes: list[str]) -> Iterator[Line]:
    csv.field_size_limit(2**31 - 1)  # texts are longer than csv's default of 128 KiB
    # -sig: spreadsheets begin with a byte order mark; bytes that are no UTF-8 show as surrogates
    with TextIOWrapper(content, "utf-8-sig", "surrogateescape", newline="") as text:
        reader = csv.DictReader(text, strict=True)
        _check_header(reader.fieldnames or (), file, notes)
        rows = iter(reader)
        while True:
            try:
                row = next(rows, None)
            except csv.Error as err:
                yield _bad(f"{name}:{reader.line_num}", f"not valid CSV: {err}")
                continue
            if row is None:
                return
            yield _csv_row(row, f"{name}:{reader.line_num}")


def _check_header(names: Sequence[str], file: Path, notes: list[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise Misread(f"the header of {file} names {', '.join(map(repr, twice))} twice; rename one")
    for mark, called in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and mark in names[0]:
            raise Misread(
                f"{file}: the header is one column, {names[0]!r}, as its columns are parted by "
                f"{called}, and a CSV is read by commas; save it with commas"
            )
    if "" in names:
        notes.append(f"{file.name}: the column without a name (an index?) is ignored")


def _csv_row(row: dict[str | Any, Any], source: str) -> Line:
    # DictReader's marks: cells beyond the header under None, missing cells with the value None
    if None in row or None in row.values():
        header = len(row) - (None in row)
        detail = f"the header has {header} columns, but this line has a different number"
        shown = orjson.dumps(row, default=str, option=orjson.OPT_NON_STR_KEYS)
        return _bad(source, detail, shown)
    if not all(cell.isascii() or _is_utf8(cell) for cell in row.values()):
        raw = ",".join(row.values()).encode("utf-8", "surrogateescape")
        return _bad(source, "not valid UTF-8; save the file as UTF-8", raw)
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
                for row in rows_of(pa.Table.from_batches([batch])):
                    number += 1
                    yield Line(f"{name}:row {number}", row)
    except pa.ArrowInvalid as err:
        raise Misread(f"{file} is truncated or corrupt, or not a parquet file: {err}") from err


def _lines_of_dataset(dataset: "Dataset | IterableDataset", name: str) -> Iterator[Line]:
    for number, row in enumerate(dataset, start=1):
        yield Line(f"{Path(name).name}:row {number}", dict(row))


def _saved(config: SeedDataset, folder: Path) -> "Dataset":
    from datasets import load_from_disk

    try:
        return _one_split(load_from_disk(str(folder)), config, str(folder))
    except (OSError, ValueError) as err:  # pyarrow's ArrowInvalid is a ValueError
        raise Misread(f"the saved dataset {folder} is incomplete or corrupt: {err}") from err


def _from_hub(config: SeedDataset, path: str) -> "Dataset | IterableDataset":
    from datasets import DownloadConfig, load_dataset
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    # what is cut off after some rows is read as it comes, not fetched as a whole first
    is_cut = config.limit is not None and config.strategy == "ordered"
    try:
        loaded = load_dataset(
            path,
            config.name,
            split=config.split,
            revision=config.revision,
            streaming=is_cut,
            download_config=DownloadConfig(max_retries=3),
        )
    except DatasetNotFoundError as err:
        raise Misread(
            f"{path!r} was not found locally or on the Hub (or it is private: log in with `hf auth "
            f"login`): {err}"
        ) from err
    # what `datasets` and the Hub raise for a network, a name, a script or a split they cannot use
    except (DatasetsError, OSError, ValueError, RuntimeError) as err:
        raise Misread(
            f"{path!r} was not found locally, and could not be loaded from the Hub: {err}"
        ) from err
    return _one_split(loaded, config, path)


def _one_split(loaded: Any, config: SeedDataset, path: str) -> "Dataset | IterableDataset":
    if not isinstance(loaded, dict):
        return loaded
    if config.split in loaded:
        return loaded[config.split]
    if config.split is None and len(loaded) == 1:
        return next(iter(loaded.values()))
    return _refuse_split(config.split, path, loaded)


def _refuse_split(split: str | None, path: str, known: Iterable[Any]) -> NoReturn:
    what = f"there is no split {split!r}" if split else "it has several splits"
    raise Misread(f"{what} in {path!r}; set it to one of: {', '.join(map(str, known))}", "split")


def kind_of(value: Any) -> str | None:
    """The type of a JSON-like value in words; None for null."""
    return None if value is None else _KINDS.get(type(value), type(value).__name__)
