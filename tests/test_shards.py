"""Shards: slices of the seeds made apart and joined; the rows are those of one run."""

import shutil

import pyarrow as pa
import pytest
from conftest import QUICKSTART, ROOT
from typer.testing import CliRunner

from prefdata.cli import app
from prefdata.errors import PrefdataError
from prefdata.pipeline import build, build_shard, merge
from prefdata.rows import REJECTS, reject
from prefdata.run.merging import add_up
from prefdata.run.shards import Shard, count_shards, read_shard
from prefdata.storage.folders import RowsWriter, read_rows


def rows(out, name):
    return list(read_rows(out / name))


def shard_all(project, count, *overrides, out="sharded", numbers=None):
    for number in range(count) if numbers is None else numbers:
        loaded = project.load(*overrides)
        build_shard(loaded, project.folder / out, Shard(number, count), rehearse=True, say=print)


def both(project, count, *overrides):
    """The record of a run in one piece, and that of the same run in shards."""
    whole = build(project.load(*overrides), project.folder / "whole", rehearse=True, say=print)
    shard_all(project, count, *overrides)
    out = project.folder / "sharded"
    return whole, merge(project.load(*overrides), out, count, rehearse=True, say=print)


def assert_same(project, whole, merged):
    for name in ("pairs", "candidates", "rejects"):
        assert rows(project.folder / "sharded", name) == rows(project.folder / "whole", name)
    for key in ("fingerprint", "seeds", "rows", "pairs", "prompts", "rejects", "drops", "added"):
        assert merged[key] == whole[key], key


RULES = {
    "plain": [],
    "split": ["output_projection.test_size=0.3"],
    "cap": ["output_projection.max_pairs=7"],
    "cycled": ["num_records=47"],
    "shuffled": ["seed_dataset.strategy=shuffle"],
    "ordered": ["output_projection.order_by=margin"],
    "minhash": ["output_projection.dedupe=minhash"],
}


@pytest.mark.parametrize(
    ("rule", "count"), [("plain", 1), ("plain", 30), *((rule, 7) for rule in RULES)]
)
def test_merged_shards_are_the_run_in_one_piece(rule, count, project):
    lines = [{"prompt": f"question {n % 17}", "answer": n % 5} for n in range(20)]
    project.write_seeds([*lines[:9], b"{broken", *lines[9:], {"answer": 3}])
    assert_same(project, *both(project, count, *RULES[rule]))


def test_children_of_an_expansion_come_in_the_same_order(tmp_path):
    recipe = [
        ROOT / "recipes" / "topics.yaml",
        "seed_dataset.rows=[{topic: a},{topic: b},{topic: c}]",
    ]  # noqa: E501
    for arguments in (
        ["build", *recipe, "--rehearse", "--out", tmp_path / "whole"],
        *(
            ["build", *recipe, "--rehearse", "--out", tmp_path / "s", "--shard", f"{n}/2"]
            for n in range(2)
        ),  # noqa: E501
        ["merge", *recipe, "--rehearse", "--out", tmp_path / "s"],
    ):
        done = CliRunner().invoke(app, [str(word) for word in arguments])
        assert done.exit_code in (0, 3), done.output
    for name in ("pairs", "candidates", "rejects"):
        assert rows(tmp_path / "s-rehearsal", name) == rows(tmp_path / "whole-rehearsal", name)


def test_a_merged_run_is_finished(project):
    both(project, 3)
    said = []
    again = build(project.load(), project.folder / "sharded", rehearse=True, say=said.append)
    assert said == ["nothing to do: this run is finished"]
    assert again["shards"] == 3


def test_what_all_shards_have_spent_is_added_up(project):
    whole, merged = both(project, 4)
    assert merged["requests"] == whole["requests"]
    assert merged["tokens"] == whole["tokens"]
    parts = [merged | {"replicas": {"lm-0": {"answered": n}}} for n in (5, 7)]
    replicas = {"shard 0: lm-0": {"answered": 5}, "shard 1: lm-0": {"answered": 7}}
    assert add_up(parts)["replicas"] == replicas


def test_a_merged_run_knows_what_its_shards_have_answered(project):
    both(project, 4)
    more = project.load("columns.0.samples=5")
    record = build(more, project.folder / "sharded", rehearse=True, say=print)
    assert record["requests"]["generated"] == 20


def test_a_finished_shard_is_not_made_again(project):
    shard_all(project, 2)
    said = []
    build_shard(
        project.load(), project.folder / "sharded", Shard(1, 2), rehearse=True, say=said.append
    )
    assert said == ["nothing to do: shard 00001-of-00002 is finished"]


