"""Judging two at a time, as a list and one by one: how often is the chosen text right?

    python scripts/bench_judges.py [--prompts 240]

The quickstart's questions, two bold and two careful answers each, judged by its tiny language model
in every kind of tournament, by the same model with a rubric, and by the tiny reward model. Prints
how often chosen and rejected are right (the right answers are known), what was asked, and which
place the judge prefers.
"""

import argparse
import tempfile
from pathlib import Path

import yaml

import prefdata

QUICKSTART = Path(__file__).parent.parent / "recipes" / "quickstart"
JUDGE = {
    "type": "llm_judge", "model_alias": "careful", "candidates": "candidates",
    "prompt": "Compare two responses for: {{ prompt }}\nA: {{ response_a }}\nB: {{ response_b }}\n"
    "Which is more helpful and correct?",
    "output_format": {"type": "object", "properties": {"winner": {"enum": ["A", "B"]}}},
}  # fmt: skip
SHIPPED = {"prompt": None, "output_format": None}
TOURNAMENTS = {
    "round_robin": {},
    "round_robin, win_rate": {"tournament": {"type": "round_robin", "score": "win_rate"}},
    "round_robin, one order": {"both_orders": False},
    "round_robin, panel of both": {"model_alias": ["careful", "bold"], "panel": "mean"},
    "round_robin, pairwise-v1": SHIPPED,
    "swiss": {},
    "knockout": {},
    "against": {"tournament": {"type": "against", "reference": "other"}},
    "listwise": SHIPPED,
}
RUBRIC = {
    "name": "rubric", "type": "rubric_judge", "model_alias": "careful", "scale": [1, 5],
    "candidates": "candidates", "criteria": {"correct": "Is the result right?"},
}  # fmt: skip


def main() -> None:
    """Build once with a column for each kind; choose the pairs by each in turn; print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--prompts", type=int, default=240)
    args = arguments.parse_args()
    head = ("calls", "pairs", "chosen", "rejected", "agree", "first", "alpha")
    print(f"{'right, orders, place':28}" + "".join(f"{name:>9}" for name in head))
    with tempfile.TemporaryDirectory(prefix="bench-judges-") as folder:
        run = prefdata.build(_recipe(args.prompts), out=Path(folder) / "run")
        names = {f"t{n}": name for n, name in enumerate(TOURNAMENTS)}
        names |= {"rubric": "rubric, one by one", "reward": "reward model, one by one"}
        for column, name in names.items():
            record = run.repick(Path(folder) / column, score=column).summary
            right, pairs = record["means"]["right"], sum(record["pairs"].values())
            told = f"{_calls(run, column):9,}{pairs:9,}{right[0]:9.1%}{right[1]:9.1%}"
            print(f"{name:28}{told}{_places(record, column)}", flush=True)


def _recipe(prompts: int) -> dict:
    raw = yaml.safe_load((QUICKSTART / "recipe.yaml").read_text())
    raw["seed_dataset"] |= {"path": str(QUICKSTART / "prompts.jsonl"), "limit": prompts}
    for model in raw["models"]:
        model["model"] = str(QUICKSTART / model["model"])
    writers, reward, right = raw["columns"]
    other = {
        "name": "other",
        "type": "llm_text",
        "model_alias": "careful",
        "prompt": "{{ prompt }}",
    }
    judges = []
    for number, (name, fields) in enumerate(TOURNAMENTS.items()):
        made = JUDGE | {"name": f"t{number}", "tournament": {"type": name.split(",")[0]}} | fields
        judges.append({key: value for key, value in made.items() if value is not None})
    raw["columns"] = [writers | {"samples": 2}, other, *judges, RUBRIC, reward, right]
    del raw["output_projection"]["test_size"]
    return raw


def _calls(run: prefdata.Run, column: str) -> int:
    """Requests of a column; equal texts are compared without one, and scored with the same one."""
    if not column.startswith("t"):
        return sum(len(row) for row in run.candidates["candidates"])
    metas = run.candidates[f"{column}__meta"]
    if list(TOURNAMENTS)[int(column[1:])] == "listwise":
        return len(metas)
    return sum(len(said) for m in metas for one in m["comparisons"] for said in one["verdicts"])


def _places(record: dict, column: str) -> str:
    counts = (record["judges"] | record["one_order"]).get(column)
    if counts is None:
        return ""
    first = counts["first"] / max(1, counts["first"] + counts["second"])
    agreed = f"{counts['agreed'] / counts['rows']:.1%}" if column in record["judges"] else "–"
    alpha = f"{counts['alpha']:.2f}" if "alpha" in counts else "–"
    return f"{agreed:>9}{first:9.1%}{alpha:>9}"


if __name__ == "__main__":
    main()
