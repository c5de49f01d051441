"""A process that calls one Python function for a recipe.

Run as a script, so it imports nothing of prefdata and starts fast.
"""

import ctypes
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from traceback import extract_tb
from typing import Any

SHOWN = 200
"""Characters of a value in a message."""
_PR_SET_PDEATHSIG = 1


def _numbers(found: Any) -> list[float | None]:
    return [*map(_number, found)]


def _number(found: Any) -> float | None:
    return None if found is None else float(found)


def _verdict(found: Any) -> bool | str:
    if isinstance(found, str):
        return found
    if type(found).__name__ not in ("bool", "bool_"):  # bool_ is numpy's, which is not imported
        raise TypeError
    return bool(found)


WANTED: dict[str, Callable[[Any], Any]] = {
    "a number": _number, "a list of numbers": _numbers, "true, false or a reason": _verdict,
}  # fmt: skip
"""What functions are to return, and how it is read."""


def raised(err: BaseException) -> str:
    """What somebody else's code raised, and the line where it did, if it was one of theirs."""
    ours = (str(Path(__file__).parent), str(importlib.__file__), "<frozen ")
    found = [one for one in extract_tb(err.__traceback__) if not one.filename.startswith(ours)]
    place = f" in {Path(found[-1].filename).name}:{found[-1].lineno}" if found else ""
    return f"{type(err).__name__}{place}: {err}"


def serve(connection: Connection) -> None:
    """Get what the first message names or holds, then call it with each tuple that follows.

    Answers ("ready", None), then ("made", value), ("raised", what) or ("returned", what is not
    wanted) for each.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):  # Ctrl-C and an end to come are the run's
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":  # the thread below is not heard while C code holds Python's lock
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    path, calls, wanted = connection.recv()
    sys.path[:] = path
    inbox: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
    threading.Thread(target=_read, args=(connection, inbox), daemon=True).start()
    try:
        function = _find(calls)
    except BaseException as err:  # somebody else's code
        connection.send(("raised", raised(err)))
        _end()
    connection.send(("ready", None))
    while True:
        connection.send(_call(function, WANTED[wanted], inbox.get()))


def _find(calls: str | bytes) -> Callable[..., Any]:
    """The function of an import path, or the one in a pickle."""
    if isinstance(calls, bytes):
        import dill  # for functions of a notebook alone

        return dill.loads(calls)  # type: ignore[no-any-return]  # noqa: S301
    module, _, path = calls.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]


def _call(
    function: Callable[..., Any], read: Callable[[Any], Any], arguments: tuple[Any, ...]
) -> tuple[str, Any]:
    try:
        found = function(*arguments)
        try:
            return "made", read(found)
        except (TypeError, ValueError, OverflowError):
            return "returned", repr(found)[:SHOWN]
    except BaseException as err:  # somebody else's code: whatever it raises, sys.exit included
        return "raised", raised(err)


def _read(connection: Connection, inbox: "SimpleQueue[tuple[Any, ...]]") -> None:
    """Read in a thread: the run may end while the function is at work."""
    with suppress(EOFError, OSError):
        while True:
            inbox.put(connection.recv())
    _end()


def _end() -> None:
    with suppress(OSError):
        os.killpg(os.getpid(), signal.SIGKILL)  # and what the function has started
    os._exit(0)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
