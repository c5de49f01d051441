"""What a line of scored data brings to its row, by its layout. Groups no lines, picks no pair."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from os.path import commonprefix
from typing import Any

import orjson
import pyarrow as pa

from prefdata.errors import RowError, suggest
from prefdata.recipe.chats import LEADING, is_chat, is_message, read_chat
from prefdata.recipe.layout import Layout, Preset, Winner, bounds_of, layout_names, load_preset
from prefdata.rows import CANDIDATE, Row
from prefdata.seeds.identity import says_nothing

_TYPES = {one.name: one.type for one in CANDIDATE.fields}
_TOLD = [name for name in _TYPES if name != "text"]
_NULLS: Row = dict.fromkeys(_TYPES)


@dataclass(frozen=True, slots=True)
class Given:
    """What a line brings to its row.

    Attributes:
        group: values of the fields of `group_by`, by field.
        is_row: whether the line is a row by itself, and joins no other.
        prompt: a text or a chat.
        candidates: values of type `rows.CANDIDATE`; a `sample` of None is counted within the row.
        scores: one for each of them, by column; None where there is none.
        margin: how much better the first is than the second; 0 is a tie.
    """

    group: Row
    is_row: bool
    prompt: Any
    candidates: Sequence[Row]
    scores: Mapping[str, Sequence[float | None]]
    margin: float | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    """A text, its calls as JSON, its thought, and the messages before it in its own transcript."""

    text: str
    calls: str | None = None
    thought: str | None = None
    before: tuple[Row, ...] = ()


class _Missing:
    """What a path that leads nowhere has: null is a value."""


_MISSING = _Missing()


def given(line: Row, layout: Layout) -> Given:
    """What a line brings.

    Raises:
        RowError: it lacks a field, or one holds what cannot be used.
    """
    for path in layout.group_by or ():
        _needed(line, path)
    margin = None
    if layout.kind == "candidates":
        items = _items(line, layout)
        found = [_candidate(item, layout) for item in items]
        answers, described = [answer for answer, _ in found], [told for _, told in found]
        scores = {name: [told[name] for told in described] for name in layout.score_columns}
    elif layout.kind == "labelled":
        answers, described, margin = _labelled(line, layout)
        scores = {}
    else:
        sides = (layout.chosen, layout.chosen_alias), (layout.rejected, layout.rejected_alias)
        answers, described = _two(line, *sides, layout)
        rated = [_number(find(line, path)) for path in (layout.chosen_score, layout.rejected_score)
                 if path]  # fmt: skip
        scores = {"score": rated} if layout.score_columns else {}
        margin = _number(find(line, layout.margin)) if layout.margin else None
    prompt, turns = _prompt(line, layout, answers)
    if isinstance(prompt, list) and prompt[-1].get("role") == "assistant":
        is_text = isinstance(find(line, layout.prompt or ""), str)
        prompt, answers = _begun(prompt, answers, described, layout, is_text=is_text)
    candidates = [
        _fitted(told, answer, before)
        for told, answer, before in zip(described, answers, turns, strict=True)
    ]
    is_pooled = layout.kind == "candidates" and (
        layout.group_by is not None or (not layout.each and len(candidates) == 1)
    )
    group = {path: find(line, path) for path in layout.group_by or ()}
    return Given(group, not is_pooled, prompt, candidates, scores, margin)


def find(line: Any, path: str) -> Any:
    """The value at a path; `_MISSING` where there is none. Of several paths one with a value.

    A field whose name is the whole path goes before the parts of the path.
    """
    if isinstance(line, dict) and path in line:
        return line[path]
    found = [one for way in path.split("|") if (one := _walk(line, way.strip())) is not _MISSING]
    return next((one for one in found if one is not None), found[0] if found else _MISSING)


def is_there(line: Row, path: str, layout: Layout) -> bool:
    """Whether a path leads to something in the line, or in one of its objects."""
    if find(line, path) is not _MISSING:
        return True
    objects = find(line, layout.each) if layout.each else ()
    if isinstance(objects, Mapping):
        objects = [objects]
    return isinstance(objects, list) and any(find(one, path) is not _MISSING for one in objects)


def _walk(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        if path in value:
            return value[path]
        parts = path.split(".")
        for size in range(len(parts) - 1, 0, -1):
            head = ".".join(parts[:size])
            if head in value:
                return _walk(value[head], ".".join(parts[size:]))
    if isinstance(value, list | tuple):
        head, _, rest = path.partition(".")
        if head.isdecimal() and int(head) < len(value):
            return _walk(value[int(head)], rest) if rest else value[int(head)]
    return _MISSING


def _needed(line: Row, path: str) -> Any:
    value = find(line, path)
    if value is None:
        raise RowError("missing_field", f"{path!r} is null")
    if value is _MISSING:
        raise RowError("missing_field", f"there is no {path!r}; {suggest(path, line)}")
    return value


class _Item:
    """One of several candidates of a line: an object of it, or the n-th of parallel lists."""

    def __init__(self, line: Row, own: Any, number: int, count: int | None) -> None:
        self._line, self._own, self._number, self._count = line, own, number, count

    def told(self) -> Row:
        """What is known of the candidate by fields that no layout names."""
        if self._own is not None:
            return {name: self._own[name] for name in _TOLD if name in self._own}
        lists = {name: self._line[name] for name in _TOLD if name in self._line}
        return {
            name: value[self._number]
            for name, value in lists.items()
            if isinstance(value, list) and len(value) == self._count
        }

    def find(self, path: str) -> Any:
        """The value at a path in the object, or else in the line."""
        if self._own is not None:
            value = find(self._own, path)
            if value is not _MISSING:
                return value
        value = find(self._line, path)
        if self._count is None or not isinstance(value, list) or is_chat(value):
            return value
        if len(value) != self._count:
            raise RowError(
                "lengths_differ",
                f"{path!r} has {len(value)} items, but there are {self._count} candidates",
            )
        return value[self._number]


def _items(line: Row, layout: Layout) -> list[_Item]:
    if layout.each:
        objects = _objects(_needed(line, layout.each), layout.each)
        return [_Item(line, own, n, len(objects)) for n, own in enumerate(objects)]
    text = _needed(line, layout.text or "")
    if not isinstance(text, list) or is_chat(text):
        return [_Item(line, line, 0, None)]
    if not text:
        raise RowError("missing_field", f"{layout.text!r} is an empty list")
    return [_Item(line, None, n, len(text)) for n in range(len(text))]


def _objects(value: Any, path: str) -> list[Any]:
    """Objects, be they a list of them or one object of lists."""
    if isinstance(value, Mapping) and value and all(isinstance(v, list) for v in value.values()):
        lists = list(value.values())
        if len({len(one) for one in lists}) == 1:
            value = [dict(zip(value, parts, strict=True)) for parts in zip(*lists, strict=True)]
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise RowError("field_type", f"{path!r} is not a list of objects")
    if not value:
        raise RowError("missing_field", f"{path!r} is an empty list")
    return value


def _candidate(item: _Item, layout: Layout) -> tuple[_Answer, Row]:
    """A candidate's text, and what is told of it: its fields of CANDIDATE, and its scores."""
    text = item.find(layout.text or "")
    if text is _MISSING:
        raise RowError("missing_field", f"there is no {layout.text!r} in an item")
    told = item.told()
    if layout.alias:
        told["alias"] = item.find(layout.alias)
    if layout.index:
        told["sample"] = item.find(layout.index)
    found = {name: _number(item.find(path)) for name, path in layout.scores.items()}
    if layout.weights:
        parts = [(found[name], weight) for name, weight in layout.weights.items()]
        whole = [score * weight for score, weight in parts if score is not None]
        found["score"] = sum(whole) if len(whole) == len(parts) else None
    if (
        is_message(text)
        and text.get("role")
        and not (text.get("content") or text.get("tool_calls"))
    ):
        why = {"finish_reason": "refusal"} if text.get("refusal") else {}
        return _Answer("", thought=text.get("reasoning_content")), told | found | why
    answer = _Answer("") if text is None else _answer(text, layout.text or "", layout.markers)
    return answer, told | found


