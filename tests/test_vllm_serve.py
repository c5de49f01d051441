"""A real `vllm serve` on loopback, asked through the official client."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from conftest import QUICKSTART

from prefdata.pipeline import build
from prefdata.storage.folders import read_rows

pytest.importorskip("vllm", reason="vLLM is not installed here")
pytestmark = pytest.mark.vllm

LM = QUICKSTART / "models" / "lm"
KEY = "a-key-of-its-own"
START_SECONDS = 300


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The server's; it wants a key, and serves the quickstart's language model as `tiny`."""
    log = (tmp_path_factory.mktemp("serve") / "log").open("w")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", LM,
            "--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager",
            "--max-model-len", "1024", "--no-enable-chunked-prefill", "--host", "127.0.0.1",
            "--port", str(port), "--api-key", KEY,
        ],
        env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"},
        stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + START_SECONDS
        while not is_up(port):
            assert process.poll() is None, "it has ended; see its log"
            assert time.monotonic() < end, "it did not start in time"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()


def is_up(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


SAMPLING = {"temperature": 0.9, "max_tokens": 32, "top_k": 40}
WINNER = {
    "type": "object",
    "properties": {"winner": {"type": "string", "enum": ["A", "B"]}},
    "required": ["winner"],
}


@pytest.fixture
def served(project, address, monkeypatch):
    monkeypatch.setenv("TINY_KEY", KEY)
    project.recipe |= {
        "providers": [{"name": "srv", "endpoint": address, "api_key": "TINY_KEY"}],
        "seed_dataset": {"path": str(QUICKSTART / "prompts.jsonl"), "fields": ["prompt", "answer"]},
        "num_records": 40,
        "models": [
            {"alias": "hot", "model": "tiny", "provider": "srv", "inference_parameters": SAMPLING},
            {
                "alias": "greedy", "model": "tiny", "provider": "srv",
                "inference_parameters": {"temperature": 0.0, "max_tokens": 32},
            },
            {
                "alias": "here", "model": str(LM), "provider": "transformers",
                "inference_parameters": {"temperature": 0.0, "max_tokens": 32},
            },
        ],
    }  # fmt: skip
    return project


def test_a_judged_run_on_a_real_server(served):
    text = {"type": "llm_text", "prompt": "{{ prompt }}"}
    served.recipe["columns"] = [
        {"name": "response_a", "model_alias": "hot", **text},
        {"name": "response_b", "model_alias": "greedy", **text},
        {"name": "same", "model_alias": "here", **text},
        {
            "name": "judge", "type": "llm_judge", "model_alias": "greedy",
            "prompt": "Compare two responses for: {{ prompt }}\nA: {{ response_a }}\n"
            "B: {{ response_b }}\nWhich is more helpful and correct?",
            "output_format": WINNER,
        },
        {
            "name": "rating", "type": "rubric_judge", "model_alias": "hot", "scale": [1, 5],
            "criteria": {"right": "is it right?"}, "responses": ["response_a", "response_b"],
            "prompt": "Rate this: {{ response }}",
        },
    ]  # fmt: skip
    served.recipe["output_projection"] = {"type": "dpo_preference"}
    record = build(served.load(), served.folder / "run", say=lambda line: None)
    rows = list(read_rows(served.folder / "run" / "candidates"))
    assert len(rows) == 40
    assert all(row["response_b"] == row["same"] for row in rows)
    assert all(row["response_b__meta"]["prompt_tokens"] == row["same__meta"]["prompt_tokens"] for row in rows)  # noqa: E501  # fmt: skip
    assert {row["judge"]["winner"] for row in rows} <= {"A", "B", "tie"}
    ratings = [row["rating"]["response_a"] for row in rows]
    assert all(1 <= rating <= 5 for rating in ratings)
    assert not all(rating == round(rating) for rating in ratings)
    assert record["pairs"]["train"] > 5


def test_the_same_command_goes_on_after_a_stop(served):
    text = {"type": "llm_text", "prompt": "{{ prompt }}"}
    served.recipe["columns"] = [
        {"name": "response_a", "model_alias": "hot", **text},
        {"name": "response_b", "model_alias": "greedy", **text},
        {"name": "right", "type": "verifier", "method": "number", "reference": "answer",
         "responses": ["response_a", "response_b"]},
    ]  # fmt: skip
    served.recipe["output_projection"] = {
        "type": "preference_pairs", "responses": ["response_a", "response_b"], "score": "right",
        "strategy": "best_vs_worst",
    }  # fmt: skip
    build(served.load("num_records=10"), served.folder / "run", say=lambda line: None)
    record = build(served.load(), served.folder / "run", say=lambda line: None)
    assert record["requests"] == {"generated": 60, "scored": 0, "replayed": 20}
