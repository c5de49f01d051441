"""The dataset card: its YAML, its figures, its snippets."""

import re
import shlex
import shutil
from dataclasses import replace

import orjson
import pyarrow as pa
import pytest
import yaml
from conftest import ROOT
from datasets import load_dataset
from jinja2 import Environment
from layout_rows import LAYOUTS
from runs import DIALOGUE, TOOL, make_run
from trl import is_conversational
from typer.testing import CliRunner

from prefdata.cli import app
from prefdata.hub.card import _size_category, make_card
from prefdata.hub.card_figures import measure_pairs
from prefdata.hub.upload import pack
from prefdata.pipeline import build
from prefdata.recipe.publication import Publish
from prefdata.run.finished import open_run
from prefdata.run.public import make_public_recipe, shorten
from prefdata.storage.folders import read_rows

PLACE = Publish(repo_id="user/pairs")
PAIRS = [(f"question {n}", f"a good answer to {n}", "bad") for n in range(10)]


def card_of(run, settings=PLACE):
    """Metadata and prose."""
    _, metadata, prose = pack(open_run(run), settings).card.split("---\n", 2)
    return yaml.safe_load(metadata), prose


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    pairs = [*PAIRS, ("nothing to choose", "same", "same")]
    return make_run(tmp_path_factory.mktemp("run"), pairs, "test_size=0.2")


@pytest.fixture
def built(project):
    """A run with models, scripted; its record says otherwise, as only the card is looked at."""
    build(project.load(), project.folder / "run", rehearse=True, say=lambda line: None)
    return project.folder / "run"


# The metadata


def test_the_metadata_says_what_was_given_and_assumes_nothing(run):
    metadata, prose = card_of(run)
    assert {"license", "language", "pretty_name", "base_model"}.isdisjoint(metadata)
    assert metadata["tags"] == ["preference", "dpo", "rlhf", "synthetic", "prefdata"]
    assert "No licence was given" in prose
    given = Publish(
        repo_id="user/pairs", license="cc-by-4.0", languages=("en", "de"), pretty_name="My pairs",
        tags=("maths", "dpo"),
    )  # fmt: skip
    metadata, prose = card_of(run, given)
    assert (metadata["license"], metadata["language"]) == ("cc-by-4.0", ["en", "de"])
    assert metadata["tags"][-2:] == ["prefdata", "maths"]
    assert prose.lstrip().startswith("# My pairs\n")
    assert "No licence was given" not in prose


def test_the_configs_are_those_with_rows_and_pairs_are_the_default(run, tmp_path):
    metadata, _ = card_of(run)
    assert [c["config_name"] for c in metadata["configs"]] == ["pairs", "candidates", "rejects"]
    assert [c.get("default") for c in metadata["configs"]] == [True, None, None]
    counts = {
        info["config_name"]: {split["name"]: split["num_examples"] for split in info["splits"]}
        for info in metadata["dataset_info"]
    }
    assert counts == {"pairs": {"train": 8, "test": 2}, "candidates": {"train": 11},
                      "rejects": {"train": 1}}  # fmt: skip
    metadata, prose = card_of(make_run(tmp_path, PAIRS))
    assert [c["config_name"] for c in metadata["configs"]] == ["pairs", "candidates"]
    assert "There is no config `rejects`: every row has a pair." in prose
    only = Publish(repo_id="user/pairs", configs=("pairs",))
    assert [c["config_name"] for c in card_of(run, only)[0]["configs"]] == ["pairs"]


def test_the_card_makes_the_run_folder_itself_loadable(run, tmp_path):
    (run / "README.md").write_text(pack(open_run(run), PLACE).card)
    found = load_dataset(str(run), cache_dir=str(tmp_path))
    assert {split: found[split].num_rows for split in found} == {"train": 8, "test": 2}
    assert load_dataset(str(run), "rejects", cache_dir=str(tmp_path))["train"].num_rows == 1