def _labelled(line: Row, layout: Layout) -> tuple[list[_Answer], list[Row], float | None]:
    """Both texts and who wrote them, the better one first."""
    answers, told = _two(line, (layout.a, layout.a_alias), (layout.b, layout.b_alias), layout)
    label = _needed(line, layout.label or "")
    word, size = _winner(label, layout.winner) if layout.winner else (None, None)
    if word is None:
        raise RowError(
            "bad_label", f"{layout.label!r} is {label!r}, which 'winner' gives no meaning"
        )
    if word == "tie":
        return answers, told, 0.0
    if layout.margin and size is None:
        size = _number(find(line, layout.margin))
    return (answers, told, size) if word == "A" else (answers[::-1], told[::-1], size)


def _two(
    line: Row, a: tuple[str | None, str | None], b: tuple[str | None, str | None], layout: Layout
) -> tuple[list[_Answer], list[Row]]:
    """Two texts, and what is told of them; paths are those of the text and of who wrote it."""
    texts = [(path or "", _needed(line, path or "")) for path, _ in (a, b)]
    told = [{"alias": find(line, alias) if alias else None} for _, alias in (a, b)]
    if layout.prompt is None and not layout.markers and all(isinstance(t, str) for _, t in texts):
        return _split_texts(*(text for _, text in texts)), told
    return [_answer(text, path, layout.markers) for path, text in texts], told


