"""A small recipe to start from, and the folder of the models that ship."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import yaml
from filelock import FileLock

from prefdata.recipe.loader import load_recipe

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART = ROOT / "recipes" / "quickstart"


def pytest_collection_modifyitems(items):
    """Files with slow tests first: what comes last is short, and processes end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


class Project:
    """A folder with seeds and a recipe that a test changes before it loads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe = {
            "output_dir": str(folder / "run"),
            "seed_dataset": {"path": "seeds.jsonl", "fields": ["prompt", "answer"]},
            "models": [
                {
                    "alias": "hot",
                    "model": "scripted",
                    "inference_parameters": {"temperature": 0.9, "max_tokens": 32},
                },
                {"alias": "grader", "model": "scripted"},
            ],
            "columns": [
                {
                    "name": "candidates",
                    "type": "candidates",
                    "model_alias": "hot",
                    "samples": 4,
                    "prompt": "Answer: {{ prompt }}",
                },
                {
                    "name": "reward",
                    "type": "reward_model",
                    "model_alias": "grader",
                    "candidates": "candidates",
                    "prompt": "{{ prompt }}",
                },
            ],
            "output_projection": {
                "type": "preference_pairs",
                "candidates": "candidates",
                "score": "reward",
                "strategy": "best_vs_worst",
            },
        }
        self.write_seeds([{"prompt": f"question {n}", "answer": n} for n in range(20)])

    def write_seeds(self, rows, name="seeds.jsonl"):
        lines = [row if isinstance(row, bytes) else orjson.dumps(row) for row in rows]
        (self.folder / name).write_bytes(b"".join(line + b"\n" for line in lines))

    def write(self) -> Path:
        file = self.folder / "recipe.yaml"
        file.write_text(yaml.safe_dump(self.recipe, sort_keys=False))
        return file

    def load(self, *overrides):
        return load_recipe(self.write(), overrides)


@pytest.fixture(autouse=True)
def _environment():
    """What a test sets for its own sake, such as CUDA_VISIBLE_DEVICES, ends with it."""
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


@pytest.fixture(scope="session")
def quickstart_models():
    return QUICKSTART / "models"


def hear_ctrl_c():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job inherits it ignored


@pytest.fixture(scope="session")
def quickstart_run(tmp_path_factory):
    """The folder of the quickstart's run, built by the real command, once for all processes.

    Its output lies beside it. Whoever changes something there works on a copy.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, is_done = root / "quickstart", root / "quickstart" / "done"
    command = [sys.executable, "-m", "prefdata", "build", "recipes/quickstart/recipe.yaml"]
    with FileLock(root / "quickstart.lock"):
        if not is_done.exists():
            done = subprocess.run(
                [*command, "--out", folder / "run"], cwd=ROOT, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            (folder / "printed").write_text(done.stdout)
            is_done.touch()
    return folder / "run"
