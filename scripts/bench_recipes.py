"""Which recipe is worth its tokens? DPO on what each named recipe makes of the tiny world.

    python scripts/bench_recipes.py [--seeds 3] [--only simpo --only quickstart] [KEY=VALUE]...

Every recipe builds with the quickstart's 240 questions and tiny models; its pairs train the tiny
language model with recipes/quickstart/train.yaml (and KEY=VALUE); what counts is how often that is
right at temperature 0.9, before and after, on questions that are in neither the seeds nor its
training data. Besides the recipes: random pairs of the quickstart's candidates, rl_pref with its
judge asked once, and three rounds of the quickstart beside one of three times the rows. Where a
recipe has a strong and a weak model, these are the tiny one at temperatures 0.3 and 1.2. Prints a
line a recipe; the interval is Student's, at 95 %.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import orjson
import yaml

from prefdata.pipeline import build
from prefdata.recipe.loader import load_recipe, load_settings
from prefdata.train.rounds import run_rounds
from prefdata.train.trl import train_trl
from prefdata.train.trl_settings import TrlSettings

RECIPES = Path(__file__).parent.parent / "recipes"
QUICKSTART = RECIPES / "quickstart"
LM, RM = (str((QUICKSTART / "models" / name).absolute()) for name in ("lm", "rm"))
NAMES = [
    "quickstart", "random pairs", "nemotron_rl_pref", "rl_pref, one order", "simpo",
    "skywork_agreement", "ultrafeedback", "tulu3_on_policy", "olmo3_delta", "smollm3_apo",
    "helpsteer3", "safety_delta", "rlcf", "three times the rows", "three rounds",
]  # fmt: skip
SETTINGS = {"smollm3_apo": ["loss_type=apo_zero"]}
LUCK = '''"""A score that knows nothing: uniform in [0, 1), by row, text and seed."""

from hashlib import blake2b


def draw(text, row):
    known = f"{SEED}/{row['id']}/{text}".encode()
    return int.from_bytes(blake2b(known, digest_size=6).digest()) / 2**48
'''
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Quantile 0.975 of Student's t, by the number of seeds."""
HEAD = (
    f"{'recipe':22} {'pairs':>5} {'right':>13} {'tokens':>7} {'asked':>6} {'scored':>6} "
    f"{'uplift in points':>18} {'per million tokens':>19}"
)


