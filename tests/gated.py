"""A recipe whose texts wait at a gate: its run lasts until a test has done what it does to it."""

import yaml
from conftest import QUICKSTART
from waiting import PATIENCE

CODE = """
import os, time
def wait(text, row):
    gate = os.environ.get("GATE")
    while gate and not os.path.exists(gate):
        time.sleep(0.01)
    return len(text)
"""


def make_recipe(folder):
    """The quickstart with such a column in an empty folder; returns the recipe's file.

    Where the variable GATE is set, a text goes on when the file that it names is there.
    """
    for name in ("models", "prompts.jsonl"):
        (folder / name).symlink_to(QUICKSTART / name)
    (folder / "gate.py").write_text(CODE)
    recipe = yaml.safe_load((QUICKSTART / "recipe.yaml").read_text())
    recipe["columns"].append(
        {"name": "length", "type": "verifier", "method": "function", "function": "gate:wait"}
        | {"candidates": "candidates", "timeout": PATIENCE}
    )
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder / "recipe.yaml"
