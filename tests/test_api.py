"""The Python API: recipes in every form, notebooks, interrupts, what a run gives."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import nbformat
import pytest
import yaml
from conftest import QUICKSTART, ROOT
from datasets import Dataset, load_dataset
from hub_stub import WRITE, Hub, environment
from nbclient import NotebookClient
from runs import make_run

import prefdata
from prefdata import PrefdataError, Recipe
from prefdata.api.records import Records
from prefdata.export.configurations import Place, trl
from prefdata.storage.folders import read_rows

SEEDS = [{"prompt": f"question {n}", "answer": n} for n in range(6)]


def rehearsed(recipe, out, **more):
    told = []
    run = prefdata.build(recipe, out, rehearse=True, say=told.append, **more)
    return run, told


@pytest.fixture
def recipe(project, monkeypatch):
    """A dict whose seeds lie in the current folder."""
    monkeypatch.chdir(project.folder)
    project.write_seeds(SEEDS)
    return {key: value for key, value in project.recipe.items() if key != "output_dir"}


# Documents


@pytest.mark.slow
def test_every_line_of_the_page_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.S)
    assert len(blocks) > 8
    shutil.copytree(QUICKSTART, tmp_path, dirs_exist_ok=True)
    prompts = (tmp_path / "prompts.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "prompts.jsonl").write_text("".join(prompts[:8]))
    (tmp_path / "page.py").write_text("\n".join(blocks))
    hub = Hub()
    try:
        known = environment(hub, tmp_path) | {"HF_TOKEN": WRITE}
        done = subprocess.run(
            [sys.executable, "page.py"], cwd=tmp_path, env=known, capture_output=True, text=True
        )
    finally:
        hub.close()
    assert done.returncode == 0, done.stderr
    assert "output_projection" in done.stdout  # the error of a recipe without columns


@pytest.mark.slow
def test_the_notebook_runs_in_a_kernel(tmp_path):
    notebook = nbformat.read(ROOT / "docs" / "python.ipynb", 4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    bars = [
        output for cell in cells for output in cell.outputs if output.output_type == "display_data"
    ]
    assert ["<progress" in bar.data["text/html"] for bar in bars] == [True] * 4  # one a pass
    shown = [cell.outputs[-1].data for cell in cells[2:5]]
    assert "<table>" in shown[0]["text/html"]
    assert "DatasetDict" in shown[1]["text/plain"]
    assert "<pre" in shown[2]["text/html"]
    assert (tmp_path / "my-run" / "report.html").is_file()


# Recipes


def test_a_recipe_is_the_same_as_a_file_a_text_a_dict_and_a_model(recipe, tmp_path):
    text = yaml.safe_dump(recipe)
    (tmp_path / "recipe.yaml").write_text(text)
    given = yaml.safe_load(text) | {"output_dir": "elsewhere"}
    forms = ["recipe.yaml", tmp_path / "recipe.yaml", text, recipe, Recipe.model_validate(given)]
    run, _ = rehearsed(forms[0], "run")
    assert run.folder.name == "run-rehearsal"
    for form in forms[1:]:
        same, told = rehearsed(form, "run")
        assert told == ["nothing to do: this run is finished"]
        assert same.summary["pairs"] == run.summary["pairs"]


def test_a_recipe_may_hold_tuples_and_paths_and_marks_of_interpolation(recipe, tmp_path):
    recipe["seed_dataset"] = {"path": tmp_path / "seeds.jsonl", "fields": ("prompt",)}
    loaded = prefdata.load_recipe(recipe | {"output_dir": "x", "inputs": {"n": r"\${a}"}})
    again = prefdata.load_recipe(loaded.recipe)
    assert loaded.recipe.inputs == again.recipe.inputs == {"n": "${a}"}
    assert again.recipe == loaded.recipe


def test_seeds_in_memory_are_known_by_their_content(recipe, tmp_path):
    recipe["seed_dataset"] = Dataset.from_list(SEEDS)
    run, _ = rehearsed(recipe, "run")
    assert run.candidates["prompt"] == [seed["prompt"] for seed in SEEDS]
    kept = {"path": Dataset.from_list(SEEDS), "fields": ["prompt", "answer"]}
    for same in (recipe, recipe | {"seed_dataset": kept}):
        assert rehearsed(same, "run")[1] == ["nothing to do: this run is finished"]
    changed = Dataset.from_list([*SEEDS[:5], {"prompt": "another", "answer": 0}])
    run, _ = rehearsed(recipe, "run", seeds=changed)
    assert run.summary["requests"] == {"generated": 4, "scored": 4, "replayed": 40}
    # the file that keeps them lets a command repeat the run
    saved = prefdata.load_recipe(tmp_path / "run-rehearsal" / "recipe.yaml")
    assert rehearsed(saved, tmp_path / "run")[1] == ["nothing to do: this run is finished"]


def test_seeds_may_be_a_list_of_dicts_in_the_place_of_the_files(recipe):
    run, _ = rehearsed(yaml.safe_dump(recipe), "run", seeds=SEEDS[:2])
    assert run.summary["seeds"] == 2
    assert run.recipe.seed_dataset.fields == ("prompt", "answer")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": "none"}, r"<recipe>:\d+: columns"),
        ({"output_dir": object()}, "<recipe>: .*give texts, numbers, lists and dicts"),
        ({"seed_dataset": {"path": "none.jsonl"}}, "file not found"),
    ],
    ids=["a wrong value", "an object", "no file"],
)
def test_what_is_wrong_with_a_recipe_is_an_error_of_ours(recipe, change, message):
    with pytest.raises(PrefdataError, match=message):
        rehearsed(recipe | change, None if "output_dir" in change else "run")


def test_seeds_that_are_none_are_refused(recipe):
    with pytest.raises(PrefdataError, match=r"no seeds can be read from str; give a datasets"):
        rehearsed(recipe, "run", seeds="prompts.jsonl")


# Event loops


def test_a_running_event_loop_is_no_hindrance(recipe):
    async def cell():
        run, _ = rehearsed(recipe, "run")
        return run, prefdata.preview(recipe, 1, rehearse=True, say=lambda line: None)

    run, preview = asyncio.run(cell())
    assert run.summary["pairs"]["train"] == len(SEEDS)
    assert [title for title, _ in preview.rows] == ["row 1", "pair 1"]
    assert [one.column for one in preview.requests] == ["candidates", "reward"]


INTERRUPTED = """
import asyncio, signal
from moments import Moments
import prefdata

