"""Rows a second of the whole pipeline without models: the scripted engine, by stage, at two sizes.

    python scripts/bench_overhead.py [--rows 100000] [--samples 4]

Each size runs in a process of its own, pinned to one core, so that its peak memory is its own.
The second size is a tenth of the first: where cost grows linearly, microseconds a row are equal.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import orjson

RECIPE = """
output_dir: {out}
output_path: {out}/pairs.jsonl
seed_dataset: {{path: {seeds}, fields: [prompt, answer]}}
models:
  - {{alias: hot, model: scripted, inference_parameters: {{temperature: 0.9, max_tokens: 64}}}}
  - {{alias: judge, model: scripted}}
columns:
  - name: candidates
    type: candidates
    model_alias: hot
    samples: {samples}
    prompt: "Answer: {{{{ prompt }}}}"
  - name: reward
    type: reward_model
    model_alias: judge
    candidates: candidates
    prompt: "{{{{ prompt }}}}"
output_projection:
  type: preference_pairs
  candidates: candidates
  score: reward
  strategy: best_vs_worst
  test_size: 0.02
"""


def main() -> None:
    """Run both sizes and print them side by side."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=100_000)
    arguments.add_argument("--samples", type=int, default=4)
    arguments.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.child:
        print(json.dumps(_measure(args.rows, args.samples)))
        return
    results = [_run(rows, args.samples) for rows in (args.rows, args.rows // 10)]
    _print(results)


def _run(rows: int, samples: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", "--rows", str(rows), "--samples", str(samples)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measure(rows: int, samples: int) -> dict[str, float]:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    from prefdata.pipeline import build
    from prefdata.recipe.loader import load_recipe

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        with (out / "seeds.jsonl").open("wb") as file:
            for number in range(rows):
                prompt = (
                    f"Question {number}: what would you say about item {number * 7919 % 10007}?"
                )
                file.write(orjson.dumps({"prompt": prompt, "answer": number}) + b"\n")
        recipe = out / "recipe.yaml"
        recipe.write_text(
            RECIPE.format(out=out / "run", seeds=out / "seeds.jsonl", samples=samples)
        )
        loaded = load_recipe(recipe)
        start, cpu = time.perf_counter(), time.process_time()
        record = build(loaded, out / "run", rehearse=True, say=lambda line: None)
        total, busy = time.perf_counter() - start, time.process_time() - cpu
        again = time.perf_counter()
        build(loaded, out / "run", rehearse=True, say=lambda line: None)
        again = time.perf_counter() - again
        disk = sum(file.stat().st_size for file in (out / "run").rglob("*") if file.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = {name: value for name, value in record["seconds"].items() if name != "total"}
    return {
        "rows": rows, **seconds, "total": total, "cpu": busy, "resume": again,
        "peak MiB": peak, "disk MiB": disk / 2**20,
    }  # fmt: skip


def _print(results: list[dict[str, float]]) -> None:
    print(f"{'':12}" + "".join(f"{int(r['rows']):>14,} rows{'us a row':>12}" for r in results))
    for name in results[0]:
        if name in ("rows", "peak MiB", "disk MiB"):
            continue
        cells = "".join(f"{r[name]:>17.2f} s{r[name] / r['rows'] * 1e6:>12.1f}" for r in results)
        print(f"{name:12}{cells}")
    for name in ("peak MiB", "disk MiB"):
        print(f"{name:12}" + "".join(f"{r[name]:>19.0f}{'':>12}" for r in results))
    large, small = results
    growth, more = large["total"] / small["total"], large["rows"] / small["rows"]
    for name, figures in (("wall", "total"), ("CPU", "cpu")):
        rates = ", ".join(f"{r['rows'] / r[figures]:,.0f} at {r['rows']:,} rows" for r in results)
        print(f"prompts a second of {name} time: {rates}")
    print(f"wall time grows {growth:.2f}-fold for {more:.0f} times the rows")


if __name__ == "__main__":
    main()
