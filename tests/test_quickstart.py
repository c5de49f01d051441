"""The shipped recipes with the shipped models."""

import orjson
import pytest
from conftest import QUICKSTART, ROOT
from typer.testing import CliRunner

from prefdata.cli import app
from prefdata.storage.folders import read_rows

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _in_the_clone(monkeypatch):
    monkeypatch.chdir(ROOT)


def prefdata(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(scope="module")
def quickstart(quickstart_run):
    """Folder, record and printed summary."""
    record = orjson.loads((quickstart_run / "run.json").read_bytes())
    return quickstart_run, record, quickstart_run.with_name("printed").read_text()


def test_chosen_is_right_at_least_50_points_more_often_than_rejected(quickstart):
    chosen, rejected = quickstart[1]["means"]["right"]
    assert chosen - rejected >= 0.5


def test_every_seed_of_the_quickstart_is_accounted_for(quickstart):
    out, record, _ = quickstart
    seeds = len((QUICKSTART / "prompts.jsonl").read_text().splitlines())
    assert record["seeds"] == seeds == record["prompts"] + sum(record["rejects"].values())
    rows = {pair["row_id"] for pair in read_rows(out / "pairs")}
    rejects = {row["id"] for row in read_rows(out / "rejects")}
    assert len(rows) + len(rejects) == seeds
    assert not rows & rejects


def test_the_quickstart_prints_its_summary(quickstart):
    printed = quickstart[2]
    for word in ("seeds", "candidates", "pairs", "rejects", "mean right", "tokens", "time"):
        assert word in printed


def test_one_checkpoint_behind_two_aliases_is_loaded_once(quickstart):
    assert quickstart[1]["loads"] == ["models/lm", "models/rm"]


def test_the_quickstart_again_finds_its_work_done(quickstart):
    done = prefdata("build", "recipes/quickstart/recipe.yaml", "--out", quickstart[0])
    assert "nothing to do" in done.stderr
    assert done.stdout == quickstart[2]


def test_a_part_of_the_quickstart_has_the_same_texts(quickstart, tmp_path):
    whole = {row["id"]: row for row in read_rows(quickstart[0] / "candidates")}
    overrides = ("num_records=7", "models.0.engine={max_num_seqs: 5}")
    prefdata("build", "recipes/quickstart/recipe.yaml", *overrides, "--out", tmp_path / "part")
    for row in read_rows(tmp_path / "part" / "candidates"):
        same = whole[row["id"]]["candidates"]
        assert [one["text"] for one in row["candidates"]] == [one["text"] for one in same]


def test_rl_pref_writes_three_strings_a_line_and_nothing_else(tmp_path):
    model = QUICKSTART / "models" / "lm"
    prefdata(
        "build",
        "recipes/rl_pref.yaml",
        f"models.0.model={model}",
        f"models.1.model={model}",
        "models.0.provider=auto",
        "models.1.provider=auto",
        f"seed_dataset.path={QUICKSTART / 'prompts.jsonl'}",
        f"output_dir={tmp_path / 'sdg'}",
    )
    record = orjson.loads((tmp_path / "sdg" / "run.json").read_bytes())
    lines = (tmp_path / "sdg" / "rl_pref.jsonl").read_text().splitlines()
    records = [orjson.loads(line) for line in lines]
    assert record["seeds"] == 100
    assert len(records) == record["pairs"]["train"] > 10
    assert all(list(r) == ["prompt", "chosen", "rejected"] for r in records)
    assert all(isinstance(text, str) for r in records for text in r.values())
    assert all(r["chosen"].strip() != r["rejected"].strip() for r in records)
    assert record["loads"] == [str(model)]