def main() -> None:
    """Build, train, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--only", action="append", choices=NAMES)
    arguments.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of the training")
    args = arguments.parse_args()
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-recipes-") as folder:
        for name in args.only or NAMES:
            settings = [*SETTINGS.get(name, []), *args.settings]
            runs, gains = [], []
            for seed in range(args.seeds):
                # chance decides the random pairs alone; the others are built once
                is_luck = name == "random pairs"
                out = Path(folder) / name.replace(" ", "_") / str(seed if is_luck else 0)
                if name == "three rounds":
                    record, gain = _rounds(out, seed, settings)
                else:
                    record = _build(name, out, seed)
                    gain = _train(out / "run", seed, settings)
                runs.append(record)
                gains.append(gain)
            print(_line(name, runs, gains), flush=True)


def _line(name: str, runs: list[dict[str, Any]], gains: list[float]) -> str:
    run, tokens = runs[0], runs[0]["tokens"]["completion"]
    pairs = fmean(sum(one["pairs"].values()) for one in runs)
    chosen, rejected = (fmean(one["means"]["right"][side] for one in runs) for side in (0, 1))
    mean, count = 100 * fmean(gains), len(gains)
    spread = 100 * STUDENT[count] * stdev(gains) / count**0.5 if count in STUDENT else float("nan")
    return (
        f"{name:22} {pairs:5.0f} {chosen:6.1%}/{rejected:6.1%} {tokens:7,} "
        f"{run['requests'].get('generated', 0):6,} {run['requests'].get('scored', 0):6,} "
        f"{mean:+8.1f} ({spread:4.1f})    {mean / tokens * 1e6:+19,.0f}"
    )


def _build(name: str, folder: Path, seed: int) -> dict[str, Any]:
    """The record of a run in `folder`/run, made if it is not there."""
    if not (folder / "run").exists():
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(_tiny(name, folder, seed)))
        loaded = load_recipe(folder / "recipe.yaml", [f"output_dir={folder / 'run'}"])
        build(loaded, folder / "run", say=_say)
    record: dict[str, Any] = orjson.loads((folder / "run" / "run.json").read_bytes())
    return record


def _tiny(name: str, folder: Path, seed: int) -> dict[str, Any]:
    """A recipe with the tiny models, the quickstart's questions, and the right answers beside."""
    file = {
        "quickstart": "quickstart/recipe.yaml",
        "random pairs": "quickstart/recipe.yaml",
        "rl_pref, one order": "nemotron_rl_pref.yaml",
        "three times the rows": "quickstart/recipe.yaml",
        "three rounds": "quickstart/recipe.yaml",
    }.get(name, f"{name}.yaml")
    raw: dict[str, Any] = yaml.safe_load((RECIPES / file).read_text())
    raw["seed_dataset"] |= {
        "path": str((QUICKSTART / "prompts.jsonl").absolute()), "fields": ["prompt", "answer"],
    }  # fmt: skip
    if "variables" in raw:
        raw["variables"]["max_tokens"] = 32
    for model in raw["models"]:
        is_scorer = "reward_model" in model["model"] or model["model"] == "models/rm"
        model["model"] = RM if is_scorer else LM
        if model["alias"] in ("strong", "weak"):
            sampling = {"temperature": 0.3 if model["alias"] == "strong" else 1.2}
            model["inference_parameters"] = {"max_tokens": 32} | sampling
    rule = raw["output_projection"]
    texts = {key: rule[key] for key in ("candidates", "responses") if key in rule}
    texts = texts or {"responses": ["response_a", "response_b"]}
    if all(column["name"] != "right" for column in raw["columns"]):
        right = {"name": "right", "type": "verifier", "method": "number", "reference": "answer"}
        raw["columns"].append(right | texts)
    if name == "three times the rows":
        raw["num_records"] = 720
    if name == "rl_pref, one order":
        next(one for one in raw["columns"] if one["name"] == "judge")["both_orders"] = False
    if name == "random pairs":
        (folder / f"luck{seed}.py").write_text(LUCK.replace("{SEED}", str(seed)))
        draw = {"method": "function", "function": f"luck{seed}:draw"}
        raw["columns"].append({"name": "luck", "type": "verifier"} | draw | texts)
        rule["score"] = "luck"
    return raw


def _rounds(folder: Path, seed: int, overrides: list[str]) -> tuple[dict[str, Any], float]:
    """The sums of three rounds, and what they gain together."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe, file = folder / "recipe.yaml", folder / f"train{seed}.yaml"
    recipe.write_text(yaml.safe_dump(_tiny("three rounds", folder, seed)))
    settings = load_settings(TrlSettings, QUICKSTART / "train.yaml", [f"seed={seed}", *overrides])
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    made = run_rounds(
        load_recipe(recipe), str(recipe), (), folder / f"rounds{seed}", count=3, settings=file,
        min_gain=-1, say=_say,
    )  # fmt: skip
    records = [one.record for one in made]
    sums: dict[str, Any] = {
        key: dict(sum((Counter(one[key]) for one in records), Counter()))
        for key in ("pairs", "tokens", "requests")
    }
    right = [fmean(one["means"]["right"][side] for one in records) for side in (0, 1)]
    return sums | {"means": {"right": right}}, made[-1].scores[0][2] - made[0].scores[0][1]


def _train(run: Path, seed: int, overrides: list[str]) -> float:
    """How much more often the trained model is right, a share."""
    settings = load_settings(TrlSettings, QUICKSTART / "train.yaml", [f"seed={seed}", *overrides])
    result = train_trl(run, settings, run.parent / f"trained{seed}", say=_say)
    return float(result["after"]["scores"]["right"] - result["before"]["scores"]["right"])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
