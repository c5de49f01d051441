"""The progress of a pass: one live line on a terminal, plain lines elsewhere, on standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from prefdata.storage.journaled import Work

PLAIN_SECONDS = 10.0
"""Between two lines, and between two words to whoever wants to be told."""
Told = Callable[[int, int], None]
"""Is told the rows that are done, and those of the whole pass."""


class Progress(Protocol):
    """What a pass tells while it runs."""

    def advance(self, rows: int) -> None:
        """So many more rows are done."""
        ...


@contextmanager
def show_progress(
    name: str,
    total: int,
    work: Work,
    *,
    tell: Told | None = None,
    stream: TextIO | None = None,
) -> Iterator[Progress]:
    """Report rows, tokens per second and the time left, until the context is left.

    Args:
        name: of the pass.
        total: its rows.
        work: what engines have done so far.
        tell: called now and then with the progress of the pass.
        stream: where the lines go; standard error by default.
    """
    stream = stream or sys.stderr
    meter = _Meter(name, total, work, tell)
    if stream.isatty():
        with _live(meter, stream):
            yield meter
    else:
        meter.lines = stream
        yield meter
        print(meter.line(), file=stream, flush=True)
    meter.tell()


class _Meter:
    """The figures of one pass so far, as a line.

    Attributes:
        lines: where a line goes now and then; nowhere where one is live.
    """

    def __init__(self, name: str, total: int, work: Work, tell: Told | None) -> None:
        self.name, self.total, self.rows = name, total, 0
        self.lines: TextIO | None = None
        self._work, self._tokens, self._tell = work, work.completion_tokens, tell
        self._start = self._last = time.monotonic()
        self.tell()

    def advance(self, rows: int) -> None:
        self.rows += rows
        if time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            self.tell()
            if self.lines is not None:
                print(self.line(), file=self.lines, flush=True)

    def tell(self) -> None:
        if self._tell is not None:
            self._tell(self.rows, self.total)

    def line(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        tokens = (self._work.completion_tokens - self._tokens) / seconds
        left = (self.total - self.rows) * seconds / self.rows if self.rows else None
        eta = "" if left is None or not left else f", {_clock(left)} left"
        speed = f", {tokens:,.0f} tok/s" if tokens else ""
        return f"{self.name}: {self.rows:,}/{self.total:,} rows{speed}, {_clock(seconds)}{eta}"

    def __rich__(self) -> str:
        return self.line()


@contextmanager
def _live(meter: _Meter, stream: TextIO) -> Iterator[None]:
    from rich.console import Console  # not wanted by a run whose output is a file
    from rich.live import Live

    with Live(meter, console=Console(file=stream), refresh_per_second=4):
        yield


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
