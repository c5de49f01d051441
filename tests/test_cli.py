# ruff: noqa: E501 (messages stand in one piece beside what causes them)
import json
import re
import signal
import subprocess
import sys

import forks
import moments
import pytest
from conftest import QUICKSTART
from typer.testing import CliRunner

from prefdata.cli import app
from prefdata.storage.folders import read_rows


@pytest.fixture(autouse=True)
def own_signals():
    """The command takes SIGTERM for itself; give it back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def command(project, monkeypatch):
    """Run the command in this process, from the project's folder; `RECIPE` is its recipe."""
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments):
        recipe = str(project.write().relative_to(project.folder))
        return CliRunner().invoke(app, [recipe if a == "RECIPE" else str(a) for a in arguments])

    return command


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def judged(project):
    """Verdicts drawn from A, B and tie, so that some rows end without a pair."""
    project.recipe["columns"] = [
        {"name": name, "type": "llm_text", "model_alias": "hot", "prompt": "{{ prompt }}"}
        for name in ("response_a", "response_b")
    ]
    project.recipe["columns"].append(
        {
            "name": "judge",
            "type": "llm_structured",
            "model_alias": "hot",
            "prompt": "{{ response_a }} {{ response_b }}",
            "output_format": {
                "type": "object",
                "properties": {"winner": {"enum": ["A", "B", "tie"]}},
            },
        }
    )
    project.recipe["output_projection"] = {"type": "dpo_preference"}


# build


def test_a_build_that_ends_well_exits_with_0_and_sums_up(command, project):
    done = command("build", "RECIPE", "--rehearse")
    assert done.exit_code == 0, done.output
    assert "20 train from 20 prompts" in done.stdout
    assert "scripted answers" in done.stdout
    assert len(list(read_rows(project.folder / "run-rehearsal" / "pairs"))) == 20
    assert not (project.folder / "run").exists()


def test_out_and_overrides_win_over_the_recipe(command, project):
    done = command("build", "RECIPE", "num_records=3", "--rehearse", "--out", "else where")
    assert done.exit_code == 0, done.output
    assert len(list(read_rows(project.folder / "else where-rehearsal" / "pairs"))) == 3


@pytest.mark.parametrize(
    "name", ["2026", "2026-01-02", "a: b", "it's", "x${y}", "é🦊", "[1]", "null"]
)
def test_out_is_a_path_whatever_it_looks_like(command, project, name):
    done = command("build", "RECIPE", "num_records=1", "--rehearse", "--out", name)
    assert done.exit_code == 0, done.output
    assert (project.folder / f"{name}-rehearsal" / "pairs").is_dir()


def test_a_rehearsal_refuses_an_output_path_as_the_run_would(command, project):
    (project.folder / "mine.jsonl").write_text("mine")
    for more in (["--rehearse"], []):
        done = command("build", "RECIPE", "output_path=mine.jsonl", *more)
        assert done.exit_code == 2
        assert "prefdata did not write it" in done.output
    done = command("build", "RECIPE", "output_path=seeds.jsonl", "--rehearse", "--force")
    assert "a file of the seeds, and would be replaced" in done.output


