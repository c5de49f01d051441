"""One request of each column, as its model will read it. Asks no model."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson

from prefdata.engines.template_file import TemplateFile, read_template, roles_of_model
from prefdata.errors import RowError
from prefdata.inference import ScoreRequest, TextRequest
from prefdata.recipe.chats import Chat
from prefdata.recipe.contract import Column
from prefdata.recipe.loader import LoadedRecipe
from prefdata.recipe.origins import columns_read
from prefdata.recipe.plan import roles_of
from prefdata.recipe.reads import all_columns
from prefdata.recipe.schema import Recipe
from prefdata.recipe.values import META_SUFFIX
from prefdata.rows import Row
from prefdata.stages import Tools, make_stage


@dataclass(frozen=True, slots=True)
class Example:
    """A request.

    Attributes:
        text: what the chat template makes of it, or messages as JSON.
    """

    column: str
    alias: str
    text: str
    is_rendered: bool


class _Caught(BaseException):
    """A request that goes no further, whatever a function of the user's catches."""

    def __init__(self, alias: str, chat: Chat) -> None:
        super().__init__(alias)
        self.alias, self.chat = alias, chat


class _Catcher:
    """Both kinds of engine; answers none."""

    def __init__(self, alias: str) -> None:
        self._alias = alias

    def ask(self, requests: Sequence[TextRequest | ScoreRequest]) -> NoReturn:
        """Raise the first request."""
        raise _Caught(self._alias, requests[0].messages)

    def close(self) -> None:
        """There is nothing to free."""


def example_requests(loaded: LoadedRecipe, row: Row) -> Iterator[Example]:
    """The first request that a row makes of each column whose inputs are there."""
    recipe, templates = loaded.recipe, _templates(loaded)
    kinds = roles_of(recipe)
    roles = {
        alias: roles_of_model(recipe.model(alias), templates[alias], is_finished=kind == "reward")
        for alias, kind in kinds.items()
    }
    engines: dict[str, Any] = {alias: _Catcher(alias) for alias in kinds}
    models = {model.alias: model for model in recipe.models}
    columns = all_columns(recipe)
    tools = Tools(
        recipe.seed, models, engines, engines, loaded.folder, columns, roles=roles,
        given=loaded.given,
    )  # fmt: skip
    for column in recipe.columns:
        if column.aliases and _needed(column, recipe) <= row.keys():
            try:
                asyncio.run(make_stage(column, tools)(row))  # type: ignore[arg-type]
            except _Caught as caught:
                yield _example(column, caught, templates[caught.alias])
            except RowError:  # the run will reject it
                continue


def _needed(column: Column, recipe: Recipe) -> frozenset[str]:
    """What a row must have; provenance may be missing."""
    return frozenset(n for n in columns_read(column, recipe) if not n.endswith(META_SUFFIX))


def _templates(loaded: LoadedRecipe) -> dict[str, TemplateFile | None]:
    """The chat templates that lie on this machine, of the models that run here."""
    return {
        model.alias: None
        if loaded.recipe.endpoint(model)
        else read_template(model, loaded.locate(model.model))
        for model in loaded.recipe.models
    }


def _example(column: Column, caught: _Caught, template: TemplateFile | None) -> Example:
    if template is not None:
        try:
            is_finished = column.role_of(caught.alias) == "reward"
            text = template.render(caught.chat, is_finished=is_finished)
            return Example(column.name, caught.alias, text, is_rendered=True)
        except RowError:
            pass
    text = orjson.dumps(caught.chat, option=orjson.OPT_INDENT_2).decode()
    return Example(column.name, caught.alias, text, is_rendered=False)
