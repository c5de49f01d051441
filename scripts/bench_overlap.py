"""Eight stub replicas, texts then scores, one text far longer than the others: wall against work.

    python scripts/bench_overlap.py [--rows 256]

A stub does so many requests at a time as it has capacity, each as long as its prompt says, and
costs no CPU: what is measured is how `prefdata.pipeline.build` deals them, over real sockets.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

REPLICAS, CAPACITY, SAMPLES = 8, 4, 2
TEXT, SCORE, LONGEST = 1.0, 0.8, 30.0
MODELS = Path(__file__).resolve().parent.parent / "recipes" / "quickstart" / "models"


def main() -> None:
    """Run the recipe once; print when the passes ended and how much work there was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=256)
    rows = parser.parse_args().rows
    from prefdata.pipeline import build
    from prefdata.recipe.loader import load_recipe
    from prefdata.workers.machine import Machine

    rng = random.Random(0)
    texts = [LONGEST] + [TEXT * rng.uniform(0.5, 1.5) for _ in range(rows - 1)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        lines = [json.dumps({"prompt": f"{n} {seconds:.3f}"}) for n, seconds in enumerate(texts)]
        (out / "seeds.jsonl").write_text("\n".join(lines))
        (out / "recipe.yaml").write_text(json.dumps(_recipe(out)))
        machine = Machine(tuple("01234567"), worker=(__file__, "--replica", str(out / "log")))
        record = build(load_recipe(out / "recipe.yaml"), out / "run", machine=machine)
        told = [line.split() for line in (out / "log").read_text().splitlines()]
    spans = {role: [float(at) for kind, at in told if kind == role] for role in ("text", "score")}
    start = min(spans["text"]) - min(texts)
    work = {"text": sum(texts) * SAMPLES, "score": SCORE * SAMPLES * rows}
    each = {role: seconds / REPLICAS / CAPACITY for role, seconds in work.items()}
    wall, ideal = max(spans["score"]) - start, sum(each.values())
    one_by_one = max(spans["text"]) - start + each["score"]
    ends, begins = max(spans["text"]) - start, min(spans["score"]) - start
    print(f"texts: {each['text']:.1f} s of work a place, the last ends at {ends:.1f} s")
    print(f"scores: {each['score']:.1f} s of work a place, the first ends at {begins:.1f} s")
    print(f"work / replicas {ideal:.1f} s")
    print(f"one pass after another {one_by_one:.1f} s, {one_by_one / ideal:.2f} of it")
    print(f"measured {wall:.1f} s, {wall / ideal:.2f} of it")
    assert record["requests"]["scored"] == rows * SAMPLES


def _recipe(out: Path) -> dict:
    sampling = {"inference_parameters": {"temperature": 0.9, "max_tokens": 8}}
    reward = {"name": "reward", "type": "reward_model", "model_alias": "rm"}
    return {
        "output_dir": str(out / "run"),
        "seed_dataset": {"path": "seeds.jsonl", "fields": ["prompt"]},
        "models": [
            {"alias": "lm", "model": str(MODELS / "lm"), "provider": "transformers"} | sampling,
            {"alias": "rm", "model": str(MODELS / "rm"), "provider": "transformers"},
        ],
        "columns": [
            {
                "name": "candidates",
                "type": "candidates",
                "model_alias": "lm",
                "samples": SAMPLES,
                "prompt": "{{ prompt }}",
            },
            reward | {"candidates": "candidates", "prompt": "{{ prompt }}"},
        ],
        "output_projection": {
            "type": "preference_pairs",
            "candidates": "candidates",
            "score": "reward",
            "strategy": "best_vs_worst",
        },
    }


def _replica(log: str, socket: int) -> None:
    """Be one: wait as long as the prompt says, note when it was over."""
    from prefdata.inference import Completion
    from prefdata.workers.worker import serve

    def open_engine(order):
        is_text, slots = order.role == "text", []

        async def answer(requests):
            if not slots:
                slots.append(asyncio.Semaphore(CAPACITY))

            async def one(index, request):
                number, seconds = request.messages[0]["content"].split()[:2]
                async with slots[0]:
                    await asyncio.sleep(float(seconds) if is_text else SCORE)
                with Path(log).open("a") as file:
                    file.write(f"{'text' if is_text else 'score'} {time.time()}\n")
                done = Completion(f"{number} {request.seed}", "stop", 1, 1) if is_text else None
                return index, done or (random.random(),)

            for made in asyncio.as_completed([one(n, r) for n, r in enumerate(requests)]):
                yield await made

        return answer, CAPACITY, lambda: 0

    serve(Connection(socket), open_engine)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--replica"]:
        _replica(sys.argv[2], int(sys.argv[3]))
    else:
        main()
