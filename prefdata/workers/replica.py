"""One worker process as the run sees it: started, spoken to, ended. Decides nothing."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from prefdata.workers.machine import WORKER, Place
from prefdata.workers.messages import Ask, FromWorker, Go, Order, receive, send

GRACE_SECONDS = 5.0
LOG_LINES = 15


class Silence:
    """It said nothing, and lives."""


class Replica:
    """A worker process in a session of its own, so that its children can be ended with it."""

    def __init__(
        self, order: Order, place: Place, log: Path, program: Sequence[str] = WORKER
    ) -> None:
        """Start it; it prepares to load.

        `program`: arguments of the interpreter; the number of the socket follows.
        """
        ours, theirs = socket.socketpair()
        log.parent.mkdir(parents=True, exist_ok=True)
        with theirs, log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, *program, str(theirs.fileno())],
                env=_environment(place),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.log = log
        self.pid = self._process.pid
        self._connection = Connection(ours.detach())
        with suppress(OSError):  # it has died already, which the first hearing tells
            send(self._connection, order)

    def go(self) -> None:
        """Its place is free: it begins to load."""
        with suppress(OSError):
            send(self._connection, Go())

    def hear(self, seconds: float) -> FromWorker | Silence | None:
        """What it says within so many seconds; None once it is dead."""
        try:
            if not self._connection.poll(seconds):
                return Silence()
            message: Any = receive(self._connection)
        except (EOFError, OSError):
            return None
        return message  # type: ignore[no-any-return]

    def tell(self, ask: Ask) -> None:
        """Give it a row; if it is dead, the next hearing tells."""
        with suppress(OSError):
            send(self._connection, ask)

    def end(self) -> None:
        """Let it go; it ends by itself when nobody can speak to it any more."""
        with suppress(OSError):
            socket.socket(fileno=os.dup(self._connection.fileno())).shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """End it, whatever it is doing, and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end, or bring it about, and that of its children; returns the exit code."""
        try:
            code = self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._wait_for_children()
        self._connection.close()
        return code

    def _wait_for_children(self) -> None:
        """They hold memory of GPUs until they are gone, which the next model finds taken."""
        until = monotonic() + GRACE_SECONDS
        with suppress(ProcessLookupError):
            while monotonic() < until:
                os.killpg(self.pid, signal.SIGKILL)
                with suppress(ChildProcessError):  # ours if nobody else adopts orphans, as init
                    os.waitpid(-self.pid, os.WNOHANG)
                sleep(0.02)

    def last_words(self) -> str:
        """The end of its output."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES:])


def _environment(place: Place) -> Mapping[str, str]:
    """The worker's environment: it sees only its own GPUs, from before it imports anything."""
    own = {"CUDA_VISIBLE_DEVICES": ",".join(place.gpus)}
    if place.cores:
        own["OMP_NUM_THREADS"] = str(len(place.cores))
        own["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, place.cores))
    defaults = {
        # an engine in the worker itself loads faster and leaves no process behind
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {**defaults, **os.environ, **own}
