"""From a YAML file and `key=value` overrides to a checked Recipe, before anything heavy is loaded.

Owns the YAML paths and lines in messages. Knows no engine, no dataset library.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from prefdata.errors import PrefdataError, suggest
from prefdata.recipe import AnyColumn, OutputProjection, PreferencePairs, Recipe
from prefdata.recipe_checks import check_recipe

PATH_KEYS = ("seed_dataset.path", "models.*.model")
"""Keys whose values may be files: in a recipe they are sought beside it, then in the current
folder; on the command line in the current folder first."""


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A checked recipe and where it came from.

    Attributes:
        resolved: the YAML after overrides and interpolation, as written to the run folder.
        folder: the folder beside which relative paths are sought.
    """

    recipe: Recipe
    resolved: str
    folder: Path

    def changed(self, **fields: Any) -> "LoadedRecipe":
        """The same recipe with other top-level fields, for a preview or a rehearsal."""
        return replace(self, recipe=self.recipe.model_copy(update=fields))

    def locate(self, path: str) -> str:
        """A path of the recipe as an existing absolute path, or unchanged if there is none."""
        found = Path(path) if Path(path).is_absolute() else self.folder / path
        if found.exists() or any(self.folder.glob(path) if not Path(path).is_absolute() else ()):
            return str(found)
        return str(Path(path).absolute()) if Path(path).exists() else path


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read, override, interpolate, validate and cross-check a recipe.

    Raises:
        PrefdataError: one message a problem, with file, line and YAML path.
    """
    text = _read(path)
    lines = _Lines(path, text)
    raw = _resolve(path, text, overrides)
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as err:
        raise PrefdataError(_explain(err, lines)) from err
    loaded = LoadedRecipe(
        recipe, yaml.safe_dump(raw, sort_keys=False, allow_unicode=True), path.parent
    )
    problems = check_recipe(recipe, _seed_fields(loaded))
    if problems:
        raise PrefdataError("\n".join(f"{lines.place(p.at)}: {p.message}" for p in problems))
    return loaded


def validate_pair_rules(defaults: Mapping[str, Any], overrides: Sequence[str]) -> PreferencePairs:
    """Pair rules that stand in no recipe: defaults and `key=value`.

    Raises:
        PrefdataError: an unknown key, or a value that does not fit.
    """
    config = OmegaConf.create({"output_projection": dict(defaults)})
    for override in overrides:
        _override(config, f"output_projection.{override}")
    raw = OmegaConf.to_container(config["output_projection"])
    try:
        return PreferencePairs.model_validate(raw)
    except ValidationError as err:
        lines = _Lines(Path("pair rules"), "")
        found = err.errors()
        for details in found:
            details["loc"] = ("output_projection", "preference_pairs", *details["loc"])
        raise PrefdataError("\n".join(_explain_one(details, lines) for details in found)) from err


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as err:
        raise PrefdataError(
            f"{path}: there is no such recipe; give the path of a YAML file"
        ) from err
    except (OSError, UnicodeDecodeError) as err:
        raise PrefdataError(f"{path}: the recipe cannot be read: {err}") from err


def _resolve(path: Path, text: str, overrides: Sequence[str]) -> dict[str, Any]:
    try:
        # OmegaConf's own YAML loader also refuses duplicate keys
        config = OmegaConf.create(text)
        if not OmegaConf.is_dict(config):
            raise PrefdataError(
                f"{path}: a recipe is a mapping of keys, this is {type(config).__name__}"
            )
        for override in overrides:
            _override(config, override)
        raw = OmegaConf.to_container(config, resolve=True)
    except yaml.YAMLError as err:
        raise PrefdataError(f"{path}: not valid YAML: {err}") from err
    except OmegaConfBaseException as err:
        key = f"{err.full_key}: " if err.full_key else ""
        raise PrefdataError(f"{path}: {key}{str(err).splitlines()[0]}") from err
    return {str(key): value for key, value in raw.items()} if isinstance(raw, dict) else {}


def _override(config: Any, override: str) -> None:
    """Set `key.0.sub=value`; the value is YAML, list items are addressed by number."""
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        raise PrefdataError(f"{override!r} is no override; write key=value, say num_records=10")
    key = key.strip()
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as err:
        raise PrefdataError(f"override {override!r}: the value is not valid YAML: {err}") from err
    if isinstance(value, str) and _is_path_key(key) and Path(value).exists():
        value = str(Path(value).absolute())
    _check_list_indices(config, key)
    OmegaConf.update(config, key, value, merge=False, force_add=True)


def _is_path_key(key: str) -> bool:
    return any(Path(key.replace(".", "/")).match(k.replace(".", "/")) for k in PATH_KEYS)


def _check_list_indices(config: Any, key: str) -> None:
    node, seen = config, ""
    for part in key.split("."):
        if OmegaConf.is_list(node) and not (part.isdigit() and int(part) < len(node)):
            raise PrefdataError(
                f"override {key!r}: {seen or 'the recipe'} is a list of {len(node)} items, "
                f"and {part!r} is none of 0 to {len(node) - 1}"
            )
        if not OmegaConf.is_config(node):
            return
        node = OmegaConf.select(
            config, seen := f"{seen}.{part}".lstrip("."), throw_on_missing=False
        )


class _Lines:
    """Where each YAML path stands in the file."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._root = yaml.compose(text, Loader=yaml.SafeLoader)

    def place(self, at: Sequence[str | int]) -> str:
        """`file:line: path`, with the line of the nearest key that stands in the file."""
        node, line = self._root, self._root.start_mark.line if self._root else 0
        for part in at:
            found = _child(node, part)
            if found is None:
                break
            node, line = found
        dotted = ".".join(str(part) for part in at)
        return f"{self._path}:{line + 1}: {dotted}" if dotted else f"{self._path}"


