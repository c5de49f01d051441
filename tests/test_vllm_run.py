"""Whole runs over real vLLM: two replicas, killed workers, killed engines, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import moments
import orjson
import pytest
from conftest import ROOT, hear_ctrl_c
from waiting import PATIENCE, wait_until, wait_until_stopped

from prefdata.storage.folders import read_rows

pytest.importorskip("vllm", reason="vLLM is not installed here")
pytestmark = [pytest.mark.vllm, pytest.mark.slow]

RECIPE = "recipes/quickstart/recipe.yaml"
OVERRIDES = [
    "num_records=120",
    *(f"models.{n}.provider=vllm" for n in range(3)),
    # so few at a time that an engine has most of its texts before it when the first are finished
    *(f"models.{n}.engine.max_num_seqs=8" for n in range(2)),
]
TEXTS, FIRST = 8 * 120, 20


class Run(subprocess.Popen):
    """A run, and those of its processes that were stopped with it."""

    stopped = frozenset()


def start(out, *more, program=(sys.executable, "-m", "prefdata"), **environment):
    return Run(
        [*program, "build", RECIPE, *OVERRIDES, *more, "--gpus", "0", "--out", str(out)],
        cwd=ROOT,
        env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )


def start_and_stop(out, *more, **environment):
    """A run that has stopped itself in the middle of an early answer, and all that it started.

    Else its engines, which go on by themselves, might have nothing to do when they are killed.
    """
    program = moments.command(out, signal.SIGSTOP, "journal text", FIRST)
    run = start(out, *more, program=program, **environment)
    wait_until_stopped(run)
    run.stopped = descendants(run.pid)
    signal_all(run.stopped, signal.SIGSTOP)
    return run


def signal_all(pids, sign):
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, sign)


def finish(run, code=0):
    signal_all({run.pid, *run.stopped}, signal.SIGCONT)
    printed, said = run.communicate(timeout=2 * PATIENCE)
    assert run.returncode == code, said
    return printed, said


def record_of(out):
    return orjson.loads((out / "run.json").read_bytes())


def texts_of(out):
    """What was generated, by row; scores to the fourth digit, since batches round."""
    return {
        row["id"]: (
            [one["text"] for one in row["candidates"]],
            [round(score, 3) + 0.0 for score in row["reward"]],
        )
        for row in read_rows(out / "candidates")
    }


def journaled(out):
    return sum(file.read_bytes().count(b"\n") for file in (out / "journal").glob("*.jsonl"))


def processes():
    """Parent and command of every living process, by its number."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:2]
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            found[int(folder.name)] = int(parent), command
    return found


def descendants(pid):
    every = processes()
    found, new = set(), {pid}
    while new:
        new = {child for child, (parent, _) in every.items() if parent in new} - found
        found |= new
    return found


def workers_of(run):
    """Workers, those that were started first first: the next model's only prepare."""
    every = processes()
    found = [p for p in descendants(run.pid) if "prefdata.workers.worker" in every[p][1]]
    return sorted(found, key=started)


def started(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(out))
    assert record_of(out)["loads"] == ["models/lm", "models/rm"]
    return texts_of(out)


def differing(one, other):
    return [key for key in one if one[key] != other[key]]


def test_two_replicas_one_of_which_is_killed_make_the_rows_of_one(undisturbed, tmp_path):
    out = tmp_path / "run"
    run = start_and_stop(out, "--replicas", "2")
    family = descendants(run.pid)
    workers = workers_of(run)
    assert len(workers) == 4  # two that work, two that prepare to take their places
    os.kill(workers[0], signal.SIGKILL)
    _, said = finish(run)
    assert "died (signal 9)" in said
    assert texts_of(out) == undisturbed
    assert record_of(out)["requests"]["generated"] == TEXTS
    assert not family & processes().keys()


def test_an_engine_core_killed_in_the_middle_changes_no_row(undisturbed, tmp_path):
    out = tmp_path / "run"
    run = start_and_stop(out, "--replicas", "2", VLLM_ENABLE_V1_MULTIPROCESSING="1")
    worker = workers_of(run)[0]
    wait_until(
        lambda: "VLLM::EngineCore" in str([processes()[p] for p in descendants(worker)]), run
    )
    every = processes()
    cores = [p for p in descendants(worker) if "resource_tracker" not in every[p][1]]
    for core in cores:
        os.kill(core, signal.SIGKILL)
    family = descendants(run.pid)
    _, said = finish(run)
    assert "died" in said
    assert texts_of(out) == undisturbed
    assert not family & processes().keys()


