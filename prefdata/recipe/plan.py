"""Passes: which columns run together over the rows, in which order. Loads nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefdata.recipe.contract import Column, Role
from prefdata.recipe.origins import columns_read
from prefdata.recipe.schema import Model, Recipe


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights in an engine: what is loaded once, however many aliases share it."""

    role: Role
    model: Model

    @property
    def key(self) -> str:
        """Equal for two aliases that one loaded engine can serve."""
        facts: Mapping[str, Any] = self.model.model_dump(
            include={
                "model", "revision", "provider", "engine", "trust_remote_code", "chat_template",
                "tool_parser"
            }
        )  # fmt: skip
        # a text engine is told of each request's adapter, a reward model is one with its own
        own = [self.model.adapter] if self.role == "reward" and self.model.adapter else []
        return json.dumps([self.role, facts, *own], sort_keys=True, default=str)


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over all rows.

    Attributes:
        levels: columns in order; those of one level do not depend on each other, so their requests
            of a row go out together. A row starts its next level by itself, without a barrier.
        checkpoints: what the engines must hold, by key.
    """

    levels: tuple[tuple[Column, ...], ...]
    checkpoints: Mapping[str, Checkpoint]

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns, in the order of the recipe."""
        return tuple(column for level in self.levels for column in level)

    @property
    def expands(self) -> Column | None:
        """The column that makes several rows of one; it is alone in its pass."""
        first = self.columns[0]
        return first if first.expands else None

    @property
    def name(self) -> str:
        """Column names joined, cut to a length that file systems like."""
        return "+".join(column.name for column in self.columns)[:80]


def plan_passes(recipe: Recipe) -> list[Pass]:
    """Cut the columns into passes of at most one checkpoint each, keeping their order.

    Only a column that itself names several checkpoints makes a pass with more than one. A column
    that changes the number of rows has a pass to itself.
    """
    passes: list[Pass] = []
    columns: list[Column] = []
    held: dict[str, Checkpoint] = {}
    for column in recipe.columns:
        wanted = checkpoints_of(column, recipe)
        is_full = held and not wanted.keys() <= held.keys()
        if columns and (is_full or column.expands or columns[-1].expands):
            passes.append(Pass(_levels(columns, recipe), held))
            columns, held = [], {}
        columns.append(column)
        held = held | wanted
    return [*passes, Pass(_levels(columns, recipe), held)] if columns else passes


def checkpoints_of(column: Column, recipe: Recipe) -> dict[str, Checkpoint]:
    """The checkpoints that a column asks, by key."""
    found = (Checkpoint(column.role_of(alias), recipe.model(alias)) for alias in column.aliases)
    return {checkpoint.key: checkpoint for checkpoint in found}


def roles_of(recipe: Recipe) -> dict[str, Role]:
    """What each alias that a column names is asked for."""
    return {alias: column.role_of(alias) for column in recipe.columns for alias in column.aliases}


def _levels(columns: Sequence[Column], recipe: Recipe) -> tuple[tuple[Column, ...], ...]:
    levels: list[list[Column]] = []
    for column in columns:
        before = levels[-1] if levels else []
        made = {name for c in before for name in c.makes}
        is_first = not before or any(one.filters for one in before)
        if is_first or column.calls or columns_read(column, recipe) & made:
            levels.append([])
        levels[-1].append(column)
    return tuple(tuple(level) for level in levels)
