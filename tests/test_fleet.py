"""The engines of a run: one checkpoint at a time where memory is short, none loaded twice."""

import os
import shutil
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from waiting import wait_until

from prefdata.pipeline import build
from prefdata.recipe.plan import plan_passes
from prefdata.run.passes import window_for
from prefdata.storage.folders import read_rows
from prefdata.workers.fleet import EAGER_TOKENS, Fleet, launch_options
from prefdata.workers.machine import Machine

ONE_GPU = Machine(gpus=("0",))  # there is none here: the workers find that out and use the CPU
QUIET = {"rehearse": False, "say": lambda line: None}


@pytest.fixture
def two_writers(project, quickstart_models):
    """One column that asks two checkpoints, and a reward model; the last prompt is too long."""
    for name in ("one", "two"):
        shutil.copytree(quickstart_models / "lm", project.folder / name)
    (project.folder / "two" / "extra.txt").write_text("so that it is another checkpoint")
    seeds = [{"prompt": f"What is {n} plus 4?", "answer": n + 4} for n in range(1, 9)]
    project.write_seeds([*seeds, {"prompt": "again " * 1500, "answer": 0}])
    parameters = {"temperature": 0.9, "max_tokens": 16}
    project.recipe["models"] = [
        *(
            {"alias": name, "model": name, "inference_parameters": parameters}
            for name in ("one", "two")
        ),
        {"alias": "grader", "model": str(quickstart_models / "rm")},
    ]
    project.recipe["columns"][0] |= {"model_alias": ["one", "two"], "samples": 2}
    return project


def rows(out):
    return [*read_rows(out / "candidates")], [*read_rows(out / "rejects")]


STUBS = Machine(gpus=tuple("01"), worker=(str(Path(__file__).with_name("stub_worker.py")),))


def test_rows_whose_texts_are_there_are_scored_while_the_last_text_is_made(
    project, quickstart_models, tmp_path
):
    gate, scored = tmp_path / "gate", tmp_path / "scored"
    rest = [f"row{n} scored={scored}" for n in range(1, 40)]
    texts = [f"slow until={gate}", *rest]
    project.write_seeds([{"prompt": text, "answer": 0} for text in texts])
    parameters = {"temperature": 0.9, "max_tokens": 16}
    project.recipe["models"] = [
        {"alias": name, "model": str(quickstart_models / model)}
        | {"inference_parameters": parameters if model == "lm" else {}}
        for name, model in (("writer", "lm"), ("thinker", "lm"), ("grader", "rm"))
    ]
    project.recipe["models"][1]["inference_parameters"] = parameters | {"max_reasoning_tokens": 9}
    project.recipe["columns"][0] |= {
        "model_alias": "writer",
        "samples": 2,
        "prompt": "{{ prompt }}",
    }
    project.recipe["columns"][1] |= {"prompt": "{{ prompt }}"}

    def open_the_gate():
        wait_until(lambda: len([*tmp_path.glob("scored-*")]) == 2 * len(rest))
        gate.touch()

    opener = threading.Thread(target=open_the_gate, daemon=True)
    opener.start()
    told = {"say": lambda line: None, "metrics": tmp_path / "task"}
    record = build(project.load(), tmp_path / "out", machine=STUBS, **told)
    answered = [one["answered"] for one in record["replicas"].values()]
    assert sum(answered) == 4 * len(texts)
    assert "prefdata_replica_answered_total" in (tmp_path / "task.prom").read_text()
    assert record["rows"] == record["pairs"]["train"] == len(texts)
    assert record["requests"]["generated"] == record["requests"]["scored"] == 2 * len(texts)
    assert record["requests"]["replayed"] == 0
    assert [Path(load).name for load in record["loads"]] == ["lm", "rm"]
    # a bound on thoughts is known when the model is loaded, whichever alias has it
    assert "thoughts: 9" in (tmp_path / "out" / "logs" / "writer-0.log").read_text()


def worker_pids():
    """Workers of this process; another run may have some on the same machine."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes()
            parent = int((file.parent / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"prefdata.workers.worker" in command and parent == os.getpid():
            found.add(file.parent.name)
    return found


def test_models_that_do_not_fit_together_take_turns_and_load_once(two_writers, tmp_path):
    loaded = two_writers.load()
    together, is_over = [], threading.Event()

    def watch():
        while not is_over.is_set():
            together.append(len(worker_pids()))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        record = build(loaded, tmp_path / "gpu", machine=ONE_GPU, say=lambda line: None)
    finally:
        is_over.set()
        watcher.join()
    assert max(together) == 2  # one that works, and one that prepares to take its place
    assert [Path(load).name for load in record["loads"]] == ["one", "two", "rm"]
    reference = build(loaded, tmp_path / "cpu", say=lambda line: None)
    assert rows(tmp_path / "gpu") == rows(tmp_path / "cpu")
    assert record["rejects"] == reference["rejects"]
    assert record["rejects"]["candidates: prompt_too_long"] == 1


@pytest.mark.vllm  # no other engine shares a GPU
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here")
@pytest.mark.parametrize(
    ("shares", "model_groups"),
    [([None, None], 2), ([0.5, 0.4], 1), ([0.6, 0.5], 2), ([0.5, None], 2)],
    ids=["untold", "room for both", "too much", "half told"],
)
def test_models_are_loaded_together_where_the_recipe_gives_each_its_share(
    two_writers, tmp_path, shares, model_groups
):
    for model, share in zip(two_writers.recipe["models"], shares, strict=False):
        model["provider"] = "vllm"
        model["engine"] = {} if share is None else {"gpu_memory_utilization": share}
    loaded = two_writers.load()
    first = plan_passes(loaded.recipe)[0]
    with Fleet(loaded, tmp_path, machine=ONE_GPU, **QUIET) as fleet:
        assert len(fleet.model_groups(first)) == model_groups


@pytest.mark.parametrize(("machine", "model_groups"), [(ONE_GPU, 2), (Machine(), 1)])
def test_models_that_need_no_gpu_are_loaded_together(two_writers, tmp_path, machine, model_groups):
    loaded = two_writers.load()
    with Fleet(loaded, tmp_path, machine=machine, **QUIET) as fleet:
        assert len(fleet.model_groups(plan_passes(loaded.recipe)[0])) == model_groups


def test_vllm_compiles_only_where_there_is_much_to_write():
    assert launch_options({"dtype": "bfloat16"}, EAGER_TOKENS) == {"dtype": "bfloat16"}
    assert launch_options({}, EAGER_TOKENS - 1) == {"enforce_eager": True}
    assert launch_options({"enforce_eager": False}, 1) == {"enforce_eager": False}


def test_the_window_grows_with_the_gpus(two_writers, tmp_path):
    loaded = two_writers.load()
    windows = []
    for machine in (Machine(), ONE_GPU, Machine(gpus=tuple("01234567"))):
        with Fleet(loaded, tmp_path, machine=machine, **QUIET) as fleet:
            windows.append(window_for(fleet.gpus))
    assert windows[0] >= 1000
    assert windows[2] == 8 * windows[1]
