"""The row contract: column names, Arrow types after each step, rejects, and what is blank."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
import pyarrow as pa

Row = dict[str, Any]

ID = "id"
TEXT_META = pa.struct(
    {
        "alias": pa.string(),
        "model": pa.string(),
        "temperature": pa.float64(),
        "seed": pa.int64(),
        "finish_reason": pa.string(),
        "prompt_tokens": pa.int32(),
        "completion_tokens": pa.int32(),
        "reasoning": pa.string(),
        "reasoning_tokens": pa.int32(),
        "reasoning_marks": pa.list_(pa.string()),
        "tool_calls": pa.string(),
    }
)
"""How one text came to be: `seed` is the sampling seed, tokens are the model's own.

`reasoning` is the thought before the text; where `reasoning_marks` is known, marks[0] + reasoning +
marks[1] + text is what the model wrote. `tool_calls` is JSON. A text that failed is empty, its
`finish_reason` says why."""

CANDIDATE = pa.struct([("text", pa.string()), ("sample", pa.int32()), *TEXT_META.fields])
"""One of the texts of a `candidates` column; `sample` counts from 0 for each alias."""

CHAT = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
"""A conversation that a column makes."""

TURNS = pa.field("turns", pa.string())
"""What candidates have besides where transcripts from elsewhere part before their last turn: the
messages between the prompt and the text, as JSON."""

STRUCTURED_META = pa.struct([*TEXT_META.fields, ("answer", pa.string())])
"""`answer` is the whole answer as JSON where it has keys that the schema does not list."""

JUDGE_META = pa.struct(
    [
        ("verdicts", pa.list_(pa.string())),
        ("agreed", pa.bool_()),
        *TEXT_META.fields,
    ]
)
"""`verdicts` are the raw answers as JSON, first order first; `agreed` is null if asked once."""

PANEL_META = pa.struct([*JUDGE_META.fields, ("panel", pa.list_(pa.string()))])
"""Of several judges: `panel` is what each of them says."""

COMPARISON = pa.struct(
    {
        "first": pa.int32(),
        "second": pa.int32(),
        "won": pa.float64(),
        "judges": pa.list_(pa.float64()),
        "verdicts": pa.list_(pa.list_(pa.string())),
    }
)
"""Two texts of a tournament, by place: what the first has `won` (1, 0, or between), for the column
and for each of its judges, and each judge's raw answers, those of equal texts none."""

TOURNAMENT_META = pa.struct(
    {
        "errors": pa.list_(pa.float64()),
        "comparisons": pa.list_(COMPARISON),
        "prompt_tokens": pa.int32(),
        "completion_tokens": pa.int32(),
    }
)
"""`errors` are the standard errors of the scores, in the order of the texts."""

EXPAND_META = pa.struct({"parent": pa.string(), "item": pa.int32(), "items": pa.int32()})
"""Where an item comes from: the id of the row with the list, its position from 0, and the list's
length.
"""

LEFT_OUT = pa.struct({"reason": pa.string(), "detail": pa.string()})
"""Why a filter leaves out a candidate."""
CONTAMINATED = "contaminated"
"""The reason of texts with an item of a benchmark; the detail names item and overlap."""

ENDS = ("stop", "tool_calls")
"""Finish reasons of a text that came to its end."""


def is_answer(finish_reason: str | None) -> bool:
    """Whether there is a text to score: a whole one, or one that was cut off; None is unknown."""
    return finish_reason in (None, "length", *ENDS)


REJECTS = pa.schema(
    {
        "id": pa.string(),
        "stage": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
        "source": pa.string(),
        "row": pa.string(),
    }
)
"""`stage` is `seeds`, a column or `pairs`; `source` is file:line of a seed; `row` is JSON."""

