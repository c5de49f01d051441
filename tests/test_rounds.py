"""Rounds: what trains, what the next round begins with, when they end, and what a kill costs."""

import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import orjson
import pytest
import yaml
from conftest import QUICKSTART
from waiting import wait_until

from prefdata.errors import PrefdataError
from prefdata.pipeline import build
from prefdata.recipe.loader import load_recipe, load_settings
from prefdata.storage.folders import read_rows
from prefdata.train.rounds import run_rounds
from prefdata.train.trl import train_trl
from prefdata.train.trl_settings import TrlSettings

pytestmark = pytest.mark.slow

RECIPE = QUICKSTART / "recipe.yaml"
TRAIN = '''"""Stands for a training on many GPUs: waits at the gate, then leaves a changed model."""

import pathlib, shutil, sys, time
from safetensors.numpy import load_file, save_file

pairs, model, out = map(pathlib.Path, sys.argv[1:])
gate = pathlib.Path(__file__).with_name("gate")
(gate.parent / "trains").write_text(f"{len(pairs.read_text().splitlines())} pairs of {model}")
while gate.exists():
    time.sleep(0.05)
shutil.copytree(model, out, dirs_exist_ok=True)
weights = load_file(out / "model.safetensors")
save_file({name: values * 1.01 for name, values in weights.items()}, out / "model.safetensors", {"format": "pt"})
'''  # noqa: E501


@pytest.fixture
def settings(tmp_path):
    """A YAML file whose command trains."""
    (tmp_path / "train.py").write_text(TRAIN)
    evaluation = {"path": str(QUICKSTART / "heldout.jsonl"), "samples": 1, "limit": 5}
    command = f"{sys.executable} {tmp_path / 'train.py'} {{pairs}} {{model}} {{out}}"
    file = tmp_path / "train.yaml"
    file.write_text(yaml.safe_dump({"command": command, "evaluation": evaluation}))
    return file


def command(tmp_path, settings, *options):
    return [
        sys.executable, "-m", "prefdata", "rounds", str(RECIPE), "num_records=12", "--rounds", "2",
        "--settings", str(settings), "--out", str(tmp_path / "rounds"), "--gpus", "0", *options,
    ]  # fmt: skip


def test_killed_rounds_go_on_and_each_policy_is_what_the_round_before_has_trained(
    tmp_path, settings
):
    gate, rounds = tmp_path / "gate", tmp_path / "rounds"
    gate.touch()
    words = command(tmp_path, settings, "--min-gain", "-1")
    with (tmp_path / "log").open("wb") as log:
        first = subprocess.Popen(words, stderr=log, start_new_session=True)
        wait_until((tmp_path / "trains").exists, first)
        first.send_signal(signal.SIGKILL)
        first.wait()
    wait_until(lambda: not processes_of(str(rounds)))  # the training has ended with it
    gate.unlink()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stderr  # the pairs of round 1 are there
    told = orjson.loads((rounds / "rounds.json").read_bytes())
    models = [str(QUICKSTART / "models" / "lm"), str(rounds / "round-1" / "trained" / "model")]
    assert [one["policy"] for one in told] == models
    (writer,) = {row["chosen_model"] for row in read_rows(rounds / "round-2" / "run" / "pairs")}
    assert writer == models[1]
    assert re.search(r"round 2: \d+ pairs, right \d", done.stdout)
    page = (rounds / "index.html").read_text()
    for number, one in enumerate(told, start=1):
        assert f"round-{number}/run/report.html" in page
        assert (rounds / f"round-{number}" / "run" / "report.html").is_file()
        assert f"{100 * one['scores']['right'][1]:.1f} %" in page

    quiet = command(tmp_path, settings, "--min-gain", "1", "--quiet")
    again = subprocess.run(quiet, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr) == (0, "")  # nor does a command of a round say a word
    assert "round 1: " in again.stdout
    assert "round 2: " not in again.stdout  # a round that gains too little is the last one


def processes_of(words):
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            found += [file] if words in file.read_text() else []
    return found


@pytest.mark.parametrize(
    "changes, expected",
    [
        (["models.1.model=org/other"], "here that is models/lm, org/other"),
        (["models.0.adapter=org/a", "models.1.adapter=org/a"], "'bold' is an adapter"),
        (["providers=[{name: s, endpoint: 'http://h/v1'}]", "models.0.provider=s",
          "models.1.provider=s"], "'bold' is on the server 's'"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_told_before_anything_is_made(tmp_path, changes, expected):
    loaded = load_recipe(RECIPE, changes)
    with pytest.raises(PrefdataError, match=re.escape(expected)):
        run_rounds(loaded, str(RECIPE), changes, tmp_path / "out", count=1, settings=None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "given, expected",
    [
        (None, "train.yaml: settings not found"),
        ({"learning_rat": 1e-6}, "did you mean 'learning_rate'"),
        ({"evaluation": {"path": "nowhere.jsonl"}}, "evaluation.path: file not found: 'nowhere"),
        ({"evaluation": {"path": __file__}}, "the type of"),
        ({"batch_size": 10}, "does not divide"),
        ({"model": "org/lm"}, "model is 'org/lm', which every round would begin with"),
        ({"accelerate": "nowhere.yaml"}, "num_processes cannot be read"),
        ({"arguments": {"warmup_step": 1}}, "did you mean 'warmup_steps'"),
        ({"lr_scheduler_type": "cosin"}, "did you mean 'cosine'"),
    ],
    ids=str,
)
def test_settings_that_cannot_serve_are_told_before_anything_is_made(tmp_path, given, expected):
    pytest.importorskip("trl")
    file = tmp_path / "train.yaml"
    if given is not None:
        file.write_text(yaml.safe_dump(given))
    with pytest.raises(PrefdataError, match=re.escape(expected)):
        run_rounds(load_recipe(RECIPE), str(RECIPE), (), tmp_path / "out", count=1, settings=file)
    assert not (tmp_path / "out").exists()


def test_held_out_prompts_without_a_verifier_are_told_before_anything_is_made(tmp_path, settings):
    columns = [
        one for one in yaml.safe_load(RECIPE.read_text())["columns"] if one["name"] != "right"
    ]
    changes = [f"columns={columns}"]
    with pytest.raises(PrefdataError, match="the recipe has no verifier that could judge"):
        run_rounds(
            load_recipe(RECIPE, changes), str(RECIPE), changes, tmp_path / "out", count=1,
            settings=settings,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """A run without verifiers, so that no model is evaluated."""
    out = tmp_path_factory.mktemp("rehearsed") / "run"
    raw = yaml.safe_load(RECIPE.read_text())
    columns = [column for column in raw["columns"] if column["name"] != "right"]
    loaded = load_recipe(RECIPE, [f"columns={columns}", "num_records=4", f"output_dir={out}"])
    build(loaded, out, rehearse=True, say=str)
    return out


@pytest.mark.parametrize(
    "line, expected",
    [
        ("false {pairs} {out}", "ended with exit code 1"),
        ("true {pairs} {out}", "left no model there"),
        ("there-is-none {pairs} {out}", "cannot be run"),
        ("train.py {pairs}", "{out} is missing"),
    ],
)
def test_a_command_that_does_not_train_is_told(rehearsed, tmp_path, line, expected):
    with pytest.raises(PrefdataError, match=re.escape(expected)):
        given = load_settings(
            TrlSettings, None, [f"command={line}", f"model={QUICKSTART}/models/lm"]
        )
        train_trl(rehearsed, given, tmp_path / "out", say=str)
