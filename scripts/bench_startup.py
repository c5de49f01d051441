"""How soon the command answers: `--help` and a misspelt recipe, best and median of seven runs.

    python scripts/bench_startup.py [--runs 7]

Neither may load torch, transformers, datasets or pyarrow. Goals: 0.5 s and 1.5 s.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

RECIPE = """
output_dir: out
seed_dataset: {path: prompts.jsonl, fields: [prompt]}
models:
  - {alias: lm, model: some/model, inference_parameters: {temperature: 0.9, max_tokens: 64}}
columns:
  - {name: answer, type: llm_text, model_alias: lm, prompt: "{{ promt }}"}
output_projection: {type: dpo_preference, response_a_field: answer, response_b_field: prompt}
"""


def main() -> None:
    """Time both and print a line each."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--runs", type=int, default=7)
    runs = arguments.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(RECIPE)
        _report("prefdata --help", ["--help"], 0, runs)
        _report("a recipe error", ["build", str(recipe)], 2, runs)


def _report(title: str, command: list[str], status: int, runs: int) -> None:
    seconds = [_time(command, status) for _ in range(runs)]
    print(f"{title:16} best {min(seconds):.2f} s, median {median(seconds):.2f} s of {runs} runs")


def _time(command: list[str], status: int) -> float:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "prefdata", *command], capture_output=True)
    seconds = time.perf_counter() - start
    if done.returncode != status:
        raise SystemExit(f"{command}: exit code {done.returncode}: {done.stderr.decode()}")
    return seconds


if __name__ == "__main__":
    main()
