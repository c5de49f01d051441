"""What becomes of system messages before a run starts: refused, merged, unused. Asks no model."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from prefdata.errors import PrefdataError, RowError
from prefdata.recipe.chats import LEADING, Roles, read_chat, without_blank
from prefdata.recipe.contract import Asking, Column, Scored
from prefdata.recipe.origins import Origin, origin_of
from prefdata.recipe.questions import Question, Spliced, Written, own_question
from prefdata.recipe.reads import all_columns
from prefdata.recipe.schema import Model, Recipe
from prefdata.rows import rows_of
from prefdata.seeds.columns import chat_columns


def tell_of_system_messages(
    recipe: Recipe, seeds: pa.Table, roles: Mapping[str, Roles]
) -> Iterator[str]:
    """What the user should know, one sentence each.

    Raises:
        PrefdataError: a model is to be sent a system message, its template has no place for one,
            and the recipe says `system_role: error`.
    """
    chats = _Led(seeds)
    for model in recipe.models:
        columns = [column for column in recipe.columns if model.alias in column.aliases]
        questions = [one for column in columns for one in _questions(column, recipe)]
        led = sum(chats.count(question) for question in questions)
        if model.system_prompt and led and model.system_prompt_mode == "fill":
            yield (
                f"model {model.alias!r}: its system_prompt is not used in {led:,} chats, which "
                "have a system message of their own; system_prompt_mode: prepend puts it first"
            )
        is_sent = bool(led or model.system_prompt or _inherits(columns, recipe))
        if is_sent and not roles[model.alias].system and model.system_role != "merge":
            yield _no_place(model)


def _no_place(model: Model) -> str:
    what = f"model {model.alias!r}: its chat template has no place for a system message"
    if model.system_role == "error":
        raise PrefdataError(
            f"{what}, and the recipe says system_role: error; leave it out to put the text at the "
            "head of the user's turn, or send none"
        )
    return f"{what}; its text goes to the head of the user's turn (system_role: error would stop)"


def _questions(column: Column, recipe: Recipe) -> list[Question]:
    """What a model is asked by a column, or reads of what other columns asked."""
    if isinstance(column, Asking) and (own := own_question(column)) is not None:
        return [own]
    return [origin.question for origin in _origins(column, recipe)]


def _inherits(columns: Sequence[Column], recipe: Recipe) -> bool:
    """Whether a column reads what was asked under another model's system prompt."""
    origins = (origin for column in columns for origin in _origins(column, recipe))
    return any(one.text for origin in origins for one in origin.systems.values())


def _origins(column: Column, recipe: Recipe) -> list[Origin]:
    """Of the texts that a column scores, where it reads what they were asked."""
    if not isinstance(column, Scored) or not column.reads_asked:
        return []
    models = {model.alias: model for model in recipe.models}
    names = column.targets
    found = (origin_of(name, all_columns(recipe), models) for name in names)
    return [origin for origin in found if origin is not None]


class _Led:
    """How many chats begin with a system message."""

    def __init__(self, seeds: pa.Table) -> None:
        self._seeds = seeds
        self._counts: dict[str, int] = {}

    def count(self, question: Question) -> int:
        """Rows whose chat does; all of them where the question itself begins with one."""
        first = question.turns[0] if question.turns else None
        if isinstance(first, Written) and first.role in LEADING:
            return int(self._seeds.num_rows)
        name = first.column if isinstance(first, Spliced) else question.bare
        return 0 if name is None else self._of_column(name)

    def _of_column(self, name: str) -> int:
        if name not in self._counts:
            is_here = name in chat_columns(self._seeds)
            rows = rows_of(self._seeds.select([name])) if is_here else []
            self._counts[name] = sum(_is_led(row[name]) for row in rows)
        return self._counts[name]


def _is_led(value: Any) -> bool:
    try:
        chat = without_blank(read_chat(value))
    except RowError:  # the run will reject its row
        return False
    return bool(chat) and chat[0]["role"] in LEADING
