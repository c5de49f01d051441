"""recipe.yaml and run.json as published: without folders of this machine or the target repository.

A path inside the recipe's folder becomes relative to it, any other absolute path its last name.
"""

import re
from pathlib import Path
from typing import Any

import orjson
import yaml

from prefdata.run.finished import FinishedRun
from prefdata.storage.record import Record

_PLACES = ("output_dir", "output_path")
_PLACE_OF_ENVIRONMENT = re.compile(r"\$\{.*\}")


def shorten(path: str, folder: Path | None) -> str:
    """A path without what only this machine has of it; what is no absolute path stays."""
    place = Path(path)
    if not place.is_absolute():
        return path
    if folder is not None and place.is_relative_to(folder):
        return place.relative_to(folder).as_posix()
    return place.name


def make_public_recipe(run: FinishedRun) -> str | None:
    """The resolved recipe for other machines; None where the run has none."""
    if run.loaded is None:
        return None
    folder = run.loaded.folder
    raw: dict[str, Any] = yaml.safe_load((run.folder / "recipe.yaml").read_text("utf-8"))
    raw.pop("publish", None)
    for key in _PLACES:
        if raw.get(key):
            raw[key] = Path(_PLACE_OF_ENVIRONMENT.sub("", raw[key])).name or run.folder.name
    for at, _ in run.loaded.recipe.sources:
        source: Any = raw
        for part in at:
            source = source[part]
        if "path" in source:
            source["path"] = _shorten_values(source["path"], folder)
    for model in raw.get("models", ()):
        for key in {"model", "adapter", "engine"} & model.keys():
            model[key] = _shorten_values(model[key], folder)
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)


def make_public_record(run: FinishedRun, contents: Record) -> bytes:
    """run.json for other machines, without the words of servers.

    `contents`: rows and hash of every published split, which are added.
    """
    folder = run.loaded.folder if run.loaded else None
    record = {k: v for k, v in run.record.items() if k not in ("folder", "failures")}
    record["files"] = {k: v for k, v in record["files"].items() if not Path(k).is_absolute()}
    if "loads" in record:
        record["loads"] = [shorten(path, folder) for path in record["loads"]]
    return orjson.dumps(record | {"content": contents}, option=orjson.OPT_INDENT_2)


def find_local_paths(run: FinishedRun) -> list[str]:
    """Absolute paths of checkpoints that rows name, and rows are published as they are."""
    if run.recipe is None:
        return []
    writers = {
        alias
        for column in run.recipe.columns
        for alias in column.aliases
        if column.role_of(alias) == "text"
    }
    named = (model.weights for model in run.recipe.models if model.alias in writers)
    return sorted({path for path in named if Path(path).is_absolute()})


def _shorten_values(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _shorten_values(part, folder) for key, part in value.items()}
    if isinstance(value, list):
        return [_shorten_values(part, folder) for part in value]
    return shorten(value, folder) if isinstance(value, str) else value
