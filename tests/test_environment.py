"""What comes from the environment is used, and stands nowhere in what is written."""

import orjson
import pytest
import yaml
from runs import read_lines
from typer.testing import CliRunner

from prefdata.cli import app
from prefdata.errors import PrefdataError
from prefdata.hub.upload import pack
from prefdata.recipe.loader import load_recipe
from prefdata.recipe.publication import Publish
from prefdata.run.finished import open_run

VALUE = "planted-4711-value"


@pytest.fixture
def planted(monkeypatch):
    monkeypatch.setenv("PREFDATA_TEST_SECRET", VALUE)
    return "${oc.env:PREFDATA_TEST_SECRET}"


def run(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    told = done.stdout + done.stderr
    assert done.exit_code == 0, told
    assert VALUE not in told
    return told


def plant(project, planted):
    """The value wherever it reaches neither a prompt nor a row."""
    (project.folder / VALUE).mkdir()
    project.write_seeds(
        [{"prompt": f"question {n}", "answer": n} for n in range(40)], f"{VALUE}/seeds.jsonl"
    )
    recipe = project.recipe
    recipe["seed_dataset"]["path"] = f"{planted}/seeds.jsonl"
    recipe["providers"] = [
        {
            "name": "there", "endpoint": f"http://{planted}.example/v1",
            "extra_body": {"deep": [{"key": planted}], "again": "${providers.0.endpoint}/x"},
        }
    ]  # fmt: skip
    recipe["models"][0] |= {"engine": {"download_dir": f"/cache/{planted}"}}
    recipe["models"][1] |= {"provider": "there"}
    recipe["output_projection"]["test_size"] = 0.2
    return recipe


def assert_nowhere(*folders):
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 5
    for file in files:
        assert VALUE.encode() not in file.read_bytes(), file


def test_a_value_of_the_environment_is_in_no_written_file(project, planted, monkeypatch):
    plant(project, planted)
    file, out = project.write(), project.folder / "run-rehearsal"
    run("build", file, "--rehearse")
    run("report", out)
    run("export", out, "--format", "trl", "--format", "axolotl")
    run("pairs", out, "min_margin=0.1")
    run("pairs", out, "strategy=exhaustive", "--out", project.folder / "again")
    run("build", file, "--rehearse", "--shard", "0/2", "--out", project.folder / "parts")
    run("slurm", file, "--rehearse", "--nodes", "2", "--out", project.folder / "cluster")
    settings = project.folder / "customizer.yaml"
    settings.write_text(yaml.safe_dump({
        "entity_host": "http://a.example", "datastore_host": "http://b.example",
        "namespace": "n", "dataset_name": "d", "customization_config": "m@v1+A100",
        "description": planted,
    }))  # fmt: skip
    told = run(
        "train", out, "--backend", "nemo_customizer", "--settings", settings, "--dry-run",
        "--out", project.folder / "trained",
    )  # fmt: skip
    assert planted in told
    publication = pack(open_run(out), Publish(repo_id="me/pairs"))
    (project.folder / "published").mkdir()
    for number, content in enumerate(publication.files.values()):
        if isinstance(content, bytes):
            (project.folder / "published" / str(number)).write_bytes(content)
    names = ("run-rehearsal", "again", "parts-rehearsal", "cluster-rehearsal", "trained")
    assert_nowhere(*(project.folder / name for name in (*names, "published")))


def test_the_recipe_of_a_run_keeps_the_interpolation_and_loads_as_the_same(project, planted):
    plant(project, planted)
    project.recipe["output_path"] = "${output_dir}/pairs.jsonl"
    loaded = project.load()
    (project.folder / "saved.yaml").write_text(loaded.resolved)
    told = yaml.safe_load(loaded.resolved)
    assert told["models"][0]["engine"] == {"download_dir": f"/cache/{planted}"}
    assert told["providers"][0]["extra_body"]["again"] == "${providers.0.endpoint}/x"
    assert told["output_path"] == f"{project.folder}/run/pairs.jsonl"  # not of the environment
    assert load_recipe(project.folder / "saved.yaml").recipe == loaded.recipe


def test_a_run_opens_where_the_variable_is_not_set(project, planted, monkeypatch):
    plant(project, planted)
    run("build", project.write(), "--rehearse")
    monkeypatch.delenv("PREFDATA_TEST_SECRET")
    opened = open_run(project.folder / "run-rehearsal")
    assert opened.recipe.seed_dataset.path == (f"{planted}/seeds.jsonl",)
    run("report", opened.folder)
    run("pairs", opened.folder, "max_pairs=3")


def test_a_server_that_the_environment_names_is_saved_by_its_variable(project, monkeypatch):
    monkeypatch.setenv("MINE_BASE_URL", f"https://{VALUE}.example/v1")
    project.recipe["models"][0]["provider"] = "mine"
    loaded = project.load()
    assert loaded.recipe.providers[0].endpoint == f"https://{VALUE}.example/v1"
    assert VALUE not in loaded.resolved and "${oc.env:MINE_BASE_URL}" in loaded.resolved
    (project.folder / "saved.yaml").write_text(loaded.resolved)
    assert load_recipe(project.folder / "saved.yaml").recipe == loaded.recipe


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("columns.0.prompt", "Answer {} {{{{ prompt }}}}"),
        ("inputs.x", "{}"),
        ("models.0.model", "{}"),
        ("models.0.system_prompt", "You are {}."),
    ],
)
def test_a_value_that_goes_into_rows_is_told_once(project, planted, key, value):
    told = run("build", project.write(), f"{key}={value.format(planted)}", "--rehearse")
    (line,) = [line for line in told.splitlines() if "$PREFDATA_TEST_SECRET" in line]
    assert line.startswith(f"{key}: the value of $PREFDATA_TEST_SECRET is what models are asked")


@pytest.mark.parametrize("length", [18, 200])
def test_a_message_does_not_repeat_a_value_of_the_environment(project, monkeypatch, length):
    monkeypatch.setenv("PREFDATA_TEST_SECRET", VALUE * (length // len(VALUE)))
    for key in ("num_records", "models.0.provider", "models.0.inference_parameters.top_p"):
        with pytest.raises(PrefdataError) as caught:
            project.load(f"{key}=${{oc.env:PREFDATA_TEST_SECRET}}")
        assert VALUE not in str(caught.value) and "${oc.env:PREFDATA_TEST_SECRET}" in str(
            caught.value
        )
    with pytest.raises(PrefdataError) as caught:
        project.load("num_records=${oc.decode:'[${oc.env:PREFDATA_TEST_SECRET}'}")
    assert VALUE not in str(caught.value)


def test_pair_rules_of_a_file_take_no_value_of_the_environment(project, planted):
    file = project.folder / "scored.jsonl"
    file.write_bytes(orjson.dumps({"prompt": "p", "text": "a", "score": 1}))
    words = ["pairs", str(file), f"keep=[{planted}]", "--out", str(project.folder / "x")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and "let the shell put the value in" in done.stderr
    assert read_lines(file)