@pytest.mark.parametrize(("rows", "told"), [
    (1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"),
    (10**6, "1M<n<10M"), (10**9, "1B<n<10B"),
])  # fmt: skip
def test_the_size_category_is_the_hubs(rows, told):
    assert _size_category(rows) == told


def test_models_and_source_of_the_hub_are_named_with_their_revisions(built, project):
    record = orjson.loads((built / "run.json").read_bytes())
    record["checkpoints"] = {"hot": "a" * 40, "grader": "b" * 32}
    (built / "run.json").write_bytes(orjson.dumps(record))
    finished = open_run(built)
    recipe = finished.recipe
    seeds = recipe.seed_dataset.model_copy(update={"path": ("org/prompts",), "revision": "v3"})
    models = (
        recipe.models[0].model_copy(update={"model": "org/writer"}),
        recipe.models[1].model_copy(update={"model": "/data/weights/reward"}),
    )
    changed = recipe.model_copy(update={"seed_dataset": seeds, "models": models})
    finished = replace(finished, loaded=replace(finished.loaded, recipe=changed))
    contents = pack(finished, PLACE).contents
    card = make_card(finished, PLACE, contents, "run-x")
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["base_model"] == ["org/writer"]
    assert metadata["source_datasets"] == ["org/prompts"]
    assert metadata["prefdata"]["models"] == [
        {"alias": "hot", "model": "org/writer", "revision": "a" * 40},
        {"alias": "grader", "model": "reward", "revision": "b" * 32},
    ]
    assert metadata["prefdata"]["source"]["revision"] == "v3"
    assert "| `hot` | org/writer | commit `aaaa" in card
    assert "temperature 0.9, max_tokens 32" in card
    assert "reward: this model was a local folder" in card
    assert "/data/weights" not in card


# The prose


def test_counts_scores_and_lengths_are_those_of_the_run(run):
    _, prose = card_of(run)
    for line in (
        "| seeds | 11 |", "| candidates | 22 |", "| rows rejected | 1 |",
        "| prompts with pairs | 10 |", "| pairs, train | 8 |",
        "| chosen | 3.100 | 3.100 | 3.100 | 3.100 |",
        "| margin | 2.700 | 2.700 | 2.700 | 2.700 |",
        "Chosen is the longer text in 100.0% of the pairs and the shorter in 0.0%.",
        "| rejected, characters | 3.000 | 3.000 | 3.000 | 3.000 |",
    ):  # fmt: skip
        assert line in prose
    assert re.search(r"\| rejected, pairs: \w+ \| 1 \|", prose)
    assert "may learn length" in prose


def test_every_column_is_explained(run, built):
    for folder in (run, built):
        metadata, prose = card_of(folder)
        for info in metadata["dataset_info"]:
            table = prose.split(f"\n`{info['config_name']}`:\n")[1].split("\n\n")[0]
            told = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", table, flags=re.MULTILINE)
            assert [name for name, _, _ in told] == [part["name"] for part in info["features"]]
    assert "raw scores by `grader`" in prose


def test_figures_by_hand():
    empty = ["alias", "model", "temperature", "completion_tokens"]
    base = {f"{side}_{name}": None for side in ("chosen", "rejected") for name in empty}
    rows = [
        base | {"chosen": "a" * chosen, "rejected": "b", "margin": margin, "is_tie": False,
                "chosen_score": margin, "rejected_score": 0.0}
        for chosen, margin in ((1, 1.0), (2, 2.0), (4, 3.0))
    ]  # fmt: skip
    found = measure_pairs([pa.Table.from_pylist(rows)])
    assert found.scores["margin"].mean == 2.0
    assert found.sizes["chosen, characters"].quantiles[1] == 2.0
    assert (found.share(found.lengths.longer), found.lengths.shorter) == (2 / 3, 0)
    assert found.lengths.correlation == pytest.approx(1.0)
    assert "chosen, tokens" not in found.sizes
    assert found.sides == {}
    rows = [row | {"margin": None} for row in rows]
    assert measure_pairs([pa.Table.from_pylist(rows)]).lengths.correlation is None


@pytest.mark.parametrize("prompt", [
    "2+2?", DIALOGUE, [*DIALOGUE[:2], TOOL, {"role": "tool", "name": "add", "content": "4"}],
], ids=["text", "messages", "json"])  # fmt: skip
def test_the_snippet_makes_what_trl_takes(tmp_path, prompt):
    other = "1+1?" if isinstance(prompt, str) else [{"role": "user", "content": "1+1?"}]
    run = make_run(tmp_path, [(prompt, "yes", "no"), (other, "2", "3")])
    _, prose = card_of(run)
    snippet = prose.split("```python\n")[2].split("```")[0]
    code = snippet.split("trainer = ")[0].replace(
        'load_dataset("user/pairs", revision="run-', 'load("'
    )
    scope = {"load": lambda name: load_dataset(
        "parquet", data_files={"train": str(run / "pairs" / "*.parquet")}, cache_dir=str(tmp_path)
    )}  # fmt: skip
    exec(code, scope)
    for row in scope["pairs"]["train"]:
        assert set(row) == {"prompt", "chosen", "rejected"}
        assert is_conversational(row)


def test_the_command_of_a_run_from_a_file_makes_the_same_pairs(run, tmp_path, monkeypatch):
    _, prose = card_of(run)
    (line,) = [line for line in prose.splitlines() if line.startswith("prefdata pairs ")]
    monkeypatch.chdir(tmp_path)
    shutil.copy(run.parent / "scored.jsonl", tmp_path)
    done = CliRunner().invoke(app, shlex.split(line)[1:])
    assert done.exit_code == 0, done.output
    for stem in ("train", "test"):
        assert list(read_rows(tmp_path / "again" / "pairs", stem=stem)) == list(
            read_rows(run / "pairs", stem=stem)
        )


@pytest.mark.parametrize("layout", ["chatbot_arena_conversations", "helpsteer2", "hh-rlhf"])
def test_the_card_of_labelled_texts_has_their_columns_and_their_command(
    tmp_path, monkeypatch, layout
):
    file = tmp_path / "texts.jsonl"
    file.write_bytes(b"\n".join(map(orjson.dumps, LAYOUTS[layout]())))
    monkeypatch.chdir(tmp_path)
    made = ["pairs", file, "--layout", layout, "--out", "run", "test_size=2"]
    assert CliRunner().invoke(app, [str(one) for one in made]).exit_code == 0
    _, prose = card_of(tmp_path / "run")
    (line,) = [line for line in prose.splitlines() if line.startswith("prefdata pairs ")]
    done = CliRunner().invoke(app, shlex.split(line)[1:])
    assert done.exit_code == 0, done.output
    assert list(read_rows(tmp_path / "again" / "pairs")) == list(read_rows(tmp_path / "run/pairs"))
    assert CliRunner().invoke(app, ["report", "run"]).exit_code == 0


def test_texts_of_the_recipe_cannot_break_the_card(project):
    project.recipe["columns"][0]["prompt"] = "a | b\n````\n{{ prompt }}"
    build(project.load(), project.folder / "run", rehearse=True, say=lambda line: None)
    _, prose = card_of(project.folder / "run")
    assert "\n`````yaml\n" in prose and prose.endswith("\n`````\n")


def test_the_template_is_part_of_the_package():
    assert "hub/*.j2" in (ROOT / "pyproject.toml").read_text()
    Environment().parse((ROOT / "prefdata" / "hub" / "card.md.j2").read_text())


# What of the machine is in it


@pytest.mark.parametrize(("path", "told"), [
    ("/home/me/project/models/lm", "models/lm"), ("/data/lm", "lm"), ("org/lm", "org/lm"),
    ("models/lm", "models/lm"),
])  # fmt: skip
def test_paths_lose_what_only_this_machine_has(tmp_path, path, told):
    assert shorten(path, type(tmp_path)("/home/me/project")) == told


def test_the_public_recipe_names_no_folder_of_the_machine(project):
    project.recipe["seed_dataset"]["path"] = str(project.folder / "seeds.jsonl")
    project.recipe["models"][0]["engine"] = {"tokenizer": str(project.folder / "tokenizer")}
    project.recipe["models"][1]["adapter"] = str(project.folder / "adapter")
    project.write_seeds([{"text": "none of these"}], "bench.jsonl")
    bench = {"path": str(project.folder / "bench.jsonl"), "column": "text"}
    new = {
        "name": "new",
        "type": "filter",
        "column": "prompt",
        "decontaminate": {"against": [bench]},
    }
    project.recipe["columns"].insert(0, new)
    project.recipe["output_path"] = str(project.folder / "out" / "pairs.jsonl")
    project.recipe["publish"] = {"repo_id": "user/pairs"}
    build(project.load(), project.folder / "run", rehearse=True, say=lambda line: None)
    upload = pack(open_run(project.folder / "run"), PLACE)
    for name in ("README.md", "recipe.yaml", "run.json"):
        assert str(project.folder).encode() not in upload.files[name], name
    told = yaml.safe_load(make_public_recipe(open_run(project.folder / "run")))
    assert told["seed_dataset"]["path"] == "seeds.jsonl"
    assert told["models"][0]["engine"] == {"tokenizer": "tokenizer"}
    assert told["output_path"] == "pairs.jsonl"


def test_the_public_record_says_how_many_rows_and_which(run):
    told = orjson.loads(pack(open_run(run), PLACE).files["run.json"])
    assert told["content"]["pairs"]["train"]["rows"] == 8
    assert re.fullmatch("[0-9a-f]{32}", told["content"]["pairs"]["train"]["hash"])
    assert len(list(read_rows(run / "pairs"))) == 10