def test_a_run_that_is_asked_to_stop_leaves_nobody_behind_and_goes_on_later(undisturbed, tmp_path):
    out = tmp_path / "run"
    run = start_and_stop(out, "--replicas", "2")
    family = descendants(run.pid)
    run.send_signal(signal.SIGINT)
    _, said = finish(run, code=130)
    assert said.splitlines()[-1] == "interrupted; run the same command again to continue"
    assert not family & processes().keys()
    kept = journaled(out)
    assert FIRST <= kept < TEXTS
    finish(start(out))
    assert texts_of(out) == undisturbed
    assert record_of(out)["requests"]["replayed"] == kept


def test_a_judge_hot_and_cool_answers_of_one_checkpoint_load_it_once(tmp_path):
    model = ROOT / "recipes" / "quickstart" / "models" / "lm"
    seeds = ROOT / "recipes" / "quickstart" / "prompts.jsonl"
    changes = [f"models.{n}.model={model}" for n in range(2)]
    command = [
        *(sys.executable, "-m", "prefdata", "build", "recipes/rl_pref.yaml", *changes),
        *("models.0.provider=vllm", "models.1.provider=vllm", f"seed_dataset.path={seeds}"),
        *("num_records=40", f"output_dir={tmp_path / 'run'}", "--gpus", "0"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = record_of(tmp_path / "run")
    assert record["loads"] == [str(model)]
    assert record["pairs"]["train"] > 10


STAGE = """
async def twice(row, ask):
    chat = [{"role": "user", "content": row["prompt"]}]
    draft, second = await ask("lm", row["prompt"]), await ask("lm", chat, temperature=0.3)
    gain = await ask.score("rm", [*chat, {"role": "assistant", "content": second.text}])
    return {"draft": draft, "second": second, "gain": gain}
"""


def test_a_stage_of_ones_own_asks_and_scores_and_repeats_nothing_after_an_edit(tmp_path):
    quickstart = ROOT / "recipes" / "quickstart"
    sampling = {"temperature": 0.9, "max_tokens": 16}
    engine = {"provider": "vllm"}
    recipe = {
        "output_dir": str(tmp_path / "run"),
        "seed_dataset": {"path": str(quickstart / "prompts.jsonl"), "limit": 8},
        "models": [
            {"alias": "lm", "model": str(quickstart / "models/lm"), "inference_parameters": sampling}  # noqa: E501
            | engine,
            {"alias": "rm", "model": str(quickstart / "models/rm")} | engine,
        ],
        "columns": [
            {"name": "twice", "type": "stage", "function": "mine:twice", "model_alias": "lm"}
            | {"reward_alias": "rm", "returns": {"draft": "str", "second": "str", "gain": "float"}},
            {"name": "reward", "type": "reward_model", "model_alias": "rm"}
            | {"responses": ["draft", "second"], "prompt": "{{ prompt }}"},
            {"name": "asks", "type": "llm_text", "writes": "user", "model_alias": "lm"},
            {"name": "talk", "type": "converse", "model_alias": "lm", "user_alias": "lm"}
            | {"prompt": "{{ asks }}", "turns": 2},
            {"name": "judged", "type": "llm_judge", "model_alias": "lm"}
            | {"responses": ["draft", "second"], "tournament": {"type": "swiss"}}
            | {"prompt": "{{ prompt }} A: {{ response_a }} B: {{ response_b }}"},
        ],
        "output_projection": {"type": "preference_pairs", "responses": ["draft", "second"]}
        | {"score": "reward", "strategy": "best_vs_worst"},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))

    def build():
        command = [sys.executable, "-m", "prefdata", "build", tmp_path / "recipe.yaml"]
        cpu = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}
        done = subprocess.run([*command, "--gpus", "0"], capture_output=True, text=True, env=cpu)
        assert (tmp_path / "run" / "run.json").is_file(), done.stderr
        return record_of(tmp_path / "run")["requests"], list(read_rows(tmp_path / "run/candidates"))

    (tmp_path / "mine.py").write_text(STAGE)
    asked, rows = build()
    judged = [row for row in rows if row["draft"] != row["second"]]
    # a turn that is blank or cut off rejects its row, which may have asked less
    assert asked["generated"] >= 16 + 8 + 2 * len(rows) + 2 * len(judged)
    assert rows and all(len(row["talk"]) == 3 and row["asks"] for row in rows)
    assert all(row["judged"]["draft"] is not None for row in rows)
    assert {row["second__meta"]["temperature"] for row in rows} == {0.3}
    assert all(isinstance(row["gain"], float) for row in rows)
    (tmp_path / "mine.py").write_text(STAGE.replace("gain = ", "gain = -1 * "))
    again, edited = build()
    assert (again["generated"], again["scored"]) == (0, 0)
    assert [row["gain"] for row in edited] == [-row["gain"] for row in rows]
