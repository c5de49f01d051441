"""Replicas that make texts, then scores, one text far longer than the others: wall against work.

    python scripts/bench_overlap.py [--rows 256]
    .venv-vllm/bin/python scripts/bench_overlap.py --vllm [--rows 2000]

Eight stubs do so many requests at a time as they have capacity, each as long as its prompt says,
and cost no CPU: what is measured is how `prefdata.pipeline.build` deals them, over real sockets.
With `--vllm` two replicas on a core each load the quickstart's models into vLLM's CPU build; their
work is the time in which they load or have a request.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

REPLICAS, CAPACITY, SAMPLES = 8, 4, 2
TEXT, SCORE, LONGEST = 1.0, 0.8, 30.0
MODELS = Path(__file__).resolve().parent.parent / "recipes" / "quickstart" / "models"
SHORT_TOKENS, LONG_TOKENS = 8, 1200


@dataclass(frozen=True)
class Did:
    """What a replica did, by whom, from when to when."""

    role: str
    process: str
    begin: float
    end: float


def main() -> None:
    """Run the recipe once; print when the passes ended and how much work there was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--vllm", action="store_true")
    args = parser.parse_args()
    if args.vllm:
        _measure_vllm(args.rows or 2000)
    else:
        _measure_stubs(args.rows or 256)


def _measure_stubs(rows: int) -> None:
    from prefdata.workers.machine import Machine

    rng = random.Random(0)
    texts = [LONGEST] + [TEXT * rng.uniform(0.5, 1.5) for _ in range(rows - 1)]
    prompts = [f"{n} {seconds:.3f}" for n, seconds in enumerate(texts)]
    model = {"provider": "transformers", "model": str(MODELS / "lm")}
    machine = Machine(tuple("01234567"), worker=(__file__, "--replica", "stub"))
    done = _run(prompts, [model], model | {"model": str(MODELS / "rm")}, machine)
    start = min(one.begin for one in done)
    ends = max(one.end for one in done if one.role == "text") - start
    work = {"text": sum(texts) * SAMPLES, "score": SCORE * SAMPLES * rows}
    each = {role: seconds / REPLICAS / CAPACITY for role, seconds in work.items()}
    print(f"texts: {each['text']:.1f} s of work a place; scores: {each['score']:.1f} s")
    one_by_one, ideal = ends + each["score"], sum(each.values())
    print(f"one pass after another {one_by_one:.1f} s, {one_by_one / ideal:.2f} of the work")
    _tell(done, ideal)


def _measure_vllm(rows: int) -> None:
    from prefdata.workers.machine import Machine

    prompts = [f"{'long' if n == rows - 200 else 'short'} {n}" for n in range(rows)]
    with tempfile.TemporaryDirectory() as folder:
        endless = _endless(Path(folder) / "lm")
        text = {"provider": "vllm", "model": str(endless), "engine": {"max_num_seqs": 64}}
        reward = {"provider": "vllm", "model": str(MODELS / "rm"), "skip_health_check": True}
        machine = Machine(replicas=2, worker=(__file__, "--replica", "vllm"))
        done = _run(prompts, [text, text], reward, machine)
    busy = defaultdict(list)
    for one in done:
        busy[one.process].append((one.begin, one.end))
    _tell(done, sum(_covered(spans) for spans in busy.values()) / 2)


def _tell(done: list[Did], ideal: float) -> None:
    start = min(one.begin for one in done)
    ends = max(one.end for one in done if one.role == "text") - start
    begins = min(one.begin for one in done if one.role == "score") - start
    wall = max(one.end for one in done) - start
    print(f"the last text ends at {ends:.1f} s, the first score begins at {begins:.1f} s")
    print(f"work / replicas {ideal:.1f} s, measured {wall:.1f} s, {wall / ideal:.2f} of it")


def _covered(spans: list[tuple[float, float]]) -> float:
    """Seconds in which there is at least one of the spans."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def _endless(folder: Path) -> Path:
    """The quickstart's language model, whose texts end at `max_tokens` alone."""
    shutil.copytree(MODELS / "lm", folder, ignore=shutil.ignore_patterns("generation_config.json"))
    for name, keys in (
        ("config.json", {"max_position_embeddings": 8192, "eos_token_id": 3}),
        ("tokenizer_config.json", {"eos_token": "<unused>", "model_max_length": 8192}),
    ):
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | keys))
    return folder


