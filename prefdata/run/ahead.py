"""Rows that go on to the next models while the last rows of a pass are made. Writes no folder.

What these models answer is in the journal, where their own pass finds it: texts, folders and what
a killed run goes on from are the same as if the passes had waited for one another.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from prefdata.errors import PrefdataError
from prefdata.rows import ID, Row
from prefdata.run.passes import Levels, run_levels
from prefdata.storage.journaled import NotNow

SECONDS = 0.2
"""Between two looks at whether the models are ready, or more rows have come so far."""


@dataclass(frozen=True)
class Way:
    """What rows that go ahead do.

    Attributes:
        levels: of the pass that ends, whose answers are only looked up, and of the next one.
        window: of them in flight at the same time.
        refresh: lets the journal find what this run has answered.
        end: called when nothing goes ahead any more.
    """

    levels: Levels
    rows: Callable[[], Iterator[Row]]
    window: int
    is_ready: Callable[[], bool]
    refresh: Callable[[], None]
    end: Callable[[], None]


class Ahead:
    """One pass that ends: prepares the models of the next, then sends rows to them."""

    def __init__(
        self,
        total: int,
        *,
        is_working: Callable[[], bool],
        prepare: Callable[[], bool],
        begin: Callable[[], Way],
    ) -> None:
        """Do nothing yet.

        `prepare`: starts the processes of the next models; False where there are none.
        """
        self._total, self._is_working = total, is_working
        self._prepare, self._begin = prepare, begin
        self._is_prepared: bool | None = None
        self._finished = 0
        self._over = threading.Event()
        self._task: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None

    def note(self, begun: int, finished: int) -> None:
        """So many rows of the pass have begun and are finished."""
        self._finished = finished
        if self._is_prepared is None and self._is_working():
            self._is_prepared = self._prepare()
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

    async def _go(self, way: Way) -> None:
        self._task = asyncio.current_task()
        try:
            while not way.is_ready() and not self._over.is_set():
                await asyncio.sleep(SECONDS)
            seen, through = -1, set[str]()
            while not self._over.is_set():
                if self._finished == seen:
                    await asyncio.sleep(SECONDS)
                    continue
                seen = self._finished
                await asyncio.to_thread(way.refresh)
                await self._sweep(way, through)
        except asyncio.CancelledError:
            pass
        finally:
            way.end()

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
