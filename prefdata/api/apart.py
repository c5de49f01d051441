"""Work that makes event loops of its own, where one may be running already, as in a notebook."""

import asyncio
import contextvars
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from prefdata.run.ending import Ending

Result = TypeVar("Result")


def run_apart(work: Callable[[Ending], Result]) -> Result:
    """What `work` returns; where an event loop runs in this thread, it works in another one.

    An interrupt while this waits asks the work to end at its next safe place, which then raises
    KeyboardInterrupt here; a second one does not wait for that.
    """
    ending = Ending()
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work(ending)
    made: Future[Result] = Future()

    def run() -> None:
        try:
            made.set_result(work(ending))
        except BaseException as err:  # raised again in the thread that waits
            made.set_exception(err)

    context = contextvars.copy_context()  # so that what is printed belongs to the caller's cell
    thread = threading.Thread(target=context.run, args=(run,), name="prefdata", daemon=True)
    with _interrupts(ending):
        thread.start()
        thread.join()
    return made.result()


@contextmanager
def _interrupts(ending: Ending) -> Iterator[None]:
    """Hear Ctrl-C, which in the main thread alone can be heard."""

    def hear(number: int, frame: FrameType | None) -> None:
        if ending.is_asked:
            raise KeyboardInterrupt
        ending.ask()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