def _winner(label: Any, winner: Winner) -> tuple[str | None, float | None]:
    """(A, B or tie; the distance from the bound that was passed, None on it)."""
    for word in ("A", "B", "tie"):
        for meaning in getattr(winner, word):
            bounds = bounds_of(meaning)
            number = _number(label) if bounds else None
            if bounds and number is not None:
                low, high, counts = bounds
                bound, is_past = (low, number > low) if low > -inf else (high, number < high)
                if is_past or (counts and number == bound):
                    return word, abs(number - bound) or None
            elif _equal(label, meaning):
                return word, None
    return None, None


def _equal(label: Any, meaning: Any) -> bool:
    """Whether they are the same; numbers may be texts, as in CSV."""
    if isinstance(label, str) and isinstance(meaning, str):
        return label.strip() == meaning.strip()
    if isinstance(label, str) and not isinstance(meaning, bool):
        return bool(_number(label) == meaning)
    return not isinstance(meaning, str) and bool(label == meaning)


def _split_texts(chosen: str, rejected: str) -> list[_Answer]:
    """Two texts that begin with their prompt, as TRL's implicit form has them, in whole words."""
    found = re.match(r".*\s", commonprefix([chosen, rejected]), re.DOTALL)
    if found is None:
        raise RowError("no_shared_prompt", "there is no prompt, and the texts begin differently")
    turn = {"role": "user", "content": found[0].strip()}
    return [_Answer(text[found.end() :].strip(), before=(turn,)) for text in (chosen, rejected)]


def _answer(value: Any, path: str, markers: Mapping[Any, str]) -> _Answer:
    """A text, a message, or a transcript whose last turn it is."""
    if isinstance(value, str):
        if not any(value.strip().startswith(mark.strip()) for mark in markers.values()):
            return _Answer(value)
        value = _read_transcript(value, markers)
    if is_message(value):
        value = [value]
    if not is_chat(value):
        raise RowError("field_type", f"{path!r} is neither a text nor a list of messages")
    *before, last = [dict[str, Any](turn) for turn in read_chat(value)]
    if last["role"] != "assistant":
        raise RowError("no_answer", f"{path!r} ends with a turn of the {last['role']}")
    calls = _calls(last.get("tool_calls"))
    return _Answer(last["content"], calls, last.get("reasoning_content"), tuple(before))


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
        text = arguments if isinstance(arguments, str) else _json(arguments or {})
        kept = {"id": one["id"]} if isinstance(one.get("id"), str) else {}
        called = {"name": function["name"], "arguments": text}
        made.append(kept | {"type": "function", "function": called})
    return _json(made)


