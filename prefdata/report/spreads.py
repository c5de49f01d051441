"""How numbers are spread, where they come in parts and none may be kept. Knows no row."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Values = NDArray[np.float64]
BINS = 40
FINE = 50
"""Parts of a bin; quantiles are right to within one of them."""
FEW = 8
"""Up to so many values are shown one by one."""
Z95 = 1.96


@dataclass(frozen=True)
class Grid:
    """Bins of equal width with round bounds.

    Attributes:
        points: the only values there are, where they are few.
    """

    low: float
    step: float
    bins: int
    points: tuple[float, ...] = ()

    @property
    def edges(self) -> list[float]:
        """Lower bounds, and the upper one of the last bin."""
        return [self.low + self.step * n for n in range(self.bins + 1)]

    def place(self, value: float) -> int:
        """The bin of a value."""
        return min(max(math.floor((value - self.low) / self.step), 0), self.bins - 1)


def grid_of(low: float, high: float) -> Grid:
    """At most about BINS bins that cover [low, high]."""
    width = (high - low) / BINS
    if not width > 0 or not math.isfinite(width):
        unit = max(abs(low), abs(high), 1.0)
        return Grid(low - unit / 2, unit, 1) if low == high else Grid(low, unit * 2, 1)
    power = 10.0 ** math.floor(math.log10(width))
    step = next(power * n for n in (1, 2, 2.5, 5, 10) if power * n >= width * (1 - 1e-9))
    first = math.floor(low / step)
    return Grid(first * step, step, math.floor(high / step) - first + 1)


@dataclass(frozen=True)
class Spread:
    """How values are spread.

    Attributes:
        quantiles: 10 %, 50 % and 90 %, from fine bins.
        counts: values in each bin of the grid.
    """

    grid: Grid
    count: int
    mean: float
    deviation: float
    low: float
    high: float
    quantiles: tuple[float, float, float]
    counts: list[int]


class Spreading:
    """Values that come in parts, on their way to a Spread."""

    def __init__(self, grid: Grid) -> None:
        self._grid, self._fine = grid, np.zeros(grid.bins * FINE, np.int64)
        self._count, self._sum, self._squares = 0, 0.0, 0.0
        self._low, self._high = math.inf, -math.inf

    def add(self, values: Values) -> None:
        """Count these; what is not finite is passed over."""
        values = values[np.isfinite(values)]
        if not len(values):
            return
        width = self._grid.step / FINE
        places = np.floor((values - self._grid.low) / width).astype(np.int64)
        np.add.at(self._fine, places.clip(0, len(self._fine) - 1), 1)
        self._count += len(values)
        centred = values - self._grid.low  # keeps digits where values are large and close
        self._sum += float(centred.sum())
        self._squares += float((centred**2).sum())
        self._low, self._high = min(self._low, values.min()), max(self._high, values.max())

    def told(self) -> Spread | None:
        """The spread, None where there was no value."""
        if not self._count:
            return None
        mean = self._sum / self._count
        deviation = math.sqrt(max(self._squares / self._count - mean**2, 0.0))
        quantiles = tuple(self._quantile(share) for share in (0.1, 0.5, 0.9))
        counts = self._fine.reshape(-1, FINE).sum(axis=1).tolist()
        low, high = float(self._low), float(self._high)
        mean += self._grid.low
        return Spread(self._grid, self._count, mean, deviation, low, high, quantiles, counts)  # type: ignore[arg-type]

    def _quantile(self, share: float) -> float:
        before = np.cumsum(self._fine)
        place = int(np.searchsorted(before, max(share * self._count, 1), side="left"))
        middle = self._grid.low + (place + 0.5) * self._grid.step / FINE
        return float(min(max(middle, self._low), self._high))


@dataclass
class Range:
    """The smallest and the largest of values that come in parts, and which there are if few."""

    low: float = math.inf
    high: float = -math.inf
    points: set[float] = field(default_factory=set)

    def add(self, values: Values) -> None:
        """Take these in; what is not finite is passed over."""
        values = values[np.isfinite(values)]
        if len(values):
            self.low = min(self.low, float(values.min()))
            self.high = max(self.high, float(values.max()))
            if len(self.points) <= FEW:
                self.points |= set(np.unique(values)[: FEW + 1].tolist())

    @property
    def grid(self) -> Grid | None:
        """Bins for these values, None where there are none."""
        if self.low > self.high:
            return None
        points = tuple(sorted(self.points)) if len(self.points) <= FEW else ()
        return replace(grid_of(self.low, self.high), points=points)

    def join(self, other: "Range") -> None:
        """Take in another's values."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.points |= other.points


def numbers(column: Any) -> Values:
    """A column as float64, with NaN for null."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.asarray(pc.cast(whole, pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def wilson(part: int, whole: int) -> tuple[float, float, float]:
    """A share and its 95 % interval (Wilson 1927); all NaN of nothing."""
    if not whole:
        return math.nan, math.nan, math.nan
    share, square = part / whole, Z95**2
    middle = (share + square / (2 * whole)) / (1 + square / whole)
    spread = share * (1 - share) / whole + square / (4 * whole**2)
    half = Z95 * math.sqrt(spread) / (1 + square / whole)
    return share, max(middle - half, 0.0), min(middle + half, 1.0)
