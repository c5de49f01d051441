"""How a run ends on a signal: at the next safe place, and soon wherever it is."""

import signal
from types import FrameType
from typing import NoReturn

LAST_SECONDS = 9
"""From a signal to end until the process is killed: what runs in C may never hear of it."""


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """A signal handler that raises KeyboardInterrupt, and is the process's last but one."""
    end_soon()
    raise KeyboardInterrupt


def end_soon() -> None:
    """Have the kernel end this process unless it ends by itself; its workers follow it.

    What is finished is on disk, as it is after any kill. Asked again, the first time counts.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    if left := signal.alarm(LAST_SECONDS):
        signal.alarm(left)
