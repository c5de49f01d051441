"""Passes: which columns run together over the rows, in which order. Loads nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prefdata.recipe.reads import aliases_of, columns_read, names_made, reads_any
from prefdata.recipe.schema import AnyColumn, Expand, Model, Recipe, RewardModel


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights in an engine: what is loaded once, however many aliases share it."""

    role: Literal["text", "reward"]
    model: Model

    @property
    def key(self) -> str:
        """Equal for two aliases that one loaded engine can serve."""
        facts: Mapping[str, Any] = self.model.model_dump(
            include={"model", "revision", "provider", "engine", "trust_remote_code"}
        )
        return json.dumps([self.role, facts], sort_keys=True, default=str)


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over all rows.

    Attributes:
        levels: columns in order; those of one level do not depend on each other, so their requests
            of a row go out together. A row starts its next level by itself, without a barrier.
        checkpoints: what the engines must hold, by key.
    """

    levels: tuple[tuple[AnyColumn, ...], ...]
    checkpoints: Mapping[str, Checkpoint]

    @property
    def columns(self) -> tuple[AnyColumn, ...]:
        """All columns, in the order of the recipe."""
        return tuple(column for level in self.levels for column in level)

    @property
    def expands(self) -> Expand | None:
        """The column that makes several rows of one; it is alone in its pass."""
        first = self.columns[0]
        return first if isinstance(first, Expand) else None

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
    columns: list[AnyColumn] = []
    held: dict[str, Checkpoint] = {}
    for column in recipe.columns:
        wanted = checkpoints_of(column, recipe)
        is_full = held and not wanted.keys() <= held.keys()
        if columns and (is_full or isinstance(column, Expand) or isinstance(columns[-1], Expand)):
            passes.append(Pass(_levels(columns), held))
            columns, held = [], {}
        columns.append(column)
        held = held | wanted
    return [*passes, Pass(_levels(columns), held)] if columns else passes


def checkpoints_of(column: AnyColumn, recipe: Recipe) -> dict[str, Checkpoint]:
    """The checkpoints that a column asks, by key."""
    role: Literal["text", "reward"] = "reward" if isinstance(column, RewardModel) else "text"
    found = (Checkpoint(role, recipe.model(alias)) for alias in aliases_of(column))
    return {checkpoint.key: checkpoint for checkpoint in found}


def roles_of(recipe: Recipe) -> dict[str, Literal["text", "reward"]]:
    """What each alias that a column names is asked for."""
    roles: dict[str, Literal["text", "reward"]] = {}
    for column in recipe.columns:
        for alias in aliases_of(column):
            roles[alias] = "reward" if isinstance(column, RewardModel) else "text"
    return roles


def _levels(columns: Sequence[AnyColumn]) -> tuple[tuple[AnyColumn, ...], ...]:
    levels: list[list[AnyColumn]] = []
    for column in columns:
        made = {name for c in (levels[-1] if levels else ()) for name in names_made(c)}
        if not levels or reads_any(column) or columns_read(column) & made:
            levels.append([])
        levels[-1].append(column)
    return tuple(tuple(level) for level in levels)
