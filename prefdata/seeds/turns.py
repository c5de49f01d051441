"""Scored candidates from elsewhere: lines in, one row per turn out. Picks no pair."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from prefdata.errors import PrefdataError, RowError, suggest
from prefdata.fingerprint import digest
from prefdata.recipe.schema import GivenCandidates
from prefdata.rows import CANDIDATE, ID, JSON_FIELD, Row, reject
from prefdata.seeds.files import Line
from prefdata.seeds.identity import prompt_identity, says_nothing

CHUNK = 10_000
Code = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Given:
    """What a line brings to its turn.

    Attributes:
        group: values of the fields of `group_by`, by field.
        prompt: a text or a chat, as it stands in the line.
        candidates: values of type `rows.CANDIDATE`; a `sample` of None is counted within the turn.
        scores: one for each of them; None where there is none.
    """

    group: Row
    prompt: Any
    candidates: Sequence[Row]
    scores: Sequence[float | None]


class Turns:
    """Rows gathered from lines; the first line of a turn sets its prompt.

    Attributes:
        rows: by the id of the turn, which comes from the fields of `group_by` alone.
        rejects: lines that lack a field, have a value that cannot be used, or have a different
            prompt.
    """

    def __init__(self, fields: GivenCandidates) -> None:
        self._fields = fields
        self.rows: dict[str, Row] = {}
        self.rejects: list[Row] = []
        self._seen: dict[str, None] = {}

    def read(self, lines: Iterable[Line]) -> None:
        """Add lines; those of further files join the turns that are there."""
        for line in lines:
            if line.fields is None:
                self._refuse(line.source, {"raw": line.raw}, line.reason, line.detail)
                continue
            self._seen |= dict.fromkeys(line.fields)
            try:
                self._add(given(line.fields, self._fields))
            except RowError as err:
                self._refuse(line.source, line.fields, err.reason, err.detail)

    def check_fields(self, called: Callable[[str], str], *, is_scored: bool = True) -> None:
        """Make sure that every field that is named stands in some line.

        Args:
            called: what the user knows a key of the fields as.
            is_scored: whether the score is going to be read.

        Raises:
            PrefdataError: one is in none; what is named wrongly would leave no pair and no reason.
        """
        names = self._fields
        asked = [("prompt", names.prompt), ("text", names.text)]
        asked += [("group_by", name) for name in names.group_by]
        asked += [("score", names.score)] if is_scored else []
        asked += [("index", names.index)] if names.index else []
        for key, name in asked:
            if self._seen and name not in self._seen:
                raise PrefdataError(
                    f"{called(key)}: there is no field {name!r}; {suggest(name, self._seen)}"
                )

    def notes(self) -> list[str]:
        """What the user should know of the rows, a sentence each."""
        texts = sum(isinstance(row["prompt"], str) for row in self.rows.values())
        if texts in (0, len(self.rows)):
            return []
        return [
            f"{texts:,} of {len(self.rows):,} prompts are texts and the others chats; the texts "
            "become chats of one turn of the user"
        ]

    def table(self) -> pa.Table:
        """`id`, the fields of `group_by`, `prompt`, `candidates`, `score`.

        Prompts are texts, or lists of role and content; where messages have more than that, tool
        calls or parts of content, they are JSON texts, which keep them as they are. A text among
        chats becomes a chat of one turn of the user.
        """
        rows = list(self.rows.values())
        kinds: list[tuple[pa.Field, Code]] = [(pa.field(ID, pa.string()), _same)]
        for name in self._fields.columns.values():
            kinds.append(_group_field(name, [row[name] for row in rows]))
        kinds.append(_prompt_field([row["prompt"] for row in rows]))
        kinds.append((pa.field("candidates", pa.list_(CANDIDATE)), _same))
        kinds.append((pa.field("score", pa.list_(pa.float64())), _same))
        schema = pa.schema([field for field, _ in kinds])
        # in parts: a piece of an Arrow list column holds 2 GiB of text at most
        parts = (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
        tables = [
            pa.table(
                [pa.array([code(row[f.name]) for row in part], f.type) for f, code in kinds], schema
            )
            for part in parts
        ]
        return pa.concat_tables(tables) if tables else schema.empty_table()

    def _add(self, given: Given) -> None:
        prompts, names = self._fields.prompt, self._fields.columns
        identity = prompt_identity(given.prompt)
        keys = [identity if name == prompts else value for name, value in given.group.items()]
        key = digest(*keys, size=10)
        new = {names[name]: value for name, value in given.group.items() if name in names}
        new |= {ID: key, "prompt": given.prompt, "candidates": [], "score": []}
        row = self.rows.setdefault(key, new)
        if prompt_identity(row["prompt"]) != identity:
            raise RowError(
                "prompt_differs",
                f"another line of the group {list(given.group.values())} has another prompt; "
                "name the prompt's field in group_by, too, to keep such lines apart",
            )
        for candidate in given.candidates:
            number = candidate["sample"]
            place = len(row["candidates"]) if number is None else number
            row["candidates"].append(candidate | {"sample": place})
        row["score"] += given.scores

    def _refuse(self, source: str, line: Row, reason: str, detail: str) -> None:
        row = reject(line, stage="seeds", reason=reason, detail=detail, source=source)
        self.rejects.append({**row, ID: digest(source, line, size=10)})


def given(line: Row, names: GivenCandidates) -> Given:
    """What a line with one candidate brings.

    Raises:
        RowError: it lacks a field, or one holds what cannot be used.
    """
    for field in (*names.group_by, names.prompt, names.text):
        if line.get(field) is None:
            raise RowError("missing_field", f"there is no {field!r}; {suggest(field, line)}")
    if not isinstance(line[names.text], str):
        raise RowError("field_type", f"{names.text!r} is not a text")
    prompt = line[names.prompt]
    if not _is_prompt(prompt):
        raise RowError(
            "field_type",
            f"{names.prompt!r} is neither a text nor a list of messages with role and content",
        )
    if says_nothing(prompt):
        raise RowError("empty_prompt", f"{names.prompt!r} asks nothing: it is empty or blank")
    known = {field.name: _fitting(line.get(field.name), field.type) for field in CANDIDATE.fields}
    index = _fitting(line.get(names.index or "sample"), pa.int32())
    candidate = known | {"text": line[names.text], "sample": index}
    group = {name: line[name] for name in names.group_by}
    return Given(group, prompt, [candidate], [_number(line.get(names.score))])


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
        return float(value) if isinstance(value, float) or _is_within(value, 64) else None
    if not pa.types.is_integer(kind):  # lists and bools: nobody else's file has them as ours are
        return None
    return value if _is_within(value, kind.bit_width) else None


def _is_within(value: Any, bits: int) -> bool:
    return isinstance(value, int) and -(2 ** (bits - 1)) <= value < 2 ** (bits - 1)


def _is_prompt(value: Any) -> bool:
    if not isinstance(value, list):
        return isinstance(value, str)
    turns = [turn if isinstance(turn, dict) else {} for turn in value]
    return bool(turns) and all(
        isinstance(turn.get("role"), str) and turn.keys() & {"content", "tool_calls"}
        for turn in turns
    )


def _is_plain(prompt: Any) -> bool:
    return isinstance(prompt, list) and all(
        turn.keys() == {"role", "content"} and isinstance(turn["content"], str) for turn in prompt
    )


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _same(value: Any) -> Any:
    return value


def _prompt_field(prompts: list[Any]) -> tuple[pa.Field, Code]:
    """The column of prompts, and how a prompt is put into it."""
    if all(isinstance(prompt, str) for prompt in prompts):
        return pa.field("prompt", pa.string()), _same
    if all(_is_plain(_as_chat(prompt)) for prompt in prompts):
        turn = pa.struct({"role": pa.string(), "content": pa.string()})
        return pa.field("prompt", pa.list_(turn)), _as_chat
    return pa.field("prompt", pa.string(), metadata=JSON_FIELD), lambda p: _json(_as_chat(p))


def _as_chat(prompt: Any) -> Any:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _group_field(name: str, values: list[Any]) -> tuple[pa.Field, Code]:
    """Ids as they are if all are texts or all integers of 64 bits, else as JSON texts."""
    if all(isinstance(value, str) for value in values):
        return pa.field(name, pa.string()), _same
    if all(type(value) is int and _is_within(value, 64) for value in values):
        return pa.field(name, pa.int64()), _same
    return pa.field(
        name, pa.string()
    ), lambda value: value if isinstance(value, str) else _json(value)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (
        TypeError,
        ValueError,
        OverflowError,
    ):  # no score: pairs drops the candidate and counts it
        return None
