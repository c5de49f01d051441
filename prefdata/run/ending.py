"""How a run ends on a signal: at the next safe place, and soon wherever it is."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

LAST_SECONDS = 9
"""From a signal to end until the process is killed: what runs in C may never hear of it."""


class Ending:
    """Whether a run is to end: asked by a signal handler, or by the thread that waits for the run.

    Attributes:
        listener: called, in the thread that asks, while the rows of a pass are in flight.
    """

    def __init__(self) -> None:
        self.is_asked = False
        self.listener: Callable[[], None] | None = None

    def ask(self) -> None:
        """Let the run end at its next safe place, by a KeyboardInterrupt in its own thread."""
        self.is_asked = True
        if (listener := self.listener) is not None:
            listener()

    def check(self) -> None:
        """Raise the KeyboardInterrupt that was asked for."""
        if self.is_asked:
            raise KeyboardInterrupt


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
