"""Who may work in a folder: the latest attempt. An earlier one that still lives is asked to end."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prefdata.runtime.disk import write_text

ATTEMPT = "attempt"
POLL_SECONDS = 2.0


@contextmanager
def fence(
    folder: Path, attempt: str, say: Callable[[str], None], *, poll: float = POLL_SECONDS
) -> Iterator[None]:
    """Be the latest attempt on a folder, until another one is.

    A scheduler may start a task again while the old one still runs: on a node that it takes for
    dead, or in the grace before the end. The later attempt writes its name into a file that the
    earlier one reads; that one is then interrupted, as by SIGTERM. Until it has read it both work,
    which does no harm: each has a journal of its own, and what they rename is the same.

    Args:
        folder: of the shard.
        attempt: a name that no other attempt has, say job id and restart count.
        say: told when another attempt takes over.
        poll: seconds between two looks.
    """
    file, is_over = folder / ATTEMPT, threading.Event()
    write_text(file, attempt)

    def watch() -> None:
        while not is_over.wait(poll):
            other = _read(file)
            if other is not None and other != attempt:
                say(f"attempt {other} has taken over; attempt {attempt} ends")
                os.kill(os.getpid(), signal.SIGTERM)
                return
            with suppress(OSError):  # as below
                os.utime(file)  # a sign of life, for `prefdata slurm --status`

    watcher = threading.Thread(target=watch, name="prefdata-fence", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()


def _read(file: Path) -> str | None:
    try:
        return file.read_text()
    except OSError:  # it is being replaced, or the file system is away for a moment
        return None
