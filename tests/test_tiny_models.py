"""The models that ship do what the README says of them."""

import re
import subprocess
import sys

import pytest
from conftest import QUICKSTART, ROOT
from safetensors import safe_open

MODELS = QUICKSTART / "models"


@pytest.fixture(scope="module")
def figures():
    command = [sys.executable, "scripts/train_tiny_models.py", "--evaluate-only"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = re.findall(r"^(\S.*?)\s{2,}([01]\.\d+)$", done.stdout, flags=re.MULTILINE)
    return {name: float(value) for name, value in lines}


def test_the_models_are_small():
    assert sum(file.stat().st_size for file in MODELS.rglob("*.*")) <= 16 * 2**20


@pytest.mark.parametrize("name", ["lm", "rm"])
def test_the_models_have_the_shape_that_vllm_wants(name):
    import orjson

    config = orjson.loads((MODELS / name / "config.json").read_bytes())
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    assert config["architectures"][0].startswith("Llama")
    assert head % 32 == 0
    with safe_open(MODELS / name / "model.safetensors", framework="numpy") as tensors:
        assert len(list(tensors.keys())) > 10
