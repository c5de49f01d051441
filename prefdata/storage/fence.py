"""Who may work in a folder: the latest attempt. An earlier one that still lives is asked to end."""

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from prefdata.errors import PrefdataError, Say
from prefdata.storage.disk import write_text

ATTEMPT = "attempt"
NEXT = "next"
"""As an attempt: later than all before it, whatever clocks say."""
POLL_SECONDS = 2.0


class Attempt(NamedTuple):
    """Which start of which job; a later one is greater."""

    job: int
    restart: int

    def __str__(self) -> str:
        return f"{self.job}.{self.restart}"


def read_attempt(text: str, folder: Path) -> Attempt:
    """The attempt of `job.restart`, or of `next`: the one behind the last in `folder`.

    Raises:
        PrefdataError: the text is not an attempt.
    """
    if text == NEXT:
        last = _read(folder / ATTEMPT)
        return Attempt(last.job + 1 if last else 1, 0)
    return _parse(text)


def _parse(text: str) -> Attempt:
    if (found := re.fullmatch(r"(\d+)\.(\d+)", text.strip())) is None:
        raise PrefdataError(
            f"--attempt {text}: give two numbers that increase with each attempt, as in 1234.0: "
            f"the job's id, and how often it was started again; or {NEXT}"
        )
    return Attempt(int(found[1]), int(found[2]))


@contextmanager
def fence(
    folder: Path, attempt: Attempt, say: Say, *, poll: float = POLL_SECONDS
) -> Iterator[None]:
    """Be the latest attempt on a folder, until another one is.

    A scheduler may start a task again while the old one still runs: on a node that it takes for
    dead, or in the grace before the end. The later attempt writes its name into a file that the
    earlier one reads; that one is then interrupted, as by SIGTERM. Until it has read it both work,
    each with a journal of its own.

    `poll`: seconds between two looks.

    Raises:
        KeyboardInterrupt: a later attempt is there already.
    """
    file, is_over = folder / ATTEMPT, threading.Event()

    def is_latest() -> bool:
        other = _read(file)
        if other is not None and other > attempt:
            say(f"attempt {other} has taken over; attempt {attempt} ends")
            return False
        if other == attempt:
            os.utime(file)  # a sign of life, for --status
        else:
            write_text(file, str(attempt))
        return True

    def watch() -> None:
        while not is_over.wait(poll):
            with suppress(OSError):  # the disk is away for a moment; the work itself will tell
                if not is_latest():
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

    if not is_latest():
        raise KeyboardInterrupt
    watcher = threading.Thread(target=watch, name="prefdata-fence", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()


def _read(file: Path) -> Attempt | None:
    try:
        return _parse(file.read_text())
    except (FileNotFoundError, PrefdataError):  # nobody is there, or nobody that counts
        return None
