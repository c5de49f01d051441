"""Runs that grow: `target_pairs`, `max_samples`, and the budgets that end them."""

import os
import re
import shutil
import signal

import forks
import moments
import pytest
from conftest import QUICKSTART

from prefdata.errors import PrefdataError
from prefdata.pairs.repick import pairs_of_run
from prefdata.pipeline import build, build_shard
from prefdata.recipe.loader import load_recipe
from prefdata.run.cleaning import clean_run
from prefdata.run.growth import Counted, Size, Spent, first_size, next_size, spent_in
from prefdata.run.shards import Shard
from prefdata.storage.folders import read_rows
from prefdata.workers.machine import Machine

CLEAR = "output_projection.min_margin=6"
"""A margin that about half of the scripted rows reach with four samples."""
MOMENTS = int(os.environ.get("PREFDATA_MOMENTS", "3"))


def grow(project, *overrides, out="run", said=None):
    say = (lambda line: None) if said is None else said.append
    return build(project.load(*overrides), project.folder / out, rehearse=True, say=say)


def count(record):
    return sum(record["pairs"].values())


def tables(run):
    return {
        name: [row for row in read_rows(run / name)] for name in ("candidates", "pairs", "rejects")
    }


def sizes(record):
    return [(one["rows"], one["pairs"]) for one in record["growth"]]


# Fresh seeds


def test_it_goes_on_with_fresh_seeds_to_exactly_so_many_pairs(project):
    said = []
    record = grow(project, "target_pairs=6", "num_records=4", CLEAR, said=said)
    assert count(record) == 6
    assert [rows for rows, _ in sizes(record)][0] == 4
    assert record["growth"][-1]["end"] == "target_pairs 6 is reached"
    assert any(re.search(r"goes on with \d+ fresh seeds", line) for line in said)
    assert record["seeds"] < 20


def test_it_has_the_rows_of_a_run_that_began_with_so_many(project):
    record = grow(project, "target_pairs=6", "num_records=4", CLEAR)
    grow(
        project, f"num_records={record['seeds']}", CLEAR, "output_projection.max_pairs=6",
        out="other",
    )  # fmt: skip
    assert tables(project.folder / "run") == tables(project.folder / "other")


def test_no_text_is_asked_twice(project):
    record = grow(project, "target_pairs=6", "num_records=4", CLEAR)
    assert record["requests"]["generated"] == 4 * record["seeds"]


def test_the_same_command_again_does_nothing(project):
    first, said = grow(project, "target_pairs=6", "num_records=4", CLEAR), []
    assert grow(project, "target_pairs=6", "num_records=4", CLEAR, said=said) == first
    assert said == ["nothing to do: this run is finished"]


def test_a_larger_target_asks_only_what_is_new(project):
    first = grow(project, "target_pairs=3", "num_records=4", CLEAR)
    record = grow(project, "target_pairs=8", "num_records=4", CLEAR)
    assert count(record) == 8
    assert record["requests"]["generated"] == 4 * (record["seeds"] - first["seeds"])
    assert record["changes"]["pairs"] == (3, 8) or record["changes"]["pairs"] == [3, 8]


def test_it_says_when_nothing_new_can_come(project):
    record = grow(project, "target_pairs=1000")
    assert record["growth"][-1]["end"].startswith("nothing new can come")
    assert record["seeds"] == 20


# More samples


def test_rows_without_a_pair_have_more_samples_and_others_have_none(project):
    record = grow(project, "columns.0.max_samples=16", CLEAR)
    before = tables_of_plain(project)
    rows = {
        row["id"]: len(row["candidates"]) for row in read_rows(project.folder / "run/candidates")
    }
    assert {n for row, n in rows.items() if row in before} == {4}
    assert {n for row, n in rows.items() if row not in before} <= {8, 16}
    assert count(record) > len(before)
    assert record["requests"]["generated"] == sum(rows.values())
    lacking = {row["id"] for row in read_rows(project.folder / "run/rejects")}
    assert all(rows[row] == 16 for row in lacking)


def tables_of_plain(project):
    """Ids of rows that have a pair with four samples."""
    grow(project, CLEAR, out="plain")
    return {row["row_id"] for row in read_rows(project.folder / "plain/pairs")}