def _read_transcript(text: str, markers: Mapping[Any, str]) -> list[Row]:
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


def _prompt(
    line: Row, layout: Layout, answers: Sequence[_Answer]
) -> tuple[Any, list[tuple[Row, ...]]]:
    """The prompt of a line, and the messages between it and each text."""
    transcripts = [answer.before for answer in answers]
    starts = [chat[0]["role"] in (*LEADING, "user") if chat else False for chat in transcripts]
    if any(starts) and not all(starts):
        raise RowError("field_type", "some texts are whole transcripts, others are not")
    size = _shared(transcripts)
    common, rest = [*transcripts[0][:size]], [chat[size:] for chat in transcripts]
    if all(starts):
        if not common:
            raise RowError("no_shared_prompt", "the texts are transcripts that begin differently")
        if says_nothing(common):
            raise RowError("empty_prompt", "the texts begin with a turn that asks nothing")
        return common, rest
    if layout.prompt is None:
        raise RowError("missing_field", "there is no prompt, and the texts are no transcripts")
    told = _read_prompt(_needed(line, layout.prompt), layout)
    if not common:
        return told, rest
    return [
        *([{"role": "user", "content": told}] if isinstance(told, str) else told),
        *common,
    ], rest


def _begun(
    prompt: list[Row],
    answers: list[_Answer],
    described: Sequence[Row],
    layout: Layout,
    *,
    is_text: bool,
) -> tuple[list[Row], list[_Answer]]:
    """Prompt and answers where the prompt ends with a turn of the assistant.

    A transcript that is one text goes on with the answer, so what it begins stands in front of each
    text, as what a recipe's `messages` begin does. Of a list of messages nobody can tell whether
    the turn is begun or another answer.
    """
    *asked, last = prompt
    begun = last["content"] if isinstance(last.get("content"), str) else ""
    texts = [one.text for one in answers if one.text]
    if not is_text:
        is_ours = all(name in told for told in described for name in _TOLD)  # asked without it
        is_one = begun.strip() and (
            any(text.strip() == begun.strip() for text in texts)
            or all(text.startswith(begun.strip()) for text in texts)
        )
        if is_ours or is_one:
            return prompt, answers
        raise RowError(
            "answer_in_prompt",
            f"{layout.prompt!r} ends with a turn of the assistant that no text has: either an "
            "answer begun or another answer; end it with the user's turn, and put what is begun "
            "in front of each text",
        )
    if not asked:
        raise RowError("empty_prompt", f"{layout.prompt!r} has a turn of the assistant alone")
    if all(text.startswith(begun.strip()) for text in texts):
        return asked, answers
    return asked, [replace(one, text=begun + one.text) if one.text else one for one in answers]


def _shared(transcripts: Sequence[tuple[Row, ...]]) -> int:
    """How many turns all begin with, up to one that can be answered."""
    size = 0
    while all(size < len(chat) and chat[size] == transcripts[0][size] for chat in transcripts):
        size += 1
    while size and transcripts[0][size - 1]["role"] == "assistant":
        size -= 1
    return size


