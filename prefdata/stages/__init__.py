"""The column types: the fields that each adds, and the coroutine that makes them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from prefdata.errors import RowError
from prefdata.recipe.contract import Column
from prefdata.recipe.values import SKIPPED_SUFFIX
from prefdata.rows import Row, is_blank
from prefdata.stages.asking import Stage, Tools
from prefdata.stages.conditions import conditioned, told_of_skips
from prefdata.stages.converse import converse, converse_fields
from prefdata.stages.extract import extract, extract_fields
from prefdata.stages.filters import filter_fields, keep
from prefdata.stages.judge import judge_fields, llm_judge
from prefdata.stages.lists import expand, expand_fields
from prefdata.stages.own_code import stage, stage_fields
from prefdata.stages.rubric import rubric_fields, rubric_judge
from prefdata.stages.scores import reward_fields, reward_model, score_fields, verifier
from prefdata.stages.text import (
    candidates,
    candidates_fields,
    llm_structured,
    llm_text,
    structured_fields,
    text_fields,
)
from prefdata.stages.values import category, category_fields, expression, expression_fields

__all__ = [
    "STAGES", "Kind", "Stage", "Tools", "fields_of", "make_expansion",
    "make_stage",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kind:
    """The two functions behind a column type.

    Attributes:
        make: from the column and `Tools` to its `Stage`; for a kind that `expands`, from the column
            alone to what its children have more than a row.
        fields: from the column to the Arrow fields that it adds.
    """

    make: Callable[..., Any]
    fields: Callable[[Any], list[pa.Field]]


STAGES = {
    "llm_text": Kind(llm_text, text_fields),
    "converse": Kind(converse, converse_fields),
    "llm_structured": Kind(llm_structured, structured_fields),
    "llm_judge": Kind(llm_judge, judge_fields),
    "candidates": Kind(candidates, candidates_fields),
    "reward_model": Kind(reward_model, reward_fields),
    "rubric_judge": Kind(rubric_judge, rubric_fields),
    "verifier": Kind(verifier, score_fields),
    "expand": Kind(expand, expand_fields),
    "extract": Kind(extract, extract_fields),
    "expression": Kind(expression, expression_fields),
    "category": Kind(category, category_fields),
    "stage": Kind(stage, stage_fields),
    "filter": Kind(keep, filter_fields),
}


def fields_of(column: Column) -> list[pa.Field]:
    """The Arrow fields that a column adds."""
    fields = STAGES[column.type].fields(column)
    told = [pa.field(column.name + SKIPPED_SUFFIX, pa.string())] if column.skip_when else []
    return [*fields, *told]


def make_stage(column: Column, tools: Tools) -> Stage:
    """The coroutine function that adds a column's fields to a row."""
    stage: Stage = STAGES[column.type].make(column, tools)
    names = [field.name for field in STAGES[column.type].fields(column)]
    stage = conditioned(stage, column, tools, names)
    return _asks_something(stage, tools.prompt) if tools.prompt in column.makes else stage


def make_expansion(column: Column) -> Callable[[Row], list[Row]]:
    """The function that makes of a row what each of its children has more than the row."""
    make: Callable[[Row], list[Row]] = STAGES[column.type].make(column)

    def children(row: Row) -> list[Row]:
        with told_of_skips(column, row):
            return make(row)

    return children


def _asks_something(stage: Stage, prompt: str) -> Stage:
    """The stage, whose row is rejected if the pairs' prompt that it makes is blank."""

    async def checked(row: Row) -> Row:
        made = await stage(row)
        if isinstance(made[prompt], str) and is_blank(made[prompt]):
            raise RowError("empty_prompt", f"{prompt!r} is empty or blank, so nothing is asked")
        return made

    return checked
