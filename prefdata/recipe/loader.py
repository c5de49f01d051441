"""From a YAML file and `key=value` overrides to a checked Recipe, before anything heavy is loaded.

Knows no engine, no dataset library.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple, TypeVar, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from prefdata.errors import PrefdataError, suggest
from prefdata.recipe.chance import tell_of_chance
from prefdata.recipe.checks import check_recipe, environment_name, find_unwritable
from prefdata.recipe.contract import At, dotted, path_of
from prefdata.recipe.environment import (
    INTERPOLATION,
    find_kept,
    kept_in_rows,
    let_stand,
    masked,
    texts_in,
    values_told,
    variables_in,
)
from prefdata.recipe.faults import Lines, shown, validate
from prefdata.recipe.layout import ABOUT, Layout, expand_layout
from prefdata.recipe.projection import PreferencePairs
from prefdata.recipe.providers import LOCAL_PROVIDERS
from prefdata.recipe.schema import Recipe
from prefdata.recipe.shipped import shipped
from prefdata.recipe.values import SettingsModel
from prefdata.recipe.weights import read_model_files

Settings = TypeVar("Settings", bound=SettingsModel)
RecipeSource = Path | str | Mapping[str, Any] | Recipe
UNNAMED = "<recipe>"
"""Stands for the file of a recipe that has none."""
PATH_KEYS = (
    "seed_dataset.path", "models.*.model", "models.*.adapter", "models.*.chat_template",
    "columns.*.prompt_file", "columns.*.gold.path",
    "columns.*.decontaminate.against.*.path", "variables.*",
)  # fmt: skip
"""Keys whose values may be files: in a recipe these are looked up beside it, then in the current
folder; on the command line in the current folder first.
"""

_ABOUT_INTERPOLATION = (
    "set the variable it names, or give a default as in ${oc.env:NAME,default}; to write a "
    "plain '${', use '\\${'"
)


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A checked recipe and where it came from.

    Attributes:
        resolved: the YAML after overrides and interpolation, as written to the run folder; what
            comes from the environment is still to be interpolated there.
        folder: the folder in which relative paths are looked up.
        from_environment: texts of the recipe that hold values of the environment, each with the
            interpolation that stands for it in whatever is written.
        notes: what the user should know, one sentence each.
        lines: where its keys stand in the file.
        files: that were read: the recipe's own, and those with prompts and chat templates.
        given: functions that were objects in the recipe, by the names that stand for them.
    """

    recipe: Recipe
    resolved: str
    folder: Path
    from_environment: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    lines: Lines = field(default_factory=lambda: Lines(None, None), compare=False, repr=False)
    files: tuple[Path, ...] = ()
    given: Mapping[str, Callable[..., Any]] = field(default_factory=dict, compare=False)

    def changed(self, **fields: Any) -> "LoadedRecipe":
        """The same recipe with other top-level fields, for a preview or a rehearsal."""
        return replace(self, recipe=self.recipe.model_copy(update=fields))

    def place(self, at: At) -> str:
        """Where a key of the recipe stands, for a message."""
        return self.lines.place(at)

    def locate(self, path: str) -> str:
        """A path of the recipe as an existing absolute path, or unchanged if there is none."""
        return _locate(path, self.folder)

    def tell(self, text: str) -> str:
        """A text of the recipe as it may be written: an interpolation for the environment's."""
        return self.from_environment.get(text, text)


class Written(NamedTuple):
    """What may name files in a recipe, by key, and variables that it reads; nothing looked up."""

    paths: Mapping[str, str]
    variables: frozenset[str]


def load_recipe(
    source: RecipeSource,
    overrides: Sequence[str] = (),
    *,
    prepare: Callable[[dict[str, Any]], None] | None = None,
    is_saved: bool = False,
) -> LoadedRecipe:
    """Read, override, interpolate, validate and cross-check a recipe.

    Args:
        source: the path of a YAML file, or the name of a recipe that ships; or a recipe itself, as
            YAML text of several lines, as a dict or as a `Recipe`. Paths in one without a file are
            looked up in the current folder.
        overrides: `key=value`; one of `variables` needs no more than its name.
        prepare: changes or refuses what stands in the file, before the overrides.
        is_saved: the recipe of a run; a variable that is not set here stands for itself.

    Raises:
        PrefdataError: one message per problem, with file, line and YAML path; values of the
            environment are not repeated.
    """
    given: dict[str, Callable[..., Any]] = {}
    path, text = _written(source, given)
    with masked(text, *overrides):
        config, lines = _parse(path or Path(UNNAMED), text)
        if prepare is not None:
            written: Any = OmegaConf.to_container(config, resolve=False)
            prepare(written)
            config = OmegaConf.create(written)
        for override in overrides:
            lines.overridden.append(_override(config, override))
        if is_saved:
            let_stand(config)
        loaded = _check(config, lines, path.absolute() if path else None)
        return replace(loaded, given=given)


