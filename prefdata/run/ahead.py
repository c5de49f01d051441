"""Rows that go on to the next models while the last rows of a pass are made. Writes no folder.

What these models answer is in the journal, where their own pass finds it: texts, folders and what
a killed run goes on from are the same as if the passes had waited for one another.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from prefdata.errors import PrefdataError
from prefdata.recipe.contract import Column
from prefdata.recipe.origins import columns_read
from prefdata.recipe.plan import Pass
from prefdata.recipe.schema import Recipe
from prefdata.rows import ID, Row
from prefdata.run.passes import Levels, run_levels
from prefdata.storage.journaled import NotNow
from prefdata.workers.fleet import Fleet

Turn = tuple[Pass, frozenset[str]]
"""A pass, and the keys of the models that are loaded for it at one time."""
Ordered = Sequence[Sequence[Sequence[Column]]]
"""Columns of two passes, by level."""
SECONDS = 0.2
"""Between two looks at whether the models are ready, or more rows have come so far."""


@dataclass(frozen=True)
class Way:
    """What rows that go ahead do.

    Attributes:
        levels: of the pass that ends, whose answers are only looked up, and of the next one.
        window: of them in flight at the same time.
    """

    levels: Levels
    rows: Callable[[], Iterator[Row]]
    window: int


class Ahead:
    """One pass that ends: prepares the models of the next, then sends rows to them."""

    def __init__(
        self,
        total: int,
        fleet: Fleet,
        turn: Turn,
        following: Turn,
        begin: Callable[[], Way],
    ) -> None:
        """Do nothing yet.

        `total`: rows of the pass. `begin`: called once, when all of them have begun.
        """
        self._total, self._fleet, self._begin = total, fleet, begin
        (_, self._group), (self._after, self._next_group) = turn, following
        self._asked = fleet.work.generated + fleet.work.scored
        self._is_prepared: bool | None = None
        self._finished = 0
        self._over = threading.Event()
        self._task: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None

    def note(self, begun: int, finished: int) -> None:
        """So many rows of the pass have begun and are finished."""
        self._finished = finished
        if self._is_prepared is None and self._is_working():
            checkpoints = self._after.checkpoints
            self._is_prepared = self._fleet.prepare(self._next_group, checkpoints)
        if self._is_prepared and begun == self._total and self._thread is None:
            way = self._begin()
            self._thread = threading.Thread(
                target=lambda: asyncio.run(self._go(way)), name="ahead", daemon=True
            )
            self._thread.start()

    def finish(self) -> None:
        """The pass is over: no more rows begin; those in flight go on beside the next pass."""
        self._over.set()

    def close(self) -> None:
        """End it, with the rows in flight."""
        self._over.set()
        if self._thread is not None:
            if self._task is not None:
                with suppress(RuntimeError):  # its loop is closed: it has come to its end
                    self._task.get_loop().call_soon_threadsafe(self._task.cancel)
            self._thread.join()
            self._thread = None

    def _is_working(self) -> bool:
        """Whether the pass asks its models, and does not only read the journal."""
        work = self._fleet.work
        return self._fleet.is_open(self._group) or work.generated + work.scored > self._asked

    async def _go(self, way: Way) -> None:
        self._task = asyncio.current_task()
        try:
            while not self._fleet.has_loaded(self._next_group) and not self._over.is_set():
                await asyncio.sleep(SECONDS)
            seen, through = -1, set[str]()
            while not self._over.is_set():
                if self._finished == seen:
                    await asyncio.sleep(SECONDS)
                    continue
                seen = self._finished
                await asyncio.to_thread(self._fleet.refresh_journal)
                await self._sweep(way, through)
        except asyncio.CancelledError:
            pass
        finally:
            self._fleet.refresh_journal(is_over=True)

    async def _sweep(self, way: Way, through: set[str]) -> None:
        """Send the rows whose answers are there, and note those that are through."""
        free, tasks = asyncio.Semaphore(way.window), set[asyncio.Task[None]]()

        async def run(row: Row) -> None:
            try:
                await run_levels(way.levels, row, lambda: False)
                through.add(row[ID])
            except NotNow:  # it is one of the last
                pass
            except PrefdataError:  # the pass of these models will meet it, and tell
                self._over.set()
            finally:
                free.release()

        for row in way.rows():
            if row[ID] in through:
                continue
            await free.acquire()
            if self._over.is_set():
                break
            tasks.add(task := asyncio.create_task(run(row)))
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)


def columns_ahead(step: Pass, after: Pass, recipe: Recipe) -> Ordered | None:
    """Columns that rows need which go on from one pass to the models of the next, level by level.

    Those of the first pass whose answers are only looked up, and of the next what models answer
    and what they read. None where that takes a call of the recipe's function, which is made once,
    or where one filters rows.
    """
    passes = [after] if step is after else [step, after]
    needed, kept = set[str](), set[str]()
    for number, one in reversed([*enumerate(passes)]):
        for column in reversed(one.columns):
            if column.filters:
                return None
            is_asking = bool(column.aliases) and number == len(passes) - 1
            if is_asking or needed & {column.name, *column.makes}:
                if column.calls:
                    return None
                needed |= columns_read(column, recipe)
                kept.add(column.name)
    parts = [[[c for c in level if c.name in kept] for level in one.levels] for one in passes]
    return [*([[]] * (2 - len(parts))), *parts]
