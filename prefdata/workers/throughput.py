"""How fast a run was: work done at regular times, rows longest in flight. Changes no row."""

import heapq
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from prefdata.storage.journaled import Work

SECONDS = 0.25
MOST = 400
ROWS = 20
SAMPLE = ("seconds", "generated", "scored", "replayed", "completion_tokens")
"""What a sample holds: the time since the start, and `Work` so far."""


@dataclass
class Slowest:
    """The rows of one pass that were longest in flight: from the first request to the last answer.

    Engines hold many rows at once, so waiting for a free place is part of it.
    """

    _heap: list[tuple[float, str]] = field(default_factory=list)

    def note(self, row: str, seconds: float) -> None:
        """A row has come to its end."""
        heapq.heappush(self._heap, (seconds, row))
        if len(self._heap) > ROWS:
            heapq.heappop(self._heap)

    def rows(self) -> list[tuple[str, float]]:
        """(row, seconds), the slowest first."""
        return [(row, round(seconds, 3)) for seconds, row in sorted(self._heap, reverse=True)]


class Throughput:
    """Samples of what was done so far, some hundred of them however long the run is."""

    def __init__(self, work: Work, *, most: int = MOST) -> None:
        self._work, self._most = work, most
        self._start = time.monotonic()
        self._samples: list[tuple[float, ...]] = []
        self._passes: list[tuple[float, str]] = []

    def begin(self, name: str) -> None:
        """A pass of this name begins."""
        self._passes.append((self._seconds(), name))

    def sample(self) -> bool:
        """Note the time and the work; returns whether there were too many, so that half are gone.

        The first and the last stay.
        """
        self._samples.append(self._now())
        if len(self._samples) < self._most:
            return False
        self._samples = self._samples[:-1:2] + self._samples[-1:]
        return True

    def told(self) -> dict[str, Any]:
        """What run.json keeps: the samples and one more, when each pass and each load began.

        A load has the seconds of its beginning and its end, where it came to one.
        """
        samples = [*self._samples, self._now()]
        loads = [
            (load.where, *(round(t - self._start, 3) for t in (load.start, load.end) if t))
            for load in self._work.loads
        ]
        return {"columns": SAMPLE, "samples": samples, "passes": self._passes, "loads": loads}

    def _now(self) -> tuple[float, ...]:
        work = self._work
        done = (work.generated, work.scored, work.replayed, work.completion_tokens)
        return self._seconds(), *done

    def _seconds(self) -> float:
        return round(time.monotonic() - self._start, 3)


@contextmanager
def measure_throughput(work: Work, *, seconds: float = SECONDS) -> Iterator[Throughput]:
    """Sample until the context is left; each time half of the samples go, half as often."""
    throughput, done = Throughput(work), threading.Event()

    def run(wait: float) -> None:
        while not done.wait(wait):
            wait *= 1 + throughput.sample()

    throughput.sample()
    thread = threading.Thread(target=run, args=(seconds,), name="throughput", daemon=True)
    thread.start()
    try:
        yield throughput
    finally:
        done.set()
        thread.join()