def read_written(source: Path, overrides: Sequence[str]) -> Written:
    """What is written in a recipe that loads with these overrides."""
    path = _named(source)
    config, lines = _parse(path, _read(path))
    for override in overrides:
        _override(config, override, is_located=False)
    plain: Any = OmegaConf.to_container(config, resolve=False)
    told = ((dotted(at), text) for at, text in texts_in(_resolve(config, lines)))
    paths = {key: str(_home(text)) for key, text in told if _names_file(key)}
    return Written(paths, variables_in(plain))


def _written(source: RecipeSource, given: dict[str, Callable[..., Any]]) -> tuple[Path | None, str]:
    """Where a recipe stands, if in a file, and its text; functions in it are added to `given`."""
    if isinstance(source, Recipe):
        return None, _dump(source.model_dump(mode="json", exclude_unset=True), {})
    if isinstance(source, Mapping):
        try:
            return None, yaml.safe_dump(_plain(source, given), sort_keys=False, allow_unicode=True)
        except yaml.YAMLError as err:
            raise PrefdataError(
                f"{UNNAMED}: a {type(err.args[-1]).__name__} cannot stand in a recipe; give texts, "
                "numbers, lists and dicts (build and preview also take a Dataset as seeds)"
            ) from err
    if isinstance(source, str) and "\n" in source.strip():
        return None, source
    if not isinstance(source, str | Path):
        raise PrefdataError(
            f"a recipe cannot be read from {type(source).__name__}; give a path, a text in YAML, a "
            "dict or a Recipe"
        )
    path = _named(Path(source))
    return path, _read(path)


def _named(path: Path) -> Path:
    """The path of a recipe's file, or of the shipped recipe that is called so."""
    if len(path.parts) != 1 or path.suffix or path.is_file():
        return path
    known = {file.stem: file for file in sorted(shipped("").glob("*.yaml"))}
    if path.name not in known:
        raise PrefdataError(
            f"{path}: recipe not found; give the path of a YAML file, or the name of a recipe that "
            f"ships: {suggest(path.name, known)}"
        )
    return known[path.name]


def _plain(value: Any, given: dict[str, Callable[..., Any]]) -> Any:
    """A value of Python as YAML has it: tuples are lists, paths are texts, functions have names."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part, given) for key, part in strategy_of(value).items()}
    if isinstance(value, list | tuple):
        return [_plain(part, given) for part in value]
    if callable(value):
        return give_name(value, given)
    return str(value) if isinstance(value, Path) else value


def strategy_of(rules: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rules of pairs whose strategy may be a function itself."""
    pick = rules.get("strategy")
    return {**rules, "strategy": "function", "pick": pick} if callable(pick) else rules


def give_name(function: Callable[..., Any], given: dict[str, Callable[..., Any]]) -> str:
    """The name under which a function is added to those that are given."""
    kind: Any = function if isinstance(function, FunctionType) else type(function)
    name, number = f"{kind.__module__}:{kind.__qualname__}", 1
    while given.setdefault(name, function) is not function:
        number += 1
        name = f"{kind.__module__}:{kind.__qualname__}-{number}"
    return name


def _check(config: DictConfig, lines: Lines, file: Path | None) -> LoadedRecipe:
    folder = file.parent if file else Path.cwd()
    raw = _resolve(config, lines)
    kept = find_kept(config, raw)
    told = values_told(kept, raw)
    files = (*([file] if file else []), *_read_prompts(raw, folder, lines))
    for one in read_model_files(raw, lambda file: _locate(file, folder), lines):
        files += (one.file,) if one.file else ()
        if (interpolation := kept.pop(one.at, None)) is not None and one.target is not None:
            kept[one.target] = interpolation
    _use_layout(raw, lines)
    for at, interpolation, value in _add_providers(raw):
        kept[at], told[value] = interpolation, interpolation
    recipe = validate(Recipe, raw, lines)
    if problems := check_recipe(recipe, recipe.seed_fields):
        raise PrefdataError("\n".join(f"{lines.place(p.at)}: {p.message}" for p in problems))
    notes = (*kept_in_rows(kept), *tell_of_chance(recipe))
    return LoadedRecipe(recipe, _dump(raw, kept), folder, told, notes, lines, files)