def test_seeds_that_are_used_up_are_followed_by_samples(project):
    record = grow(project, "target_pairs=1000", "columns.0.max_samples=8", CLEAR)
    assert [one["more"] > 0 for one in record["growth"]][-1]
    assert record["growth"][-1]["end"].startswith("nothing new can come")


def test_cleaning_keeps_what_a_grown_run_has_asked(project):
    words = ["columns.0.max_samples=8", CLEAR]
    first = grow(project, *words)
    found = clean_run(project.folder / "run", is_meant=True, say=lambda line: None, progress=False)
    assert (found.note, found.journals, len(found.stages) > 0) == (None, {}, True)
    shutil.rmtree(project.folder / "run" / "stages")
    (project.folder / "run" / "run.json").unlink()
    again = grow(project, *words)
    assert again["requests"]["generated"] == 0
    assert again["pairs"] == first["pairs"]


# Budgets


def test_a_budget_of_requests_is_never_passed(project):
    record = grow(project, "target_pairs=1000", "max_requests=70", "num_records=4")
    assert record["growth"][-1]["end"].startswith("max_requests is spent")
    spent = spent_in(project.folder / "run" / "journal")
    assert 60 < spent.max_requests <= 70
    assert record["growth"][-1]["budgets"] == {"max_requests": [spent.max_requests, 70]}


def test_what_a_killed_run_has_spent_counts(project):
    grow(project, "num_records=5")
    spent = spent_in(project.folder / "run" / "journal").max_tokens_total
    record = grow(project, "target_pairs=1000", f"max_tokens_total={spent + 1}", "num_records=5")
    assert record["seeds"] == 5
    assert record["growth"][-1]["end"].startswith("max_tokens_total is spent")


def recipe(**fields):
    return load_recipe(BASE | fields).recipe


BASE = {
    "output_dir": "run",
    "seed_dataset": {"rows": [{"prompt": "q"}]},
    "models": [
        {"alias": "a", "model": "m", "inference_parameters": {"temperature": 1.0, "max_tokens": 8}},
        {"alias": "r", "model": "n"},
    ],
    "columns": [
        {
            "name": "candidates", "type": "candidates", "model_alias": "a", "samples": 4,
            "max_samples": 12, "prompt": "{{ prompt }}",
        },
        {"name": "score", "type": "reward_model", "model_alias": "r", "candidates": "candidates"},
    ],
    "output_projection": {
        "type": "preference_pairs", "candidates": "candidates", "score": "score",
        "strategy": "best_vs_worst",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "first"),
    [
        ({"target_pairs": 500}, 500),
        ({"target_pairs": 500, "num_records": 40}, 40),
        ({"target_pairs": 500, "max_requests": 80}, 10),
        ({"target_pairs": 500, "max_tokens_total": 9_999_999}, 100),
        ({"target_pairs": 500, "max_gpu_hours": 8}, 100),
        ({}, None),
    ],
)
def test_the_first_size_is_within_the_budgets(fields, first):
    assert first_size(recipe(**fields)) == Size(first)


@pytest.mark.parametrize(
    ("counted", "after"),
    [
        (dict(pairs=50), Size(232)),  # 60 are missing, every second row has one; a tenth more
        (dict(pairs=1), Size(400)),  # but no more than four times as many
        (dict(pairs=50, spent=Spent(800)), Size(125)),
        (dict(pairs=50, spent=Spent(1000)), "max_requests is spent"),
        (dict(pairs=50, spent=Spent(10, 3.0, 4.0)), "max_gpu_hours is spent"),
        (dict(pairs=50, rows=1000, lacking=["x", "y"]), Size(100, {"x": 2, "y": 2})),
        (dict(pairs=110), "target_pairs 110 is reached"),
    ],
)
def test_the_next_size_is_arithmetic(counted, after):
    told = recipe(target_pairs=110, max_requests=1000, max_gpu_hours=4.0)
    plain = {"rows": 100, "available": 1000, "lacking": [], "spent": Spent(1)}
    found = next_size(told, Size(100), Counted(**plain | counted))
    assert found == after or str(found).startswith(str(after))


