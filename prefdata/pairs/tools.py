"""The tools that the models behind a pair might call, as a column of the pair."""

from collections.abc import Iterator
from typing import Any

import orjson
import pyarrow as pa

from prefdata.recipe.projection import DpoPreference, PreferencePairs
from prefdata.recipe.reads import all_columns, texts_of_rule
from prefdata.recipe.schema import Recipe
from prefdata.recipe.tools import read_tools
from prefdata.rows import Row


class PairTools:
    """Tools of pairs, by the first of the columns whose texts are paired that has any."""

    def __init__(self, rule: DpoPreference | PreferencePairs, recipe: Recipe | None) -> None:
        """Look up who wrote the texts; None for candidates from elsewhere."""
        self._tools = next(_tools(rule, recipe), None)

    @property
    def fields(self) -> list[pa.Field]:
        """`tools`, JSON or null; nothing where no model was given any."""
        return [pa.field("tools", pa.string())] if self._tools is not None else []

    def of_row(self, row: Row) -> Row:
        """The cell of a pair made of a row."""
        if self._tools is None:
            return {}
        given = read_tools(row[self._tools] if isinstance(self._tools, str) else self._tools)
        return {"tools": orjson.dumps(given).decode() if given else None}


def _tools(rule: DpoPreference | PreferencePairs, recipe: Recipe | None) -> Iterator[Any]:
    names = set(texts_of_rule(rule))
    for column in all_columns(recipe) if recipe else ():
        tools = getattr(column, "tools", None)
        if tools is not None and names.intersection(column.makes):
            yield tools
