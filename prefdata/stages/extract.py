"""`extract`: parts of a text by a regular expression, each with where it came from."""

import pyarrow as pa

from prefdata.errors import RowError
from prefdata.recipe.columns import Extract
from prefdata.recipe.values import META_SUFFIX
from prefdata.rows import TEXT_META, Row
from prefdata.stages.asking import Stage, Tools
from prefdata.stages.patterns import Pattern


def extract_fields(column: Extract) -> list[pa.Field]:
    """A text and its provenance for every group."""
    texts = [pa.field(group, pa.string()) for group in column.groups]
    return texts + [pa.field(group + META_SUFFIX, TEXT_META) for group in column.groups]


def extract(column: Extract, tools: Tools) -> Stage:
    """The stripped groups; of a text that was cut off, the part that reaches its end is cut too."""
    pattern, groups = Pattern(column.name, column.pattern), column.groups

    async def stage(row: Row) -> Row:
        text, source = row[column.column], row.get(column.column + META_SUFFIX)
        if not isinstance(text, str):
            raise RowError("not_extracted", f"{column.column!r} contains no text: {text!r}")
        found = pattern.search(text)
        parts = {name: (found[name] or "").strip() if found else "" for name in groups}
        if found is None or not all(parts.values()):
            lost = ", ".join(name for name in groups if not parts[name])
            raise RowError("not_extracted", f"{column.column!r} has no {lost}: {text!r}")
        metas = {name: _meta(source, found.end(name) >= len(text.rstrip())) for name in groups}
        return parts | {name + META_SUFFIX: meta for name, meta in metas.items()}

    return stage


def _meta(source: Row | None, is_last: bool) -> Row | None:
    if source is None:
        return None
    reason = source["finish_reason"] if is_last else "stop"
    return source | {"finish_reason": reason, "completion_tokens": None}
