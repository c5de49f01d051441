"""A pair as the conversation that a trainer sees, or the reason why it is left out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from prefdata.errors import RowError
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
class Conversation:
    """One pair.

    Attributes:
        prompt: at least one message; the last is the user's or a tool's.
        chosen_score: raw score, None where the pair was judged and not scored.
        margin: of the scores, None as above.
        chosen_keys: of the message of chosen, besides role and content.
        plain_prompt: the prompt rendered, for answers that are not to be rendered either.
        chosen_calls: calls of tools in the answer, and so `rejected_calls`.
        tools: what the model might call, as JSON.
        chosen_turns: messages between the prompt and chosen that rejected lacks or has otherwise,
            and so `rejected_turns`.
    """

    id: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    chosen_score: float | None = None
    rejected_score: float | None = None
    margin: float | None = None
    is_tie: bool = False
    chosen_thought: Thought | None = None
    rejected_thought: Thought | None = None
    chosen_keys: Mapping[str, str] = field(default_factory=dict)
    rejected_keys: Mapping[str, str] = field(default_factory=dict)
    plain_prompt: str | None = None
    chosen_calls: tuple[Message, ...] = ()
    rejected_calls: tuple[Message, ...] = ()
    tools: str | None = None
    chosen_turns: tuple[Message, ...] = ()
    rejected_turns: tuple[Message, ...] = ()

    @property
    def turns(self) -> tuple[Message, ...]:
        """All messages but the two last answers."""
        return (*self.prompt, *self.chosen_turns, *self.rejected_turns)

    @property
    def has_turns(self) -> bool:
        """Whether a side is more than one message."""
        return bool(self.chosen_turns or self.rejected_turns)

    @property
    def has_tools(self) -> bool:
        """Whether an answer holds calls, or the model was told of tools."""
        return bool(self.chosen_calls or self.rejected_calls or self.tools)

    @property
    def has_calls(self) -> bool:
        """Whether a turn calls a tool."""
        asked = any(message.get("tool_calls") for message in self.prompt)
        return bool(asked or self.chosen_calls or self.rejected_calls)

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
        thoughts = [one.text for one in (self.chosen_thought, self.rejected_thought) if one]
        return [*asked, self.chosen, self.rejected, *thoughts]

    def answer(self, side: Literal["chosen", "rejected"]) -> Message:
        """One of the answers as a turn of the assistant."""
        keys, calls = getattr(self, f"{side}_keys"), getattr(self, f"{side}_calls")
        made = {"tool_calls": list(calls)} if calls else {}
        return {"role": "assistant", "content": getattr(self, side), **keys, **made}

    def completion(self, side: Literal["chosen", "rejected"]) -> list[Message]:
        """All messages of a side behind the prompt."""
        return [*getattr(self, f"{side}_turns"), self.answer(side)]


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
        chosen=row["chosen"],
        rejected=row["rejected"],
        chosen_score=row["chosen_score"],
        rejected_score=row["rejected_score"],
        margin=row["margin"],
        is_tie=bool(row["is_tie"]),
        chosen_thought=_read_thought(row, "chosen"),
        rejected_thought=_read_thought(row, "rejected"),
        chosen_calls=calls_of({"tool_calls": row.get("chosen_tool_calls")}),
        rejected_calls=calls_of({"tool_calls": row.get("rejected_tool_calls")}),
        tools=_tools(row.get("tools")),
        chosen_turns=_read_turns(row, "chosen"),
        rejected_turns=_read_turns(row, "rejected"),
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


def _read_thought(row: Row, side: str) -> Thought | None:
    text, marks = row.get(f"{side}_reasoning"), row.get(f"{side}_reasoning_marks")
    return None if text is None else Thought(text, (marks[0], marks[1]) if marks else None)


def _read_turns(row: Row, side: str) -> tuple[Message, ...]:
    text = row.get(f"{side}_turns")
    return tuple(orjson.loads(text)) if text else ()


def _check(conversation: Conversation) -> None:
    if not conversation.prompt:
        raise RowError("empty_prompt", "the prompt has no message")
    for turns in (conversation.chosen_turns, conversation.rejected_turns):
        for place, message in enumerate((*conversation.prompt, *turns)):
            _check_message(place, message)
    last = conversation.prompt[-1]["role"]
    if last not in ("user", "tool"):
        raise RowError(
            "last_role",
            f"the prompt ends with a message of role {last}, so there is nothing to answer",
        )
    sides = [_said(conversation, side) for side in ("chosen", "rejected")]
    for side, (text, calls) in zip(("chosen", "rejected"), sides, strict=True):
        if not text and not calls:
            raise RowError("empty_answer", f"{side} has no text")
    if sides[0] == sides[1] and conversation.chosen_turns == conversation.rejected_turns:
        raise RowError("identical", "chosen and rejected are the same text")


def _said(conversation: Conversation, side: str) -> tuple[str, str]:
    """Text and calls of a side, the calls without their ids."""
    text, calls = getattr(conversation, side) or "", getattr(conversation, f"{side}_calls")
    return text.strip(), readable(calls)


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