_UNSEEN = (
    (0x00, 0x20), (0x7F, 0xA0), (0xAD, 0xAD), (0x034F, 0x034F), (0x061C, 0x061C),
    (0x115F, 0x1160), (0x1680, 0x1680), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2000, 0x200F),
    (0x2028, 0x202F), (0x205F, 0x206F), (0x2800, 0x2800), (0x3000, 0x3000), (0x3164, 0x3164),
    (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB), (0xE0000, 0xE0FFF),
)  # fmt: skip
UNSEEN = frozenset(chr(code) for first, last in _UNSEEN for code in range(first, last + 1))
"""Characters that show nothing: white space, controls, and what Unicode lets a font leave out
(Default_Ignorable_Code_Point), the blank of braille among them."""

JSON_FIELD = {b"prefdata": b"json"}
"""Field metadata of a column whose values are JSON texts because Arrow has no type for them."""


def reject(
    row: Mapping[str, Any], *, stage: str, reason: str, detail: str, source: str | None = None
) -> Row:
    """A row of `rejects/`; everything the row had is kept as JSON."""
    return {
        "id": row.get(ID),
        "stage": stage,
        "reason": reason,
        "detail": detail,
        "source": source,
        "row": orjson.dumps({k: v for k, v in row.items() if k != ID}, default=str).decode(),
    }


def mark_filtered(row: Row, filters: Iterable[tuple[str, str]]) -> Row:
    """The row, in which the finish reason of a candidate that a filter left out is why.

    Args:
        row: of any step.
        filters: (candidates, filter); a column that is not there, or null, leaves out nothing.
    """
    marked = dict(row)
    for name, reasons in filters:
        told = row.get(reasons)
        if told and marked.get(name):
            marked[name] = [
                one if why is None else one | {"finish_reason": why["reason"]}
                for one, why in zip(marked[name], told, strict=True)
            ]
    return marked


def is_blank(text: str) -> bool:
    """Whether the text shows nothing."""
    return not strip_unseen(text)


def strip_unseen(text: str) -> str:
    """The text without what is unseen at its ends; `strip` would look through all of `UNSEEN`."""
    start, end = 0, len(text)
    while start < end and text[start] in UNSEEN:
        start += 1
    while start < end and text[end - 1] in UNSEEN:
        end -= 1
    return text[start:end]


def field_of_schema(name: str, schema: Mapping[str, Any]) -> pa.Field:
    """The Arrow field for answers to a JSON schema: a struct, or JSON text if there is none."""
    kind = _type_of_schema(schema)
    return (
        pa.field(name, pa.string(), metadata=JSON_FIELD) if kind is None else pa.field(name, kind)
    )


def is_json(field: pa.Field) -> bool:
    """Whether the column's values are JSON texts of dicts."""
    return bool(field.metadata) and field.metadata.get(b"prefdata") == b"json"


def rows_of(table: pa.Table) -> list[Row]:
    """Rows as Python dicts; columns of JSON texts are parsed."""
    coded = [field.name for field in table.schema if is_json(field)]
    rows: list[Row] = table.to_pylist()
    return [r | {name: orjson.loads(r[name]) for name in coded} for r in rows] if coded else rows


def json_array(values: Iterable[Any]) -> pa.Array:
    """Values of a column whose field is marked with JSON_FIELD."""
    return pa.array([orjson.dumps(value).decode() for value in values], pa.string())


def _type_of_schema(schema: Mapping[str, Any]) -> pa.DataType | None:
    plain = {
        "string": pa.string(),
        "integer": pa.int64(),
        "number": pa.float64(),
        "boolean": pa.bool_(),
    }
    kind = schema.get("type")
    if isinstance(kind, list):  # null is a value of every Arrow type
        kinds = [one for one in kind if one != "null"]
        return _type_of_schema({**schema, "type": kinds[0]}) if len(kinds) == 1 else None
    if kind in plain:
        return plain[kind]
    if kind is None and schema.get("enum") and all(isinstance(v, str) for v in schema["enum"]):
        return pa.string()
    if kind == "array" and isinstance(schema.get("items"), Mapping):
        items = _type_of_schema(schema["items"])
        return items and pa.list_(items)
    if kind == "object" and schema.get("properties") and not schema.get("additionalProperties", 1):
        types = {name: _type_of_schema(part) for name, part in schema["properties"].items()}
        return None if None in types.values() else pa.struct(types)
    return None