def validate_pair_rules(defaults: Mapping[str, Any], overrides: Sequence[str]) -> PreferencePairs:
    """Pair rules without a recipe: defaults and `key=value`.

    Raises:
        PrefdataError: an unknown key, or a value that does not fit.
    """
    for override in overrides:  # they are written down as they are used
        if INTERPOLATION.search(override) and "oc.env" in override:
            raise PrefdataError(
                f"{override}: '${{oc.env:…}}' is of recipes; let the shell put the value in"
            )
    lines = Lines(None, None)
    config = OmegaConf.create({"output_projection": dict(defaults)})
    for override in overrides:
        _override(config, f"output_projection.{override}")
    raw = _resolve(config, lines)["output_projection"]
    return validate(PreferencePairs, raw, lines, ("output_projection",))


def load_layout(name: str | None, overrides: Sequence[str]) -> Layout:
    """The layout of a file without a recipe.

    `name`: of a preset, or of a YAML file; `prompt`, `text` and `score` where left out.
    `overrides`: `key=value` of the layout.

    Raises:
        PrefdataError: there is none of this name, an unknown key, or a value that does not fit.
    """
    file = Path(name) if name and name.endswith((".yaml", ".yml")) else None
    config, lines = _parse(file, _read(file)) if file else (DictConfig({}), Lines(None, None))
    if name and not file:
        config = DictConfig(expand_layout(name))
    for override in overrides:
        lines.overridden.append(_override(config, override))
    raw = {key: value for key, value in _resolve(config, lines).items() if key not in ABOUT}
    if not name:
        is_pair = raw.keys() & {"a", "b", "label", "chosen", "rejected"}
        raw = ({} if is_pair else {"prompt": "prompt", "text": "text", "score": "score"}) | raw
    return validate(Layout, expand_layout(raw), lines)


def load_settings(kind: type[Settings], file: Path | None, overrides: Sequence[str]) -> Settings:
    """Settings without a recipe: a YAML file, if any, and `key=value` on top.

    Paths in the file are looked up beside it, then in the current folder.

    Raises:
        PrefdataError: one message per problem, as for a recipe.
    """
    text = _read(file, "settings") if file else ""
    nothing = DictConfig({}), Lines(None, None)
    with masked(text, *overrides):
        config, lines = _parse(file, text, "settings") if file else nothing
        beside = (file or Path()).parent.absolute()
        for key in kind.paths:
            if isinstance(path := OmegaConf.select(config, key), str):
                OmegaConf.update(config, key, _locate(path, beside))
        for override in overrides:
            lines.overridden.append(_override(config, override))
        return validate(kind, _resolve(config, lines), lines)


def _locate(path: str, beside: Path) -> str:
    for folder in (beside, Path.cwd()):
        if _is_there(place := folder / _home(path)):
            return str(place)
    return str(_home(path)) if path.startswith("~/") else path


def _read_prompts(raw: dict[str, Any], folder: Path, lines: "Lines") -> list[Path]:
    """Put the text of every column's `prompt_file` where its `prompt` is expected."""
    files: list[Path] = []
    columns = raw.get("columns")
    for number, column in enumerate(columns if isinstance(columns, list) else ()):
        if not isinstance(column, dict) or "prompt_file" not in column:
            continue
        at, file = lines.place(("columns", number, "prompt_file")), column.pop("prompt_file")
        if "prompt" in column:
            raise PrefdataError(f"{at}: there is also a 'prompt'; keep one of them")
        if not isinstance(file, str):
            raise PrefdataError(f"{at}: expected the path of a file (found {shown(file)})")
        try:
            files.append(Path(_locate(file, folder)))
            text = files[-1].read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as err:
            raise PrefdataError(
                f"{at}: {file!r} cannot be read ({err}); relative paths are looked up beside "
                "the recipe"
            ) from err
        column["prompt"] = text.removesuffix("\n")
    return files


