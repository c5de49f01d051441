"""The event loop that `.map` makes: interrupted where it does no harm, closed when it is done."""

import asyncio
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any, Self

from prefdata.run.ending import Ending, end_soon, interrupt


class MapLoop:
    """While this is open, Ctrl-C and SIGTERM cancel the tasks of the loop; then it is interrupted.

    Python raises KeyboardInterrupt wherever it happens to be. In the middle of a step the wake-up
    of a task is lost, and `.map`, which waits for the tasks it has cancelled, waits forever.
    Between two steps the loop may have been told already that the task it waits for is done, and
    that stops it when `.map` runs it again to wait for the others.

    Signals are for the main thread; `ending` is asked from another one.
    """

    def __init__(self, ending: Ending) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = ending
        self._is_closing = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._ending.listener = self._wake
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                before = signal.getsignal(number)
                if before in (interrupt, signal.default_int_handler):
                    signal.signal(number, self._ask)
                    self._before[number] = before
        return self

    def adopt(self) -> None:
        """Take care of the loop in which this is called."""
        self._loop = asyncio.get_running_loop()

    @property
    def is_ending(self) -> bool:
        """Whether a signal to end has come: no stage is begun any more."""
        return self._ending.is_asked

    def check(self) -> None:
        """Raise the KeyboardInterrupt that has come while the loop stood still."""
        self._ending.check()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._is_closing = True  # tasks are let go already; nothing may cut that short
            self._close()
        finally:
            self._is_closing = False
            self._ending.listener = None
            for number, before in self._before.items():
                signal.signal(number, before)
        if kind is None or issubclass(kind, asyncio.CancelledError):
            self.check()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._before[signal.Signals(number)] is interrupt:
            end_soon()
        self._ending.ask()

    def _wake(self) -> None:
        if (loop := self._loop) is not None:
            with suppress(RuntimeError):  # closed meanwhile: its pass is over
                loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._loop is not None and not self._is_closing:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()

    def _close(self) -> None:
        """End what an error has left running: `.map` cancels tasks, but not all of them end."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(_gather(tasks))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _gather(tasks: set[asyncio.Task[object]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
