"""run.json: what a finished run tells about itself. Written last, it vouches for the rest."""

from collections import Counter
from pathlib import Path
from typing import Any

import orjson

from prefdata.runtime.folders import read_tables, write_text

FOLDERS = ("candidates", "pairs", "rejects")
Record = dict[str, Any]


def read_record(out: Path) -> Record | None:
    """The record of a finished run, or None where none was finished."""
    file = out / "run.json"
    return orjson.loads(file.read_bytes()) if file.is_file() else None


def withdraw_record(out: Path) -> None:
    """Say that the folder is being changed: until the next record it holds no finished run."""
    (out / "run.json").unlink(missing_ok=True)


def write_record(out: Path, record: Record) -> Record:
    """Check that every seed is accounted for, add the sizes of the published files, write."""
    lost = record["seeds"] - record["prompts"] - sum(record["rejects"].values())
    if lost:
        raise AssertionError(
            f"{lost} of {record['seeds']} seeds are neither in pairs nor in rejects"
        )
    record = record | {"files": file_sizes(out)}
    text = orjson.dumps(record, option=orjson.OPT_INDENT_2).decode()
    write_text(out / "run.json", text)
    written: Record = orjson.loads(text)
    return written


def file_sizes(out: Path) -> dict[str, int]:
    """Bytes of every published parquet file, by its path inside the run."""
    files = sorted(file for name in FOLDERS for file in (out / name).glob("*.parquet"))
    return {file.relative_to(out).as_posix(): file.stat().st_size for file in files}


def count_reasons(rejects: Path) -> dict[str, int]:
    """Rejects by `stage: reason`, the commonest first."""
    counts: Counter[str] = Counter()
    for table in read_tables(rejects, columns=["stage", "reason"]):
        counts.update(f"{row['stage']}: {row['reason']}" for row in table.to_pylist())
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