def test_missing_shards_are_named(project):
    shard_all(project, 4, numbers=[0, 2])
    with pytest.raises(
        PrefdataError, match=r"of 4 shards 2 are unfinished or damaged: 1, 3; .*--shard 1/4"
    ):
        merge(project.load(), project.folder / "sharded", 4, rehearse=True, say=print)


def test_shards_of_another_recipe_are_not_merged(project):
    shard_all(project, 2)
    other = project.load("columns.0.samples=3")
    with pytest.raises(PrefdataError, match="2 were made from other seeds, another recipe"):
        merge(other, project.folder / "sharded", 2, rehearse=True, say=print)


def test_another_pair_rule_needs_no_new_shards(project):
    shard_all(project, 2)
    rule = project.load("output_projection.strategy=exhaustive")
    record = merge(rule, project.folder / "sharded", 2, rehearse=True, say=print)
    assert record["pairs"]["train"] > 20


@pytest.mark.parametrize("text", ["3/3", "4/3", "-1/3", "1", "a/b", "1/0", ""])
def test_what_is_no_shard_is_one_message(text):
    with pytest.raises(PrefdataError, match="expected the number of the shard, from 0"):
        read_shard(text)


def test_the_number_of_shards_shows_in_the_folders(tmp_path):
    with pytest.raises(PrefdataError, match="there are no shards"):
        count_shards(tmp_path)
    Shard(0, 4).folder(tmp_path).mkdir(parents=True)
    assert count_shards(tmp_path) == 4
    Shard(0, 8).folder(tmp_path).mkdir()
    with pytest.raises(PrefdataError, match="both 4-way and 8-way shards"):
        count_shards(tmp_path)


def test_more_shards_than_rows_are_no_fault(project, capsys):
    project.write_seeds([{"prompt": f"question {n}", "answer": n} for n in range(3)])
    assert_same(project, *both(project, 5))
    told = "shard 0/5 has no rows: the run has 3, fewer than shards; choose fewer shards"
    assert told in capsys.readouterr().out.splitlines()


def test_a_finished_shard_that_has_lost_a_folder_is_made_whole(project):
    shard_all(project, 2)
    out = project.folder / "sharded"
    stages = out / "shards" / "00001-of-00002" / "stages"
    lost = next(stages.glob("2-*[0-9a-f]"))
    before = rows(stages, lost.name)
    shutil.rmtree(lost)
    with pytest.raises(PrefdataError, match=r"of 2 shards 1 are unfinished or damaged: 1;"):
        merge(project.load(), out, 2, rehearse=True, say=print)
    record = build_shard(project.load(), out, Shard(1, 2), rehearse=True, say=print)
    assert record["requests"]["generated"] == 0
    assert rows(stages, lost.name) == before
    merge(project.load(), out, 2, rehearse=True, say=print)


def test_journals_of_shards_that_are_gone_stay_when_others_of_their_names_come(project):
    both(project, 2)
    out = project.folder / "sharded"
    shutil.rmtree(out / "shards")
    more = "columns.0.samples=5"
    shard_all(project, 2, more)
    merge(project.load(more), out, 2, rehearse=True, say=print)
    shutil.rmtree(out / "shards")
    record = build(project.load("columns.0.samples=6"), out, rehearse=True, say=print)
    assert record["requests"]["generated"] == 20


def test_a_merged_run_whose_shards_are_gone_is_finished(project):
    both(project, 2)
    out = project.folder / "sharded"
    shutil.rmtree(out / "shards")
    said = []
    merge(project.load(), out, rehearse=True, say=said.append)
    assert said == ["nothing to do: this run is finished"]


def test_rows_that_do_not_add_up_are_told_and_the_shard_is_not_finished(project):
    shard_all(project, 2)
    folder = project.folder / "sharded" / "shards" / "00000-of-00002"
    (folder / "shard.json").unlink()
    (first,) = folder.glob("stages/1-*.rejects")
    with RowsWriter(first, REJECTS) as rejects:
        refused = reject({"id": "x"}, stage="candidates", reason="lost", detail="")
        rejects.write(pa.Table.from_pylist([refused], schema=REJECTS))
    with pytest.raises(
        PrefdataError, match="11 of 10 rows were found, which happens when two processes"
    ):
        shard_all(project, 2, numbers=[0])
    assert not (folder / "shard.json").exists()


def test_shards_are_merged_where_their_models_could_not_run(project):
    """The merge asks no model, so it needs neither GPUs nor vLLM."""
    out = project.folder / "out"
    model = {"alias": "hot", "model": str(QUICKSTART / "models" / "lm"), "provider": "vllm"}
    project.recipe["models"][0] |= model | {"engine": {"tensor_parallel_size": 8}}
    project.recipe["models"][1]["model"] = str(QUICKSTART / "models" / "rm")
    with pytest.raises(PrefdataError, match="of 2 shards 2 are unfinished"):
        merge(project.load(), out, 2, say=print)
