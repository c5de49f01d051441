"""Whatever a recipe says, the command ends with 0, 2 or 3, and never with a traceback.

`PREFDATA_FUZZ=5000 pytest -s tests/test_odd_recipes.py` tries so many, and prints the counts.
"""

import os
import shutil
import signal
import traceback
from collections import Counter
from contextlib import contextmanager
from random import Random

import datasets
import pytest
import yaml
from conftest import QUICKSTART, ROOT
from odd_recipes import Drawer, changed
from omegaconf import OmegaConf
from typer.testing import CliRunner

from prefdata.cli import app

NUMBER = int(os.environ.get("PREFDATA_FUZZ", "500"))
GROUPS = 10
CPU_SECONDS = 20
"""Of this process's own time, which nobody else on the machine lengthens."""
SEEDS = "".join(
    f'{{"prompt": "What is {n} plus 4?", "answer": {n + 4}, "topic": "t{n}"}}\n' for n in range(6)
)


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """The recipes that ship, each in a folder with a few seeds, by name."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "recipes" / "prompts", tmp_path / "prompts")
    (tmp_path / "agent_turns").mkdir()
    for file in (ROOT / "recipes" / "agent_turns").iterdir():
        lines = file.read_text().splitlines(keepends=True)[:12]
        (tmp_path / "agent_turns" / file.name).write_text("".join(lines))
    (tmp_path / "quickstart").symlink_to(QUICKSTART)
    (tmp_path / "models").symlink_to(QUICKSTART / "models")
    (tmp_path / "prompts.jsonl").write_text(SEEDS)
    files = [QUICKSTART / "recipe.yaml", *sorted((ROOT / "recipes").glob("*.yaml"))]
    return {
        f"{file.parent.name}/{file.name}": OmegaConf.to_container(OmegaConf.load(file))
        for file in files
    }


@contextmanager
def bounded():
    """An exception after so many seconds of this process's time."""

    def stop(number, frame):
        raise TimeoutError(f"not finished after {CPU_SECONDS} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def ends(folder, recipe):
    """How the command ends over a recipe: its code, or the traceback."""
    file = folder / "recipe.yaml"
    # as JSON would be: an alias or a tag of YAML is not what is tried here
    file.write_text(yaml.dump(recipe, Dumper=Plain, sort_keys=False), errors="surrogatepass")
    out = folder / "out"
    with bounded():
        done = CliRunner().invoke(app, ["build", str(file), "--rehearse", "--out", str(out)])
    shutil.rmtree(folder / "out-rehearsal", ignore_errors=True)
    error = done.exception
    if error is None or isinstance(error, SystemExit):
        return done.exit_code
    return "".join(traceback.format_exception(error))


class Plain(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


@pytest.mark.parametrize("group", range(GROUPS))
@pytest.mark.parametrize("kind", ["drawn from the schema", "shipped, one value changed"])
def test_no_recipe_ends_in_a_traceback(kind, group, shipped, tmp_path):
    counts, faults = Counter(), []
    random = Random(f"{kind} {group}")
    for number in range(NUMBER // GROUPS // 2):
        if kind.startswith("drawn"):
            recipe, what = Drawer(random).recipe(shipped["quickstart/recipe.yaml"]), "drawn"
        else:
            name = random.choice([*shipped])
            recipe, what = changed(shipped[name], random)
            what = f"{name}: {what}"
        end = ends(tmp_path, recipe)
        is_well = end in (0, 2, 3)
        counts[end if is_well else "traceback"] += 1
        if not is_well:
            faults.append(
                f"{kind}, group {group}, number {number}: {what}\n{str(end)[-1500:]}\n{recipe}"
            )
    print(f"{kind}, group {group}: {dict(counts)}")
    assert not faults, "\n\n".join(faults)
