"""What a column asks: from its `prompt` or `messages` and a row to the messages of a request."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from prefdata.errors import RowError
from prefdata.inference import Message
from prefdata.recipe.chats import (
    LEADING,
    Chat,
    SystemPromptMode,
    looks_like_chat,
    read_chat,
    until_answer,
    with_system,
    without_blank,
)
from prefdata.recipe.contract import Asking
from prefdata.recipe.messages import Turn
from prefdata.recipe.prompts import Prompt, compile_prompt

ASKED = "asked"
"""The name under which what was asked is known to prompts of judges, functions and projections."""


class Written(NamedTuple):
    """A turn that the recipe writes."""

    role: str
    template: Prompt


class Spliced(NamedTuple):
    """All turns of a chat column."""

    column: str


@dataclass(frozen=True, slots=True)
class Question:
    """Compiled turns.

    Attributes:
        begun: the template of the answer's beginning, where the recipe writes one.
        bare: of a `prompt`, the column that it prints and nothing else; if that holds a chat, the
            chat is what is asked.
    """

    turns: tuple[Written | Spliced, ...]
    begun: Prompt | None = None
    bare: str | None = None

    @property
    def columns(self) -> frozenset[str]:
        """Names of the columns that it reads."""
        return frozenset(self.mentions)

    @property
    def may_be_chat(self) -> bool:
        """Whether turns come from the seeds."""
        return self.bare is not None or any(isinstance(turn, Spliced) for turn in self.turns)

    @property
    def mentions(self) -> tuple[str, ...]:
        """The same, in the order in which they are first named."""
        names: dict[str, None] = {}
        for turn in self.turns:
            named = (turn.column,) if isinstance(turn, Spliced) else turn.template.mentions
            names |= dict.fromkeys(named)
        return tuple(names | dict.fromkeys(self.begun.mentions if self.begun else ()))

    def chat(self, row: Mapping[str, Any]) -> Chat:
        """The messages up to the answer.

        Raises:
            RowError: `template`, or `chat` where a value is none.
        """
        if self.bare is not None and _is_meant_as_chat(row[self.bare]):
            return self._checked(until_answer(_read(self.bare, row)))
        made: list[Message] = []
        for number, turn in enumerate(self.turns):
            if isinstance(turn, Spliced):
                is_last = number == len(self.turns) - 1 and self.begun is None
                chat = _read(turn.column, row)
                made += until_answer(chat) if is_last else chat
                continue
            text = turn.template.render(row)
            if text.strip() or turn.role not in LEADING:
                made.append(Message(role=turn.role, content=text))
        return self._checked(tuple(made))

    def beginning(self, row: Mapping[str, Any]) -> str:
        """The text that the answer begins with; mostly none."""
        return "" if self.begun is None else self.begun.render(row)

    def _checked(self, chat: Chat) -> Chat:
        if not chat:
            raise RowError("chat", "there is no turn to answer")
        return chat


def question_of(column: Asking) -> Question:
    """The compiled question of a column that has one.

    Raises:
        PrefdataError: a template is wrong.
    """
    question = own_question(column)
    if question is None:
        raise AssertionError("a column that asks has a prompt or messages")
    return question


def own_question(column: Asking) -> Question | None:
    """The same of a column that may do without; None where it does."""
    if column.prompt is not None:
        prompt = compile_prompt(column.prompt)
        return Question((Written("user", prompt),), bare=prompt.bare)
    if column.messages is None:
        return None
    turns = tuple(map(_compile, column.messages))
    last = turns[-1]
    if isinstance(last, Written) and last.role == "assistant":
        return Question(turns[:-1], last.template)
    return Question(turns)


def _compile(turn: Turn) -> Written | Spliced:
    if turn.chat is not None:
        return Spliced(turn.chat)
    return Written(turn.role or "", compile_prompt(turn.content or ""))


def _is_meant_as_chat(value: Any) -> bool:
    return value == [] or looks_like_chat(value)


def _read(name: str, row: Mapping[str, Any]) -> Chat:
    try:
        return without_blank(read_chat(row[name]))
    except RowError as err:
        raise RowError(err.reason, f"column {name!r}: {err.detail}") from err


@dataclass(frozen=True, slots=True)
class SystemPrompt:
    """A model's system prompt, which is a template unless nothing in it looks like one."""

    text: str
    template: Prompt | None
    mode: SystemPromptMode

    @classmethod
    def compiled(cls, text: str, mode: SystemPromptMode) -> "SystemPrompt":
        """One as a model has it; blank where it has none.

        Raises:
            PrefdataError: the template is wrong.
        """
        is_template = any(mark in text for mark in ("{{", "{%", "{#"))
        return cls(text, compile_prompt(text) if is_template else None, mode)

    @property
    def columns(self) -> frozenset[str]:
        """Names of the columns that it reads."""
        return frozenset() if self.template is None else self.template.columns

    def over(self, chat: Chat, row: Mapping[str, Any]) -> Chat:
        """The chat under this prompt; RowError where it cannot be rendered."""
        text = self.text if self.template is None else self.template.render(row)
        return with_system(chat, text, self.mode)