async def cell():
    try:
        prefdata.build("recipe.yaml", "run", rehearse=True)
    except KeyboardInterrupt:
        print("interrupted")
    run = prefdata.build("recipe.yaml", "run", rehearse=True)
    print(run.summary["requests"]["generated"] <= 16, run.summary["pairs"])  # of 24

before = signal.getsignal(signal.SIGINT)
Moments("run-rehearsal", signal.SIGINT, "journal text", 9).watch()
asyncio.run(cell())
assert signal.getsignal(signal.SIGINT) is before
"""


def test_an_interrupt_ends_a_run_in_a_cell_and_the_next_call_goes_on(recipe, tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, known = [sys.executable, "-c", INTERRUPTED], {"PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(
        code, cwd=tmp_path, env=os.environ | known, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "interrupted\nTrue {'train': 6" in done.stdout


# What a run gives


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    recipe = yaml.safe_load((QUICKSTART / "recipe.yaml").read_text())
    recipe["seed_dataset"] = {"path": str(QUICKSTART / "prompts.jsonl"), "limit": 12}
    for model in recipe["models"]:
        model["model"] = str(QUICKSTART / model["model"])
    recipe["output_projection"]["test_size"] = 3
    return rehearsed(recipe, tmp_path_factory.mktemp("made") / "run")[0]


@pytest.fixture
def run(made, tmp_path):
    return prefdata.open_run(shutil.copytree(made.folder, tmp_path / "run"))


def test_a_run_has_its_tables(run):
    assert {split: len(rows) for split, rows in run.pairs.items()} == {"train": 9, "test": 3}
    stored = list(read_rows(run.folder / "pairs", stem="train"))
    assert run.pairs["train"].to_list() == stored
    assert len(run.candidates) == 12
    assert run.rejects.column_names == ["id", "stage", "reason", "detail", "source", "row"]
    assert run.summary["rows"] == 12
    assert run.recipe.columns[0].name == "candidates"


def test_pairs_are_picked_again_in_place_or_elsewhere(run, tmp_path):
    elsewhere = run.repick(tmp_path / "other", strategy="exhaustive", test_size=0)
    assert len(elsewhere.pairs["train"]) > 12
    assert len(run.pairs["train"]) == 9
    assert run.repick(max_pairs=4, test_size=0) is not None
    assert len(run.pairs["train"]) == run.summary["pairs"]["train"] == 4
    with pytest.raises(PrefdataError, match="strategy"):
        run.repick(strategy="best")


def test_a_run_is_compared_with_another_and_cleaned(run, tmp_path):
    other = run.repick(tmp_path / "other", max_pairs=4, test_size=0)
    told = run.diff(other)
    assert told == run.diff(tmp_path / "other")
    assert (told["kept"], told["gone"]) == (4, {"pairs: over_max_pairs": 8})
    assert ("output_projection.max_pairs", "–", "4") in told["recipe"]
    unneeded = shutil.copytree(
        next(run.folder.glob("stages/1-*[!s]")), run.folder / "stages/1-a-0123abcd"
    )
    assert [*run.clean().stages] == [unneeded]
    assert [*run.clean(remove=True).stages] == [unneeded]
    assert not unneeded.exists()


def test_a_run_without_pairs_has_empty_tables_and_shows_its_rejects(run):
    empty = run.repick(min_margin=1e6, test_size=0)
    assert empty.pairs["train"].num_rows == 0
    assert "chosen" in empty.pairs["train"].column_names
    assert [title for title, _ in empty.preview(1).rows] == ["reject 1"]
    assert len(empty.rejects) == 12


def test_arguments_are_checked_as_options_are(recipe, run):
    with pytest.raises(PrefdataError, match="gpus is -1; give a whole number of at least 0"):
        prefdata.build(recipe, "out", gpus=-1)
    with pytest.raises(PrefdataError, match="replicas is '2'; give a whole number"):
        prefdata.build(recipe, "out", gpus=0, replicas="2")
    with pytest.raises(PrefdataError, match="n is 0; give a whole number of at least 1"):
        prefdata.preview(recipe, 0)
    with pytest.raises(PrefdataError, match="n is '2'; give a whole number of at least 1"):
        run.preview("2")
    with pytest.raises(PrefdataError, match="a recipe cannot be read from NoneType; give a path"):
        prefdata.build(None, "out")
    for size in (-1, 1.0, "half"):
        with pytest.raises(PrefdataError, match="give a number of prompts, or a fraction below 1"):
            run.export("trl", test_size=size)


def test_pairs_chosen_by_other_rules_are_chosen_again_with_a_word(recipe, tmp_path):
    run, _ = rehearsed(recipe, tmp_path / "run")
    run.repick(max_pairs=4, test_size=0)
    again, said = rehearsed(recipe, tmp_path / "run")
    assert "the pairs here were chosen by other rules than the recipe's" in " ".join(said)
    assert sum(map(len, again.pairs.values())) == 6


def test_an_export_and_a_report_are_written_in_the_run(run):
    export = run.export("trl", test_size=0, say=lambda line: None)
    assert export.train == run.folder / "exports" / "trl" / "train.jsonl"
    assert export.lines["train"] == 12
    assert run.report().file == run.folder / "report.html"
    assert run.warnings == []  # a rehearsal's texts mean nothing
    run.repick(max_pairs=4, test_size=0)
    run.summary.update(rehearsed=False, lengths=[40, 2])
    bias, export, page = run.warnings
    assert "Length bias: the longer text" in bias
    assert "an export of earlier pairs" in export
    assert "a report on earlier pairs" in page
    assert bias in run._repr_html_()
    with pytest.raises(PrefdataError, match="no option 'testsize'; did you mean 'test_size'"):
        run.export("trl", testsize=0)
    with pytest.raises(PrefdataError, match="there is no format 'tlr'; did you mean 'trl'"):
        run.export("tlr")


class Texts(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_data(self, data):
        self.found.append(data)


def test_records_are_shown_as_text_and_as_html_that_runs_nothing():
    row = {
        "chosen": "<script>alert(1)</script>",
        "rejected": "a\nb",
        "scores": {"r": 1.5},
        "x": None,
    }
    records = Records((("pair 1", row),))
    assert repr(records).splitlines()[:4] == [
        "--- pair 1", "chosen: <script>alert(1)</script>", "rejected:", "  a",
    ]  # fmt: skip
    page = records._repr_html_()
    assert "<script" not in page
    texts = Texts()
    texts.feed(page)
    assert "<script>alert(1)</script>" in texts.found
    assert "None" not in page


def test_a_run_tells_itself_in_a_line_and_in_a_table(run):
    assert re.search(r"rows 12, pairs 9 train, 3 test from 12 prompts, rejects 0", repr(run))
    assert "<td>9 train, 3 test from 12 prompts</td>" in run._repr_html_()


def test_a_published_recipe_takes_nothing_of_this_machine(tmp_path, monkeypatch):
    from prefdata.hub import fetched

    monkeypatch.setenv("SECRET", "hunter2")
    raw = {"output_dir": "x", "inputs": {"a": "${oc.env:SECRET}", "b": r"\${oc.env:SECRET}"}}
    fetched._tame(raw, "hf://datasets/user/pairs")
    assert raw["inputs"] == {"a": r"\${oc.env:SECRET}", "b": r"\${oc.env:SECRET}"}
    with pytest.raises(PrefdataError, match=r"columns\.0\.prompt_file names a file of this"):
        fetched._tame({"columns": [{"prompt_file": "/etc/passwd"}]}, "hf://datasets/user/pairs")


def test_a_folder_of_the_users_is_no_place_for_a_published_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "mine.txt").touch()
    with pytest.raises(PrefdataError, match="was not fetched from the Hub; name another one"):
        prefdata.open_run("hf://datasets/user/pairs")
    with pytest.raises(PrefdataError, match="not the address of a run"):
        prefdata.open_run("hf://user/pairs")


def test_a_run_and_its_export_load_from_a_folder_whose_name_is_a_pattern(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "a [b]*? c", [("2+2?", "4", "5")])
    monkeypatch.chdir(folder.parent)
    assert prefdata.open_run("run").pairs["train"]["chosen"][0] == "4"
    (folder / "train.jsonl").write_text('{"prompt": "2+2?"}\n')
    written = next(iter(trl(Place(folder, "train.jsonl", None)).values()))
    place = json.loads(re.search(r"data_files=(\{.*\})\)", written)[1])["train"]
    assert load_dataset("json", data_files=place, split="train").num_rows == 1
