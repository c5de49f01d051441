"""A pair as the conversation that a trainer sees, or the reason why it is left out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from prefdata.errors import RowError
from prefdata.pairs.pair import SIDES, Side
from prefdata.recipe.chats import LEADING
from prefdata.recipe.tools import calls_of, is_tools, readable
from prefdata.rows import ID, Row, is_blank

Message = dict[str, Any]
ROLES = ("system", "developer", "user", "assistant", "tool")
_TOKENS = (
    r"<\|[a-z][a-z_]{1,40}\|>",  # <|im_end|>, <|eot_id|>, <|endoftext|>
    r"<｜[^｜\n]{1,40}｜>",  # DeepSeek's
    r"\[/?INST\]",
    r"<</?SYS>>",
    r"<(?:start|end)_of_turn>",
    r"<extra_id_\d{1,3}>",
)
TEMPLATE_TOKEN = re.compile("|".join(_TOKENS))
"""What chat templates put around turns. In a text of a turn it would end the turn."""


@dataclass(frozen=True, slots=True)
class Thought:
    """What a model thought before it answered.

    Attributes:
        marks: what stands before it, and between it and the answer; None where unknown.
    """

    text: str
    marks: tuple[str, str] | None

    def written(self, answer: str) -> str | None:
        """Thought and answer as the model wrote them; None where that is unknown."""
        return None if self.marks is None else self.marks[0] + self.text + self.marks[1] + answer


@dataclass(frozen=True, slots=True)
class Answer:
    """A side of a pair.

    Attributes:
        score: raw; None where the pair was judged and not scored.
        keys: of its message, besides role and content.
        calls: of tools.
        turns: messages between the prompt and the answer that the other side lacks or has
            otherwise.
    """

    text: str
    score: float | None = None
    thought: Thought | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    calls: tuple[Message, ...] = ()
    turns: tuple[Message, ...] = ()

    @property
    def message(self) -> Message:
        """As a turn of the assistant."""
        made = {"tool_calls": list(self.calls)} if self.calls else {}
        return {"role": "assistant", "content": self.text, **self.keys, **made}

    @property
    def said(self) -> tuple[str, str]:
        """Text and calls, the calls without their ids."""
        return (self.text or "").strip(), readable(self.calls)


@dataclass(frozen=True, slots=True)
class Conversation:
    """One pair.

    Attributes:
        prompt: at least one message; the last is the user's or a tool's.
        margin: of the scores, None where there are none.
        plain_prompt: the prompt rendered, for answers that are not to be rendered either.
        tools: what the model might call, as JSON.
    """

    id: str
    prompt: tuple[Message, ...]
    sides: Mapping[Side, Answer]
    margin: float | None = None
    is_tie: bool = False
    plain_prompt: str | None = None
    tools: str | None = None

    @property
    def chosen(self) -> str:
        """The text of the preferred answer."""
        return self.sides["chosen"].text

    @property
    def rejected(self) -> str:
        """The text of the other one."""
        return self.sides["rejected"].text

    @property
    def chosen_score(self) -> float | None:
        """Of the preferred answer."""
        return self.sides["chosen"].score

    @property
    def rejected_score(self) -> float | None:
        """Of the other one."""
        return self.sides["rejected"].score

    @property
    def turns(self) -> tuple[Message, ...]:
        """All messages but the two last answers."""
        return (*self.prompt, *(turn for one in self.sides.values() for turn in one.turns))

    @property
    def has_turns(self) -> bool:
        """Whether a side is more than one message."""
        return any(one.turns for one in self.sides.values())

    @property
    def has_tools(self) -> bool:
        """Whether an answer holds calls, or the model was told of tools."""
        return bool(self.tools) or any(one.calls for one in self.sides.values())

    @property
    def has_calls(self) -> bool:
        """Whether a turn calls a tool."""
        asked = any(message.get("tool_calls") for message in self.prompt)
        return asked or any(one.calls for one in self.sides.values())

    @property
    def tool_list(self) -> list[Message] | None:
        """The tools as a chat template takes them."""
        return orjson.loads(self.tools) if self.tools else None

    @property
    def is_single_turn(self) -> bool:
        """Whether the prompt is one message of the user."""
        return len(self.prompt) == 1 and self.prompt[0]["role"] == "user"

    @property
    def texts(self) -> list[str]:
        """Every text of every turn."""
        asked = [message["content"] for message in self.turns if message.get("content")]
        thoughts = [one.thought.text for one in self.sides.values() if one.thought]
        return [*asked, self.chosen, self.rejected, *thoughts]

    def completion(self, side: Side) -> list[Message]:
        """All messages of a side behind the prompt."""
        return [*self.sides[side].turns, self.sides[side].message]


def read_conversation(row: Row) -> Conversation:
    """The conversation of a row of `pairs/`.

    Raises:
        RowError: a trainer would fail on it or learn something else from it.
    """
    prompt = row["prompt"]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    conversation = Conversation(
        id=row[ID],
        prompt=tuple(_read_message(one) for one in messages or () if not _is_silent(one)),
        sides={side: _read_side(row, side) for side in SIDES},
        margin=row["margin"],
        is_tie=bool(row["is_tie"]),
        tools=_tools(row.get("tools")),
    )
    _check(conversation)
    return conversation


def check_tokens(conversation: Conversation, special: re.Pattern[str] | None) -> None:
    """Make sure that no text holds a token of a chat template.

    `special`: those of the model to be trained, where it is known.

    Raises:
        RowError: one does.
    """
    for text in conversation.texts:
        found = TEMPLATE_TOKEN.search(text) or (special and special.search(text))
        if found:
            raise RowError(
                "template_token",
                f"a text holds {found[0]!r}, which a chat template would read as the start or "
                "the end of a turn",
            )


def _read_message(message: Message) -> Message:
    """Without the nulls that a table puts where other rows have a key."""
    return {k: v for k, v in message.items() if v is not None or k in ("role", "content")}


def _is_silent(message: Message) -> bool:
    """Whether it is a system turn without a text, which is not sent to a model either."""
    content = message.get("content") or ""
    return message.get("role") in LEADING and isinstance(content, str) and is_blank(content)


def _read_side(row: Row, side: Side) -> Answer:
    thought, marks = row.get(f"{side}_reasoning"), row.get(f"{side}_reasoning_marks")
    turns = row.get(f"{side}_turns")
    return Answer(
        row[side],
        row[f"{side}_score"],
        None if thought is None else Thought(thought, (marks[0], marks[1]) if marks else None),
        calls=calls_of({"tool_calls": row.get(f"{side}_tool_calls")}),
        turns=tuple(orjson.loads(turns)) if turns else (),
    )


def _check(conversation: Conversation) -> None:
    if not conversation.prompt:
        raise RowError("empty_prompt", "the prompt has no message")
    for one in conversation.sides.values():
        for place, message in enumerate((*conversation.prompt, *one.turns)):
            _check_message(place, message)
    last = conversation.prompt[-1]["role"]
    if last not in ("user", "tool"):
        raise RowError(
            "last_role",
            f"the prompt ends with a message of role {last}, so there is nothing to answer",
        )
    for side, one in conversation.sides.items():
        if not any(one.said):
            raise RowError("empty_answer", f"{side} has no text")
    chosen, rejected = conversation.sides["chosen"], conversation.sides["rejected"]
    if chosen.said == rejected.said and chosen.turns == rejected.turns:
        raise RowError("identical", "chosen and rejected are the same text")


def _tools(told: Any) -> str | None:
    """The tools of a row of pairs, where a column of that name holds any."""
    if isinstance(told, str):
        try:
            told = orjson.loads(told)
        except orjson.JSONDecodeError:
            return None
    return orjson.dumps(told).decode() if is_tools(told) else None


def _check_message(place: int, message: Message) -> None:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise RowError("role", f"message {place} has the role {role!r}; known: {', '.join(ROLES)}")
    if isinstance(content, list):
        raise RowError("content_parts", f"message {place} has parts of content; only text is sent")
    if not message.get("tool_calls") and not (isinstance(content, str) and content.strip()):
        raise RowError("empty_prompt", f"message {place}, of the {role}, has no text")
