"""`expression` and `category`: values from the row itself or from a seeded draw."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from prefdata.errors import RowError
from prefdata.fingerprint import sampling_seed
from prefdata.recipe.columns import Category, Expression
from prefdata.recipe.prompts import compile_prompt
from prefdata.rows import ID, Row
from prefdata.stages.asking import Stage, Tools
from prefdata.stages.conditions import BOOLS

_KINDS: dict[str, tuple[pa.DataType, Callable[[str], Any]]] = {
    "str": (pa.string(), str),
    "int": (pa.int64(), int),
    "float": (pa.float64(), float),
    "bool": (pa.bool_(), lambda text: BOOLS[text.strip().lower()]),
}


def expression_fields(column: Expression) -> list[pa.Field]:
    """One value of the stated type."""
    return [pa.field(column.name, _KINDS[column.dtype][0])]


def expression(column: Expression, tools: Tools) -> Stage:
    """The rendered template, cast to the stated type."""
    template, cast = compile_prompt(column.expression), _KINDS[column.dtype][1]

    async def stage(row: Row) -> Row:
        text = template.render(row)
        try:
            return {column.name: cast(text)}
        except (ValueError, KeyError) as err:
            raise RowError("expression", f"{text!r} is not of type {column.dtype}") from err

    return stage


def category_fields(column: Category) -> list[pa.Field]:
    """One of the values."""
    return [pa.field(column.name, pa.string())]


def category(column: Category, tools: Tools) -> Stage:
    """A uniform draw that depends on the recipe's seed, the row and the column alone."""

    async def stage(row: Row) -> Row:
        draw = sampling_seed(tools.seed, row[ID], column.name)
        return {column.name: column.values[draw % len(column.values)]}

    return stage
