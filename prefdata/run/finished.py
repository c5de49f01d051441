"""A finished run, opened again: its record, its recipe, the model that its pairs are about."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefdata.errors import PrefdataError
from prefdata.recipe.layout import Layout
from prefdata.recipe.loader import LoadedRecipe, load_recipe
from prefdata.recipe.reads import answering_aliases
from prefdata.recipe.schema import Model, Recipe
from prefdata.storage.disk import Damaged
from prefdata.storage.record import CUT_SHORT, Record, is_table, lost_files, read_record


@dataclass(frozen=True)
class FinishedRun:
    """A run folder with the record of a finished run.

    Attributes:
        loaded: its recipe; None where the pairs come from a file of scored candidates.
    """

    folder: Path
    record: Record
    loaded: LoadedRecipe | None

    @property
    def recipe(self) -> Recipe | None:
        """The recipe, where there is one."""
        return self.loaded.recipe if self.loaded else None

    @property
    def seed(self) -> int:
        """The recipe's, or the one that was given with the file."""
        return self.recipe.seed if self.recipe else int(self.record["seed"])

    @property
    def given_scores(self) -> tuple[str, ...]:
        """Columns with a score for each text, of a run from a file without a recipe."""
        return Layout.model_validate(self.record["fields"]).score_columns

    def tell(self, value: Any) -> Any:
        """A value of the recipe as it may be written: an interpolation for the environment's."""
        return self.loaded.tell(value) if self.loaded and isinstance(value, str) else value


def open_run(folder: Path) -> FinishedRun:
    """Open a run folder.

    Raises:
        PrefdataError: the folder has no finished run.
    """
    record = read_record(folder)
    if record is None:
        if (folder / CUT_SHORT).is_file():
            raise PrefdataError(
                f"{folder}: the choice of pairs was cut short; run `prefdata pairs {folder}` again"
            )
        what = "does not contain a finished run" if folder.is_dir() else "does not exist"
        raise PrefdataError(
            f"{folder}: the folder {what} (there is no run.json); run `prefdata build` first"
        )
    if missing := {"pairs", "prompts", "rejects", "rows"} - record.keys():
        raise Damaged(folder / "run.json", f"it does not hold {', '.join(sorted(missing))}")
    if lost := [name for name in lost_files(folder, record) if is_table(name)]:
        raise PrefdataError(
            f"{folder}: {lost[0]} is not as run.json tells: it is of another state of the run, or "
            "damaged; run the command that made the run again"
        )
    if not (folder / "recipe.yaml").is_file():
        if "projection" not in record:  # only `prefdata pairs FILE` makes runs without a recipe
            raise PrefdataError(
                f"{folder}: recipe.yaml is missing, so the run cannot be read; copy it back, or "
                "run `prefdata build` again with the recipe: nothing that is there is made anew"
            )
        return FinishedRun(folder, record, None)
    loaded = load_recipe(folder / "recipe.yaml", is_saved=True)
    beside = record.get("folder")
    return FinishedRun(folder, record, replace(loaded, folder=Path(beside)) if beside else loaded)


def find_policy(run: FinishedRun) -> Model | None:
    """The model on this machine or the Hub that wrote the texts, if one checkpoint wrote them all.

    It is the first of its aliases, and its `model` is the path where the recipe's path led to.
    """
    if run.loaded is None:
        return None
    recipe = run.loaded.recipe
    used = answering_aliases(recipe)
    writers = [model for model in recipe.models if model.alias in used]
    if any(recipe.endpoint(model) is not None for model in writers):
        return None
    if len({(model.weights, model.model, model.revision) for model in writers}) != 1:
        return None
    first = writers[0]
    return first.model_copy(update={"model": run.loaded.locate(first.model)})
