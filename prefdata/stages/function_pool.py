"""Calls of a recipe's function, side by side in processes that may crash, hang or be ended."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from prefdata.errors import PrefdataError, RowError
from prefdata.recipe.filters import Filter
from prefdata.recipe.judges import Verifier
from prefdata.rows import ID, Row
from prefdata.stages import function_process
from prefdata.stages.functions import Functions

FEWEST, MOST = 4, 16
"""Processes of a column: as many as there are cores, within these bounds."""
LOAD_SECONDS = 600.0
"""What the import of a function's module may take; the column's limit is for its calls."""


Greeting = tuple[list[str], str | bytes, str]
"""Python's path, the function, and what it is to return."""


class FunctionPool:
    """The processes of one column; started as they are needed, ended with this object."""

    def __init__(self, column: Verifier | Filter, functions: Functions, wanted: str) -> None:
        """Start none yet.

        `column`: whose function is called, and how long it may take. `wanted`: what it is to
        return, a key of `function_process.WANTED`.

        Raises:
            PrefdataError: it cannot be imported, or cannot be sent to another process.
        """
        self._column, self._wanted = column, wanted
        self._path = [str(functions.folder), *sys.path]
        self._calls = _sendable(column, functions)
        self._own = threading.local()
        self._children: set[_Child] = set()
        count = min(MOST, max(FEWEST, os.cpu_count() or 1))
        self._threads = ThreadPoolExecutor(count, f"{column.type}-{column.name}")
        weakref.finalize(self, _close, self._threads, self._children)

    async def call(self, row: Row, *arguments: Any) -> Any:
        """What the function returns for the arguments, on behalf of a row.

        Raises:
            RowError: `verifier` (the column's type), it raised, or its process died;
                `verifier_timeout`, it was not through in time. The process is replaced.
        """
        call = _Call(row.get(ID), arguments)
        try:
            return await asyncio.wrap_future(self._threads.submit(self._run, call))
        except asyncio.CancelledError:
            call.abandon()
            raise

    def _run(self, call: "_Call") -> Any:
        """In one of the threads, each of which has a process of its own."""
        column, reason = self._column, self._column.type
        where = f"{column.function} for column {column.name!r}, row {call.row_id}"
        child: _Child | None = getattr(self._own, "child", None)
        if child is None:
            child = _Child((self._path, self._calls, self._wanted))
            self._own.child = child
            self._children.add(child)
        try:
            if not call.begin(child):
                raise RowError(reason, f"{where}: the run has ended")
            kind, value = child.ask(call.arguments, column.timeout)
        except TimeoutError as err:
            raise RowError(
                f"{reason}_timeout",
                f"{where}: not through after {column.timeout:g} s and ended; let it do less, or "
                "raise the column's 'timeout'",
            ) from err
        except EOFError as err:
            raise RowError(reason, f"{where}: its process ended ({err})") from err
        finally:
            call.child = None
            if child.is_dead:
                self._children.discard(child)
                self._own.child = None
        if kind == "raised":
            raise RowError(reason, f"{column.function} raised {value}")
        if kind == "returned":
            raise RowError(reason, f"{column.function} must return {self._wanted}, not {value}")
        return value


def _sendable(column: Verifier | Filter, functions: Functions) -> str | bytes:
    """The function as a process can find it."""
    name, where = column.function or "", f"column {column.name!r}"
    function = functions.find(name, where)
    if name not in functions.given:
        return functions.locate(name, where)
    import dill  # for functions of a notebook alone

    try:
        return bytes(dill.dumps(function, recurse=True))
    # what a function closes over raises what it likes
    except Exception as err:
        raise PrefdataError(
            f"{where}: the function {name!r} cannot be sent to another process "
            f"({type(err).__name__}: {err}); let it close over plain values, or put it into a "
            "module and name that"
        ) from err


class _Call:
    """One call that may be given up while it waits or runs."""

    def __init__(self, row_id: str | None, arguments: tuple[Any, ...]) -> None:
        self.row_id, self.arguments = row_id, arguments
        self.child: _Child | None = None
        self._is_abandoned = False
        self._lock = threading.Lock()

    def begin(self, child: "_Child") -> bool:
        """Whether it is still wanted; from now on giving it up ends the process."""
        with self._lock:
            self.child = child
            return not self._is_abandoned

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            self._is_abandoned = True
            child = self.child
        if child is not None:
            child.kill()


class _Child:
    """A process of its own session, so that what the function starts ends with it."""

    def __init__(self, greeting: Greeting) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", function_process.__file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sys.__stderr__,  # what it prints is no output of ours
                start_new_session=True,
            )
        self._connection = Connection(ours.detach())
        self._greeting: Greeting | None = greeting
        self.is_dead = False

    def ask(self, arguments: tuple[Any, ...], seconds: float) -> tuple[str, Any]:
        """What the function says.

        Raises:
            TimeoutError: nothing in time; the process is ended.
            EOFError: the process has ended.
        """
        try:
            if self._greeting is not None:
                self._connection.send(self._greeting)
                self._greeting = None
                kind, value = self._hear(LOAD_SECONDS)
                if kind != "ready":
                    raise EOFError(f"its import raised {value}")
            self._connection.send(arguments)
            return self._hear(seconds)
        except (EOFError, OSError) as err:  # TimeoutError is an OSError
            self.kill()
            code = self._process.wait()
            self._connection.close()
            self.is_dead = True
            if isinstance(err, TimeoutError) or str(err):
                raise
            raise EOFError(f"exit code {code}" if code >= 0 else f"signal {-code}") from err

    def _hear(self, seconds: float) -> tuple[str, Any]:
        if not self._connection.poll(seconds):
            raise TimeoutError
        answer: tuple[str, Any] = self._connection.recv()
        return answer

    def kill(self) -> None:
        """End it, and what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _close(threads: ThreadPoolExecutor, children: set[_Child]) -> None:
    threads.shutdown(wait=False, cancel_futures=True)
    for child in [*children]:
        child.kill()