def _child(node: Any, part: str | int) -> tuple[Any, int] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return value, key.start_mark.line
    if isinstance(node, yaml.SequenceNode) and str(part).isdigit() and int(part) < len(node.value):
        item = node.value[int(part)]
        return item, item.start_mark.line
    return None


def _explain(err: ValidationError, lines: _Lines) -> str:
    return "\n".join(_explain_one(details, lines) for details in err.errors())


def _explain_one(details: ErrorDetails, lines: _Lines) -> str:
    at = _without_tags(details["loc"])
    if details["type"] == "extra_forbidden":
        known = _known_keys(details["loc"][:-1])
        return f"{lines.place(at)}: there is no key {at[-1]!r} here; {suggest(str(at[-1]), known)}"
    if details["type"] == "union_tag_invalid":
        context = details["ctx"]
        known = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        return (
            f"{lines.place((*at, 'type'))}: there is no type {context['tag']!r}; "
            f"{suggest(context['tag'], known)}"
        )
    if details["type"] == "union_tag_not_found":
        return f"{lines.place(at)}: the key 'type' is missing, so it cannot be read; add it"
    if details["type"] == "missing":
        return f"{lines.place(at)}: this key is missing; add it"
    message = details["msg"].removeprefix("Value error, ")
    found = (
        "" if isinstance(details["input"], dict | BaseModel) else f" (found {details['input']!r})"
    )
    return f"{lines.place(at)}: {message}{found}"


def _tags(union: Any) -> dict[str, type[BaseModel]]:
    members = get_args(get_args(union)[0])
    return {get_args(m.model_fields["type"].annotation)[0]: m for m in members}


def _without_tags(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """A YAML path: pydantic puts a union's tag behind `columns.N` and `output_projection`."""
    if loc[:1] == ("columns",) and len(loc) > 2:
        return (*loc[:2], *loc[3:])
    if loc[:1] == ("output_projection",) and len(loc) > 1 and loc[1] in _projections():
        return (loc[0], *loc[2:])
    return loc


def _projections() -> dict[str, type[BaseModel]]:
    return _tags(OutputProjection)


def _known_keys(loc: tuple[str | int, ...]) -> list[str]:
    model: type[BaseModel] = Recipe
    if loc[:1] == ("columns",) and len(loc) > 2:
        model = _tags(AnyColumn)[str(loc[2])]
    elif loc[:1] == ("output_projection",) and len(loc) > 1:
        model = _projections()[str(loc[1])]
    elif loc:
        model = _submodel(loc)
    return sorted(model.model_fields)


def _submodel(loc: tuple[str | int, ...]) -> type[BaseModel]:
    model: type[BaseModel] = Recipe
    for part in loc:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        inner = [annotation, *get_args(annotation)]
        model = next(a for a in inner if isinstance(a, type) and issubclass(a, BaseModel))
    return model


def _seed_fields(loaded: LoadedRecipe) -> frozenset[str] | None:
    """Names of the seed columns, or None where they show only when the seeds are loaded."""
    seeds = loaded.recipe.seed_dataset
    return frozenset(seeds.fields) if seeds.fields is not None else None
