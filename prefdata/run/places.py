"""Where a run reads and writes: checked before any work, so that nothing of the user's is lost."""

import os
from collections.abc import Iterator
from pathlib import Path

from prefdata.errors import PrefdataError
from prefdata.pairs.files import copies_of
from prefdata.recipe.contract import dotted
from prefdata.recipe.environment import texts_in
from prefdata.recipe.loader import LoadedRecipe
from prefdata.recipe.mix import picks_of
from prefdata.seeds.files import seed_files
from prefdata.storage.ownership import Input, check_file, check_folder, check_name


def check_places(loaded: LoadedRecipe, out: Path, *, is_forced: bool = False) -> None:
    """See that a run may be made in a folder, and its copies where the recipe wants them.

    Raises:
        PrefdataError: what is there is the user's.
    """
    inputs = inputs_of(loaded)
    check_folder(out, inputs, is_forced=is_forced)
    for place in copies_of(loaded.recipe).values():
        check_name(place, out)
        check_file(place, out, inputs, is_forced=is_forced)
        if not place.resolve().is_relative_to(out.resolve()):
            _check_beside_seeds(place, loaded)


def inputs_of(loaded: LoadedRecipe) -> list[Input]:
    """Files and folders of this machine that a recipe reads."""
    found = [Input(file, "the recipe, or a text of it") for file in loaded.files]
    for at, source in loaded.recipe.sources:
        what = "a file of the seeds" if at == ("seed_dataset",) else f"a file of {dotted(at)}"
        for place in map(Path, map(loaded.locate, source.paths)):
            if place.exists():
                found.append(Input(place, what))
            else:
                found += [Input(file, what) for file in seed_files(place)]
    for model in loaded.recipe.models:
        place = Path(loaded.locate(model.model))
        if loaded.recipe.endpoint(model) is None and place.exists():
            found.append(Input(place, f"the folder of the model {model.alias!r}", is_whole=True))
        adapter = Path(loaded.locate(model.adapter)) if model.adapter else None
        if adapter is not None and adapter.exists():
            found.append(Input(adapter, f"the adapter of {model.alias!r}", is_whole=True))
        options = (Path(text) for _, text in texts_in(model.engine) if "/" in text)
        what = f"an option of the engine of {model.alias!r}"
        found += [Input(place, what) for place in options if place.exists()]
    return [*found, *modules_of(loaded, os.environ.get("PYTHONPATH", ""))]


def modules_of(loaded: LoadedRecipe, python_path: str = "") -> Iterator[Input]:
    """Files of functions that a recipe calls: beside it, or on a path; no installed ones."""
    calls = {f"column {one.name!r}": one.calls for one in loaded.recipe.columns if one.calls}
    picks = picks_of(loaded.recipe.output_projection)
    calls |= {f"output_projection.{key}": name for key, name in picks.items()}
    folders = (loaded.folder, *map(Path, filter(None, python_path.split(os.pathsep))))
    for what, name in calls.items():
        parts = name.partition(":")[0].split(".")
        places = (folder.joinpath(*parts) for folder in folders)
        files = (file for at in places for file in (at / "__init__.py", at.with_suffix(".py")))
        if file := next((file for file in files if file.is_file()), None):
            yield Input(file, f"the module of {what}")


def _check_beside_seeds(place: Path, loaded: LoadedRecipe) -> None:
    """A copy that the next run would read as seeds."""
    for path in loaded.recipe.seed_dataset.path or ():
        folder = Path(loaded.locate(path))
        is_inside = folder.is_dir() and place.resolve().is_relative_to(folder.resolve())
        if is_inside or (any(c in path for c in "*?[") and place.absolute().match(str(folder))):
            raise PrefdataError(
                f"output_path: {place} lies among the seeds ({path}), and would be read as one; "
                "choose another place"
            )
