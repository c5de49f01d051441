"""Where a text comes from: which question it answers, under which model. Asks nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefdata.recipe.chats import Chat
from prefdata.recipe.contract import Column, Prompted, Scored
from prefdata.recipe.filters import filters_before
from prefdata.recipe.questions import (
    Question,
    SystemPrompt,
    own_question,
    question_of,
)
from prefdata.recipe.reads import all_columns
from prefdata.recipe.schema import Model, Recipe
from prefdata.recipe.tools import ToolList, read_tools
from prefdata.recipe.values import META_SUFFIX


@dataclass(frozen=True, slots=True)
class Origin:
    """What a column of texts was asked.

    Attributes:
        systems: the system prompts under which they were written, by alias.
        is_part: whether they are parts of what was written.
        tools: what their writers might call: a column, a list, or None for nothing.
    """

    question: Question
    systems: Mapping[str, SystemPrompt]
    is_part: bool = False
    tools: str | ToolList | None = None

    @property
    def columns(self) -> frozenset[str]:
        """Names of the columns that were read for it."""
        names = {self.tools} if isinstance(self.tools, str) else set()
        return self.question.columns.union(names, *(one.columns for one in self.systems.values()))

    def asked(self, row: Mapping[str, Any], alias: str | None) -> Chat:
        """The chat before the answer, the model's system prompt included.

        `row`: with what `columns` names. `alias`: whose text it is; None where only the seeds know.

        Raises:
            RowError: as it was when the text was made.
        """
        chat = self.question.chat(row)
        system = self.systems.get(alias or "")
        return chat if system is None else system.over(chat, row)

    def offered(self, row: Mapping[str, Any]) -> ToolList:
        """What the writers of a row's texts might call.

        Raises:
            RowError: as from `read_tools`.
        """
        return read_tools(row[self.tools] if isinstance(self.tools, str) else self.tools)


def origin_of(name: str, columns: Sequence[Column], models: Mapping[str, Model]) -> Origin | None:
    """The origin of a column with texts or candidates; None where no model wrote it.

    `columns`: all of the recipe, those of given candidates among them.
    """
    is_part = False
    for column in reversed(columns):
        if name not in (column.name, *column.answers):
            continue
        if name in column.answers and column.source is not None:
            name, is_part = column.source, True
        elif isinstance(column, Prompted) and not isinstance(column, Scored):
            if own_question(column) is None:
                return None
            systems = {alias: models[alias].system for alias in column.writers}
            tools = getattr(column, "tools", None)
            return Origin(question_of(column), systems, is_part, tools)
        else:
            return None
    return None


def columns_read(column: Column, recipe: Recipe) -> frozenset[str]:
    """Names of all columns that a column needs; templates must have been checked before.

    Besides its own these are what its models' system prompts name, and what the texts that it
    scores were asked with.
    """
    models = {model.alias: model for model in recipe.models}
    names = {name for a in column.aliases for name in models[a].system.columns}
    if isinstance(column, Scored) and column.reads_asked:
        for target in column.targets:
            origin = origin_of(target, all_columns(recipe), models)
            names |= origin.columns | {target + META_SUFFIX} if origin else set()
    read = column.reads | names
    return read | {name for _, name in filters_before(column, all_columns(recipe), read)}


def alias_of(row: Mapping[str, Any], name: str) -> str | None:
    """The alias that wrote the text of a column, where its provenance tells."""
    meta = row.get(name + META_SUFFIX)
    return None if meta is None else meta["alias"]
