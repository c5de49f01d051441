"""The prompt of a pair: a column of its row, or the chat that was sent; and the tools beside it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pyarrow as pa

from prefdata.errors import RowError
from prefdata.recipe.chats import (
    ALL_ROLES,
    KEYS,
    LEADING,
    Chat,
    Roles,
    fit_roles,
    is_chat,
    read_chat,
    shared,
    until_answer,
    without_blank,
)
from prefdata.recipe.mix import OneProjection
from prefdata.recipe.origins import Origin, origin_of
from prefdata.recipe.projection import DpoPreference, PreferencePairs
from prefdata.recipe.questions import ASKED
from prefdata.recipe.reads import all_columns, score_columns, texts_of_rule
from prefdata.recipe.schema import Recipe
from prefdata.recipe.tools import read_tools
from prefdata.rows import JSON_FIELD, Row, is_json
from prefdata.seeds.identity import prompt_identity
from prefdata.stages.functions import Functions

Told = Mapping[str, int]
"""Pairs by how their prompt differs from what was asked: `system`, `wrapper`, `part`, `sides`; and
`pairs`, all of them."""

_PLAIN = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))


@dataclass(frozen=True)
class Background:
    """What pairs are made by, besides the rows and the rule.

    Attributes:
        scores: columns with a score for each text.
        seed: of draws, samples and splits.
        recipe: who asked for the texts; None for texts from elsewhere.
        roles: leading roles that each alias's chat template knows; all of them where left out.
        functions: the user's.
    """

    scores: Sequence[str]
    seed: int = 0
    recipe: Recipe | None = None
    roles: Mapping[str, Roles] | None = None
    functions: Functions = field(default_factory=Functions)

    @property
    def has_turns(self) -> bool:
        """Whether several pairs may be of one conversation."""
        return self.recipe is not None and self.recipe.expands_turns

    def of(self, part: OneProjection) -> "Background":
        """With the scores of one projection alone, where a recipe tells them apart."""
        if self.recipe is None:
            return self
        return replace(self, scores=score_columns(self.recipe, part))


class PairPrompts:
    """Prompts of pairs.

    Attributes:
        is_asked: whether they are what was asked, and no column.
        told: how many were seen, and how they differ from what was asked.
    """

    def __init__(
        self,
        rule: DpoPreference | PreferencePairs,
        recipe: Recipe | None = None,
        roles: Mapping[str, Roles] | None = None,
    ) -> None:
        """Look up who wrote the texts that are paired.

        `recipe`: who asked; None for candidates from elsewhere. `roles`: leading roles that each
        alias's chat template knows; all of them if left out.
        """
        self._column, self._roles = rule.prompt_field, roles or {}
        names = texts_of_rule(rule)
        columns = all_columns(recipe) if recipe else ()
        models = {model.alias: model for model in recipe.models} if recipe else {}
        found = {name: origin_of(name, columns, models) for name in names}
        # candidates from elsewhere were asked by somebody else
        self._origins = {name: one if one and one.systems else None for name, one in found.items()}
        self.is_asked = self._column == ASKED
        self.told: Counter[str] = Counter()
        self._last: tuple[Row, dict[tuple[str, str | None], Chat | None]] = ({}, {})
        given = (getattr(c, "tools", None) for c in columns if {*names} & {*c.makes})
        self._tools = next((tools for tools in given if tools is not None), None)

    @property
    def reads(self) -> frozenset[str]:
        """Names of the columns that a row must have."""
        if not self.is_asked:
            return frozenset((self._column,))
        return frozenset().union(*(one.columns for one in self._origins.values() if one))

    def fields(self, schema: pa.Schema) -> list[pa.Field]:
        """The pairs' columns `prompt` and, where a model was given any, `tools` (JSON or null).

        `schema`: that of the rows.
        """
        tools = [] if self._tools is None else [pa.field("tools", pa.string())]
        if self.is_asked:
            return [_asked_field(schema, self._origins), *tools]
        return [_clean_field(schema.field(self._column)), *tools]

    def tools_of(self, row: Row) -> Row:
        """The cell of a pair made of a row: what the models behind it might call."""
        if self._tools is None:
            return {}
        given = read_tools(row[self._tools] if isinstance(self._tools, str) else self._tools)
        return {"tools": orjson.dumps(given).decode() if given else None}

    def of_row(self, row: Row) -> Any:
        """The prompt of a row: what all its texts were asked, whoever wrote them."""
        if not self.is_asked:
            return _clean(row[self._column])
        chats, known = [], []
        for name, origin in self._origins.items():
            for alias in (origin.systems if origin else ()) or (None,):
                chats.append(self._asked(row, name, alias) or ())
                known.append(self._roles.get(alias or "", ALL_ROLES))
        return [*fit_roles(shared(chats), _known_to_all(known))]

    def of_pair(self, row: Row, chosen: Row, rejected: Row) -> Any:
        """The prompt of one pair; empty where its two texts answer different last turns.

        `chosen`: what is recorded of this side, with `row`, `column` and `alias`.
        """
        chats = [self._asked(one["row"], one["column"], one["alias"]) for one in (chosen, rejected)]
        known = [self._roles.get(one["alias"] or "", ALL_ROLES) for one in (chosen, rejected)]
        prompt: Any = None if self.is_asked else _clean(row[self._column])
        if chats[0] is not None and chats[1] is not None:
            common = fit_roles(shared([chats[0], chats[1]]), _known_to_all(known))
            prompt = [*common] if self.is_asked else prompt
            self._note(prompt, chats[0], chats[1], known[0])
        return prompt

    def _note(self, prompt: Any, chosen: Chat, rejected: Chat, roles: Roles) -> None:
        """Count how the prompt differs from what the chosen's model was sent."""
        self.told["pairs"] += 1
        if chosen != rejected:
            self.told["sides"] += 1
        identity = prompt_identity(prompt)
        if self.is_asked or identity == prompt_identity([*fit_roles(chosen, roles)]):
            return
        if any(origin is not None and origin.is_part for origin in self._origins.values()):
            self.told["part"] += 1
            return
        is_led = chosen[0]["role"] in LEADING
        rest = [*chosen[1:]] if is_led else [*chosen]
        self.told["system" if is_led and prompt_identity(rest) == identity else "wrapper"] += 1

    def _asked(self, row: Row, name: str, alias: str | None) -> Chat | None:
        if self._last[0] is not row:  # a row may have many pairs
            self._last = (row, {})
        known = self._last[1]
        if (name, alias) not in known:
            origin = self._origins[name]
            known[name, alias] = None if origin is None else origin.asked(row, alias)
        return known[name, alias]


