"""run.json: what a finished run tells about itself. Written last, it vouches for the rest."""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from prefdata.recipe.chats import Roles
from prefdata.recipe.reads import texts_of_rule
from prefdata.recipe.schema import Recipe
from prefdata.storage.disk import Damaged, sync, write_text
from prefdata.storage.folders import count_rows, read_schema, read_tables

FOLDERS = ("candidates", "pairs", "rejects")
Record = dict[str, Any]
CUT_SHORT = "run.before.json"
"""The record of a run whose pairs are being chosen again."""


def read_record(out: Path, name: str = "run.json") -> Record | None:
    """The record of a finished run, or of a part under another name; None where none was finished.

    Raises:
        Damaged: it is cut short.
    """
    file = out / name
    if not file.is_file():
        return None
    try:
        record = orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError as err:
        raise Damaged(file, str(err)) from err
    if not isinstance(record, dict):
        raise Damaged(file, "it is not a JSON object")
    return _complete(record) if "seeds" in record else record


def _complete(record: Record) -> Record:
    """A run's record with what earlier versions did not tell, as it was then."""
    told: Record = {"added": {}, "judges": {}, "lengths": [0, 0]} | record
    before = {
        "rows": told["seeds"] + sum(told["added"].values()),
        "format": 2 if "failures" in told else 1,
    }
    if "projection" in told:  # `prefdata pairs FILE`, which kept no names of fields
        names = {name: name for name in ("prompt", "text", "score")}
        before |= {"fields": {"group_by": ["prompt"], **names}, "seed": 0}
    return before | told


def withdraw_record(out: Path) -> None:
    """Say that the folder is being changed: until the next record it holds no finished run."""
    (out / CUT_SHORT).unlink(missing_ok=True)
    (out / "run.json").unlink(missing_ok=True)
    sync(out)


def set_aside_record(out: Path) -> None:
    """Withdraw it while pairs are chosen again; after a kill the next choice goes on from it."""
    with suppress(FileNotFoundError):  # set aside by one that was cut short
        (out / "run.json").replace(out / CUT_SHORT)
        sync(out)


def restore_record(out: Path) -> None:
    """Take back what was set aside, if the pairs are still those that it tells of."""
    before = read_record(out, CUT_SHORT)
    if before is not None and before.get("pairs_sha256") == _hash_pairs(out):
        (out / CUT_SHORT).replace(out / "run.json")


def write_record(out: Path, record: Record, copies: Iterable[Path] = ()) -> Record:
    """Check that every row is accounted for, add the sizes of the published files, write.

    Rows are the seeds and what expansions have added to them.
    """
    lost = record["rows"] - record["prompts"] - sum(record["rejects"].values())
    if lost:
        raise AssertionError(f"{lost} of {record['rows']} rows are neither in pairs nor in rejects")
    record = record | {"files": file_sizes(out, copies), "pairs_sha256": _hash_pairs(out)}
    text = orjson.dumps(record, option=orjson.OPT_INDENT_2).decode()
    write_text(out / "run.json", text)
    (out / CUT_SHORT).unlink(missing_ok=True)
    written: Record = orjson.loads(text)
    return written


def identify_pairs(out: Path, record: Record) -> str:
    """Which pairs a run has, by their files; what is made of them notes it."""
    return str(record.get("pairs_sha256") or _hash_pairs(out))


def _hash_pairs(out: Path) -> str:
    hasher = sha256()
    for file in sorted((out / "pairs").glob("*.parquet")):
        with file.open("rb") as content:
            hasher.update(file.name.encode() + file_digest(content, "sha256").digest())
    return hasher.hexdigest()


def file_sizes(out: Path, copies: Iterable[Path] = ()) -> dict[str, int]:
    """Bytes of every published file that is there, by its path, inside the run if it lies there."""
    files = sorted(file for name in FOLDERS for file in (out / name).glob("*.parquet"))
    return {
        (file.relative_to(out) if file.is_relative_to(out) else file).as_posix(): size
        for file in [*files, *copies]
        if (size := _size(file)) is not None
    }


def is_table(name: str) -> bool:
    """Whether a published file is one of rows, not a copy that the recipe wants besides."""
    return Path(name).parts[0] in FOLDERS


def lost_files(out: Path, record: Record) -> list[str]:
    """Published files that are not there with the bytes that the record tells."""
    return [name for name, size in record["files"].items() if _size(out / name) != size]


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def roles_of_record(record: Record) -> dict[str, Roles]:
    """Leading roles that the chat templates of a run knew, by alias; who knew all is left out."""
    return {alias: Roles(**known) for alias, known in record.get("roles", {}).items()}


def count_reasons(rejects: Path) -> dict[str, int]:
    """Rejects by `stage: reason`, the commonest first."""
    counts: Counter[str] = Counter()
    for table in read_tables(rejects, columns=["stage", "reason"]):
        counts.update(f"{row['stage']}: {row['reason']}" for row in table.to_pylist())
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def first_detail(rejects: Path, counted: str) -> str | None:
    """The detail of the first reject with a reason as `count_reasons` names it."""
    for table in read_tables(rejects, columns=["stage", "reason", "detail"]):
        for row in table.to_pylist():
            if f"{row['stage']}: {row['reason']}" == counted:
                return str(row["detail"])
    return None


def count_candidates(scored: Path, recipe: Recipe) -> int:
    """Texts that could become a side of a pair."""
    texts = texts_of_rule(recipe.output_projection)
    schema = read_schema(scored)
    lists = [name for name in texts if pa.types.is_list(schema.field(name).type)]
    tables = read_tables(scored, columns=lists) if lists else ()
    held = sum(pc.sum(pc.list_value_length(t[n])).as_py() or 0 for t in tables for n in lists)
    return held + (len(texts) - len(lists)) * count_rows(scored)