def _use_layout(raw: dict[str, Any], lines: Lines) -> None:
    """Put a layout in the place of its name, and what its scores and labels mean into the rules."""
    seeds, rule = raw.get("seed_dataset"), raw.get("output_projection")
    if not isinstance(seeds, dict) or "candidates" not in seeds:
        return
    try:
        told = seeds["candidates"] = expand_layout(seeds["candidates"])
    except PrefdataError as err:
        place = lines.place(("seed_dataset", "candidates"))
        raise PrefdataError(f"{place}: {err}") from err
    if not isinstance(told, dict) or not isinstance(rule, dict):
        return
    parts = rule.get("of")
    for one in (rule, *(parts.values() if isinstance(parts, dict) else ())):
        if not isinstance(one, dict):
            continue
        if one.get("score") == "score" and told.get("better") == "lower":
            one.setdefault("better", "lower")
        is_given = one.get("strategy") == "given" and one.get("candidates") == "candidates"
        if is_given and (told.get("label") or told.get("margin")):  # 0 there is a tie
            one.setdefault("margin", "margin")


def _add_providers(raw: dict[str, Any]) -> Iterator[tuple[At, str, str]]:
    """Add providers that models name and the recipe lacks, if the environment has their address.

    They become part of the resolved recipe, which is then complete; yields where the addresses
    stand, how they are interpolated, and what they are.
    """
    models, told = raw.get("models"), raw.get("providers", [])
    if not isinstance(models, list) or not isinstance(told, list):
        return
    known = {*LOCAL_PROVIDERS, *(one.get("name") for one in told if isinstance(one, dict))}
    named = [model.get("provider") for model in models if isinstance(model, dict)]
    for name in dict.fromkeys(n for n in named if isinstance(n, str) and n not in known):
        if address := os.environ.get(environment_name(name, "BASE_URL")):
            entry = {"name": name, "endpoint": address}
            if (key := environment_name(name, "API_KEY")) in os.environ:
                entry["api_key"] = key
            raw["providers"] = [*raw.get("providers", []), entry]
            variable = environment_name(name, "BASE_URL")
            at: At = ("providers", len(raw["providers"]) - 1, "endpoint")
            yield at, f"${{oc.env:{variable}}}", address


def _read(path: Path, what: str = "recipe") -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as err:
        raise PrefdataError(f"{path}: {what} not found; give the path of a YAML file") from err
    except (OSError, UnicodeDecodeError) as err:
        raise PrefdataError(f"{path}: the {what} cannot be read: {err}") from err


def _parse(path: Path, text: str, what: str = "recipe") -> tuple[DictConfig, "Lines"]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(root, yaml.MappingNode):
            kinds = {yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}
            keys = "output_dir, seed_dataset, models, columns and output_projection"
            begin = f"begin with {keys}" if what == "recipe" else "write key: value"
            raise PrefdataError(
                f"{path}: {'a ' * (what == 'recipe')}{what} must be a mapping of keys to values, "
                f"but this file is {kinds.get(type(root), 'empty')}; {begin}"
            )
        # OmegaConf's own YAML loader also refuses duplicate keys
        return cast(DictConfig, OmegaConf.create(text)), Lines(path, root)
    except yaml.YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise PrefdataError(f"{path}{line}: not valid YAML: {_yaml_problem(err)}") from err
    except OmegaConfBaseException as err:
        place = Lines(path, root).place(path_of(err.full_key or ""))
        raise PrefdataError(f"{place}: {_first_line(err)}; {_ABOUT_INTERPOLATION}") from err


def _yaml_problem(err: yaml.YAMLError) -> str:
    return getattr(err, "problem", None) or _first_line(err)


def _first_line(err: Exception) -> str:
    return (str(err).splitlines() or [type(err).__name__])[0]


def _resolve(config: DictConfig, lines: "Lines") -> dict[str, Any]:
    try:
        raw = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as err:
        why = f"{_first_line(err)}; {_ABOUT_INTERPOLATION}"
        if isinstance(err, MissingMandatoryValue):
            why = "'???' marks a value that you must give; set it"
        raise PrefdataError(f"{lines.place(path_of(err.full_key or ''))}: {why}") from err
    if fault := find_unwritable(raw):
        raise PrefdataError(f"{lines.place(fault.at)}: {fault.message}")
    return {str(key): value for key, value in raw.items()} if isinstance(raw, dict) else {}


def _dump(raw: dict[str, Any], kept: Mapping[At, str]) -> str:
    """YAML that loads as the same values: what is resolved is not to be interpolated again."""
    return yaml.safe_dump(_escape(raw, kept), sort_keys=False, allow_unicode=True)


def _escape(value: Any, kept: Mapping[At, str], at: At = ()) -> Any:
    if at in kept:
        return kept[at]
    if isinstance(value, dict):
        return {key: _escape(part, kept, (*at, key)) for key, part in value.items()}
    if isinstance(value, list):
        return [_escape(part, kept, (*at, number)) for number, part in enumerate(value)]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + "\\${", value)
    return value


