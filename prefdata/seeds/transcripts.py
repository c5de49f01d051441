"""Answers in any of their forms: texts, messages, whole transcripts. Knows no layout."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

import orjson

from prefdata.errors import RowError
from prefdata.recipe.chats import is_chat, is_message, read_chat
from prefdata.rows import Row


@dataclass(frozen=True, slots=True)
class Answer:
    """A text, its calls as JSON, its thought, and the messages before it in its own transcript."""

    text: str
    calls: str | None = None
    thought: str | None = None
    before: tuple[Row, ...] = ()


def split_texts(chosen: str, rejected: str) -> list[Answer]:
    """Two texts that begin with their prompt, as TRL's implicit form has them, in whole words."""
    found = re.match(r".*\s", commonprefix([chosen, rejected]), re.DOTALL)
    if found is None:
        raise RowError("no_shared_prompt", "there is no prompt, and the texts begin differently")
    turn = {"role": "user", "content": found[0].strip()}
    return [Answer(text[found.end() :].strip(), before=(turn,)) for text in (chosen, rejected)]


def read_answer(value: Any, path: str, markers: Mapping[Any, str]) -> Answer:
    """A text, a message, or a transcript whose last turn it is.

    `markers`: of the turns of a transcript that is one text, by role.

    Raises:
        RowError: it has another form, or ends with another turn.
    """
    if isinstance(value, str):
        if not any(value.strip().startswith(mark.strip()) for mark in markers.values()):
            return Answer(value)
        value = read_transcript(value, markers)
    if is_message(value):
        value = [value]
    if not is_chat(value):
        raise RowError("field_type", f"{path!r} is neither a text nor a list of messages")
    *before, last = [dict[str, Any](turn) for turn in read_chat(value)]
    if last["role"] != "assistant":
        raise RowError("no_answer", f"{path!r} ends with a turn of the {last['role']}")
    calls = _calls(last.get("tool_calls"))
    return Answer(last["content"], calls, last.get("reasoning_content"), tuple(before))


def _calls(calls: Any) -> str | None:
    """Calls as JSON in OpenAI's form, their arguments as a text."""
    if not calls:
        return None
    made = []
    for one in calls:
        function = one.get("function") if isinstance(one, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RowError("field_type", "a call of a tool has no function with a name")
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str) else as_json(arguments or {})
        kept = {"id": one["id"]} if isinstance(one.get("id"), str) else {}
        called = {"name": function["name"], "arguments": text}
        made.append(kept | {"type": "function", "function": called})
    return as_json(made)


def read_transcript(text: str, markers: Mapping[Any, str]) -> list[Row]:
    """The turns of a text; what stands before the first mark is the user's."""
    roles = {mark.strip(): role for role, mark in markers.items()}
    marks = [rf"{re.escape(mark)}|\A\s*{re.escape(mark.strip())}" for mark in markers.values()]
    pattern = "|".join(marks)
    found = [one for one in re.finditer(pattern, text) if one[0]]
    starts = [0, *(one.end() for one in found)]
    ends = [*(one.start() for one in found), len(text)]
    whose = ["user", *(roles[one[0].strip()] for one in found)]
    turns = [
        {"role": role, "content": text[start:end].strip()}
        for role, start, end in zip(whose, starts, ends, strict=True)
    ]
    return turns if turns[0]["content"] else turns[1:]


def shared_turns(transcripts: Sequence[tuple[Row, ...]]) -> int:
    """How many turns all begin with, up to one that can be answered."""
    size = 0
    while all(size < len(chat) and chat[size] == transcripts[0][size] for chat in transcripts):
        size += 1
    while size and transcripts[0][size - 1]["role"] == "assistant":
        size -= 1
    return size


def as_json(value: Any) -> str:
    """A value as a cell holds it."""
    return orjson.dumps(value).decode()
