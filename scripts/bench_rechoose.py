"""How long it takes to choose pairs of a million candidates again, under every rule.

    python scripts/bench_rechoose.py [--candidates 1000000] [--folder DIR] [--only NAME...]

Prompts of drawn words, eight scripted answers to each, of drawn lengths, two drawn scores. Every
line of the table is `prefdata pairs RUN …` in a process of its own; what it asked of a model are
bytes of a journal.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from bench_scale import command, write_seeds

from prefdata.storage.folders import RowsWriter, read_schema, read_tables
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
ADVANTAGE = 100
BOTH = "score={reward: 0.7, other: 0.3}"
BY_TOPIC = ["select_group=topic", "select_by=margin", "max_pairs={math: 1000, code: 2000}"]
RULES: dict[str, list[str]] = {
    "best against worst": [],
    "every pair, three of a prompt": ["strategy=exhaustive", "max_pairs_per_prompt=3"],
    "tokens": [f"max_length_advantage={ADVANTAGE}"],
    "the shortest of the best": ["chosen={shortest_within: 0.5}"],
    "sides": ["chosen={model_alias: cool, score: other}", "rejected={model_alias: hot}"],
    "one side": ["one_side=hot"],
    "a tenth": ["keep_fraction=0.1"],
    "a tenth of each topic": ["keep_fraction=0.1", "select_group=topic"],
    "quotas of topics": BY_TOPIC,
    "z-scores of two that agree": [BOTH, "combine=z_score", "agree=true"],
    "the lowest of two": [BOTH, "combine=min"],
    "length taken off": ["calibrate_length=reward"],
    "all at once": [
        BOTH, "combine=min", "calibrate_length=[reward, other]", "agree=true", "one_side=hot",
        "chosen={shortest_within: 0.5}", f"max_length_advantage={ADVANTAGE}", "keep_fraction=0.5",
        *BY_TOPIC, "dedupe=minhash",
    ],
}  # fmt: skip
HEADS = ("rule", "time", "of it work", "peak memory", "pairs", "asked", "left out", "held")


def main() -> None:
    """Build once, then choose by every rule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="of the run; made if it is not there")
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
            draw_lengths(run / "candidates")
        print(f"| {' | '.join(HEADS)} |\n{'|---' * len(HEADS)}|")
        out, every = Path(place) / "again", pd.DataFrame()
        for name, overrides in RULES.items():
            if not asked.only or name in asked.only:
                told = measure(name, run, overrides, out)
                every = every if len(every) else read_pairs(out)
                told += f" {CHECKS[name](read_pairs(out), every)} |" if name in CHECKS else " |"
                print(told, flush=True)


def draw_lengths(folder: Path) -> None:
    """Give the scripted answers, all of one length, lengths of their own; a score rises with it."""
    draw, drawn = np.random.default_rng(0), folder.with_name("drawn")
    with RowsWriter(drawn, read_schema(folder)) as rows:
        for table in read_tables(folder):
            lists = table["candidates"].combine_chunks()
            texts, places = lists.flatten(), lists.type.value_type
            tokens = draw.lognormal(5.5, 0.6, len(texts)).astype(np.int32)
            fields = [
                pa.array(tokens) if f.name == "completion_tokens" else texts.field(f.name)
                for f in places
            ]
            made = {"candidates": pa.StructArray.from_arrays(fields, fields=list(places))}
            made["reward"] = pa.array(draw.normal(size=len(texts)) + tokens / 500)
            made["other"] = pa.array(draw.normal(size=len(texts)))
            for name, flat in made.items():
                offsets = pc.subtract(lists.offsets, lists.offsets[0])
                column = pa.ListArray.from_arrays(offsets, flat)
                at = table.schema.get_field_index(name)
                table = table.set_column(at, table.schema.field(name), column)
            rows.write(table)
    shutil.rmtree(folder)
    drawn.rename(folder)


def measure(name: str, run: Path, overrides: list[str], out: Path) -> str:
    """One line of the table."""
    spent = command("pairs", run, *overrides, "--out", out)
    record = read_record(out) or {}
    asked = sum(file.stat().st_size for file in out.rglob("journal/*"))
    cells = (
        f"{spent.seconds:.1f} s", f"{spent.work:.1f} s", f"{spent.peak:,.0f} MiB",
        f"{sum(record['pairs'].values()):,}", asked, record["drops"],
    )  # fmt: skip
    return f"| {name} | {' | '.join(map(str, cells))} |"


def read_pairs(run: Path) -> pd.DataFrame:
    """Ids, margins and lengths of a run's pairs."""
    names = ["id", "margin", "chosen_completion_tokens", "rejected_completion_tokens"]
    return pa.concat_tables(read_tables(run / "pairs", columns=names)).to_pandas()


def check_length(pairs: pd.DataFrame, every: pd.DataFrame) -> str:
    """How many pairs hold `max_length_advantage`."""
    share = [
        (one["chosen_completion_tokens"] - one["rejected_completion_tokens"] <= ADVANTAGE).mean()
        for one in (every, pairs)
    ]
    return (
        f"chosen is at most {ADVANTAGE} tokens longer in {share[1]:.2%}; before in {share[0]:.2%}"
    )


def check_tenth(pairs: pd.DataFrame, every: pd.DataFrame) -> str:
    """Whether a tenth of the pairs is what pandas sorts to the top."""
    best = every.sort_values("margin", ascending=False).head(-(-len(every) // 10))
    return f"as pandas sorts: {sorted(best['margin']) == sorted(pairs['margin'])}"


CHECKS = {"tokens": check_length, "a tenth": check_tenth}

if __name__ == "__main__":
    main()
