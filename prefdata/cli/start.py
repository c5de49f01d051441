"""`quickstart`, `init`, `check`, `schema`: before the first run of one's own."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from prefdata.cli.program import Force, Out, Overrides, RecipeFile, exit_codes, load, say
from prefdata.cli.runs import build
from prefdata.errors import PrefdataError

QUICKSTART = Path("output/quickstart")


def quickstart(
    out: Out = QUICKSTART,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="GPUs to use; 0: CPU; by default one if there is one.")
    ] = None,
) -> None:
    """Build 240 pairs of two tiny models that come with prefdata; takes seconds on a CPU."""
    from prefdata.recipe.shipped import shipped

    with exit_codes():
        recipe = str(shipped("quickstart/recipe.yaml"))
    build(recipe, out=out, gpus=gpus)


def init(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            help="Your prompts: jsonl, json, csv, parquet; three examples if left out.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The recipe to write.")] = Path("recipe.yaml"),
    model: Annotated[
        str | None, typer.Option(help="Who answers: a Hub id or a folder; asked for if left out.")
    ] = None,
    reward: Annotated[str | None, typer.Option(help="The reward model that scores.")] = None,
    judge: Annotated[
        str | None,
        typer.Option(help="The model that scores by a rubric, where there is no reward model."),
    ] = None,
    prompt_field: Annotated[
        str | None, typer.Option(help="The field with the prompt; guessed if left out.")
    ] = None,
    force: Force = False,
) -> None:
    """Write a commented recipe for your prompts."""
    with exit_codes():
        if out.exists() and not force:
            raise PrefdataError(
                f"{out}: it exists already; name another file with --out, or use --force"
            )
        if reward and judge:
            raise PrefdataError("--reward and --judge both score; give one of them")
        told = _describe(file, out, prompt_field)
        told |= _ask_models(model, reward, judge)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(_render(told), encoding="utf-8")
        from prefdata.recipe.loader import load_recipe

        load_recipe(out)
        say(f"{out}: written. Next: prefdata check {out}")


def check(recipe: RecipeFile, overrides: Overrides = None, out: Out = None) -> None:
    """Check a recipe, its seeds, functions and places, without a model and without a network."""
    with exit_codes():
        loaded = load(recipe, overrides, out)
        from prefdata.run.checking import check_loaded

        for line in (*check_loaded(loaded), *loaded.notes):
            say(line)
        columns = ", ".join(column.name for column in loaded.recipe.columns)
        print(f"{recipe}: no error found; columns: {columns or 'none'}")


def schema() -> None:
    """Print the JSON schema of recipes, by which editors complete and explain."""
    from prefdata.recipe.json_schema import recipe_schema

    with exit_codes():
        print(json.dumps(recipe_schema(), indent=1, ensure_ascii=False))


def _describe(file: Path | None, out: Path, prompt_field: str | None) -> dict[str, Any]:
    """What the template says of the seeds."""
    about: dict[str, Any] = {"name": out.name, "output_dir": _plain(f"output/{out.stem}")}
    if file is None:
        return about | {
            "about": "Pairs from three prompts; put your own in their place.",
            "prompt": "prompt", "template": _plain("{{ prompt }}"),
        }  # fmt: skip
    if not file.exists():
        raise PrefdataError(f"{file}: not found; give a file of prompts, or none for an example")
    from prefdata.seeds.guess import SAMPLE, guess_seeds

    guess = guess_seeds(file, prompt_field)
    if guess.layout is not None:
        say(
            f"{file}: it looks like {guess.layout.called}. This recipe asks its prompts anew; for "
            f"pairs of its texts: prefdata pairs {file} --layout {guess.layout.file} --out DIR"
        )
    name = guess.prompt
    read = name if name.isidentifier() else f"row[{json.dumps(name, ensure_ascii=False)}]"
    seen = f"the first {guess.lines}" if guess.lines == SAMPLE else f"{guess.lines}"
    return about | {
        "about": f"Pairs from {file.name}: {seen} lines looked at, the prompt is {guess.prompt!r}.",
        "output_dir": _plain(f"output/{file.stem}"),
        "path": _plain(os.path.relpath(file, out.parent)),
        "fields": _plain([*guess.fields]),
        "others": ", ".join(guess.others),
        "prompt": _plain(guess.prompt),
        "is_chat": guess.is_chat,
        "template": _plain(f"{{{{ {read} }}}}"),
        "answer": guess.answer,
        "method": "number" if guess.is_number else "exact_match",
    }


def _ask_models(model: str | None, reward: str | None, judge: str | None) -> dict[str, Any]:
    """The models as the options name them, or the person before the terminal."""
    is_asked = sys.stdin.isatty()
    if model is None:
        if not is_asked:
            raise PrefdataError(
                "the model that answers is not named; give it with --model, for example "
                "--model Qwen/Qwen3-4B"
            )
        model = str(typer.prompt("Model that answers (Hub id or folder)"))
        if not (reward or judge):
            question = "Reward model that scores (empty: the model itself, by a rubric)"
            reward = typer.prompt(question, default="", show_default=False) or None
    judge = judge or (None if reward else model)
    named = {"model": model, "reward": reward, "judge": judge}
    return {key: _plain(value) if value else None for key, value in named.items()}


def _plain(value: Any) -> str:
    """A value in one line of YAML, in quotes where it needs them."""
    import yaml  # not needed for --help

    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...")


def _render(told: dict[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader

    from prefdata.recipe.json_schema import SHIPPED

    places = Environment(loader=PackageLoader("prefdata.cli", "."), keep_trailing_newline=True)
    return places.get_template("recipe.yaml.j2").render(told | {"schema": str(SHIPPED)})
