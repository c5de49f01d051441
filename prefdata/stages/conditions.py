"""What stands before a stage: rows that it skips, candidates that a filter has left out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefdata.errors import RowError
from prefdata.recipe.contract import Column, Scored
from prefdata.recipe.filters import filters_before
from prefdata.recipe.prompts import compile_prompt
from prefdata.recipe.values import SKIPPED_SUFFIX
from prefdata.rows import Row, mark_filtered
from prefdata.stages.asking import Stage, Tools
from prefdata.stages.scores import as_column, texts_of

BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}


def is_true(source: str, row: Row) -> bool:
    """Whether a template comes out true for a row.

    Raises:
        RowError: it comes out as something else than true or false, or cannot be rendered.
    """
    text = compile_prompt(source).render(row)
    try:
        return BOOLS[text.strip().lower()]
    except KeyError as err:
        raise RowError("expression", f"{text!r} is neither true nor false") from err


def conditioned(stage: Stage, column: Column, tools: Tools, names: list[str]) -> Stage:
    """The stage behind the filters of the candidates that it reads, and its own `skip_when`.

    Args:
        stage: a column's.
        column: whose.
        tools: the recipe's columns.
        names: of the fields that the stage adds.
    """
    filters = filters_before(column, tools.columns)
    skipped = column.name + SKIPPED_SUFFIX
    target = column.candidates if isinstance(column, Scored) else None
    skippable = {one.name for one in tools.columns if one.skip_when is not None}
    if not filters and column.skip_when is None and skippable.isdisjoint(column.reads):
        return stage

    async def run(row: Row) -> Row:
        if column.skip_when is not None and is_true(column.skip_when, row):
            return _skipped(column, row, names) | {skipped: column.skip_when}
        if target is not None and row[target] is None:
            return dict.fromkeys(names) | {skipped: f"{target!r} is skipped"}
        with told_of_skips(column, row):
            made = await stage(mark_filtered(row, filters))
        return made if column.skip_when is None else made | {skipped: None}

    return run


@contextmanager
def told_of_skips(column: Column, row: Row) -> Iterator[None]:
    """Add to the detail of a reject which of the columns that were read is null, and why."""
    try:
        yield
    except RowError as err:
        told = [
            f"; column {name!r} asked nothing: {row[name + SKIPPED_SUFFIX]}"
            for name in sorted(column.reads)
            if row.get(name + SKIPPED_SUFFIX)
        ]
        if not told:
            raise
        raise RowError(err.reason, err.detail + "".join(told)) from err


def _skipped(column: Column, row: Row, names: list[str]) -> Row:
    """Null; where texts are scored, no score for each of them."""
    made: dict[str, Any] = dict.fromkeys(names)
    if not isinstance(column, Scored) or not column.targets:
        return made
    if column.candidates and row[column.candidates] is None:
        return made
    return made | {column.name: as_column(column, [None] * len(texts_of(column, row)))}
