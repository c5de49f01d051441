"""Seed rows as Arrow columns: chats that Arrow would change become JSON texts. Reads no file."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from prefdata.recipe.chats import is_chat
from prefdata.recipe.tools import is_tools
from prefdata.rows import JSON_FIELD, Row, is_json, json_array, rows_of


def chunk_table(rows: Sequence[Row]) -> pa.Table:
    """Rows as a table; a column of tools, or of chats with calls or parts, is one of JSON texts.

    A struct would give every call the argument names of all others, and has no room for content
    that is a text here and a list there.

    Raises:
        pa.ArrowInvalid, pa.ArrowTypeError, OverflowError: a column has values of different types.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    columns = [_column(name, [row.get(name) for row in rows]) for name in names]
    schema = pa.schema([field for field, _ in columns])
    return pa.table([array for _, array in columns], schema=schema)


def join_chunks(chunks: Sequence[pa.Table]) -> pa.Table:
    """One table; a column that is JSON in one chunk, or lists here and texts there, is JSON in all.

    Raises:
        pa.ArrowInvalid, pa.ArrowTypeError: chunks have columns of different types.
    """
    fields = [field for chunk in chunks for field in chunk.schema]
    lists = {field.name for field in fields if pa.types.is_list(field.type)}
    texts = {field.name for field in fields if pa.types.is_string(field.type)}
    coded = {field.name for field in fields if is_json(field)} | lists & texts
    same = [_coded(chunk, coded) for chunk in chunks]
    return pa.concat_tables(same, promote_options="permissive") if same else pa.table({})


def chat_columns(table: pa.Table) -> frozenset[str]:
    """Names of the columns whose values are chats, as the types tell, or the first JSON value."""
    found = []
    for field in table.schema:
        kind = field.type
        if is_json(field):
            is_found = is_chat(rows_of(table.select([field.name]).slice(0, 1))[0][field.name])
        else:
            is_found = pa.types.is_list(kind) and _has_turns(kind.value_type)
        found += [field.name] if is_found else []
    return frozenset(found)


def _has_turns(kind: pa.DataType) -> bool:
    names = {field.name for field in kind} if pa.types.is_struct(kind) else set()
    return {"role", "content"} <= names or {"from", "value"} <= names


def _column(name: str, values: list[Any]) -> tuple[pa.Field, pa.Array]:
    if any(map(_is_rich, values)) or {str, list} <= set(map(type, values)):
        return pa.field(name, pa.string(), metadata=JSON_FIELD), json_array(values)
    array = pa.array(values)
    return pa.field(name, array.type), array


def _is_rich(value: Any) -> bool:
    """Whether a value is tools, or a chat whose messages have more than texts and numbers."""
    if is_tools(value):
        return True
    return is_chat(value) and any(
        isinstance(part, list | Mapping) for turn in value for part in turn.values()
    )


def _coded(chunk: pa.Table, names: set[str]) -> pa.Table:
    for name in sorted(names - set(chunk.column_names)):
        chunk = chunk.append_column(name, pa.nulls(chunk.num_rows))
    for place, field in enumerate(chunk.schema):
        if field.name in names and not is_json(field):
            values = [_plain(value) for value in chunk[field.name].to_pylist()]
            coded = pa.field(field.name, pa.string(), metadata=JSON_FIELD)
            chunk = chunk.set_column(place, coded, json_array(values))
    return chunk


def _plain(value: Any) -> Any:
    """A chat without the nulls of keys that only other turns have."""
    if not is_chat(value):
        return value
    return [{k: v for k, v in turn.items() if v is not None or k == "content"} for turn in value]
