"""`prefdata train --backend nemo_customizer` on a run: what is written, uploaded, printed."""

import json

import pytest
from customizer_stub import Platform
from runs import DIALOGUE, make_run, read_lines
from typer.testing import CliRunner

from prefdata.cli import app
from prefdata.recipe.loader import load_settings
from prefdata.train.nemo_customizer.settings import CustomizerSettings

ROWS = [(f"question {n}", f"right {n}", f"wrong {n}") for n in range(20)]


@pytest.fixture
def platform():
    platform = Platform()
    yield platform
    platform.close()


def command(run, address, *arguments):
    told = [
        f"entity_host={address}", f"datastore_host={address}", "namespace=team",
        "customization_config=meta/tiny@v1+A100", "poll_interval_seconds=0.01", *arguments,
    ]  # fmt: skip
    return CliRunner().invoke(app, ["train", str(run), "--backend", "nemo_customizer", *told])


def test_a_run_is_split_uploaded_and_trained_on(platform, tmp_path):
    run = make_run(tmp_path, ROWS)
    done = command(run, platform.address)
    assert done.exit_code == 0, done.stderr
    out = run / "trained" / "nemo_customizer"
    (files,) = platform.repos.values()
    for name, count in (("training/training_file.jsonl", 16), ("validation/validation_file.jsonl", 4)):  # fmt: skip  # noqa: E501
        lines = read_lines(out / "data" / name)
        assert len(lines) == count
        assert all(line.keys() == {"prompt", "chosen_response", "rejected_response"} for line in lines)  # fmt: skip  # noqa: E501
        assert files[name] == (out / "data" / name).read_bytes()
    assert json.loads((out / "train.json").read_text())["job"]["status"] == "completed"
    again = command(run, platform.address)
    assert "nothing to do" in again.stderr
    assert len(platform.sent("POST /v1/customization/jobs$")) == 1


def test_supervised_training_gets_the_chosen_answers_alone(platform, tmp_path):
    done = command(make_run(tmp_path, ROWS), platform.address, "hyperparameters.training_type=sft")
    assert done.exit_code == 0, done.stderr
    ((_, training),) = (
        (name, data) for name, data in next(iter(platform.repos.values())).items()
        if name.startswith("training")
    )  # fmt: skip
    assert b"right" in training
    assert b"wrong" not in training
    (job,) = platform.sent("POST /v1/customization/jobs$")
    assert "dpo" not in job["hyperparameters"]


def test_prompts_are_whole_unless_told_otherwise(tmp_path):
    run = make_run(tmp_path, [(DIALOGUE, "6", "7"), *ROWS])
    file = run / "trained" / "nemo_customizer" / "data" / "training" / "training_file.jsonl"
    for told, kind in (("true", list), ("false", str)):
        done = command(run, "http://127.0.0.1:9", "--dry-run", f"use_full_message_history={told}")
        assert done.exit_code == 0, done.stderr
        assert {type(line["prompt"]) for line in read_lines(file)} == {kind}


def test_a_dry_run_prints_the_payloads_and_connects_to_nothing(tmp_path):
    done = command(make_run(tmp_path, ROWS), "http://127.0.0.1:9", "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "POST http://127.0.0.1:9/v1/customization/jobs" in done.stdout
    assert '"ref_policy_kl_penalty": 0.1' in done.stdout


def test_a_platform_that_is_not_there_leaves_the_files(tmp_path):
    run = make_run(tmp_path, ROWS)
    done = command(run, "http://127.0.0.1:9")
    assert done.exit_code == 2
    assert len(done.stderr.strip().splitlines()) <= 4
    assert (run / "trained/nemo_customizer/data/training/training_file.jsonl").is_file()


def test_settings_stand_in_a_file(tmp_path):
    file = tmp_path / "customizer.yaml"
    file.write_text(
        "entity_host: http://nemo.example\ndatastore_host: http://data.example\n"
        "namespace: team\ncustomization_config: meta/tiny@v1+A100\n"
    )
    settings = load_settings(CustomizerSettings, file, ["hyperparameters.epochs=3"])
    assert (settings.namespace, settings.hyperparameters.epochs) == ("team", 3)


def test_cancel_without_a_job_is_one_message(tmp_path):
    done = command(make_run(tmp_path, ROWS), "http://127.0.0.1:9", "--cancel")
    assert done.exit_code == 2
    assert "nothing to cancel" in done.stderr
