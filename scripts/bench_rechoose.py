"""How long it takes to choose pairs of a million candidates again, under every rule.

    python scripts/bench_rechoose.py [--candidates 1000000] [--folder DIR] [--only NAME...]

Prompts of drawn words, eight scripted answers to each, two scores. Every line of the table is
`prefdata pairs RUN …` in a process of its own; requests that were asked of a model are counted.
"""

import argparse
import tempfile
from pathlib import Path

from bench_scale import command, write_seeds

from prefdata.storage.record import read_record

RECIPE = """
output_dir: {out}
seed_dataset: {{path: {seeds}, fields: [prompt]}}
models:
  - {{alias: hot, model: scripted, inference_parameters: {{temperature: 0.9, max_tokens: 64}}}}
  - {{alias: cool, model: scripted, inference_parameters: {{temperature: 0.3, max_tokens: 64}}}}
  - {{alias: grader, model: scripted}}
  - {{alias: second, model: scripted, revision: second}}
columns:
  - name: topic
    type: category
    values: [math, code, chat, safety]
  - name: candidates
    type: candidates
    model_alias: [hot, cool]
    samples: 4
    prompt: "Answer: {{{{ prompt }}}}"
  - name: reward
    type: reward_model
    model_alias: grader
    candidates: candidates
  - name: other
    type: reward_model
    model_alias: second
    candidates: candidates
output_projection:
  type: preference_pairs
  candidates: candidates
  score: reward
  strategy: best_vs_worst
  test_size: 0.02
"""
BOTH = "score={reward: 0.7, other: 0.3}"
HEADS = ("rule", "time", "peak memory", "pairs", "bytes in a journal", "left out")
RULES: dict[str, list[str]] = {
    "best against worst": [],
    "every pair": ["strategy=exhaustive", "max_pairs_per_prompt=3"],
    "ranks of two scores that agree": [BOTH, "agree=true"],
    "near duplicates": ["dedupe=minhash"],
}


def main() -> None:
    """Build once, then choose by every rule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument(
        "--folder", type=Path, help="where the run is made, and found if it is there"
    )
    parser.add_argument("--only", nargs="*", help="names of rules")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = asked.folder or Path(place)
        recipe, run = folder / "recipe.yaml", folder / "run-rehearsal"
        if not (run / "run.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_seeds(folder / "seeds.jsonl", asked.candidates // 8)
            recipe.write_text(RECIPE.format(out=folder / "run", seeds=folder / "seeds.jsonl"))
            print(f"build: {command('build', recipe, '--rehearse')}\n", flush=True)
        print(
            "| rule | time | peak memory | pairs | requests | left out |\n|---|---|---|---|---|---|"
        )
        for name, overrides in RULES.items():
            if not asked.only or name in asked.only:
                print(measure(name, run, overrides, Path(place) / "again"), flush=True)


def measure(name: str, run: Path, overrides: list[str], out: Path) -> str:
    """One line of the table."""
    spent = command("pairs", run, *overrides, "--out", out)
    record = read_record(out) or {}
    asked = sum(file.stat().st_size for file in out.rglob("journal/*"))
    cells = (
        f"{spent.seconds:.1f} s", f"{spent.peak:,.0f} MiB",
        f"{sum(record['pairs'].values()):,}", asked, record["drops"],
    )  # fmt: skip
    return f"| {name} | {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
