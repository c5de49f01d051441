"""The models that ship do what the README says of them."""

import re
import subprocess
import sys

import orjson
import pytest
from conftest import QUICKSTART, ROOT
from safetensors import safe_open

MODELS = QUICKSTART / "models"


@pytest.fixture(scope="module")
def figures():
    """The held-out table that the training script prints, by the names of its rows."""
    command = [sys.executable, "scripts/train_tiny_models.py", "--evaluate-only"]
    command += ["--questions", "150"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = re.findall(r"^(.{66}) (\d\.\d{3})$", done.stdout, flags=re.MULTILINE)
    return {name.strip(): float(value) for name, value in rows}


def named(figures, start, end=""):
    return [v for name, v in figures.items() if name.startswith(start) and name.endswith(end)]


def test_the_models_are_small():
    assert sum(file.stat().st_size for file in MODELS.rglob("*.*")) <= 16 * 2**20


@pytest.mark.parametrize("name", ["lm", "rm"])
def test_the_models_have_the_shape_that_vllm_wants(name):
    config = orjson.loads((MODELS / name / "config.json").read_bytes())
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    assert config["architectures"][0].startswith("Llama")
    assert head % 32 == 0
    with safe_open(MODELS / name / "model.safetensors", framework="numpy") as tensors:
        assert len(list(tensors.keys())) > 10


@pytest.mark.slow
def test_the_language_model_is_imperfect_and_knows_better(figures):
    [hot] = named(figures, "answers right at temperature 0.9")
    [cool] = named(figures, "answers right at temperature 0.3")
    assert 0.50 <= hot <= 0.75
    assert cool >= hot + 0.10


@pytest.mark.slow
def test_the_reward_model_tells_right_from_wrong(figures):
    [auc] = named(figures, "reward model: AUC")
    assert auc >= 0.95


@pytest.mark.slow
def test_the_judge_is_nearly_always_right(figures):
    verdicts = named(figures, "judge, ", ": right")
    assert len(verdicts) >= 4
    assert min(verdicts) >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["subtopic", "question"])
def test_lists_have_the_form_that_was_asked_for(figures, kind):
    shares = named(figures, f"{kind} lists well formed")
    assert len(shares) == 2
    assert min(shares) >= 0.6


@pytest.mark.parametrize("name", ["lm", "rm"])
def test_a_tokenizer_pads_only_when_asked(name):
    tokenizer = orjson.loads((MODELS / name / "tokenizer.json").read_bytes())
    assert tokenizer["padding"] is None
