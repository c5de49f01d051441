"""What a line of scored data brings to its row, by its layout. Groups no lines, picks no pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import pyarrow as pa

from prefdata.errors import RowError
from prefdata.recipe.chats import LEADING, is_chat, is_message, read_chat
from prefdata.recipe.layout import Layout, Winner, bounds_of
from prefdata.rows import CANDIDATE, Row
from prefdata.seeds.identity import says_nothing
from prefdata.seeds.paths import MISSING, find, needed
from prefdata.seeds.transcripts import (
    Answer,
    as_json,
    read_answer,
    read_transcript,
    shared_turns,
    split_texts,
)

_TYPES = {one.name: one.type for one in CANDIDATE.fields}
_TOLD = [name for name in _TYPES if name != "text"]
_NULLS: Row = dict.fromkeys(_TYPES)


@dataclass(frozen=True, slots=True)
class Given:
    """What a line brings to its row.

    Attributes:
        group: values of the fields of `group_by`, by field.
        is_row: whether the line is a row by itself, and joins no other.
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


def given(line: Row, layout: Layout) -> Given:
    """What a line brings.

    Raises:
        RowError: it lacks a field, or one holds what cannot be used.
    """
    for path in layout.group_by or ():
        needed(line, path)
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
            if value is not MISSING:
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
        objects = _objects(needed(line, layout.each), layout.each)
        return [_Item(line, own, n, len(objects)) for n, own in enumerate(objects)]
    text = needed(line, layout.text or "")
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


def _candidate(item: _Item, layout: Layout) -> tuple[Answer, Row]:
    """A candidate's text, and what is told of it: its fields of CANDIDATE, and its scores."""
    text = item.find(layout.text or "")
    if text is MISSING:
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
        return Answer("", thought=text.get("reasoning_content")), told | found | why
    answer = Answer("") if text is None else read_answer(text, layout.text or "", layout.markers)
    return answer, told | found


def _labelled(line: Row, layout: Layout) -> tuple[list[Answer], list[Row], float | None]:
    """Both texts and who wrote them, the better one first."""
    answers, told = _two(line, (layout.a, layout.a_alias), (layout.b, layout.b_alias), layout)
    label = needed(line, layout.label or "")
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
) -> tuple[list[Answer], list[Row]]:
    """Two texts, and what is told of them; paths are those of the text and of who wrote it."""
    texts = [(path or "", needed(line, path or "")) for path, _ in (a, b)]
    told = [{"alias": find(line, alias) if alias else None} for _, alias in (a, b)]
    if layout.prompt is None and not layout.markers and all(isinstance(t, str) for _, t in texts):
        return split_texts(*(text for _, text in texts)), told
    return [read_answer(text, path, layout.markers) for path, text in texts], told


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


def _prompt(
    line: Row, layout: Layout, answers: Sequence[Answer]
) -> tuple[Any, list[tuple[Row, ...]]]:
    """The prompt of a line, and the messages between it and each text."""
    transcripts = [answer.before for answer in answers]
    starts = [chat[0]["role"] in (*LEADING, "user") if chat else False for chat in transcripts]
    if any(starts) and not all(starts):
        raise RowError("field_type", "some texts are whole transcripts, others are not")
    size = shared_turns(transcripts)
    common, rest = [*transcripts[0][:size]], [chat[size:] for chat in transcripts]
    if all(starts):
        if not common:
            raise RowError("no_shared_prompt", "the texts are transcripts that begin differently")
        if says_nothing(common):
            raise RowError("empty_prompt", "the texts begin with a turn that asks nothing")
        return common, rest
    if layout.prompt is None:
        raise RowError("missing_field", "there is no prompt, and the texts are no transcripts")
    told = _read_prompt(needed(line, layout.prompt), layout)
    if not common:
        return told, rest
    return [
        *([{"role": "user", "content": told}] if isinstance(told, str) else told),
        *common,
    ], rest


def _begun(
    prompt: list[Row],
    answers: list[Answer],
    described: Sequence[Row],
    layout: Layout,
    *,
    is_text: bool,
) -> tuple[list[Row], list[Answer]]:
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


def _read_prompt(value: Any, layout: Layout) -> Any:
    if isinstance(value, str) and layout.markers:
        blank = value[len(value.rstrip()) :]
        value = read_transcript(value, layout.markers)
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


def _fitted(told: Row, answer: Answer, before: tuple[Row, ...]) -> Row:
    """A value of CANDIDATE; of what is told of it, what has the right type."""
    made = _NULLS | {name: _fitting(told[name], _TYPES[name]) for name in _TOLD if name in told}
    own = {"tool_calls": answer.calls, "reasoning": answer.thought}
    made |= {name: value for name, value in own.items() if isinstance(value, str)}
    return made | {"text": answer.text, "turns": as_json([*before]) if before else None}


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
    return value if is_within(value, kind.bit_width) else None


def is_within(value: Any, bits: int) -> bool:
    """Whether a value is an integer of so many bits."""
    return isinstance(value, int) and -(2 ** (bits - 1)) <= value < 2 ** (bits - 1)


def _number(value: Any) -> float | None:
    """A score; without one, pairs drops the candidate and counts it."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
