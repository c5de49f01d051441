"""Processes that begin with prefdata imported, for tests that need many: each costs no import."""

import multiprocessing
import os
import signal
import sys
import tempfile
from multiprocessing import reduction
from pathlib import Path

from waiting import PATIENCE

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "pytest", "datasets", "prefdata.cli", "prefdata.pipeline",
        "prefdata.engines.transformers.reward", "transformers.models.llama.modeling_llama",
    ]
)  # fmt: skip


def run(*words, **more):
    """The command `prefdata WORDS`, at its end; `more` is what `Command` takes."""
    command = Command(*words, **more)
    command.wait()
    return command


class Command:
    """The command `prefdata WORDS` in a process, and a session, of its own; as a `Popen`.

    Args:
        words: of the command.
        watched: what `moments.command` or `moments.listing` gives.
        terminal: a file descriptor in place of all standard streams.
        environment: all its variables; by default those of this process.
        first: a function of a module, which the process calls before it is the command.
    """

    def __init__(
        self, *words, watched=(), terminal=None, environment=None, cwd=None, first=os.getpid
    ):
        self._out, self._err = map(tempfile.TemporaryFile, ("w+", "w+"))
        streams = [self._out.fileno(), self._err.fileno()] if terminal is None else [terminal] * 3
        self._process = FORKS.Process(
            target=_be_prefdata,
            args=(
                [*map(str, watched[2:])], [*map(str, words)], [*map(_Stream, streams)],
                dict(os.environ if environment is None else environment),
                os.fspath(cwd or Path.cwd()), first,
            ),
        )  # fmt: skip
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def wait(self, patience=PATIENCE):
        self._process.join(patience)
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    @property
    def stdout(self):
        """All that it has written; for after its end."""
        self._out.seek(0)
        return self._out.read()

    @property
    def stderr(self):
        self._err.seek(0)
        return self._err.read()


class _Stream:
    """A file descriptor that a new process gets along."""

    def __init__(self, handle):
        self._handle = handle

    def __reduce__(self):
        return _received, (reduction.DupFd(self._handle),)


def _received(duplicate):
    return duplicate.detach()


def _be_prefdata(watched, words, streams, environment, folder, first):
    import moments

    from prefdata.cli import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, handle in enumerate(streams, start=3 - len(streams)):
        os.dup2(handle, number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115, PTH123 (the fork's own is closed)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    os.setsid()
    first()
    sys.argv = ["prefdata", *watched, *words]
    moments.main() if watched else main()