def test_samples_are_doubled_up_to_the_most(project):
    size = Size(None, {"x": 2, "y": 4})
    counted = Counted(10, 10, 5, ["x", "y", "z"], Spent())
    assert next_size(recipe(), size, counted) == Size(None, {"x": 4, "y": 4, "z": 2})


# What is refused


@pytest.mark.parametrize(("condition", "times"), [("answer > 1", 1), ("(reward | best) >= 0", 2)])
def test_a_row_that_stays_skipped_has_no_more_samples(project, condition, times):
    project.write_seeds([{"prompt": f"question {n}", "answer": n} for n in range(4)])
    again = project.recipe["columns"][1] | {"name": "again", "prompt": "{{ prompt }}"}
    project.recipe["columns"].append(again | {"skip_when": f"{{{{ {condition} }}}}"})
    project.recipe["output_projection"]["score"] = "again"
    grow(project, "target_pairs=4", "columns.0.max_samples=8")
    made = tables(project.folder / "run")
    skipped = {row["id"] for row in made["rejects"] if row["reason"] == "skipped"}
    samples = {len(row["candidates"]) for row in made["candidates"] if row["id"] in skipped}
    assert samples == {4 * times}


def test_a_budget_of_a_run_that_does_not_grow_is_refused():
    fixed = [BASE["columns"][0] | {"max_samples": None}, BASE["columns"][1]]
    with pytest.raises(PrefdataError, match="this one does not"):
        recipe(max_requests=5, columns=fixed)


def test_more_pairs_than_the_rules_allow_are_refused_but_may_be_chosen_fewer_later(project):
    with pytest.raises(PrefdataError, match="never target_pairs 5"):
        grow(project, "target_pairs=5", "output_projection.max_pairs=4")
    grow(project, "target_pairs=5", "num_records=5")
    run = project.folder / "run"
    assert count(pairs_of_run(run, ["max_pairs=3"], run)) == 3


def test_shards_do_not_grow(project):
    with pytest.raises(PrefdataError, match="look at the pairs of all rows"):
        build_shard(
            project.load("target_pairs=5"), project.folder / "run", Shard(0, 2), rehearse=True
        )


# Anywhere


@pytest.mark.slow
def test_it_grows_to_the_same_rows_on_any_number_of_replicas(tmp_path):
    right = {"name": "reward", "type": "verifier", "method": "number", "reference": "answer"}
    columns = f"columns.1={right | {'candidates': 'candidates'}}"
    words = ["num_records=8", "target_pairs=8", "columns.0.max_samples=4", columns]
    loaded = load_recipe(QUICKSTART / "recipe.yaml", words)
    for replicas in (1, 2):
        machine = Machine(replicas=replicas)
        record = build(loaded, tmp_path / str(replicas), machine=machine, say=lambda line: None)
        assert (count(record), len(record["growth"]) > 1) == (8, True)
    assert tables(tmp_path / "1") == tables(tmp_path / "2")


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_grows_ends_with_the_same_rows(project, tmp_path):
    """At moments spread over all that change the disk; PREFDATA_MOMENTS says how many."""
    project.recipe["columns"][0]["max_samples"] = 16
    file = project.write()

    def run(name, watched=()):
        words = ["build", file, "--rehearse", "target_pairs=18", "num_records=4", CLEAR]
        return forks.run(*words, "--out", tmp_path / name, watched=watched)

    whole = tmp_path / "whole-rehearsal"
    assert run("whole", moments.listing(whole, tmp_path / "moments")).returncode == 0
    names = (tmp_path / "moments").read_text().splitlines()
    names = [name for name in names if not name.startswith("sync ")]  # as many as there are batches
    assert any(name.startswith("rename stages/") and "growth.json" in name for name in names)
    rows = tables(whole)
    assert len(rows["pairs"]) == 18
    for number in range(MOMENTS):
        out = tmp_path / f"killed{number}-rehearsal"
        place = 1 + number * (len(names) - 1) // max(1, MOMENTS - 1)
        watched = moments.command(out, signal.SIGKILL, "(?!sync )", place)
        assert run(f"killed{number}", watched).returncode == -signal.SIGKILL
        assert run(f"killed{number}").returncode == 0
        assert tables(out) == rows, names[place - 1]