def test_a_rehearsal_writes_no_output_path(command, project):
    done = command("build", "RECIPE", "output_path=pairs.jsonl", "--rehearse", "num_records=1")
    assert done.exit_code == 0, done.output
    assert not (project.folder / "pairs.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["build", "RECIPE", "num_record=3"], "error: command line: num_record: there is no key"),
        (["build", "nope.yaml"], "error: nope.yaml: recipe not found"),
        (["build", "RECIPE", "seed_dataset.path=nope.jsonl", "--rehearse"], "error: seed_dataset.path: file not found"),
        (["build", "RECIPE", "models.0.model=./nope"], "error: model 'hot': there is no folder"),
        (["build", "RECIPE", "--gpus", "8"], "error: --gpus 8: this process sees 0 GPUs"),
        (["build", "RECIPE", "-n", "5"], "error: -n 5 is for --preview"),
        (["plan", "RECIPE", "seed_dataset.path=nope.jsonl"], "error: seed_dataset.path: file not found"),
        (["plan", "RECIPE", "models.9.model=x"], "error: override 'models.9.model'"),
        (["rounds", "RECIPE", "seed=1", "evaluation.limit=20"], "error: evaluation.limit=20: the recipe has no such key, but the training has such a setting"),
        (["rounds", "RECIPE", "evaluation.limit=20", "num_record=3"], "error: command line: evaluation: there is no key"),
        (["train", ".", "--settings", "nope.yaml"], "error: nope.yaml: settings not found"),
        (["pairs", "nowhere"], "error: nowhere: not found"),
        (["pairs", "seeds.jsonl"], "error: seeds.jsonl: for a file, the output folder is required; give it with --out DIR"),
        (["pairs", "."], "error: .: no finished run there"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_what_the_user_can_fix_is_a_message_on_stderr_and_exit_code_2(
    command, project, arguments, expected
):
    before = files(project.folder)
    done = command(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith(expected)
    assert "Traceback" not in done.stderr
    made = {name for name in files(project.folder) - before if not name.startswith("run")}
    assert made <= {"recipe.yaml"}


def test_every_problem_of_a_recipe_is_named_at_once(command, project):
    project.recipe["columns"][0]["prompt"] = "{{ promt }}"
    project.recipe["columns"][1]["candidates"] = "candidate"
    done = command("build", "RECIPE")
    places = ["columns.0.prompt", "columns.1.candidates", "output_projection.score"]
    lines = done.stderr.splitlines()
    assert all(f": {place}: " in line for place, line in zip(places, lines, strict=True))


def test_a_yield_below_the_wanted_one_exits_with_3_and_keeps_everything(command, project):
    judged(project)
    done = command("build", "RECIPE", "--rehearse", "min_yield=0.99")
    assert done.exit_code == 3, done.output
    assert "below min_yield 99.0%" in done.stderr
    pairs = list(read_rows(project.folder / "run-rehearsal" / "pairs"))
    assert 0 < len(pairs) < 20
    assert command("build", "RECIPE", "--rehearse", f"min_yield={len(pairs) / 20}").exit_code == 0


def test_a_run_without_a_pair_exits_with_3_and_names_the_commonest_reason(command, project):
    done = command("build", "RECIPE", "--rehearse", "output_projection.min_margin=1000")
    assert done.exit_code == 3, done.output
    assert "no row has a pair; the commonest reason: pairs: below_min_margin (20 rows)" in (
        done.stderr
    )
    assert "such as" in done.stdout
    run = f"{project.folder / 'run'}-rehearsal"
    commands = [line.split("prefdata ")[1] for line in done.stdout.splitlines()[-2:]]
    assert commands == [f"inspect {run} --rejects", f"pairs {run} …"]


def test_a_run_ends_with_what_can_be_done_next(command, project):
    done = command("build", "RECIPE", "--rehearse")
    run = f"{project.folder / 'run'}-rehearsal"
    commands = [line.split("prefdata ")[1] for line in done.stdout.splitlines()[-3:]]
    assert commands == [f"inspect {run}", f"report {run}", f"export {run} --format trl"]
    for line in commands:
        assert command(*line.split(), *(["-n", "1"] if "inspect" in line else [])).exit_code == 0


def test_the_commonest_reject_is_told_with_its_detail(command, project):
    project.write_seeds([{"prompt": f"q {n}", "answer": n} for n in range(3)] + [b"{[b]broken"] * 2)
    done = command("build", "RECIPE", "--rehearse")
    assert re.search(r"seeds: bad_line +│ 2 .*\n.*such as +│ not valid JSON", done.stdout)


def test_what_the_seeds_have_to_say_is_said_on_stderr(command, project):
    project.write_seeds([{"prompt": "q", "answer": 1}, b"{broken"])
    done = command("build", "RECIPE", "--rehearse", "num_records=3")
    assert "num_records: 3 rows from 1 seeds" in done.stderr
    assert "seeds.jsonl:2: bad_line: not valid JSON" in done.stderr
    assert done.exit_code == 0


# Preview


def test_a_preview_shows_full_records_and_leaves_nothing_behind(command, project, monkeypatch):
    temporary = project.folder / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    project.recipe["output_path"] = "pairs.jsonl"
    before = files(project.folder) | {"recipe.yaml"}
    done = command("build", "RECIPE", "--preview", "--rehearse", "-n", "3")
    assert done.exit_code == 0, done.output
    for title in ("row 3", "pair 3"):
        assert title in done.stdout
    assert "row 4" not in done.stdout
    assert done.stdout.count("chosen: ") == 3 and "rehearsed answer" in done.stdout
    assert files(project.folder) == before


def test_a_preview_shows_two_records_by_default(command):
    done = command("build", "RECIPE", "--preview", "--rehearse")
    assert "row 2" in done.stdout and "row 3" not in done.stdout


def test_a_preview_shows_a_request_of_every_column_as_its_model_will_read_it(command, project):
    for n, name in enumerate(("lm", "rm")):
        project.recipe["models"][n]["model"] = str(QUICKSTART / "models" / name)
    done = command("build", "RECIPE", "--preview", "--rehearse", "-n", "1")
    asked = "<|begin|><|user|>Answer: question 0<|end|><|assistant|>"
    assert f"candidates asks hot, as the model reads it:\n{asked}\n" in done.stdout
    assert "reward asks grader, as the model reads it:\n<|begin|><|user|>question 0" in done.stdout


# Plan


def test_a_plan_shows_a_request_as_its_model_will_read_it(command, project):
    project.recipe["models"][0]["model"] = str(QUICKSTART / "models" / "lm")
    project.recipe["models"][0]["system_prompt"] = "Be brief."
    done = command("plan", "RECIPE")
    asked = "<|system|>Be brief.<|end|><|user|>Answer: question 0<|end|><|assistant|>"
    assert f"candidates asks hot, as the model reads it:\n<|begin|>{asked}\n" in done.stdout


def test_a_plan_shows_the_messages_that_a_server_will_get(command, project):
    project.recipe["providers"] = [{"name": "srv", "endpoint": "http://localhost:1/v1"}]
    project.recipe["models"][0]["provider"] = "srv"
    done = command("plan", "RECIPE")
    assert "candidates asks hot, as messages:" in done.stdout
    assert '"content": "Answer: question 0"' in done.stdout


def test_a_plan_shows_passes_loads_and_requests_and_runs_nothing(command, project):
    before = files(project.folder) | {"recipe.yaml"}
    for n, name in enumerate(("lm", "rm")):
        project.recipe["models"][n]["model"] = str(QUICKSTART / "models" / name)
    done = command("plan", "RECIPE", "num_records=40")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        "40 rows, 0 bad seeds",
        "num_records: 40 rows from 20 seeds: each is used 2.0 times, with fresh sampling seeds",
    ]
    assert "pass 1: candidates" in lines and "pass 2: reward" in lines
    assert sum("requests     160" in line for line in lines) == 2
    assert "2 passes, 2 model loads" in done.stdout
    assert files(project.folder) == before


def test_the_plan_of_the_quickstart_measures_prompts_and_sizes(command):
    done = command("plan", QUICKSTART / "recipe.yaml")
    assert done.exit_code == 0, done.output
    assert "240 rows, 0 bad seeds" in done.stdout
    assert "pass 2: reward + right" in done.stdout
    assert "at most 61,440 completion" in done.stdout  # 240 rows, 8 samples, 32 tokens
    [first, _] = [line for line in done.stdout.splitlines() if "tokens   " in line]
    assert "?" not in first


def test_a_plan_tells_gpu_hours_and_money_from_a_config_alone(command, project):
    shape = {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    }  # fmt: skip
    for n, head in enumerate(("CausalLM", "SequenceClassification")):
        (project.folder / head).mkdir()
        config = shape | {"architectures": [f"Llama{head}"]}
        (project.folder / head / "config.json").write_text(json.dumps(config))
        project.recipe["models"][n]["model"] = head
    project.recipe["models"][0]["inference_parameters"]["max_tokens"] = 22_444 * 9
    done = command("plan", "RECIPE", "num_records=500", "--gpus", "8", "--price", "2.5")
    assert done.exit_code == 0, done.output
    # 2,000 texts of 9 s, and for each 512 tokens to read, and again to score
    assert "at most 5.01 GPU-hours, 0.627 h on 8 GPUs, 12.53 at 2.5 a GPU-hour" in done.stdout


# Pairs again


def test_pairs_of_a_run_are_chosen_again_by_other_rules(command, project):
    assert command("build", "RECIPE", "--rehearse").exit_code == 0
    done = command("pairs", "run-rehearsal", "strategy=exhaustive", "--out", "again")
    assert done.exit_code == 0, done.output
    assert len(list(read_rows(project.folder / "again" / "pairs"))) == 20 * 6
    assert len(list(read_rows(project.folder / "run-rehearsal" / "pairs"))) == 20
    wrong = command("pairs", "run-rehearsal", "stratgy=exhaustive")
    assert wrong.exit_code == 2
    assert "command line: output_projection.stratgy: there is no key" in wrong.stderr


def test_pairs_of_a_file_take_its_own_field_names(command, project):
    rows = [
        {"turn": turn, "question": f"q{turn}", "answer": f"answer {n}", "points": n}
        for turn in range(3)
        for n in range(4)
    ]
    project.write_seeds(rows, "scored.jsonl")
    done = command(
        "pairs", "scored.jsonl", "strategy=top_k_bottom_k", "k=2", "--out", "out",
        "--group", "turn", "--prompt", "question", "--text", "answer", "--score", "points",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    pairs = list(read_rows(project.folder / "out" / "pairs"))
    assert len(pairs) == 12
    assert {(p["prompt"], p["chosen"], p["rejected"]) for p in pairs} >= {
        ("q0", "answer 3", "answer 0")
    }
    none = command(
        "pairs", "scored.jsonl", "min_margin=100", "--out", "none",
        "--group", "turn", "--prompt", "question", "--text", "answer", "--score", "points",
    )  # fmt: skip
    assert none.exit_code == 3 and "no row has a pair; the commonest reason: pairs" in none.stderr
    wrong = command("pairs", "scored.jsonl", "stratgy=x", "--out", "out")
    assert wrong.exit_code == 2 and "did you mean 'strategy'?" in wrong.stderr


# The process


def test_the_command_without_arguments_shows_its_help(command):
    assert {"build", "plan", "pairs"} <= set(command().output.split())


def test_a_wrong_option_is_exit_code_2(command):
    assert command("build", "RECIPE", "--gpu", "1").exit_code == 2
    assert command("build", "RECIPE", "--gpus", "-1").exit_code == 2


@pytest.mark.parametrize("size", ["abc", "[", "{a: 1", "nan", "1.5", "-3", ""])
def test_a_test_size_that_is_none_is_one_line(command, size):
    run = command("export", "run", "--format", "trl", "--test-size", size)
    assert run.exit_code == 2
    assert "give a number of prompts, or a fraction below 1" in run.stderr


def test_an_argument_that_is_not_utf_8_is_one_line(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "prefdata", "check", "recipe.yaml", b"output_dir=\xff"],
        stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 2
    assert run.stderr.startswith("error: argument 3 of the command, 'output_dir=\\udcff', is not")


@pytest.mark.parametrize("options", [[], ["-u"]], ids=["buffered", "unbuffered"])
def test_a_reader_that_leaves_early_as_head_does_is_no_bug(options):
    command = [sys.executable, *options, "-m", "prefdata", "schema"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.stdout.close()
    assert (run.stderr.read(), run.wait()) == (b"", 141)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_in_the_middle_of_a_run_exits_with_130_and_a_word(project, number):
    recipe = project.write()
    program = moments.command(project.folder / "run-rehearsal", number, "journal text", 10)
    words = ["build", recipe, "num_records=3000", "--rehearse"]
    process = forks.run(*words, watched=program, cwd=project.folder)
    said = process.stderr
    assert process.returncode == 130
    assert "interrupted; run the same command again to continue" in said.splitlines()
    assert "Traceback" not in said
