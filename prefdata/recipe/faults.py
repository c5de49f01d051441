"""Messages about a wrong recipe: file, line, YAML path, known names. Loads nothing."""

import re
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from prefdata.errors import PrefdataError, suggest
from prefdata.recipe.contract import At, dotted

Part = TypeVar("Part", bound=BaseModel)
LONGEST = 80
"""Characters of a wrong value that a message repeats."""
_KINDS = {
    "string_type": "expected a string",
    "tuple_type": "expected a list",
    "dict_type": "expected a mapping of keys to values",
    "model_type": "expected a mapping of keys to values",
    "model_attributes_type": "expected a mapping of keys to values",
    "string_too_short": "it must not be empty",
    "int_parsing": "expected a whole number",
    "float_parsing": "expected a number",
    "string_pattern_mismatch": "a name begins with a letter and has only letters, digits and '_'",
}
"""pydantic's types of error in the words of a recipe."""


class Lines:
    """Where each YAML path was set: in the file, or on the command line."""

    def __init__(self, path: Path | None, root: yaml.Node | None) -> None:
        self._path, self._root = path, root
        self.overridden: list[At] = []

    def place(self, at: At) -> str:
        """`file:line: path`, with the line of the nearest key that the file has."""
        told = dotted(at)
        line = self._line(at)
        if line is None and any(key[: len(at)] == at for key in self.overridden):
            return f"command line: {told}"
        if self._root is None or any(at[: len(key)] == key for key in self.overridden):
            return f"command line: {told}"
        while line is None:
            line = self._line(at := at[:-1])
        return f"{self._path}:{line}: {told}" if told else f"{self._path}"

    def _line(self, at: At) -> int | None:
        """The line of a path, from 1, or None where the file does not have it."""
        if self._root is None:
            return None
        node, line = self._root, self._root.start_mark.line
        for part in at:
            found = _child(node, part)
            if found is None:
                return None
            node, line = found
        return line + 1


def _child(node: yaml.Node, part: str | int) -> tuple[yaml.Node, int] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return value, key.start_mark.line
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        item = node.value[part]
        return item, item.start_mark.line
    return None


def validate(kind: type[Part], raw: Any, lines: Lines, at: At = ()) -> Part:
    """A value as a part of a recipe.

    `lines`: where its keys stand. `at`: its own path there.

    Raises:
        PrefdataError: one line per problem.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as err:
        raise PrefdataError(_explain(err, kind, raw, lines, at)) from err


def _explain(err: ValidationError, kind: type[BaseModel], raw: Any, lines: Lines, at: At) -> str:
    """Of a value that one member of a union takes and finds fault with, the others need not speak.

    Equal problems, from several members, are told once.
    """
    found = [((*at, *_path(one, raw)), one) for one in err.errors()]
    taken = {path for path, one in found if one["type"] == "value_error"}
    told = (
        f"{lines.place(path)}: {_say(path, one, kind)}"
        for path, one in found
        if one["type"] == "value_error" or path not in taken
    )
    return "\n".join(dict.fromkeys(told))


def _path(details: ErrorDetails, value: Any) -> At:
    """A YAML path: without what pydantic adds to tell the members of a union apart.

    Of its parts the value has all but the name of a member and a key that is missing.
    """
    path: list[str | int] = []
    is_told = False
    for part in details["loc"]:
        is_tag = isinstance(value, dict) and value.get("type") == part and not is_told
        is_item = isinstance(value, list) and isinstance(part, int)
        if is_item or (isinstance(value, dict) and part in value and not is_tag):
            path.append(part)
            value = value[part]
        is_told = is_tag
    if details["type"] == "missing":
        path.append(details["loc"][-1])
    return (*path, "type") if details["type"] == "union_tag_invalid" else tuple(path)


def _say(at: At, details: ErrorDetails, root: type[BaseModel]) -> str:
    kind, found, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "extra_forbidden":
        known = _known_keys(details["loc"][:-1], root)
        return f"there is no key {at[-1]!r} here; {suggest(str(at[-1]), known)}"
    if kind == "missing":
        return "this key is missing; add it"
    if kind == "union_tag_not_found":
        return "the key 'type' is missing, so the entry cannot be read; add it"
    if kind in ("union_tag_invalid", "literal_error"):
        word = context.get("tag", found)
        known = re.findall(r"'([^']*)'", context.get("expected_tags") or context["expected"])
        if not known:  # of values that are no texts
            return f"expected {context['expected'].lower()} (found {shown(word)})"
        if len(known) == 1:
            return f"expected {known[0]!r} (found {shown(word)})"
        name = next(part for part in reversed(at) if isinstance(part, str))
        return f"there is no {name} {word!r}; {suggest(str(word), known)}"
    if kind == "too_short" and context["min_length"] == 1:
        return "the list is empty; name one at least"
    if kind == "too_short":
        return f"name {context['min_length']} at least (found {context['actual_length']})"
    message = _KINDS.get(kind, details["msg"].removeprefix("Value error, "))
    if kind == "string_type" and isinstance(found, bool | int | float):
        message += ": put the value in quotes"
    return message + (f" (found {shown(found)})" if _is_told(kind, found) else "")


def _is_told(kind: str, found: Any) -> bool:
    if kind == "secret":
        return False
    # the checks across the keys of a mapping name what they found themselves
    return not isinstance(found, dict | BaseModel) or kind.endswith("_type")


def shown(found: Any) -> str:
    """A wrong value as a message repeats it."""
    text = "null" if found is None else repr(found)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _known_keys(loc: At, root: type[BaseModel]) -> list[str]:
    """The fields of the model that pydantic's path leads to."""
    models = [root]
    for part in loc:
        if len(models) > 1:  # a union, of which a part names the member
            models = [model for model in models if part in _names(model)] or models
        elif part in models[0].model_fields:
            models = _models(models[0].model_fields[str(part)].annotation) or models
    return sorted(set().union(*(model.model_fields for model in models)))


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _names(model: type[BaseModel]) -> tuple[str, ...]:
    kind = model.model_fields.get("type")
    return (model.__name__, *(get_args(kind.annotation) if kind else ()))
