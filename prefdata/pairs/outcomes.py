"""What became of the requests behind scored rows: finish reasons counted, thoughts looked for."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from prefdata.recipe.mix import OutputProjection
from prefdata.recipe.reads import texts_of_rule
from prefdata.recipe.values import META_SUFFIX, SKIPPED_SUFFIX
from prefdata.rows import ENDS
from prefdata.storage.folders import read_schema, read_tables

Outcomes = dict[str, dict[str, dict[str, int]]]
"""Texts by column, alias and finish reason."""


def count_outcomes(scored: Path) -> Outcomes:
    """How the texts of every column came to their end, the commonest way first."""
    counts: dict[str, Counter[tuple[str, str]]] = {}
    for name, texts in _texts(scored):
        pairs = zip(
            pc.struct_field(texts, "alias").to_pylist(),
            pc.struct_field(texts, "finish_reason").to_pylist(),
            strict=True,
        )
        counts.setdefault(name, Counter()).update(
            (alias, reason) for alias, reason in pairs if alias and reason
        )
    told: Outcomes = {}
    for name, found in counts.items():
        for (alias, reason), count in sorted(found.items(), key=lambda one: (-one[1], one[0])):
            told.setdefault(name, {}).setdefault(alias, {})[reason] = count
    return told


def count_skipped(scored: Path) -> dict[str, int]:
    """Rows for which a column with `skip_when` asked nothing, by column."""
    names = [name for name in read_schema(scored).names if name.endswith(SKIPPED_SUFFIX)]
    told = dict.fromkeys((name.removesuffix(SKIPPED_SUFFIX) for name in names), 0)
    for table in read_tables(scored, columns=names) if names else ():
        for name in names:
            held = table.num_rows - table[name].null_count
            told[name.removesuffix(SKIPPED_SUFFIX)] += held
    return told


def settle_reasoning(scored: Path, rule: OutputProjection) -> Literal["drop", "keep"] | None:
    """Whether trainers are given the thoughts: as the recipe says, else where all texts have one.

    None where no text has any.
    """
    answered, thought, sides = 0, 0, texts_of_rule(rule)
    for name, texts in _texts(scored):
        if texts.type.get_field_index("reasoning") < 0 or name not in sides:
            continue
        is_whole = pc.is_in(pc.struct_field(texts, "finish_reason"), pa.array([*ENDS, "length"]))
        has_thought = pc.is_valid(pc.struct_field(texts, "reasoning"))
        answered += pc.sum(is_whole).as_py() or 0
        thought += pc.sum(pc.and_(is_whole, has_thought)).as_py() or 0
    if not thought:
        return None
    return rule.reasoning or ("keep" if thought == answered else "drop")


def _texts(scored: Path) -> Iterator[tuple[str, pa.StructArray]]:
    """Column and what is told of its texts, a batch at a time."""
    columns = {field.name: name for field in read_schema(scored) if (name := _column_of(field))}
    if not columns:
        return
    for table in read_tables(scored, columns=list(columns)):
        for field, name in columns.items():
            for chunk in table[field].chunks:
                yield name, chunk.flatten() if pa.types.is_list(chunk.type) else chunk


def _column_of(field: pa.Field) -> str | None:
    """The text column that a field tells of."""
    kind = field.type.value_type if pa.types.is_list(field.type) else field.type
    if not pa.types.is_struct(kind) or kind.get_field_index("finish_reason") < 0:
        return None
    name: str = field.name
    return name.removesuffix(META_SUFFIX)
