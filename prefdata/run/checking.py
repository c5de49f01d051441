"""`prefdata check`: what of a recipe can be seen to be wrong without loading a model."""

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa

from prefdata.engines.checkpoints import read_config
from prefdata.errors import PrefdataError
from prefdata.recipe.filters import Filter
from prefdata.recipe.loader import LoadedRecipe
from prefdata.recipe.mix import picks_of
from prefdata.recipe.plan import roles_of
from prefdata.run.gold import read_known
from prefdata.run.places import check_places
from prefdata.seeds.benchmarks import items_of
from prefdata.seeds.files import may_be_hub_id, seed_files
from prefdata.seeds.seeds import seeds_of
from prefdata.stages.filters import check_filter
from prefdata.stages.functions import Functions

LIMIT = 1000
"""Rows of the seeds that are looked at."""


def check_loaded(loaded: LoadedRecipe) -> list[str]:
    """Look at a recipe's places, seeds, functions, models and keys; returns what was seen.

    Nothing is written, no model is loaded, and nothing is asked of a network.

    Raises:
        PrefdataError: one of them would stop a build.
    """
    _leave_pandas_out()
    out = Path(loaded.recipe.output_dir)
    check_places(loaded, out)
    _check_folder(out)
    functions = Functions(loaded.folder, loaded.given)
    for column in loaded.recipe.columns:
        check_filter(column)
        if column.calls:
            find = functions.find_stage if column.type == "stage" else functions.find
            find(column.calls, f"column {column.name!r}")
    for key, pick in picks_of(loaded.recipe.output_projection).items():
        functions.find(pick, f"output_projection.{key}")
    _check_keys(loaded)
    return [*_seeds(loaded), *_known(loaded), *_benchmarks(loaded), *_models(loaded)]


def _leave_pandas_out() -> None:
    """Let pyarrow's first array not import pandas, which takes a quarter of a check.

    pyarrow only asks whether a list is a series of pandas; what needs pandas later still gets it.
    """

    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ImportError(name)

    sys.meta_path.insert(0, finder := cast(Any, SimpleNamespace(find_spec=find_spec)))
    try:
        pa.array(())
    finally:
        sys.meta_path.remove(finder)


def _check_folder(out: Path) -> None:
    """See that the run folder is one, or can be made."""
    there = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not there.is_dir():
        raise PrefdataError(
            f"{there}: a file stands where a folder is needed; choose another folder with --out"
        )
    if not os.access(there, os.W_OK):
        raise PrefdataError(
            f"{there}: permission denied; change the rights, or choose another folder with --out"
        )


def _seeds(loaded: LoadedRecipe) -> Iterator[str]:
    config = loaded.recipe.seed_dataset
    if unread := _unread(config.path or (), loaded):
        yield f"seeds: {unread} is not looked at; plan reads it"
        return
    limit = min(config.limit or LIMIT, LIMIT)
    few = config.model_copy(update={"limit": limit, "strategy": "ordered"})
    small = loaded.changed(seed_dataset=few, num_records=None).recipe
    seeds = seeds_of(small, loaded.locate, loaded.place)
    yield f"seeds: the first {seeds.table.num_rows:,} rows have all fields that are read"
    yield from seeds.notes
    for bad in seeds.rejects[:5]:
        yield f"{bad['source']}: {bad['reason']}: {bad['detail']}; it goes to rejects"


def _unread(paths: Iterable[str], loaded: LoadedRecipe) -> str | None:
    """The first of the paths that is a saved dataset or may be one of the Hub."""
    for path in paths:
        place = Path(loaded.locate(path))
        is_saved = any((place / name).exists() for name in ("state.json", "dataset_dict.json"))
        if is_saved or (not place.is_dir() and not seed_files(place) and may_be_hub_id(path)):
            return path
    return None


def _known(loaded: LoadedRecipe) -> Iterator[str]:
    """What is seen of known preferences."""
    for column in loaded.recipe.columns:
        if (gold := column.known) is None:
            continue
        told = f"column {column.name!r}: gold:"
        if unread := _unread(gold.path, loaded):
            yield f"{told} {unread} is not looked at; build reads it first"
            continue
        few = gold.model_copy(update={"limit": min(gold.limit or LIMIT, LIMIT)})
        test, table = read_known(column, few, loaded)
        yield f"{told} the first {table.num_rows:,} known preferences can be judged"
        yield from test.notes
        for reason, found in test.left_out.items():
            yield f"{told} left out, {reason}: {found['rows']:,}, the first {found['first']}"


def _benchmarks(loaded: LoadedRecipe) -> Iterator[str]:
    """What is seen of texts that nothing may contain."""
    for column in loaded.recipe.columns:
        rule = column.decontaminate if isinstance(column, Filter) else None
        for one in rule.against if rule else ():
            if unread := _unread(one.paths, loaded):
                yield f"column {column.name!r}: {unread} is not looked at; build reads it first"
                continue
            count = sum(1 for _ in islice(items_of(one, loaded.locate), LIMIT))
            yield f"column {column.name!r}: the first {count:,} texts of {one.path} can be read"


def _models(loaded: LoadedRecipe) -> Iterator[str]:
    for model in loaded.recipe.models:
        path = loaded.locate(model.model)
        if loaded.recipe.endpoint(model) is not None:
            yield f"model {model.alias}: {model.model} at {model.provider}, not asked"
        elif Path(path).is_dir() or path.startswith((".", "/", "~")):
            read_config(model, path)
            yield f"model {model.alias}: {path}"
        else:
            yield f"model {model.alias}: {model.model} on the Hub, not looked up"
        if model.alias not in roles_of(loaded.recipe):
            yield f"model {model.alias}: no column asks it"


def _check_keys(loaded: LoadedRecipe) -> None:
    asked = roles_of(loaded.recipe)
    for model in loaded.recipe.models:
        server = loaded.recipe.endpoint(model) if model.alias in asked else None
        if server is not None and server.api_key and server.api_key not in os.environ:
            raise PrefdataError(
                f"provider {server.name!r}: the environment variable {server.api_key} is not set; "
                "export it with the key"
            )
