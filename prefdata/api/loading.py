"""A recipe from wherever it stands: a file, the Hub, a text, a dict, or another `Recipe`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefdata.errors import PrefdataError
from prefdata.recipe.loader import LoadedRecipe, RecipeSource, load_recipe, override_of_out

HUB = "hf://"


def load(
    recipe: RecipeSource,
    overrides: Sequence[str] = (),
    out: Path | str | None = None,
    *,
    seeds: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> LoadedRecipe:
    """The checked recipe, with overrides.

    Args:
        recipe: as for `load_recipe`, or `hf://datasets/…/recipe.yaml`.
        overrides: `key=value`.
        out: the run folder, in the place of the recipe's `output_dir`.
        seeds: keys of `seed_dataset` in the place of `path` and `rows`.
        trust_remote_code: whether models of a recipe from the Hub may run code of their own.

    Raises:
        PrefdataError: as from `load_recipe`, and from `load_fetched`.
    """
    given = [*overrides, *([] if out is None else [override_of_out(out)])]
    if isinstance(recipe, str) and recipe.startswith(HUB):
        if seeds is not None:
            raise PrefdataError(f"{recipe}: seeds from Python are for recipes of this machine")
        from prefdata.hub.fetched import load_fetched  # the Hub's library: not for a file

        return load_fetched(recipe, given, trust_remote_code=trust_remote_code)
    if trust_remote_code:
        raise PrefdataError(
            "--trust-remote-code is only for recipes from the Hub; in a local recipe set "
            "trust_remote_code: true for the model"
        )

    def replace_seeds(raw: dict[str, Any]) -> None:
        told = raw.get("seed_dataset")
        kept = told if isinstance(told, dict) else {}
        rest = {key: value for key, value in kept.items() if key not in ("path", "rows")}
        raw["seed_dataset"] = rest | dict(seeds or {})

    return load_recipe(recipe, given, prepare=None if seeds is None else replace_seeds)


def run_folder(output_dir: Path | str, rehearse: bool) -> Path:
    """Where the run lies; that of a rehearsal beside the real one."""
    folder = Path(output_dir)
    return folder.with_name(folder.name + "-rehearsal") if rehearse else folder
