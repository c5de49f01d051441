"""A chat: what counts as one, its messages read, printed and fitted to a template's roles.

Knows no recipe, no row and no engine.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from prefdata.errors import RowError
from prefdata.inference import Message

Chat = tuple[Message, ...]
SystemPromptMode = Literal["fill", "prepend"]

KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content")
"""What of a message a model is sent; what else seeds say of a turn stays with the seeds."""

LEADING = ("system", "developer")
"""Roles that tell the model how to answer."""

ROLES = (*LEADING, "user", "assistant", "tool")
OTHER_NAMES = {"human": "user", "gpt": "assistant", "function_call": "assistant"}
"""Roles of the layout {from, value}, which is ShareGPT's."""

_SPEAKERS = {
    "system": "System", "developer": "System", "user": "User", "assistant": "Assistant",
    "tool": "Tool",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Roles:
    """Which of the leading roles a chat template shows to its model."""

    system: bool = True
    developer: bool = True


ALL_ROLES = Roles()


def is_chat(value: Any) -> bool:
    """Whether a value of a row is a list of messages."""
    return isinstance(value, list | tuple) and bool(value) and all(map(is_message, value))


def looks_like_chat(value: Any) -> bool:
    """Whether a value is meant as a chat, be it a whole one or not."""
    turns = value if isinstance(value, list | tuple) else ()
    return any(is_message(t) or (isinstance(t, Mapping) and t.get("role") in ROLES) for t in turns)


def is_message(value: Any) -> bool:
    """Whether a value is one turn: role and content (or calls), or ShareGPT's from and value."""
    if not isinstance(value, Mapping):
        return False
    if isinstance(value.get("role"), str):
        return bool(value.keys() & {"content", "tool_calls"})
    return isinstance(value.get("from"), str) and isinstance(value.get("value"), str)


def read_chat(value: Any) -> Chat:
    """The messages that a model is sent.

    Of parts of content the text ones count, each on a line of its own.

    Raises:
        RowError: `chat`; a turn has an unknown role, no text, or a part that is not a text.
    """
    if not is_chat(value):
        raise RowError(
            "chat", f"the value is not a list of messages with role and content: {value!r}"
        )
    return tuple(_read_message(place, message) for place, message in enumerate(value))


def plain_turns(chat: Iterable[Message]) -> list[dict[str, str]]:
    """Roles and contents, which are all that a column of conversations holds.

    Raises:
        RowError: `tool_calls`; a tool is called, or answers.
    """
    chat = [*chat]
    if any(one["role"] == "tool" or one.get("tool_calls") for one in chat):
        detail = (
            "a turn calls a tool, or is a tool's, and turns without their calls would be another "
            "conversation; let the models be asked the chat as it is"
        )
        raise RowError("tool_calls", detail)
    return [{"role": one["role"], "content": one["content"]} for one in chat]


def _read_message(place: int, message: Mapping[str, Any]) -> Message:
    role = message.get("role")
    content = message.get("content")
    if role is None:
        role, content = message["from"], message["value"]
        role = OTHER_NAMES.get(role, role)
    if role not in ROLES:
        known = ", ".join(ROLES)
        raise RowError("chat", f"message {place} has the role {role!r}; known are {known}")
    if content is None and message.get("tool_calls"):
        content = ""
    read = {"role": role, "content": _text_of(content, f"message {place} ({role})")}
    more = {key: message[key] for key in KEYS[2:] if message.get(key) is not None}
    return cast(Message, read | {k: v for k, v in more.items() if v != []})


def _text_of(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        what = "no text" if content is None else f"content that is not a text: {content!r}"
        raise RowError("chat", f"{where} has {what}")
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        text = part.get("text") if isinstance(part, Mapping) else part
        if kind != "text" or not isinstance(text, str):
            raise RowError("chat", f"{where} has a part of type {kind!r}, and only texts are sent")
        texts.append(text)
    return "\n".join(texts)


def without_blank(chat: Chat) -> Chat:
    """The chat without turns of the system or a developer whose text is blank."""
    return tuple(m for m in chat if m["role"] not in LEADING or m["content"].strip())


def until_answer(chat: Chat) -> Chat:
    """The chat up to the turn that is to be written: without the answer that data ends with."""
    end = len(chat)
    while end and chat[end - 1]["role"] == "assistant":
        end -= 1
    return chat[:end]


def transcript(value: Any) -> str:
    """A chat as a text for a judge, one line a turn: `User: …`; a text is one turn of the user."""
    chat = read_chat([{"role": "user", "content": value}] if isinstance(value, str) else value)
    return "\n".join(f"{_SPEAKERS[message['role']]}: {_said(message)}" for message in chat)


def _said(message: Message) -> str:
    calls = cast(Mapping[str, Any], message).get("tool_calls") or ()
    made = [f"{one['function']['name']}({one['function']['arguments']})" for one in calls]
    return " ".join([*([message["content"]] if message["content"] else []), *made])


def with_system(chat: Chat, text: str, mode: SystemPromptMode) -> Chat:
    """The chat under a model's system prompt; one that the chat itself begins with stays.

    `text`: the system prompt; blank for none. `mode`: `prepend` puts it before the text of the
    chat's own system message.
    """
    if not text.strip():
        return chat
    if not chat or chat[0]["role"] not in LEADING:
        return ({"role": "system", "content": text}, *chat)
    if mode == "fill":
        return chat
    return (cast(Message, {**chat[0], "content": f"{text}\n\n{chat[0]['content']}"}), *chat[1:])


def fit_roles(chat: Chat, roles: Roles) -> Chat:
    """The chat for a template that lacks a role: what it would lose goes to the next user turn.

    A developer's message becomes the system's where the template knows that one.
    """
    if roles == ALL_ROLES or not any(message["role"] in LEADING for message in chat):
        return chat
    fitted: list[Message] = []
    held: list[str] = []
    for message in chat:
        role = message["role"]
        if role == "developer" and not roles.developer:
            role = "system"
        if role == "system" and not roles.system:
            held.append(message["content"])
        elif held and role == "user":
            text = "\n\n".join([*held, message["content"]])
            fitted.append(cast(Message, {**message, "content": text}))
            held = []
        else:
            fitted.append(cast(Message, {**message, "role": role}))
    if held:  # before an answer that is begun, if there is one
        place = len(fitted) - (bool(fitted) and fitted[-1]["role"] == "assistant")
        fitted.insert(place, {"role": "user", "content": "\n\n".join(held)})
    return _joined(fitted)


def _joined(messages: Iterable[Message]) -> Chat:
    """Two leading system messages as one: templates want at most one."""
    chat: list[Message] = []
    for message in messages:
        if len(chat) == 1 and chat[0]["role"] == message["role"] == "system":
            text = f"{chat[0]['content']}\n\n{message['content']}"
            chat[0] = cast(Message, {**chat[0], "content": text})
        else:
            chat.append(message)
    return tuple(chat)


def shared(chats: Sequence[Chat]) -> Chat:
    """What several chats have in common; all of it where they are equal.

    Else it is their equal end from a user's turn on, under the system message that all begin with;
    without such an end it is nothing, whatever the system message.
    """
    first, *others = chats
    if all(other == first for other in others):
        return first
    size = 0
    while all(size < len(chat) and chat[-1 - size] == first[-1 - size] for chat in chats):
        size += 1
    end = first[len(first) - size :]
    while end and end[0]["role"] not in ("user", *LEADING):
        end = end[1:]
    is_led = bool(end) and end[0]["role"] not in LEADING and first[0]["role"] in LEADING
    if is_led and all(chat and chat[0] == first[0] for chat in others):
        return (first[0], *end)
    return end
