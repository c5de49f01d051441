"""What each replica does and what its GPUs report: for the record, and while it runs."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from prefdata.storage.disk import write_text

SECONDS = 5.0
PREFIX = "prefdata_replica_"
HELP = {
    "answered_total": "requests that were answered",
    "tokens_total": "tokens that were written",
    "in_flight": "requests that it has",
    "queue": "rows that wait in the run for a replica of this model",
    "utilization_percent": "share of the time in which the GPU worked",
    "memory_mib": "memory of the GPUs in use",
    "power_watts": "power of the GPUs",
}
"""Figures of a replica, by the name under which they are told."""


@dataclass(frozen=True, slots=True)
class Now:
    """One replica at one time.

    Attributes:
        queue: rows that wait for a replica of the model.
    """

    name: str
    gpus: tuple[str, ...]
    answered: int
    tokens: int
    in_flight: int
    queue: int
    is_there: bool = True


Meter = Callable[[str], tuple[float, float, float]]
"""Utilisation in percent, memory in use in MiB, power in watts, of one GPU."""


@dataclass
class _Sum:
    """What was seen of one replica so far."""

    first: float
    last: float
    now: Now
    looks: int = 0
    totals: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    memory: float = 0.0
    queue: int = 0


class Gauges:
    """Looks at replicas now and then; keeps means and peaks of each."""

    def __init__(
        self, look: Callable[[], Iterable[Now]], meter: Meter | None, metrics: Path | None
    ) -> None:
        """Look at nothing yet.

        `meter`: of their GPUs, if any. `metrics`: name of two files, `.prom` and `.jsonl`, that
        tell each look.
        """
        self._look, self._meter, self._metrics = look, meter, metrics
        self._sums: dict[str, _Sum] = {}

    def look(self, at: float) -> None:
        """Note what there is at a time in seconds, and tell it."""
        lines = []
        for now in self._look():
            seen = self._sums.setdefault(now.name, _Sum(at, at, now))
            seen.now = now
            if not now.is_there:
                continue
            measured = self._measure(now.gpus)
            seen.last, seen.queue = at, max(seen.queue, now.queue)
            if measured is not None:
                seen.looks += 1
                seen.totals = [a + b for a, b in zip(seen.totals, measured, strict=True)]
                seen.memory = max(seen.memory, measured[1])
            figures = [now.answered, now.tokens, now.in_flight, now.queue, *(measured or ())]
            lines.append((now, dict(zip(HELP, figures, strict=False))))
        if self._metrics is not None:
            _tell(self._metrics, at, lines)

    def told(self) -> dict[str, dict[str, Any]]:
        """What run.json keeps of each replica: totals, rates, means and peaks."""
        found = {}
        for name, seen in self._sums.items():
            seconds = max(seen.last - seen.first, 1e-9)
            told: dict[str, Any] = {
                "gpus": seen.now.gpus,
                "answered": seen.now.answered,
                "tokens": seen.now.tokens,
                "tokens_per_second": round(seen.now.tokens / seconds, 1) if seconds > 1 else None,
                "queue_peak": seen.queue,
            }
            if seen.looks:
                used, _, watts = (total / seen.looks for total in seen.totals)
                told |= {"utilization_percent": round(used, 1), "memory_mib_peak": seen.memory}
                told |= {"power_watts": round(watts, 1)}
            found[name] = told
        return found

    def _measure(self, gpus: Sequence[str]) -> tuple[float, float, float] | None:
        if self._meter is None or not gpus:
            return None
        used, memory, watts = zip(*map(self._meter, gpus), strict=True)
        return sum(used) / len(used), sum(memory), sum(watts)


def _tell(metrics: Path, at: float, lines: Sequence[tuple[Now, Mapping[str, float]]]) -> None:
    told = []
    for name, text in HELP.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        told += [f"# HELP {PREFIX}{name} {text}", f"# TYPE {PREFIX}{name} {kind}"]
        told += [
            f'{PREFIX}{name}{{replica="{now.name}"}} {figures[name]:g}'
            for now, figures in lines
            if name in figures
        ]
    with suppress(OSError):  # a full disk ends the run where it costs rows, not here
        write_text(metrics.with_name(f"{metrics.name}.prom"), "\n".join(told) + "\n")
        with metrics.with_name(f"{metrics.name}.jsonl").open("ab") as file:
            for now, figures in lines:
                file.write(orjson.dumps({"at": at, **asdict(now), **figures}) + b"\n")


@contextmanager
def watch(gauges: Gauges, *, seconds: float = SECONDS) -> Iterator[Gauges]:
    """Look until the context is left, and once more then."""
    done = threading.Event()

    def run() -> None:
        while not done.wait(seconds):
            gauges.look(time.time())

    thread = threading.Thread(target=run, name="gauges", daemon=True)
    thread.start()
    try:
        yield gauges
    finally:
        done.set()
        thread.join()
        gauges.look(time.time())


def find_meter() -> Meter | None:
    """NVIDIA's, of the package nvidia-ml-py, where it and the driver are there."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return partial(measure_gpu, pynvml)


def measure_gpu(nvml: Any, gpu: str) -> tuple[float, float, float]:
    """What the module `pynvml` tells as a `Meter`; what a GPU does not tell counts as 0."""
    by = nvml.nvmlDeviceGetHandleByIndex if gpu.isdigit() else nvml.nvmlDeviceGetHandleByUUID
    found = [0.0, 0.0, 0.0]
    with suppress(nvml.NVMLError):
        handle = by(int(gpu) if gpu.isdigit() else gpu)
        found[0] = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
        found[1] = nvml.nvmlDeviceGetMemoryInfo(handle).used / 2**20
        found[2] = nvml.nvmlDeviceGetPowerUsage(handle) / 1000
    return found[0], found[1], found[2]
