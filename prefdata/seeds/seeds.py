"""Seeds: from a file, a folder or the Hub to an Arrow table of rows with ids.

A line that cannot be used is a reject with its place, never a silent skip. Knows no stage.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from prefdata.errors import PrefdataError, RowError, suggest
from prefdata.fingerprint import copy_id, digest, row_id, sampling_seed
from prefdata.recipe.chats import is_chat, looks_like_chat, read_chat
from prefdata.recipe.checks import check_recipe
from prefdata.recipe.contract import At, dotted
from prefdata.recipe.reads import chats_read, columns_made, columns_needed
from prefdata.recipe.schema import Recipe, SeedDataset
from prefdata.recipe.tools import read_tools, tools_read
from prefdata.recipe.values import OWN_ID
from prefdata.rows import ID, Row, rows_of
from prefdata.seeds.columns import chat_columns, chunk_table, join_chunks
from prefdata.seeds.files import SEEDS, Line, Place, kind_of, read_lines
from prefdata.seeds.identity import says_nothing
from prefdata.seeds.turns import Turns
from prefdata.storage.tables import reorder

Scalar = str | int | float | bool
CHUNK = 10_000


@dataclass(frozen=True)
class Seeds:
    """The rows that a run starts from.

    Attributes:
        table: `id` and the seed columns, in the order of the run.
        rejects: rows of `rejects/` for lines that could not be used.
        fingerprint: hash of all ids and rejects, that is, of everything that was read.
        notes: messages for the user, one sentence each.
    """

    table: pa.Table
    rejects: list[Row]
    fingerprint: str
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return int(self.table.num_rows) + len(self.rejects)


def seeds_of(
    recipe: Recipe,
    locate: Callable[[str], str],
    place: Callable[[At], str] = dotted,
    out: Path | None = None,
) -> Seeds:
    """The seeds of a recipe; errors as for `load_seeds`, and where a chat would be flattened.

    `locate`: finds a path of the recipe, which may be relative to its file. `place`: where a key of
    the recipe stands, for a message. `out`: the run folder; the recipe's own where left out.
    """
    config = recipe.seed_dataset
    seeds = load_seeds(
        config,
        [locate(path) for path in config.path or ()],
        needed=columns_needed(recipe),
        made=columns_made(recipe),
        num_records=recipe.num_records,
        seed=recipe.seed,
        inputs=recipe.inputs,
        prompt=recipe.output_projection.prompt_field,
        chats=chats_read(recipe),
        tools=tools_read(recipe.columns),
        out=out or Path(recipe.output_dir),
    )
    chats = chat_columns(seeds.table)
    if problems := check_recipe(recipe, frozenset(seeds.table.column_names), chats):
        raise PrefdataError("\n".join(f"{place(p.at)}: {p.message}" for p in problems))
    if config.candidates is None:
        seeds.notes.extend(_answered(seeds.table, sorted(chats & chats_read(recipe))))
    return seeds


def _answered(table: pa.Table, names: Iterable[str]) -> Iterator[str]:
    """Told of chats that end with the answer which a model is to write."""
    for name in names:
        values = (row[name] for row in rows_of(table.select([name])))
        chats = [read_chat(value) for value in values if is_chat(value)]
        if count := sum(chat[-1]["role"] == "assistant" for chat in chats):
            yield (
                f"column {name!r}: {count:,} of {len(chats):,} chats end with a turn of the "
                "assistant; where a model is to answer, that turn is left out"
            )


def load_seeds(
    config: SeedDataset,
    paths: Sequence[str],
    *,
    needed: Mapping[str, str],
    num_records: int | None,
    seed: int,
    made: Mapping[str, str] = MappingProxyType({}),
    inputs: Mapping[str, Scalar] = MappingProxyType({}),
    prompt: str | None = None,
    chats: Collection[str] = (),
    tools: Collection[str] = (),
    check: Callable[[Row], None] = lambda fields: None,
    out: Path | None = None,
    at: Place = SEEDS,
) -> Seeds:
    """Read, check, order and number the seeds.

    Args:
        config: the recipe's `seed_dataset`.
        paths: `config.path`, absolute where they are local.
        needed: columns that the recipe reads, each with the YAML path of its first use; where
            the config names fields, these are among them.
        num_records: rows wanted; above the number of seeds these are cycled, each copy with an
            id of its own and so with fresh sampling seeds.
        seed: of the shuffle.
        made: columns that the recipe adds, each with its YAML path; a seed column may not be
            called like one.
        inputs: values that every row gets as columns unless the seeds have them; they are no part
            of a row's id, so that a row keeps what was drawn for it when a count changes.
        prompt: column that becomes the pairs' prompt; a line where it asks nothing is a reject.
        chats: columns whose values are sent to models turn by turn where they are chats.
        tools: columns with tools: lists and JSON texts among each other, null or left out for none.
        check: raises RowError for a line that has all fields, and is of no use.
        out: the run folder, whose files are no seeds.
        at: what keys of `config` are called in messages.

    Raises:
        PrefdataError: the file, dataset, split or column does not exist, or no row is usable.
    """
    path = ", ".join(paths)
    reading = _Reading(config.fields, needed, prompt, frozenset(chats), frozenset(tools), check, at)
    if config.rows is None:
        lines = _lines(config, paths, reading.notes, out, at)
    else:
        lines = (Line(f"seed_dataset.rows.{n}", dict(row)) for n, row in enumerate(config.rows))
    bounds = [bound for bound in (config.limit, num_records) if bound is not None]
    stop_early = min(bounds, default=None) if config.strategy == "ordered" else None
    if config.candidates is None:
        table = _table(reading, lines, stop_early, path)
    else:
        turns = Turns(config.candidates)
        turns.read(lines, stop_early)
        turns.check_fields(_key_of_candidates, "write candidates: {}")
        table, reading.rejects = turns.table(), turns.rejects
        reading.notes += turns.notes()
    if table.num_rows == 0:
        first = (
            f"; the first: {reading.rejects[0]['source']}: {reading.rejects[0]['detail']}"
            if reading.rejects
            else ""
        )
        where = f"{at('path')}: {path}" if config.rows is None else f"{at('rows')}: it"
        raise PrefdataError(f"{where} has no usable row{first}")
    table = reading.with_tools(table, is_whole=table.num_rows != stop_early)
    for name in table.column_names:
        if name in made:
            raise PrefdataError(
                f"{made[name]}: the seeds already have a column {name!r}; rename yours, or "
                f"{reading.fewer}"
            )
    order = np.arange(table.num_rows)
    if config.strategy == "shuffle":
        np.random.default_rng(sampling_seed(seed, "shuffle")).shuffle(order)
    order = order[: config.limit]
    count = num_records or len(order)
    if count > len(order):
        reading.notes.append(f"num_records: {count} rows from {len(order)} seeds: each is used {count / len(order):.1f} times, with fresh sampling seeds")  # fmt: skip  # noqa: E501
    table = reorder(table, np.resize(order, count))
    if config.candidates is None:
        table = table.add_column(0, ID, pa.array(_ids(table), pa.string()))
        contents = []  # the ids are hashes of all there is
    else:
        table = table.set_column(0, ID, pa.array(_numbered(table[ID].to_pylist()), pa.string()))
        contents = [digest(row, size=10) for row in table.to_pylist()]
    inputs = {k: v for k, v in inputs.items() if k not in table.column_names}
    for name, value in inputs.items():
        table = table.append_column(name, pa.array([value] * count))
    refused = [[r[ID], r["source"], r["reason"]] for r in reading.rejects]
    more = [part for part in (inputs, contents) if part]
    fingerprint = digest(table[ID].to_pylist(), refused, *more)
    return Seeds(table, reading.rejects, fingerprint, reading.notes)


def _key_of_candidates(key: str) -> str:
    return f"seed_dataset.candidates.{key}" if key else "seed_dataset.path"


def _lines(
    config: SeedDataset, paths: Sequence[str], notes: list[str], out: Path | None, at: Place
) -> Iterator[Line]:
    """Lines of all places; if two files have the same name, the name of their folder is added."""
    names = [Path(path).name for path in paths]
    for path in paths:
        is_shared = names.count(Path(path).name) > 1
        for line in read_lines(config, path, notes, out, at):
            place = f"{Path(path).parent.name}/{line.source}" if is_shared else line.source
            yield line._replace(source=place)


@dataclass
class _Reading:
    """One pass over the lines: what has been seen of the columns, and what was refused.

    Attributes:
        fields: to `at` as of `load_seeds`.
    """

    fields: Sequence[str] | None
    needed: Mapping[str, str]
    prompt: str | None
    chats: frozenset[str]
    tools: frozenset[str]
    check: Callable[[Row], None]
    at: Place
    rejects: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _offering: set[str] = field(default_factory=set)
    _is_chat: dict[str, bool] = field(default_factory=dict)
    _kinds: dict[str, str] = field(default_factory=dict)

    @property
    def fewer(self) -> str:
        """What to do about a column that is in the way."""
        if self.at is not SEEDS:
            return "take it out of the file"
        return f"list only the columns you need in {self.at('fields')}"

    def rows(self, lines: Iterable[Line], ahead: int) -> Iterator[Row]:
        lines = iter(lines)
        while (line := next(lines, None)) is not None:
            lines = self._look_ahead(line, lines, ahead)
            problem = self._problem(line)
            if problem is None:
                yield self._selected(line.fields or {})
                continue
            fields = line.fields if line.fields is not None else {"raw": line.raw}
            kept = {OWN_ID if name == ID else name: value for name, value in fields.items()}
            self.rejects.append(line.reject(kept, *problem))

    def _look_ahead(self, line: Line, rest: Iterator[Line], most: int) -> Iterator[Line]:
        """Tell whether lists are chats by the first one, or by lines to come where it is none."""
        for name in self.chats - self._is_chat.keys():
            value = (line.fields or {}).get(name)
            if isinstance(value, list):
                ahead = [] if is_chat(value) else list(islice(rest, min(most, CHUNK)))
                told = (one.fields.get(name) for one in (line, *ahead) if one.fields)
                self._is_chat[name] = any(map(is_chat, told))
                rest = chain(ahead, rest)
        return rest

    def _selected(self, fields: Row) -> Row:
        if ID in (fields if self.fields is None else self.fields):
            self._rename_id(fields)
        if self.fields is None:
            return fields
        names = [OWN_ID if name == ID else name for name in self.fields]
        return {name: fields.get(name) for name in names}

    def _rename_id(self, fields: Row) -> None:
        if self.fields is None and OWN_ID in fields:
            raise PrefdataError(
                f"{self.at('fields')}: the column {ID!r} would be renamed {OWN_ID!r}, as {ID!r} is "
                f"the row's own key, but the seeds have {OWN_ID!r} too; "
                f"{self.fewer}"
            )
        fields[OWN_ID] = fields.pop(ID)
        note = f"seed column {ID!r} is renamed {OWN_ID!r}: {ID!r} is the row's own key"
        if note not in self.notes:
            self.notes.append(note)

    def _problem(self, line: Line) -> tuple[str, str] | None:
        if line.fields is None:
            return line.reason, line.detail
        self._offering |= self.tools & line.fields.keys()
        for name in self.needed if self.fields is None else self.fields:
            renamed = name == OWN_ID and self.fields is None and name not in line.fields
            if line.fields.get(ID if renamed else name) is None and name not in self.tools:
                return "missing_field", self._missing(name, line.fields)
        asked = line.fields.get(self.prompt or "")
        if asked is not None and says_nothing(asked):
            return "empty_prompt", f"{self.prompt!r} asks nothing: it is empty or blank"
        try:
            self.check(line.fields)
        except RowError as err:
            return err.reason, err.detail
        for name in line.fields if self.fields is None else self.fields:
            value = line.fields.get(name)
            kind = None if name in self.tools else kind_of(value)
            if kind is not None and self._kinds.setdefault(name, kind) != kind:
                return "field_type", f"{name!r} is {kind}, earlier rows have {self._kinds[name]}"
            try:
                self._read(name, value)
            except RowError as err:
                return err.reason, f"{name!r}: {err.detail}"
        return None

    def _read(self, name: str, value: Any) -> None:
        """Read a field as it will be read later on."""
        is_turns = isinstance(value, list) and self._is_chat.get(name)
        if name in self.chats and (is_turns or looks_like_chat(value)):
            read_chat(value)
        if name in self.tools:
            read_tools(value)

    def with_tools(self, table: pa.Table, is_whole: bool) -> pa.Table:
        """The rows with a column of each name under which tools are sought.

        Raises:
            PrefdataError: a column is in no line, so it is named wrongly.
        """
        for name in sorted(self.tools & self.needed.keys() - self._offering):
            if is_whole:
                known = suggest(name, table.column_names)
                raise PrefdataError(f"{self.needed[name]}: no line has a field {name!r}; {known}")
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(table.num_rows))
        return table

    def _missing(self, name: str, fields: Row) -> str:
        if name in fields:
            return f"{name!r} is null"
        where = self.needed.get(OWN_ID if name == ID else name, self.at("fields"))
        return f"there is no field {name!r}, which {where} needs; {suggest(name, fields)}"


def _table(reading: _Reading, lines: Iterator[Line], wanted: int | None, path: str) -> pa.Table:
    chunks, where = [], f"{reading.at('path')}: {path}"
    rows = islice(reading.rows(lines, wanted or CHUNK), wanted)
    while chunk := list(islice(rows, CHUNK)):
        try:
            chunks.append(chunk_table(chunk))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as err:
            raise PrefdataError(
                f"{where}: {_culprit(chunk, err)}; {reading.fewer}, or give its values one type "
                "that fits"
            ) from err
    try:
        return join_chunks(chunks)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as err:
        raise PrefdataError(
            f"{where}: the same column has different types in different rows: {err}"
        ) from err


def _culprit(chunk: list[Row], err: Exception) -> str:
    """Which column Arrow cannot hold, and why."""
    for name in dict.fromkeys(name for row in chunk for name in row):
        values = [row.get(name) for row in chunk]
        try:
            chunk_table([{name: value} for value in values])
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as found:
            if isinstance(found, OverflowError):
                return f"column {name!r} has integers beyond 64 bits with a sign (uint64?)"
            if any(isinstance(one, tuple) for v in values if isinstance(v, list) for one in v):
                return f"column {name!r} is a map, of keys that differ by row"
            return f"column {name!r} has values of different types ({found})"
    return f"a column has values of different types ({err})"


def _ids(table: pa.Table) -> list[str]:
    """Ids in order; equal rows count their copies, so the n-th copy keeps its id in longer runs."""
    batches = table.to_batches(max_chunksize=CHUNK)
    tables = (pa.Table.from_batches([batch]) for batch in batches)
    return _numbered(row_id(fields) for table in tables for fields in rows_of(table))


def _numbered(contents: Iterable[str]) -> list[str]:
    copies: dict[str, int] = {}
    ids = []
    for content in contents:
        copy = copies[content] = copies.get(content, -1) + 1
        ids.append(copy_id(content, copy))
    return ids
