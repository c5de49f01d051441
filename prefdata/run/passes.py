"""One pass: rows of a folder through the levels of stages, into the next folder.

Owns the `.map` call and the order of rows; knows neither recipe nor engine.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field as data_field
from pathlib import Path
from time import monotonic
from typing import Any

import pyarrow as pa
from datasets import IterableDataset, config

from prefdata.errors import PrefdataError, RowError
from prefdata.rows import ID, REJECTS, Row, is_json, json_array, reject, rows_of
from prefdata.run.ending import Ending
from prefdata.run.map_loop import MapLoop
from prefdata.run.progress import Progress
from prefdata.run.room import Room, room_for
from prefdata.storage.folders import RowsWriter, read_schema, read_tables, row_bytes
from prefdata.storage.journaled import NotNow
from prefdata.workers.throughput import Slowest

Stage = Callable[[Row], Awaitable[Row]]
Levels = Sequence[Sequence[tuple[str, Stage]]]
"""(column, stage) pairs; those of one level run at the same time for a row."""
_REJECTED, _WAITS = "__rejected__", "__waits__"
WINDOW = 1000
"""Rows in flight where the engines are small."""
FIRST_ROWS = 16
"""Rows that stop the run where they all fail for one reason."""
ROWS_PER_GPU = 4096
"""Rows in flight for each GPU."""
WRITTEN_BYTES = 2**26
"""What is made of rows until they are written, where a thousand of them are larger."""


@dataclass(frozen=True)
class Sweep:
    """What one pass does to every row.

    Attributes:
        levels: (column, stage) pairs; those of one level run at the same time for a row.
        fields: Arrow fields that the stages add, in order.
        reads: columns that the stages need; None for all.
        window: rows in flight at the same time.
        slowest: records how long each row was in flight.
        room: bytes that the rows in flight may hold.
        ending: asked when the run is to end.
        note: told how many rows have begun and how many are finished.
    """

    levels: Levels
    fields: Sequence[pa.Field]
    reads: frozenset[str] | None
    window: int = WINDOW
    slowest: Slowest = data_field(default_factory=Slowest)
    room: Room = data_field(default_factory=lambda: room_for(0, 0))
    ending: Ending = data_field(default_factory=Ending)
    note: Callable[[int, int], None] = lambda begun, finished: None


def run_ahead(sweep: Sweep, source: Path, progress: Progress) -> int:
    """Send the requests that this model group can answer, for the journal; rows are not kept.

    Returns:
        How many rows have more to ask, of a model that is not loaded.

    Raises:
        PrefdataError: as from the stages.
    """
    schema = read_schema(source)
    with MapLoop(sweep.ending) as loop, _window(sweep, source):
        waiting: deque[pa.Table] = deque()
        function = _row_function(sweep, loop, progress, is_ahead=True)
        waits = 0
        for row in _stop_if_all_fail(_map(_rows(source, schema, sweep, waiting), function)):
            waits += _WAITS in row
            loop.check()
            sweep.room.leave()
    return waits


def run_pass(sweep: Sweep, source: Path, target: Path, progress: Progress) -> None:
    """Write `target`, the rows of `source` with the new columns, and `target`.rejects beside it.

    `IterableDataset.map` keeps `sweep.window` rows in flight, so an engine's queue never runs
    dry, and hands them back in order. `target` appears last: where it exists, both are whole.
    """
    schema = read_schema(source)
    with (
        _window(sweep, source),
        RowsWriter(target, pa.schema([*schema, *sweep.fields])) as rows,
        RowsWriter(rejects_of(target), REJECTS) as rejects,
        ThreadPoolExecutor(1) as writer,  # what models finish meanwhile reaches the journal
        MapLoop(sweep.ending) as loop,
    ):
        written: Future[None] = writer.submit(lambda: None)
        waiting: deque[pa.Table] = deque()
        function = _row_function(sweep, loop, progress)
        made: list[Row] = []
        size = 0
        for row in _stop_if_all_fail(_map(_rows(source, schema, sweep, waiting), function)):
            made.append(row)
            size += sweep.room.leave()
            if len(made) < waiting[0].num_rows and size < WRITTEN_BYTES:
                continue
            table = waiting.popleft()
            if len(made) < table.num_rows:
                waiting.appendleft(table.slice(len(made)))
            loop.check()
            written.result()
            part = table.slice(0, len(made))
            written = writer.submit(_write, part, made, sweep, rows, rejects)
            made, size = [], 0
        written.result()


def _stop_if_all_fail(results: Iterable[Row]) -> Iterator[Row]:
    """The rows as they come.

    Raises:
        PrefdataError: the first `FIRST_ROWS` have all failed for one reason, and so would the rest.
    """
    fates: set[tuple[str, str] | None] = set()
    for number, row in enumerate(results, start=1):
        if number <= FIRST_ROWS:
            told = row.get(_REJECTED)
            fates.add((told["stage"], told["reason"]) if told else None)
        if number == FIRST_ROWS and len(fates) == 1 and told:
            raise PrefdataError(
                f"column {told['stage']!r}: the first {FIRST_ROWS} rows all fail for one reason, "
                f"{told['reason']}: {told['detail']}; the run stops, since the others would fail "
                "too. Mend the cause and run the same command again: what was answered is kept"
            )
        yield row


def window_for(gpus: int) -> int:
    """Rows to keep in flight: several times what the GPUs' engines hold, were each request one.

    Rows come back in order, so a slow one at the head must not starve the engines.
    """
    return max(WINDOW, ROWS_PER_GPU * gpus)


def rejects_of(folder: Path) -> Path:
    """Where the rejects of a stage's folder lie."""
    return folder.with_name(folder.name + ".rejects")


