"""When two prompts are one: a text that all forms of a prompt share. Knows no pair and no split."""

import json
from typing import Any
from unicodedata import normalize

from prefdata.recipe.chats import LEADING, OTHER_NAMES, is_message
from prefdata.rows import Row, is_blank, strip_unseen

_OTHER = "\0"  # no bare text begins with it, so no text equals a chat


def prompt_identity(prompt: Any) -> str:
    """One text for all forms in which a prompt comes; what is stored is never replaced by it.

    Texts are compared in NFC and without what is unseen at their ends. A chat that is one plain
    turn of the user is the same prompt as the turn's text; parts of content are the same as their
    texts, one a line; keys without a value, an empty text too, count as missing.

    `prompt`: a text, or a chat in OpenAI's form or ShareGPT's; else its JSON counts.
    """
    if isinstance(prompt, str):
        return bare(prompt)
    value = prompt
    if _is_chat(prompt):
        value = _turns(prompt)
        if len(value) == 1 and value[0].keys() == {"role", "content"}:
            role, content = value[0]["role"], value[0]["content"]
            if role == "user" and isinstance(content, str):
                return content
    return _OTHER + json.dumps(value, sort_keys=True, default=str)


def root_identity(prompt: Any) -> str:
    """The identity of how a conversation begins, up to the user's first turn: one for all of it."""
    if not _is_chat(prompt):
        return prompt_identity(prompt)
    turns = [turn for turn in _turns(prompt) if turn.get("role") not in LEADING]
    ends = [n + 1 for n, turn in enumerate(turns) if turn.get("role") == "user"]
    return prompt_identity(turns[: ends[0]] if ends else turns)


def bare(text: str) -> str:
    """The text in NFC, without blanks and other unseen characters at its ends."""
    return strip_unseen(normalize("NFC", text))


def words_of(prompt: Any) -> str:
    """What a prompt says, without roles and keys: the texts of its turns, one a line."""
    if not _is_chat(prompt):
        return prompt_identity(prompt)
    said = (message.get("content") for message in _turns(prompt))
    return "\n".join(
        one if isinstance(one, str) else json.dumps(one, default=str) for one in said if one
    )


def says_nothing(prompt: Any) -> bool:
    """Whether a text or the last turn of a chat shows nothing; a turn of calls says something."""
    if isinstance(prompt, str):
        return is_blank(prompt)
    if not isinstance(prompt, list):
        return prompt is None
    if not _is_chat(prompt):
        return not prompt
    turns = _turns(prompt)
    return not turns or (not turns[-1].get("content") and "tool_calls" not in turns[-1])


def _is_chat(prompt: Any) -> bool:
    return (
        isinstance(prompt, list)
        and bool(prompt)
        and all(isinstance(m, dict) and ("role" in m or is_message(m)) for m in prompt)
    )


def _turns(prompt: list[Row]) -> list[Row]:
    """The turns of a chat in OpenAI's form, without blank ones of the system or a developer."""
    told = map(_message, prompt)
    return [turn for turn in told if turn.get("role") not in LEADING or turn.get("content")]


def _message(message: Row) -> Row:
    told = {key: value for key, value in message.items() if value not in (None, "", [], {})}
    if "role" not in told and is_message(message):
        names = {"from": "role", "value": "content"}
        told = {names.get(key, key): value for key, value in told.items()}
        told["role"] = OTHER_NAMES.get(told.get("role", ""), told.get("role"))
    if "content" in told:
        told["content"] = _content(told["content"])
    return told


def _content(content: Any) -> Any:
    """Text as it is bare; parts of content that are all text as one text."""
    if isinstance(content, str):
        return bare(content)
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if _is_text(part)]
    return bare("\n".join(texts)) if len(texts) == len(parts) and parts else content


def _is_text(part: Any) -> bool:
    return (
        isinstance(part, dict)
        and part.get("type", "text") == "text"
        and isinstance(part.get("text"), str)
    )
