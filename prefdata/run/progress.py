"""The progress of a pass: a bar on a terminal or in a notebook, else lines on standard error."""

import contextvars
import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from html import escape
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from prefdata.storage.journaled import Load, Work

if TYPE_CHECKING:  # not wanted by a run whose output is a file
    from rich.console import Console, ConsoleOptions, RenderResult

PLAIN_SECONDS = 10.0
"""Between two lines, and between two words to whoever wants to be told."""
CELL_SECONDS = 0.5
"""Between two looks of a bar in a notebook."""
UNSURE = 20.0
"""Seconds of work before which the time left is not told, unless a fiftieth is done."""
BAR = 8
"""The part of a terminal's width that a bar takes: one in so many."""
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
    requests: float = 0,
    tell: Told | None = None,
    stream: TextIO | None = None,
    seconds: float = PLAIN_SECONDS,
    is_shown: bool = True,
) -> Iterator[Progress]:
    """Report what is loading, requests, rows, tokens per second, time left, until it is left.

    `tell`: called now and then with the progress of the pass. `stream`: where the lines go; the
    cell of a notebook, or standard error, by default.
    """
    meter, out = _Meter(name, total, work, requests, tell), stream or sys.stderr
    shown: AbstractContextManager[None]
    if not is_shown:
        shown = nullcontext()
    elif stream is None and (display := _find_display()) is not None:
        shown = _plain(meter, _in_cell(meter, display), CELL_SECONDS)
    elif out.isatty() and os.environ.get("TERM") != "dumb":
        shown = _live(meter, out)
    else:
        shown = _plain(meter, lambda: print(meter.line(), file=out, flush=True), seconds)
    with shown:
        yield meter
    meter.tell()


class _Meter:
    """The figures of one pass so far."""

    def __init__(
        self, name: str, total: int, work: Work, requests: float, tell: Told | None
    ) -> None:
        self.name, self.total, self.rows, self.is_done = name, total, 0, False
        self._work, self._per_row, self._tell = work, requests, tell
        self._before = work.answered, work.replayed, work.completion_tokens
        self._start = self._told = time.monotonic()
        self.tell()

    def advance(self, rows: int) -> None:
        self.rows += rows
        if time.monotonic() - self._told >= PLAIN_SECONDS:
            self._told = time.monotonic()
            self.tell()

    def tell(self) -> None:
        if self._tell is not None:
            self._tell(self.rows, self.total)

    @property
    def fraction(self) -> float:
        """Of the pass, by requests where models are asked; from 0 to 1."""
        answered, left = self._requests()
        done, whole = (answered, answered + left) if answered + left else (self.rows, self.total)
        return 1.0 if self.is_done or not whole else done / whole

    def parts(self) -> list[str]:
        """What there is to tell, the most wanted first."""
        now = time.monotonic()
        answered, left = self._requests()
        replayed = self._work.replayed - self._before[1]
        tokens = self._work.completion_tokens - self._before[2]
        loads = [load for load in self._work.loads if (load.end or now) > self._start]
        working = max(now - self._start - _covered(loads, self._start, now), 1e-9)
        told = [
            f"loading {load.where} ({_clock(now - load.start)})"
            for load in loads
            if load.end is None and not self.is_done
        ]
        if answered or (left and not told):
            told.append(f"{self._of(answered, answered + left)} requests")
        asks = answered + left > 0
        rate = (answered - replayed if asks else self.rows) / working
        ahead = left if asks else self.total - self.rows
        is_known = rate > 0 and (working > UNSURE or 50 * rate * working > ahead)
        if is_known and ahead and not self.is_done:
            told.append(f"{_clock(ahead / rate)} left")
        if replayed:
            told.append(f"{replayed:,} from the journal")
        told.append(f"{self._of(self.rows, self.total)} rows")
        if tokens:
            told.append(f"{tokens / working:,.0f} tok/s")
        return [*told, _clock(now - self._start)]

    def _of(self, done: int, whole: int) -> str:
        return f"{done:,}" if self.is_done else f"{done:,}/{whole:,}"

    def line(self) -> str:
        return f"{self.name}: {', '.join(self.parts())}"

    def _requests(self) -> tuple[int, int]:
        """Those with an outcome and those to come, which a row that is rejected asks no more."""
        answered = self._work.answered - self._before[0]
        of_rows = self._per_row * (self.total - self.rows)
        left = min(self._per_row * self.total - answered, of_rows)
        return answered, 0 if self.is_done else max(0, round(left))

    def __repr__(self) -> str:
        return self.line()

    def _repr_html_(self) -> str:
        bar = f'<progress max="1" value="{self.fraction:.3f}"></progress>'
        return f"<div>{escape(self.name)} {bar} {escape(', '.join(self.parts()))}</div>"

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        bar = ProgressBar(completed=100 * self.fraction, width=options.max_width // BAR)
        parts, room = self.parts(), options.max_width - len(self.name) - (bar.width or 0) - 2
        while parts[1:] and len(", ".join(parts)) > room:
            parts.pop()
        line = Table.grid(padding=(0, 1))
        line.add_row(self.name, bar, ", ".join(parts))
        yield line


def _covered(loads: list[Load], start: float, now: float) -> float:
    """Seconds since `start` in which something was loading."""
    covered, reached = 0.0, start
    for load in loads:
        end = load.end or now
        covered += max(0.0, end - max(load.start, reached))
        reached = max(reached, end)
    return covered


@contextmanager
def _live(meter: _Meter, stream: TextIO) -> Iterator[None]:
    from rich.console import Console
    from rich.live import Live

    with Live(meter, console=Console(file=stream, highlight=False), refresh_per_second=4):
        yield
        meter.is_done = True


def _find_display() -> Callable[..., Any] | None:
    """What shows things in the cell of a notebook, where this runs in one."""
    python = sys.modules.get("IPython")
    shell = python.get_ipython() if python is not None else None
    if python is None or shell is None or "IPKernelApp" not in shell.config:
        return None
    display: Callable[..., Any] = importlib.import_module("IPython.display").display
    return display


def _in_cell(meter: _Meter, display: Callable[..., Any]) -> Callable[[], None]:
    """Shows the meter in a place of the cell, and from then on there again."""
    handle = display(meter, display_id=True)
    return lambda: handle.update(meter)


@contextmanager
def _plain(meter: _Meter, show: Callable[[], None], seconds: float) -> Iterator[None]:
    """Show now and then, whether rows are finished or a model still loads, and at the end."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(seconds):
            show()

    context = contextvars.copy_context()  # a cell's output is told by it
    thread = threading.Thread(target=context.run, args=(run,), name="progress", daemon=True)
    thread.start()
    try:
        yield
        meter.is_done = True
    finally:
        ended.set()
        thread.join()
    show()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