def _read_prompt(value: Any, layout: Layout) -> Any:
    if isinstance(value, str) and layout.markers:
        blank = value[len(value.rstrip()) :]
        value = _read_transcript(value, layout.markers)
        while len(value) > 1 and value[-1]["role"] == "assistant" and not value[-1]["content"]:
            value.pop()
        if value and value[-1]["role"] == "assistant":  # begun: its text goes on after the blank
            value[-1]["content"] += blank
    if is_message(value):
        value = [value]
    if not _is_prompt(value):
        raise RowError(
            "field_type",
            f"{layout.prompt!r} is neither a text nor a list of messages with role and content",
        )
    if says_nothing(value):
        raise RowError("empty_prompt", f"{layout.prompt!r} asks nothing: it is empty or blank")
    return value if isinstance(value, str) else [_clean(turn) for turn in value]


def _clean(turn: Row) -> Row:
    """A message without the nulls of keys that only other messages have."""
    if turn.get("role") is None:
        return dict(read_chat([turn])[0])
    return {key: value for key, value in turn.items() if value is not None or key == "content"}


def _is_prompt(value: Any) -> bool:
    return isinstance(value, str) or is_chat(value)


def _fitted(told: Row, answer: _Answer, before: tuple[Row, ...]) -> Row:
    """A value of CANDIDATE; of what is told of it, what has the right type."""
    made = _NULLS | {name: _fitting(told[name], _TYPES[name]) for name in _TOLD if name in told}
    own = {"tool_calls": answer.calls, "reasoning": answer.thought}
    made |= {name: value for name, value in own.items() if isinstance(value, str)}
    return made | {"text": answer.text, "turns": _json([*before]) if before else None}


def _fitting(value: Any, kind: pa.DataType) -> Any:
    """The value if it is of this type, else None: these fields are optional."""
    if isinstance(value, bool):
        return None
    if pa.types.is_string(kind):
        return value if isinstance(value, str) else None
    if pa.types.is_list(kind):
        parts = value if isinstance(value, list) else None
        return parts if parts and all(isinstance(part, str) for part in parts) else None
    if pa.types.is_floating(kind):
        return float(value) if isinstance(value, float) or is_within(value, 64) else None
    if not pa.types.is_integer(kind):  # lists and bools: nobody else's file has them as ours are
        return None
    return value if is_within(value, kind.bit_width) else None


def is_within(value: Any, bits: int) -> bool:
    """Whether a value is an integer of so many bits."""
    return isinstance(value, int) and -(2 ** (bits - 1)) <= value < 2 ** (bits - 1)


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (
        TypeError,
        ValueError,
        OverflowError,
    ):  # no score: pairs drops the candidate and counts it
        return None


def recognise(lines: Iterable[Row]) -> Preset | None:
    """The preset that most lines can be read by; of several, the one that reads the most.

    Args:
        lines: some of a file, say the first 20.
    """
    rows = list(lines)
    fitting = [preset for name in layout_names() if _fits(preset := load_preset(name), rows)]
    return max(fitting, key=_reads, default=None)


def _reads(preset: Preset) -> int:
    paths = {path for _, path in preset.paths} | {*preset.columns_beside}
    return len(paths) + len(preset.markers)


def _fits(preset: Preset, rows: Sequence[Row]) -> bool:
    read = []
    paths = [*preset.columns_beside, *(path for _, path in preset.paths)]
    for row in rows:
        if not all(is_there(row, path, preset) for path in paths):
            continue
        try:
            read.append((row, given(row, preset)))
        except RowError:
            continue
    if 2 * len(read) <= len(rows):
        return False
    whole = [one for _, one in read]
    has_scores = all(
        any(score is not None for one in whole for score in one.scores[name])
        for name in preset.score_columns
    )
    is_named = not any(key.endswith("alias") for key, _ in preset.paths) or any(
        told["alias"] is not None for one in whole for told in one.candidates
    )
    return has_scores and is_named and (not preset.markers or _is_marked(preset, rows))


def _is_marked(preset: Preset, rows: Sequence[Row]) -> bool:
    texts = [find(row, path) for row in rows for _, path in preset.paths]
    return any(mark.strip() in text for text in texts if isinstance(text, str)
               for mark in preset.markers.values())  # fmt: skip
