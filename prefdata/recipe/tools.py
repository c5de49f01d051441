"""Tools that a model may call: what counts as their list, read from a recipe or a row.

Knows no engine.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, Field

from prefdata.errors import RowError
from prefdata.recipe.values import ColumnName

ToolList = tuple[Mapping[str, Any], ...]


def is_tools(value: Any) -> bool:
    """Whether a value is a list of tools, each under `function` as OpenAI has it, or bare."""
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_tool, value))


def read_tools(value: Any) -> ToolList:
    """The tools of a row: a list, its JSON text, or null for none.

    Raises:
        RowError: `tools`; it is not such a list.
    """
    told = value
    if isinstance(value, str):
        try:
            told = orjson.loads(value)
        except orjson.JSONDecodeError as err:
            raise RowError("tools", f"the tools are not valid JSON ({err}): {value!r}") from err
    if not told:
        return ()
    if not is_tools(told):
        raise RowError("tools", f"each tool must be a function with a name: {told!r}")
    return tuple(tool if "function" in tool else {"type": "function", "function": tool}
                 for tool in told)  # fmt: skip


def tools_read(columns: Iterable[Any]) -> frozenset[str]:
    """Columns of rows that hold tools for one of the recipe's columns."""
    told = (getattr(column, "tools", None) for column in columns)
    return frozenset(name for name in told if isinstance(name, str))


def readable(calls: Sequence[Mapping[str, Any]]) -> str:
    """Calls as a text for a judge, a line each: name and arguments."""
    return "\n".join(f"{one['function']['name']}({one['function']['arguments']})" for one in calls)


def calls_of(meta: Mapping[str, Any]) -> tuple[Any, ...]:
    """The calls of a text, of what is recorded of how it came to be."""
    told = meta.get("tool_calls")
    return tuple(orjson.loads(told)) if told else ()


def with_calls(text: str, meta: Mapping[str, Any]) -> str:
    """A text with its calls behind it, for who reads texts."""
    calls = calls_of(meta)
    return "\n".join(part for part in (text, readable(calls)) if part) if calls else text


def _is_tool(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    function = value.get("function", value)
    is_named = isinstance(function, Mapping) and isinstance(function.get("name"), str)
    return is_named and ("function" in value or isinstance(value.get("parameters"), Mapping))


def _check(value: ToolList) -> ToolList:
    if not is_tools(value):
        raise ValueError("each tool is a function with a name, as in OpenAI's form")
    return value


Tools = (
    ColumnName | Annotated[tuple[dict[str, Any], ...], Field(min_length=1), AfterValidator(_check)]
)
"""The name of a column with tools, or the tools themselves."""
