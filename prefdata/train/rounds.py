"""Rounds: the policy's texts make pairs, these train it, and what comes out is the next policy.

Each round is a run and a training like any other, made by the commands themselves, which go on
where they were stopped; so does this.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prefdata.errors import PrefdataError, Say
from prefdata.recipe.loader import LoadedRecipe, load_settings
from prefdata.recipe.reads import answering_aliases
from prefdata.report.page import read_template
from prefdata.storage.disk import disk_errors, write_text
from prefdata.train.children import run_child
from prefdata.train.trl import check_training_of
from prefdata.train.trl_settings import TrlSettings


@dataclass(frozen=True, slots=True)
class Round:
    """One round, finished.

    Attributes:
        folder: with the run in `run` and the training in `trained`.
        policy: the checkpoint that wrote the texts.
        record: `run.json` of the run.
        training: `train.json` of the training.
    """

    number: int
    folder: Path
    policy: str
    record: Mapping[str, Any]
    training: Mapping[str, Any]

    @property
    def model(self) -> Path:
        """What was trained."""
        return self.folder / "trained" / "model"

    @property
    def scores(self) -> list[tuple[str, float, float]]:
        """(verifier, share right before, after) on the held-out prompts."""
        before, after = (self.training.get(when, {}) for when in ("before", "after"))
        return [
            (name, before["scores"][name], score) for name, score in after.get("scores", {}).items()
        ]

    @property
    def gain(self) -> float | None:
        """How much the first verifier gained; None without an evaluation."""
        return self.scores[0][2] - self.scores[0][1] if self.scores else None


def run_rounds(
    loaded: LoadedRecipe,
    recipe: str,
    overrides: Sequence[str],
    out: Path,
    *,
    count: int,
    settings: Path | None,
    options: Sequence[str] = (),
    verbosity: Sequence[str] = (),
    min_gain: float = 0.0,
    say: Say = print,
) -> list[Round]:
    """Make rounds until there are `count`, or until one does not help; run again, it goes on.

    Args:
        loaded: the recipe, checked.
        recipe: its file or name.
        overrides: as `prefdata build` gets them.
        out: gets a folder for every round, `rounds.json` and the page `index.html`.
        count: rounds, at most.
        settings: of the training, a YAML file.
        options: further options of `prefdata build`, such as `--gpus 8`.
        verbosity: `--quiet` or `--verbose`, for every command of a round.
        min_gain: a round that gains no more, as a share of right answers, is the last one.
        say: called with a line at the start of each round.

    Raises:
        PrefdataError: the recipe has no one policy that could be trained, or the settings would
            stop its training, which is told before anything is made; or a command of a round
            failed; what it has said stands above.
    """
    models = _models_of_the_policy(loaded)
    first = loaded.recipe.models[models[0]]
    training = load_settings(TrlSettings, settings, ())
    if training.model is not None:
        raise PrefdataError(
            f"{settings}: model is {training.model!r}, which every round would begin with; remove "
            f"it: the rounds begin with the recipe's {first.model!r} and go on with what they train"
        )
    check_training_of(loaded, first.alias, training)
    policy = loaded.locate(first.model)
    made: list[Round] = []
    for number in range(1, count + 1):
        folder = out / f"round-{number}"
        say(f"round {number} of {count}: {policy}")
        changes = [] if number == 1 else [
            f"models.{n}.{key}={value}"
            for n in models for key, value in (("model", policy), ("revision", "null"))
        ]  # fmt: skip
        run, trained = folder / "run", folder / "trained"
        _command(
            say, number, "build", recipe, *overrides, *changes, "output_path=null", "--out", run,
            "--no-publish", *options, *verbosity,
        )  # fmt: skip
        with_settings = ["--settings", settings] if settings else []
        _command(say, number, "train", run, *with_settings, "--out", trained, *verbosity)
        _command(say, number, "report", run, *verbosity)
        made.append(_read(number, folder, policy))
        _tell(made, out, count)
        gain = made[-1].gain
        if gain is not None and gain <= min_gain:
            say(f"round {number} gained {gain:+.1%}, so it is the last; {policy} stays the best")
            break
        policy = str(made[-1].model.absolute())
    return made


def _models_of_the_policy(loaded: LoadedRecipe) -> list[int]:
    """Which of the recipe's models write the texts; they are one checkpoint on this machine."""
    recipe, aliases = loaded.recipe, answering_aliases(loaded.recipe)
    numbers = [n for n, model in enumerate(recipe.models) if model.alias in aliases]
    checkpoints = {(recipe.models[n].weights, recipe.models[n].revision) for n in numbers}
    if len(checkpoints) != 1:
        names = ", ".join(sorted(weights for weights, _ in checkpoints)) or "no model"
        raise PrefdataError(
            f"rounds train the one model that writes the texts, but here that is {names}; let one "
            "checkpoint write them"
        )
    first = recipe.models[numbers[0]]
    if recipe.endpoint(first) is not None or first.adapter is not None:
        where = "an adapter" if first.adapter else f"on the server {first.provider!r}"
        raise PrefdataError(
            f"rounds train the model that writes the texts, but {first.alias!r} is {where}; name a "
            "full checkpoint"
        )
    return numbers


def _command(say: Say, number: int, name: str, *words: object) -> None:
    code = run_child([sys.executable, "-m", "prefdata", name, *map(str, words)], say=say)
    if code:
        raise PrefdataError(
            f"round {number}: prefdata {name} ended with exit code {code}, for what is said above; "
            "mend it, and run the same command again"
        )


def _read(number: int, folder: Path, policy: str) -> Round:
    record, training = (
        orjson.loads((folder / file).read_bytes())
        for file in ("run/run.json", "trained/train.json")
    )
    return Round(number, folder, policy, record, training)


def _tell(made: Sequence[Round], out: Path, count: int) -> None:
    """Write the rounds as data and as a page."""
    told = [
        {
            "round": one.number,
            "policy": one.policy,
            "pairs": one.record["pairs"],
            "means": one.record["means"],
            "lengths": one.record["lengths"],
            "tokens": one.record["tokens"]["completion"],
            "scores": {name: [before, after] for name, before, after in one.scores},
        }
        for one in made
    ]
    environment = Environment(
        loader=PackageLoader("prefdata.train"), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("rounds.html.jinja").render(
        rounds=told,
        count=count,
        verifiers=[name for name, _, _ in made[0].scores],
        style=Markup(read_template("report.css")),  # noqa: S704 (it is our own)
        version=version("prefdata"),
    )
    with disk_errors(out):
        write_text(out / "rounds.json", orjson.dumps(told, option=orjson.OPT_INDENT_2).decode())
        write_text(out / "index.html", page)