def _override(config: DictConfig, override: str, *, is_located: bool = True) -> At:
    """Set `key.0.sub=value` and return the path; the value is YAML, numbers count list items.

    `is_located`: whether paths of files that are here become absolute.
    """
    key, text = _split(override)
    variables = config.get("variables") or {}
    if variables and key.split(".")[0] not in Recipe.model_fields:
        if key not in variables:
            known = [*variables, *Recipe.model_fields]
            raise PrefdataError(f"override {key!r}: there is no such key; {suggest(key, known)}")
        key = f"variables.{key}"
    try:
        value = _yaml_value(text)
        if is_located and _is_path_key(key):
            value = [_absolute(v) for v in value] if isinstance(value, list) else _absolute(value)
        _check_way(config, key)
        OmegaConf.update(config, key, value, merge=False, force_add=True)
    except yaml.YAMLError as err:
        raise PrefdataError(
            f"override {override!r}: the value is not valid YAML: {_yaml_problem(err)}; put it in "
            f"quotes: '{key}=\"…\"'"
        ) from err
    except OmegaConfBaseException as err:
        why = f"{_first_line(err)}; {_ABOUT_INTERPOLATION}"
        raise PrefdataError(f"override {override!r}: {why}") from err
    return path_of(key)


def override_of_out(out: Path | str) -> str:
    """What `--out` overrides; in quotes, as a folder may be called 2024 or a: b, or have a `${`."""
    quoted = str(out).replace("${", r"\${").replace("'", "''")
    return f"output_dir='{quoted}'"


def override_path(override: str) -> At:
    """The path that `key.0.sub=value` sets.

    Raises:
        PrefdataError: the text is not an override.
    """
    return path_of(_split(override)[0])


def _split(override: str) -> tuple[str, str]:
    """(key with dots alone, text of the value)."""
    key, sign, text = override.partition("=")
    key = re.sub(r"\[(\w+)\]", r".\1", key.strip())
    if not sign or not all(key.split(".")):
        raise PrefdataError(
            f"{override!r} is not an override; write key=value, for example num_records=10"
        )
    return key, text


def _absolute(value: Any) -> Any:
    """A path given on the command line that exists, resolved from the current folder."""
    is_here = isinstance(value, str) and _is_there(_home(value))
    return str(_home(value).absolute()) if is_here else value


def _yaml_value(text: str) -> Any:
    # OmegaConf's YAML, as in the file: 1e-3 is a number, a date is a text
    holder: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    return holder["value"]


def _home(path: str) -> Path:
    # a shell leaves the ~ of key=~/file alone
    return Path.home() / path[2:] if path.startswith("~/") else Path(path)


def _is_there(place: Path) -> bool:
    if not any(c in str(place) for c in "*?["):
        return place.exists()
    place = place.absolute()
    try:
        return place.exists() or any(Path(place.anchor).glob(str(place.relative_to(place.anchor))))
    except ValueError:  # no valid glob, so a name that only the seeds can explain
        return False


def _is_path_key(key: str) -> bool:
    return any(Path(key.replace(".", "/")).match(k.replace(".", "/")) for k in PATH_KEYS)


def _names_file(key: str) -> bool:
    """Whether the value at a key, or an item of its list, may name a file."""
    is_option = re.match(r"models\.\d+\.engine\.", key) is not None
    return key == "output_path" or is_option or _is_path_key(re.sub(r"\.\d+$", "", key))


def _check_way(config: Any, key: str) -> None:
    """Check that the path of an override leads through existing lists and mappings."""
    node, seen = config, ""
    for part in key.split("."):
        if OmegaConf.is_list(node) and part not in map(str, range(len(node))):
            known = f"0 to {len(node) - 1}" if len(node) else "the list is empty"
            raise PrefdataError(
                f"override {key!r}: {seen} is a list of {len(node)} items, and {part!r} is "
                f"not one of them ({known}); to add an item, set the whole list as in "
                f"'{seen}=[…]'"
            )
        if node is None:
            return
        if not OmegaConf.is_config(node):
            raise PrefdataError(
                f"override {key!r}: {seen} is {shown(node)}, which has no keys; set {seen} itself"
            )
        seen = f"{seen}.{part}".lstrip(".")
        node = OmegaConf.select(config, seen, throw_on_missing=False)
