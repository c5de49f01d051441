"""How far a pass is: one live line on a terminal, plain lines elsewhere, on standard error."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from prefdata.runtime.journaled import Work

PLAIN_SECONDS = 10.0


class Progress(Protocol):
    """What a pass tells while it runs."""

    def advance(self, rows: int) -> None:
        """So many more rows are done."""
        ...


@contextmanager
def show_progress(
    name: str, total: int, work: Work, *, stream: TextIO | None = None
) -> Iterator[Progress]:
    """Report rows, tokens per second and the time left, until the context is left."""
    stream = stream or sys.stderr
    meter = _Meter(name, total, work)
    if stream.isatty():
        with _live(meter, stream) as live:
            yield live
    else:
        yield _Plain(meter, stream)
        print(meter.line(), file=stream, flush=True)


class _Meter:
    """The figures of one pass so far."""

    def __init__(self, name: str, total: int, work: Work) -> None:
        self.name, self.total, self.rows = name, total, 0
        self._work, self._tokens = work, work.completion_tokens
        self._start = time.monotonic()

    def line(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        tokens = (self._work.completion_tokens - self._tokens) / seconds
        left = (self.total - self.rows) * seconds / self.rows if self.rows else None
        eta = "" if left is None or not left else f", {_clock(left)} left"
        speed = f", {tokens:,.0f} tok/s" if tokens else ""
        return f"{self.name}: {self.rows:,}/{self.total:,} rows{speed}, {_clock(seconds)}{eta}"


class _Plain:
    def __init__(self, meter: _Meter, stream: TextIO) -> None:
        self._meter, self._stream, self._last = meter, stream, time.monotonic()

    def advance(self, rows: int) -> None:
        self._meter.rows += rows
        if time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            print(self._meter.line(), file=self._stream, flush=True)


class _Live:
    def __init__(self, meter: _Meter) -> None:
        self._meter = meter

    def advance(self, rows: int) -> None:
        self._meter.rows += rows

    def __rich__(self) -> str:
        return self._meter.line()


@contextmanager
def _live(meter: _Meter, stream: TextIO) -> Iterator[_Live]:
    from rich.console import Console  # not wanted by a run whose output is a file
    from rich.live import Live

    line = _Live(meter)
    with Live(line, console=Console(file=stream), refresh_per_second=4):
        yield line


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
