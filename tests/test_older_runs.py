"""Runs of earlier versions: every command reads them, and a build asks nothing again."""

import re
import shutil
from zlib import crc32

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import make_run
from typer.testing import CliRunner

from prefdata.api.run import open_run
from prefdata.cli import app
from prefdata.fingerprint import FORMAT
from prefdata.pairs.repick import pairs_of_run
from prefdata.pipeline import build, build_shard, merge
from prefdata.run.shards import Shard
from prefdata.storage.folders import read_rows
from prefdata.storage.record import read_record

PARTS = ("reasoning", "reasoning_tokens", "reasoning_marks", "tool_calls")
FIRST_RECORD = (
    "prefdata", "fingerprint", "scored_fingerprint", "rehearsed", "seeds", "stages", "candidates",
    "pairs", "prompts", "rejects", "drops", "means", "checkpoints", "loads", "requests", "tokens",
    "seconds", "started", "versions", "python", "files",
)  # fmt: skip
"""What run.json told in the first version."""


@pytest.fixture
def old(project):
    """A finished run as the first version would have left it."""
    run(project)
    out = project.folder / "run"
    for folder in [*(out / "stages").glob("[1-9]*-????????"), out / "candidates", out / "pairs"]:
        for file in folder.glob("*.parquet"):
            table = _without_parts(pq.read_table(file))
            file.unlink()  # it may have a second name
            pq.write_table(table, file)
    for journal in out.glob("journal/*.jsonl"):
        lines = map(orjson.loads, journal.read_bytes().splitlines())
        journal.write_bytes(b"".join(map(_first_line, lines)))
    change_record(out, lambda told: {name: told[name] for name in FIRST_RECORD if name in told})
    return out


def _without_parts(table):
    gone = [name for name in table.column_names if re.search("|".join(PARTS), name)]
    table = table.drop_columns([*gone, *({"reward__failures"} & set(table.column_names))])
    if "candidates" in table.column_names:
        lists = table["candidates"].type.value_type
        kept = pa.list_(pa.struct([field for field in lists if field.name not in PARTS]))
        rows = [
            [{field.name: one[field.name] for field in kept.value_type} for one in texts]
            for texts in table["candidates"].to_pylist()
        ]
        place = table.column_names.index("candidates")
        table = table.set_column(place, "candidates", pa.array(rows, kept))
    return table


def _first_line(record):
    value = {k: v for k, v in record["value"].items() if k not in PARTS}
    body = orjson.dumps({"key": record["key"], "value": value})
    return body[:-1] + b',"crc":"%08x"}\n' % crc32(body)


def change_record(out, change):
    """As of an earlier form of rows: its stages have other names and fingerprints."""
    told = orjson.loads((out / "run.json").read_bytes())
    for place in [*(out / "stages").glob("[1-9]*")]:
        place.rename(place.with_name(re.sub("-[0-9a-f]{8}", "-00000000", place.name)))
    told["stages"][1:] = [re.sub("-[0-9a-f]{8}$", "-00000000", n) for n in told["stages"][1:]]
    told |= {"fingerprint": "0" * 32, "scored_fingerprint": "0" * 32}
    told["files"] = {name: (out / name).stat().st_size for name in told["files"]}
    (out / "run.json").write_bytes(orjson.dumps(change(told)))


def run(project, *overrides):
    said = []
    record = build(
        project.load(*overrides), project.folder / "run", rehearse=True, say=said.append,
        progress=False,
    )  # fmt: skip
    return record, said


READING = ("inspect {}", "inspect {} --rejects", "report {}", "export {} --format trl", "clean {}",
           "diff {} {}", "pairs {} --out {}/../new")  # fmt: skip


@pytest.mark.parametrize(
    "commands",
    [READING, ["pairs {}"], ["pairs {} calibrate_length=[reward]"]],
    ids=["what reads", "pairs", "pairs by calibrated scores"],
)
def test_every_command_reads_a_run_of_the_first_version(old, commands):
    for command in commands:
        told = CliRunner().invoke(app, command.replace("{}", str(old)).split())
        assert (told.exit_code, told.exception) == (0, None), told.output


def test_a_run_of_the_first_version_opens_in_python(old):
    opened = open_run(old)
    assert opened.summary["rows"] == 20
    assert opened.pairs["train"].num_rows == len([*read_rows(old / "pairs")])
    assert str(opened)


def test_a_run_of_the_first_version_is_built_again_from_its_journal(project, old):
    pairs = [(row["prompt"], row["chosen"]) for row in read_rows(old / "pairs")]
    record, said = run(project)
    assert record["requests"] == {"generated": 0, "scored": 0, "replayed": 160}
    assert [(row["prompt"], row["chosen"]) for row in read_rows(old / "pairs")] == pairs
    assert record["changes"]["kept"] == len(pairs)
    assert "is of another version of prefdata" in " ".join(said)
    assert run(project)[1] == ["nothing to do: this run is finished"]


def test_what_was_chosen_again_from_an_old_run_is_still_of_its_form(project, old):
    pairs_of_run(old, ["strategy=exhaustive"], old)
    assert "is of another version of prefdata" in " ".join(run(project)[1])


def test_a_run_of_a_later_form_of_rows_says_why_they_are_made_again(project):
    run(project)
    change_record(project.folder / "run", lambda told: told | {"format": FORMAT + 1})
    record, said = run(project)
    assert record["requests"] == {"generated": 0, "scored": 0, "replayed": 160}
    assert "is of another version of prefdata" in " ".join(said)


def test_another_recipe_is_not_taken_for_another_version(project):
    run(project)
    assert "version" not in " ".join(run(project, "columns.0.samples=5")[1])


def test_shards_that_were_made_before_folders_had_lists_of_files_are_joined(project):
    out, loaded = project.folder / "run", project.load()
    for number in range(2):
        build_shard(loaded, out, Shard(number, 2), rehearse=True, say=print, progress=False)
    for file in out.iterdir():
        if file.name != "shards":
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    for file in out.glob("shards/*/.prefdata.json"):
        file.unlink()
    assert merge(loaded, out, rehearse=True, say=print)["prompts"] == 20


def test_pairs_of_a_file_are_read_as_the_first_version_left_them(tmp_path):
    out = make_run(tmp_path, [("2+2?", "4", "5"), ("3+3?", "6", "7")])
    told = orjson.loads((out / "run.json").read_bytes())
    kept = {*FIRST_RECORD, "source", "projection"} - {"prefdata"}
    (out / "run.json").write_bytes(orjson.dumps({n: told[n] for n in told if n in kept}))
    (out / ".prefdata.json").unlink()
    for command in (
        "report {}",
        "export {} --format trl",
        "clean {}",
        "pairs {} keep_fraction=0.5",
    ):
        found = CliRunner().invoke(app, command.replace("{}", str(out)).split())
        assert (found.exit_code, found.exception) == (0, None), found.output
    assert read_record(out)["pairs"] == {"train": 1, "test": 0}