def _rows(
    source: Path, schema: pa.Schema, sweep: Sweep, waiting: deque[pa.Table]
) -> Callable[[], Iterator[Row]]:
    wanted = set(schema.names) if sweep.reads is None else sweep.reads | {ID}
    names = [name for name in schema.names if name in wanted]

    def rows() -> Iterator[Row]:
        for table in read_tables(source):
            waiting.append(table)
            yield from rows_of(table.select(names))

    return rows


def _map(rows: Callable[[], Iterator[Row]], function: Stage) -> IterableDataset:
    """The rows through a function, in order."""
    before, config.TORCH_AVAILABLE = config.TORCH_AVAILABLE, False
    try:  # with torch the library imports it, for a DataLoader's processes, which nobody has here
        return IterableDataset.from_generator(rows).map(function)
    finally:
        config.TORCH_AVAILABLE = before


@contextmanager
def _window(sweep: Sweep, source: Path) -> Iterator[None]:
    """Let `.map` keep so many rows in flight; the library has one number for the process.

    Rows are read before their turn comes, so of large ones it keeps fewer.
    """
    before = config.MAX_NUM_RUNNING_ASYNC_MAP_FUNCTIONS_IN_PARALLEL
    fitting = sweep.room.limit // max(1, row_bytes(source))
    config.MAX_NUM_RUNNING_ASYNC_MAP_FUNCTIONS_IN_PARALLEL = max(1, min(sweep.window, fitting))
    try:
        yield
    finally:
        config.MAX_NUM_RUNNING_ASYNC_MAP_FUNCTIONS_IN_PARALLEL = before


def _row_function(
    sweep: Sweep, loop: MapLoop, progress: Progress, *, is_ahead: bool = False
) -> Stage:
    """All stages of the pass as one function for `.map`; `is_ahead` stops at a model not loaded."""
    begun = finished = 0

    async def run(row: Row) -> Row:
        nonlocal begun, finished
        loop.adopt()
        number = await sweep.room.enter()
        start = monotonic()
        made: Row = {}
        begun += 1
        sweep.note(begun, finished)
        try:
            made = await run_levels(sweep.levels, row, lambda: loop.is_ending)
            if is_ahead:  # it is in the journal
                made = {}
        except NotNow:
            if not is_ahead:
                raise
            made = {_WAITS: True}
        finally:
            sweep.slowest.note(row[ID], monotonic() - start)
        sweep.room.finish(number, made)
        progress.advance(1)
        finished += 1
        sweep.note(begun, finished)
        return made

    return run


async def run_levels(levels: Levels, row: Row, is_ending: Callable[[], bool]) -> Row:
    """What the stages add to a row, up to the one that rejects it."""
    added: Row = {}
    for level in levels:
        if is_ending():  # thousands of rows may be next, each with a slow stage
            raise asyncio.CancelledError
        outcome = await _run_level(level, row | added)
        added |= outcome
        if _REJECTED in outcome:
            break
    return added


async def _run_level(level: Sequence[tuple[str, Stage]], row: Row) -> Row:
    if len(level) == 1:
        return await _run_stage(*level[0], row)
    made: Row = {}
    outcomes = await asyncio.gather(
        *(_run_stage(name, stage, row) for name, stage in level), return_exceptions=True
    )
    for outcome in outcomes:  # all of them have come to their end, so none runs unheard
        if isinstance(outcome, BaseException):
            raise outcome
        made = outcome | made if _REJECTED in made else made | outcome
    return made


async def _run_stage(name: str, stage: Stage, row: Row) -> Row:
    try:
        return await stage(row)
    except RowError as err:
        return {_REJECTED: {"stage": name, "reason": err.reason, "detail": err.detail}}


def _write(
    table: pa.Table, made: list[Row], sweep: Sweep, rows: RowsWriter, rejects: RowsWriter
) -> None:
    kept = [number for number, row in enumerate(made) if _REJECTED not in row]
    if len(kept) < len(made):
        lost = [n for n, row in enumerate(made) if _REJECTED in row]
        refused = [_reject(rows_of(table.slice(n, 1))[0], made[n], sweep) for n in lost]
        rejects.write(pa.Table.from_pylist(refused, schema=REJECTS))
        table = table.take(pa.array(kept, pa.int64()))
    for field in sweep.fields:
        values: list[Any] = [made[number][field.name] for number in kept]
        if is_json(field):
            table = table.append_column(field, json_array(values))
            continue
        table = table.append_column(field, pa.array(values, field.type))
    rows.write(table)


def _reject(before: Row, made: Row, sweep: Sweep) -> Row:
    added = {field.name: made[field.name] for field in sweep.fields if field.name in made}
    return reject(before | added, **made[_REJECTED])
