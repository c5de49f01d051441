"""Pairs by the recipe's projection, or by several of them as one set. Picks and decides nothing."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from prefdata.errors import PrefdataError
from prefdata.pairs.choose import BATCH, Choice, as_table, choose_pairs, facts_of, pair_schema
from prefdata.pairs.files import count_lengths, keep_pairs, mean_scores, reject_unselected
from prefdata.pairs.prompts import Background, PairPrompts
from prefdata.pairs.selection import PairFacts, select
from prefdata.recipe.mix import SOURCE, Mix, OutputProjection, projections_of
from prefdata.rows import ID, REJECTS, Row
from prefdata.storage.disk import temporary_name
from prefdata.storage.folders import RowsWriter, read_rows, read_schema, read_tables


def make_pairs(
    scored: Path, pairs: Path, rejects: RowsWriter, rule: OutputProjection, background: Background
) -> Choice:
    """As `choose_pairs`, by one projection or by a mix of them.

    The pairs of each projection of a mix are chosen alone, then all are selected as one set. A row
    is a reject where none of them makes a pair that stays, for the reason that the first one has.
    """
    if not isinstance(rule, Mix):
        return choose_pairs(scored, pairs, rejects, rule, background)
    place = temporary_name(pairs.with_name("mix"))
    parts: dict[str, Choice] = {}
    try:
        for name, part in rule.of.items():
            with RowsWriter(place / f"{name}-rejects", REJECTS) as refused:
                own = background.of(part)
                parts[name] = choose_pairs(scored, place / name, refused, part, own)
        schema = _union([read_schema(place / name) for name in parts])
        with RowsWriter(place / "mixed-picks", schema) as picks:
            facts = _joined(place, list(parts), picks, rule, is_turn=background.has_turns)
            selection = select(facts, rule, seed=background.seed)
        kept = keep_pairs(place / "mixed-picks", pairs, selection.codes, None)
        # Who has a reject by the first projection, and no pair by another, has no pair at all.
        for table in read_tables(place / f"{next(iter(parts))}-rejects"):
            has_pair = [row in kept.rows or row in kept.lost for row in table[ID].to_pylist()]
            rejects.write(table.filter(pc.invert(pa.array(has_pair, pa.bool_()))))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    reject_unselected(scored, kept, rejects)
    return replace(
        next(iter(parts.values())),
        pairs=kept.pairs,
        prompts=len(kept.rows),
        drops=sum((part.drops for part in parts.values()), Counter()) + selection.drops,
        means=mean_scores(pairs, background.scores),
        asked=dict(sum((Counter(part.asked) for part in parts.values()), Counter())),
        lengths=count_lengths(pairs),
        calibration={
            f"{name}: {column}": fit
            for name, part in parts.items()
            for column, fit in part.calibration.items()
        },
        sources=dict.fromkeys(rule.of, 0) | _count_sources(pairs),
    )


def schema_of_pairs(scored: pa.Schema, rule: OutputProjection, background: Background) -> pa.Schema:
    """The schema of what `make_pairs` writes, of rows with the schema `scored`."""
    found = [
        pair_schema(
            scored,
            part,
            background.of(part).scores,
            PairPrompts(part, background.recipe, background.roles),
        )
        for part in projections_of(rule).values()
    ]
    return _union(found) if isinstance(rule, Mix) else found[0]


def _count_sources(pairs: Path) -> dict[str, int]:
    tables = read_tables(pairs, columns=[SOURCE])
    return dict(Counter(name for table in tables for name in table[SOURCE].to_pylist()))


def _union(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Every column of some projection, and the one that tells them apart."""
    fields: dict[str, pa.Field] = {}
    for field in (field for schema in schemas for field in schema):
        have = fields.setdefault(field.name, field)
        if have.type == field.type:
            continue
        if not (pa.types.is_struct(have.type) and pa.types.is_struct(field.type)):
            raise PrefdataError(
                f"output_projection.of: the column {field.name!r} of the pairs is {have.type} in "
                f"one projection and {field.type} in another; write prompt_field and keep so that "
                "both are alike"
            )
        parts = {part.name: part for part in (*have.type, *field.type)}
        fields[field.name] = have.with_type(pa.struct(list(parts.values())))
    return pa.schema([*fields.values(), pa.field(SOURCE, pa.string())])


def _joined(
    place: Path, names: Sequence[str], picks: RowsWriter, rule: Mix, *, is_turn: bool
) -> Iterator[PairFacts]:
    """Facts of the pairs of every projection, in the order in which they are written to `picks`."""
    for name in names:
        rows: list[Row] = []
        for row in read_rows(place / name):
            rows.append(row | {ID: f"{row[ID]}-{name}", SOURCE: name})
            yield facts_of(rows[-1], rule, is_turn=is_turn)
            if len(rows) == BATCH:
                picks.write(as_table(rows, picks.schema))
                rows = []
        picks.write(as_table(rows, picks.schema))
