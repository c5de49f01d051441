"""Messages about a wrong recipe: file, line, YAML path, known names. Loads nothing."""

import re
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from prefdata.errors import suggest
from prefdata.recipe.columns import AnyColumn
from prefdata.recipe.contract import At
from prefdata.recipe.mix import OutputProjection
from prefdata.recipe.schema import Recipe

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


_TAG = re.compile(r"constrained-\w+|[\w-]+\[.*\]|\[key\]")
"""What pydantic adds to a path to tell the members of a union apart."""


class Lines:
    """Where each YAML path was set: in the file, or on the command line."""

    def __init__(self, path: Path | None, root: yaml.Node | None) -> None:
        self._path, self._root = path, root
        self.overridden: list[At] = []

    def place(self, at: At) -> str:
        """`file:line: path`, with the line of the nearest key that the file has."""
        dotted = ".".join(map(str, at))
        line = self._line(at)
        if line is None and any(key[: len(at)] == at for key in self.overridden):
            return f"command line: {dotted}"
        if self._root is None or any(at[: len(key)] == key for key in self.overridden):
            return f"command line: {dotted}"
        while line is None:
            line = self._line(at := at[:-1])
        return f"{self._path}:{line}: {dotted}" if dotted else f"{self._path}"

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


def explain(
    err: ValidationError, lines: Lines, *inside: str, root: type[BaseModel] = Recipe
) -> str:
    """One line per problem; equal ones, from the members of a union, once.

    Of a value that one member takes and finds fault with, the others need not say its type.
    """
    found = err.errors()
    for details in found:
        details["loc"] = (*inside, *details["loc"])
    taken = {_without_tags(one["loc"]) for one in found if one["type"] == "value_error"}
    found = [
        one for one in found
        if one["type"] == "value_error" or _without_tags(one["loc"]) not in taken
    ]  # fmt: skip
    return "\n".join(dict.fromkeys(_explain_one(details, lines, root) for details in found))


def _explain_one(details: ErrorDetails, lines: Lines, root: type[BaseModel]) -> str:
    at, kind = _without_tags(details["loc"]), details["type"]
    if kind == "union_tag_invalid":
        at = (*at, "type")
    return f"{lines.place(at)}: {_say(kind, at, details, root)}"


def _say(kind: str, at: At, details: ErrorDetails, root: type[BaseModel]) -> str:
    found, context = details["input"], details.get("ctx", {})
    if kind == "extra_forbidden":
        return f"there is no key {at[-1]!r} here; {suggest(str(at[-1]), _known_keys(details['loc'][:-1], root))}"  # fmt: skip  # noqa: E501
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


def _tags(union: Any) -> dict[str, type[BaseModel]]:
    members = get_args(get_args(union)[0])
    return {get_args(m.model_fields["type"].annotation)[0]: m for m in members}


def _without_tags(loc: At) -> At:
    """A YAML path: pydantic puts a union's tag behind `columns.N` and `output_projection`."""
    if loc[-1:] in (("int",), ("float",), ("str",), ("bool",)):  # members of a plain union
        loc = loc[:-1]
    loc = tuple(part for part in loc if not _TAG.fullmatch(str(part)))
    if loc[:2] == ("seed_dataset", "path"):  # one path is read as a list of one
        return loc[:2]
    if loc[:1] == ("columns",) and len(loc) > 2:
        return (*loc[:2], *loc[3:])
    if loc[:1] == ("output_projection",) and len(loc) > 1 and loc[1] in _projections():
        loc = (loc[0], *loc[2:])
    if loc[:2] == ("output_projection", "of") and len(loc) > 3:
        return (*loc[:3], *loc[4:])
    return loc


def _projections() -> dict[str, type[BaseModel]]:
    return _tags(OutputProjection)


def _known_keys(loc: At, root: type[BaseModel]) -> list[str]:
    model = root
    if loc[:1] == ("columns",) and len(loc) > 2:
        model = _tags(AnyColumn)[str(loc[2])]
    elif loc[:1] == ("output_projection",) and len(loc) > 1:
        is_part = loc[2:3] == ("of",) and len(loc) > 4
        model = _submodel(
            loc[5:] if is_part else loc[2:], _projections()[str(loc[4 if is_part else 1])]
        )
    elif loc:
        model = _submodel(loc, root)
    return sorted(model.model_fields)


def _submodel(loc: At, model: type[BaseModel]) -> type[BaseModel]:
    for part in loc:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        inner = [annotation, *get_args(annotation)]
        model = next(a for a in inner if isinstance(a, type) and issubclass(a, BaseModel))
    return model