def tell_of_prompts(record: Mapping[str, Any]) -> str | None:
    """One sentence on a run's pairs whose prompt is not what was asked; None where all are."""
    told: Told = record.get("asked", {})
    prompt_field = record.get("prompt_field", "prompt")
    if not told.get("pairs"):
        return None
    if told.get("part"):
        return (
            f"the pairs' prompt is {prompt_field!r}, and their texts are parts of answers to "
            "another prompt"
        )
    differ = told.get("system", 0) + told.get("wrapper", 0)
    if differ:
        what = {"system": "a system prompt", "wrapper": "other words or turns around it"}
        more = " and ".join(words for key, words in what.items() if told.get(key))
        return (
            f"the pairs' prompt is {prompt_field!r}, but in {differ / told['pairs']:.0%} of the "
            f"pairs the model was asked more: {more}; output_projection.prompt_field: asked keeps "
            "what was sent"
        )
    if told.get("sides"):
        return (
            f"in {told['sides'] / told['pairs']:.0%} of the pairs the two answers were asked "
            "differently, and the prompt is what both share"
        )
    return None


def _known_to_all(roles: Sequence[Roles]) -> Roles:
    return Roles(*(all(getattr(one, role) for one in roles) for role in LEADING))


def _clean(value: Any) -> Any:
    """A prompt as a trainer wants it: of a chat the messages before the answer, nothing else.

    A chat that no model could have been sent, say one with images, is kept as it is.
    """
    if not is_chat(value):
        return value
    try:
        chat = until_answer(read_chat(value))
    except RowError:
        return value
    return [
        {**message, "content": None} if _has_null(given) else message
        for message, given in zip(chat, value, strict=False)
        if without_blank((message,))
    ]


def _has_null(message: Row) -> bool:
    """Whether a turn's content is null; next to ShareGPT's `value` that says nothing."""
    return message.get("role") is not None and message.get("content", "") is None


def _clean_field(field: pa.Field) -> pa.Field:
    kind = field.type
    if is_json(field) or not pa.types.is_list(kind) or not pa.types.is_struct(kind.value_type):
        return field.with_name("prompt")
    names = {part.name for part in kind.value_type}
    is_chats = {"role", "content"} <= names or {"from", "value"} <= names
    return _chat_field(names) if is_chats else field.with_name("prompt")


def _asked_field(schema: pa.Schema, origins: Mapping[str, Origin | None]) -> pa.Field:
    names: set[str] = set()
    for column in {name for one in origins.values() if one for name in one.question.columns}:
        field = schema.field(column)
        if is_json(field):  # its chats may have any key
            return _chat_field(KEYS)
        if pa.types.is_list(field.type) and pa.types.is_struct(field.type.value_type):
            names |= {part.name for part in field.type.value_type}
    return _chat_field(names)


def _chat_field(names: Any) -> pa.Field:
    """Roles and contents as they are; chats whose messages may have more as JSON texts."""
    if set(KEYS[2:]).intersection(names):
        return pa.field("prompt", pa.string(), metadata=JSON_FIELD)
    return pa.field("prompt", _PLAIN)
