"""Scored candidates from elsewhere: lines in, one row a turn out. Reads no file, picks no pair."""

from collections.abc import Iterable
from typing import Any

import orjson
import pyarrow as pa

from prefdata.errors import suggest
from prefdata.fingerprint import digest
from prefdata.recipe.schema import GivenCandidates
from prefdata.rows import CANDIDATE, ID, JSON_FIELD, Row, reject
from prefdata.seeds.files import Line
from prefdata.seeds.identity import prompt_identity


class Turns:
    """Rows gathered from lines; a turn's first line says what its prompt is.

    Attributes:
        rows: by the id of the turn, which comes from the fields of `group_by` alone.
        rejects: lines that lack a field, hold what cannot be used, or disagree about the prompt.
    """

    def __init__(self, fields: GivenCandidates) -> None:
        self._fields = fields
        self.rows: dict[str, Row] = {}
        self.rejects: list[Row] = []

    def read(self, lines: Iterable[Line]) -> None:
        """Add lines; those of further files join the turns that are there."""
        for line in lines:
            if line.fields is None:
                self._refuse(line.source, {"raw": line.raw}, line.reason, line.detail)
            else:
                self._add(line.fields, line.source)

    def table(self) -> pa.Table:
        """`id`, the fields of `group_by`, `prompt`, `candidates`, `score`.

        Prompts are texts, or lists of role and content; where messages have more than that, tool
        calls or parts of content, they are JSON texts, which keep them as they are.
        """
        rows = list(self.rows.values())
        columns = {ID: pa.array([row[ID] for row in rows], pa.string())}
        table = pa.table(columns)
        for name in self._fields.group_by:
            table = table.append_column(name, _as_array([row[name] for row in rows]))
        prompts = [row["prompt"] for row in rows]
        if all(isinstance(prompt, str) for prompt in prompts) or all(map(_is_plain, prompts)):
            table = table.append_column("prompt", pa.array(prompts))
        else:
            field = pa.field("prompt", pa.string(), metadata=JSON_FIELD)
            table = table.append_column(field, pa.array([_json(p) for p in prompts], pa.string()))
        for name, kind in (("candidates", pa.list_(CANDIDATE)), ("score", pa.list_(pa.float64()))):
            table = table.append_column(name, pa.array([row[name] for row in rows], kind))
        return table

    def _add(self, line: Row, source: str) -> None:
        names = self._fields
        for field in (*names.group_by, names.prompt, names.text):
            if line.get(field) is None:
                why = f"there is no {field!r}; {suggest(field, line)}"
                return self._refuse(source, line, "missing_field", why)
        if not isinstance(line[names.text], str):
            return self._refuse(source, line, "field_type", f"{names.text!r} is no text")
        if not _is_prompt(line[names.prompt]):
            why = f"{names.prompt!r} is neither a text nor a list of messages with role and content"
            return self._refuse(source, line, "field_type", why)
        group = {name: line[name] for name in names.group_by}
        key = digest(*group.values(), size=10)
        prompt = line[names.prompt]
        new = {ID: key, **group, "prompt": prompt, "candidates": [], "score": []}
        row = self.rows.setdefault(key, new)
        if prompt_identity(row["prompt"]) != prompt_identity(prompt):
            why = f"another line of the group {list(group.values())} has another prompt"
            return self._refuse(source, line, "prompt_differs", why)
        row["candidates"].append(self._candidate(line, len(row["candidates"])))
        row["score"].append(_number(line.get(names.score)))
        return None

    def _candidate(self, line: Row, position: int) -> Row:
        known = {
            field.name: _fitting(line.get(field.name), field.type) for field in CANDIDATE.fields
        }
        index = _fitting(line.get(self._fields.index or "sample"), pa.int32())
        return known | {
            "text": line[self._fields.text],
            "sample": position if index is None else index,
        }

    def _refuse(self, source: str, line: Row, reason: str, detail: str) -> None:
        row = reject(line, stage="seeds", reason=reason, detail=detail, source=source)
        self.rejects.append({**row, ID: digest(source, line, size=10)})


def _fitting(value: Any, kind: pa.DataType) -> Any:
    """The value if it is of this type, else None: what is carried along may be missing."""
    if isinstance(value, bool):
        return None
    if pa.types.is_string(kind):
        return value if isinstance(value, str) else None
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


def _as_array(values: list[Any]) -> pa.Array:
    """Ids as they are if all are texts or all integers, else as JSON texts."""
    for kind, arrow in ((str, pa.string()), (int, pa.int64())):
        if all(type(value) is kind for value in values):
            return pa.array(values, arrow)
    return pa.array([v if isinstance(v, str) else _json(v) for v in values], pa.string())


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (
        TypeError,
        ValueError,
        OverflowError,
    ):  # no score: pairs drops the candidate and counts it
        return None
