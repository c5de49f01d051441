"""Does the data make a model better? DPO on the quickstart's pairs, and on as many random ones.

    python scripts/bench_uplift.py [--seeds 3] [--lora]

Builds the quickstart, and for every seed a set of as many pairs whose chosen and rejected are drawn
at random from the same candidates; trains on each with recipes/quickstart/train.yaml; prints how
often the tiny language model is right at temperature 0.9 before and after, on questions that are
in neither the seeds nor its training data.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import fmean, stdev

import yaml

from prefdata.pipeline import build
from prefdata.recipe.loader import load_recipe, load_settings
from prefdata.train.trl import train_trl
from prefdata.train.trl_settings import TrlSettings

QUICKSTART = Path(__file__).parent.parent / "recipes" / "quickstart"
LUCK = '''"""A score that knows nothing: uniform in [0, 1), by row, text and seed."""

from hashlib import blake2b


def draw(text, row):
    known = f"{SEED}/{row['id']}/{text}".encode()
    return int.from_bytes(blake2b(known, digest_size=6).digest()) / 2**48
'''
LORA = ("lora.r=8", "learning_rate=3e-4")


def main() -> None:
    """Build, train, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--lora", action="store_true", help="adapters, not all weights")
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-uplift-") as folder:
        seeds, adapters = range(args.seeds), LORA if args.lora else ()
        chosen = _build(Path(folder) / "chosen", None)
        picked = [_train(chosen, seed, adapters) for seed in seeds]
        random = [
            _train(_build(Path(folder) / f"random{seed}", seed), seed, adapters) for seed in seeds
        ]
    print(
        f"{'pairs':24} {'chosen right':>12} {'rejected':>9} {'seed':>5} {'before':>7} {'after':>7}"
    )
    for name, results in (("by the reward model", picked), ("at random", random)):
        for seed, (run, before, after) in enumerate(results):
            right, count = run["means"]["right"], sum(run["pairs"].values())
            pairs = f"{count} {name:20} {right[0]:12.1%} {right[1]:9.1%}"
            print(f"{pairs} {seed:5} {before:7.1%} {after:7.1%}")
        gains = [after - before for _, before, after in results]
        spread = f", standard deviation {stdev(gains):.1%}" if len(gains) > 1 else ""
        print(f"    {name}: {fmean(gains):+.1%} in the mean of {len(gains)} seeds{spread}")


def _build(folder: Path, luck: int | None) -> Path:
    """A run of the quickstart, whose pairs are drawn by lot where a seed for that is given."""
    recipe = QUICKSTART / "recipe.yaml"
    if luck is not None:
        folder.mkdir()
        (folder / f"luck{luck}.py").write_text(LUCK.replace("{SEED}", str(luck)))
        raw = yaml.safe_load(recipe.read_text())
        raw["seed_dataset"]["path"] = str(QUICKSTART / raw["seed_dataset"]["path"])
        for model in raw["models"]:
            model["model"] = str(QUICKSTART / model["model"])
        draw = {"method": "function", "function": f"luck{luck}:draw", "candidates": "candidates"}
        raw["columns"].append({"name": "luck", "type": "verifier", **draw})
        raw["output_projection"]["score"] = "luck"
        recipe = folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(raw))
    out = folder / "run"
    build(load_recipe(recipe, [f"output_dir={out}"]), out, say=_say)
    return out


def _train(run: Path, seed: int, adapters: tuple[str, ...]) -> tuple[dict, float, float]:
    """The run's record, and the share of right answers before and after."""
    settings = load_settings(TrlSettings, QUICKSTART / "train.yaml", [f"seed={seed}", *adapters])
    result = train_trl(run, settings, run.parent / f"trained{seed}", say=_say)
    record = yaml.safe_load((run / "run.json").read_text())
    return record, result["before"]["scores"]["right"], result["after"]["scores"]["right"]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
