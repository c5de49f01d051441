"""A worker process: prepares and loads one model, answers what arrives. Keeps nothing.

Started by `replica.py` as `python -m prefdata.workers.worker SOCKET`. It ends with the run: when
the run's end of the socket closes, whatever the reason, it kills its own process group, which
holds the processes that vLLM has started.
"""

import asyncio
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import active_children
from multiprocessing.connection import Connection, wait
from typing import Any

from prefdata.engines import Hosted, look_at_model, open_engine, prepare_engine
from prefdata.engines.checkpoints import read_ahead
from prefdata.errors import PrefdataError
from prefdata.workers.messages import (
    Answer,
    Ask,
    CannotLoad,
    Go,
    Order,
    Ready,
    Refusal,
    receive,
    send,
)

Opener = Callable[[Order], Hosted[Any, Any]]
Preparer = Callable[[Order, threading.Event], None]
DIED = 70
BEAT_SECONDS = 10.0
"""An engine that has done a step since is told about; one that hangs is silent."""


def main() -> None:
    """Serve the socket whose number is the first argument."""
    serve(Connection(int(sys.argv[1])), _load, prepare)


def serve(
    connection: Connection, load: Opener, prepare: Preparer = lambda order, may_load: None
) -> None:
    """Load what the order says, tell how it went, answer until there is nothing left to hear.

    `load`: loads a model. `prepare`: does what touches no device, and ends soon once the
    event is set.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):  # Ctrl-C and an end to come are the run's
        signal.signal(number, signal.SIG_IGN)
    order: Order = receive(connection)
    if order.cores:
        os.sched_setaffinity(0, order.cores)
    inbox = _Inbox(connection)
    prepare(order, inbox.may_load)
    inbox.may_load.wait()
    try:
        engine = load(order)
    except PrefdataError as err:
        send(connection, CannotLoad(str(err)))
        return
    threading.Thread(target=_mind_children, name="children", daemon=True).start()
    send(connection, Ready(engine.capacity))
    asyncio.run(_answer_all(engine, connection, inbox))


def prepare(order: Order, may_load: threading.Event) -> None:
    """Import the engine, look at the model and read its files; the place may be another's."""
    # whatever is wrong is found again, and told, when the model is loaded
    with suppress(PrefdataError, ImportError, OSError):
        prepare_engine(order.engine)
        if order.reads_ahead and not may_load.is_set():
            look_at_model(order.role, order.model, order.path, order.engine)
            read_ahead(order.path, may_load.is_set)


def _load(order: Order) -> Hosted[Any, Any]:
    return open_engine(order.role, order.model, order.path, order.engine, order.adapters)


class _Inbox:
    """Reads the socket in a thread, from the beginning: the run may end while a model loads.

    Attributes:
        may_load: set once the run has said so.
    """

    def __init__(self, connection: Connection) -> None:
        self.may_load = threading.Event()
        self._connection = connection
        self._waiting: list[Ask] = []
        self._listener: tuple[asyncio.AbstractEventLoop, asyncio.Queue[Ask]] | None = None
        self._lock = threading.Lock()
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def listen(self) -> "asyncio.Queue[Ask]":
        """From now on what arrives is put into this queue of the running loop."""
        queue: asyncio.Queue[Ask] = asyncio.Queue()
        with self._lock:
            self._listener = asyncio.get_running_loop(), queue
            for ask in self._waiting:
                queue.put_nowait(ask)
        return queue

    def _read(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                ask = receive(self._connection)
                if isinstance(ask, Go):
                    self.may_load.set()
                    continue
                with self._lock:
                    if self._listener is None:
                        self._waiting.append(ask)
                    else:
                        loop, queue = self._listener
                        loop.call_soon_threadsafe(queue.put_nowait, ask)
        end()


async def _answer_all(engine: Hosted[Any, Any], connection: Connection, inbox: _Inbox) -> None:
    """Answer each row in a task of its own; what is finished at one time goes out together."""
    loop, outbox = asyncio.get_running_loop(), list[Answer | Refusal]()

    def send_all() -> None:
        messages = outbox.copy()
        outbox.clear()
        send(connection, messages)

    def post(message: Answer | Refusal) -> None:
        outbox.append(message)
        if len(outbox) == 1:
            loop.call_soon(send_all)

    async def answer(row: Ask) -> None:
        try:
            indices = [*row.requests]
            async for place, result in engine.ask([*row.requests.values()]):
                post(Answer(row.number, indices[place], result))
        except PrefdataError as err:
            post(Refusal(row.number, str(err)))

    async def beat() -> None:
        seen = engine.steps
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            if (now := engine.steps) != seen:
                send(connection, [])
            seen = now

    queue, tasks = inbox.listen(), set[asyncio.Task[None]]()
    tasks.add(loop.create_task(beat()))
    while True:
        task = loop.create_task(answer(await queue.get()))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(_die_of)


def _die_of(task: "asyncio.Task[None]") -> None:
    """An engine that raises anything else is broken: the run starts another worker."""
    if not task.cancelled() and (err := task.exception()) is not None:
        traceback.print_exception(err)
        sys.stderr.flush()
        end(DIED)


def _mind_children() -> None:
    """Without one of the processes that vLLM has started, its engine may wait for ever."""
    if children := [child.sentinel for child in active_children()]:
        wait(children)
        print("a process of the engine has died", file=sys.stderr, flush=True)
        end(DIED)


def end(code: int = 0) -> None:
    """Leave at once, and take along what vLLM has started."""
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(code)


if __name__ == "__main__":
    main()