def _run(prompts: list[str], texts: list[dict], reward: dict, machine: object) -> list[Did]:
    """What replicas did: each prompt has texts by the first model, the long one by the others."""
    from prefdata.pipeline import build
    from prefdata.recipe.loader import load_recipe

    lengths = [SHORT_TOKENS, LONG_TOKENS]
    sampling = [{"temperature": 0.9, "max_tokens": most} for most in lengths]
    models = [
        model | {"alias": f"lm{n}", "inference_parameters": sampling[n]}
        for n, model in enumerate(texts)
    ]
    columns = [
        {"name": "candidates", "type": "candidates", "model_alias": "lm0", "samples": SAMPLES}
    ]
    if len(models) > 1:
        only = {"skip_when": "{{ not prompt.startswith('long') }}"}
        columns.append({"name": "essay", "type": "llm_text", "model_alias": "lm1"} | only)
    score = {"name": "reward", "type": "reward_model", "model_alias": "rm"}
    columns.append(score | {"candidates": "candidates"})
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        (out / "seeds.jsonl").write_text("\n".join(json.dumps({"prompt": p}) for p in prompts))
        recipe = {
            "output_dir": str(out / "run"),
            "seed_dataset": {"path": "seeds.jsonl", "fields": ["prompt"]},
            "models": [*models, reward | {"alias": "rm"}],
            "columns": [column | {"prompt": "{{ prompt }}"} for column in columns],
            "output_projection": {
                "type": "preference_pairs",
                "candidates": "candidates",
                "score": "reward",
                "strategy": "best_vs_worst",
            },
        }
        (out / "recipe.yaml").write_text(json.dumps(recipe))
        os.environ["OVERLAP_LOG"] = str(out / "log")
        record = build(load_recipe(out / "recipe.yaml"), out / "run", machine=machine)
        assert record["requests"]["scored"] > len(prompts)
        lines = (out / "log").read_text().splitlines()
    return [
        Did(role, process, float(begin), float(end))
        for role, process, begin, end in (line.split() for line in lines)
    ]


def _note(role: str, begin: float) -> None:
    with Path(os.environ["OVERLAP_LOG"]).open("a") as file:
        file.write(f"{role} {os.getpid()} {begin} {time.time()}\n")


class _Stub:
    """An engine that waits as long as the prompt says."""

    capacity, steps = CAPACITY, 0

    def __init__(self, order) -> None:
        self._is_text, self._slots = order.role == "text", None

    async def ask(self, requests):
        self._slots = self._slots or asyncio.Semaphore(CAPACITY)
        for made in asyncio.as_completed([self._one(n, r) for n, r in enumerate(requests)]):
            yield await made

    async def _one(self, index, request):
        from prefdata.inference import Completion

        number, seconds = request.messages[0]["content"].split()[:2]
        async with self._slots:
            begin = time.time()
            await asyncio.sleep(float(seconds) if self._is_text else SCORE)
        _note("text" if self._is_text else "score", begin)
        if self._is_text:
            return index, Completion(f"{number} {request.seed}", "stop", 1, 1)
        return index, (random.random(),)


class _Noted:
    """vLLM's engine, which notes from when to when it has loaded, and had requests."""

    def __init__(self, order) -> None:
        from prefdata.engines import open_engine

        self._role, begin = "text" if order.role == "text" else "score", time.time()
        self._engine = open_engine(
            order.role, order.model, order.path, order.engine, order.adapters
        )
        self.capacity = self._engine.capacity
        _note("load", begin)

    @property
    def steps(self) -> int:
        return self._engine.steps

    async def ask(self, requests):
        begin = time.time()
        async for found in self._engine.ask(requests):
            yield found
        _note(self._role, begin)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--replica"]:
        from prefdata.workers.worker import prepare, serve

        kind = {"stub": _Stub, "vllm": _Noted}[sys.argv[2]]
        serve(Connection(int(sys.argv[3])), kind, prepare if kind is _Noted else lambda *_: None)
    else:
        main()
