"""How numbers are spread: bins, moments, quantiles, intervals. Knows no row."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Values = NDArray[np.float64]
BINS = 40
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
        quantiles: 10%, 50% and 90%.
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


def grid_over(parts: Iterable[Values]) -> Grid | None:
    """Bins for all of these values, None where none is finite."""
    low, high, points = math.inf, -math.inf, set[float]()
    for values in map(finite, parts):
        if len(values):
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            if len(points) <= FEW:
                points |= set(np.unique(values)[: FEW + 1].tolist())
    if low > high:
        return None
    few = tuple(sorted(points)) if len(points) <= FEW else ()
    return replace(grid_of(low, high), points=few)


def spread_of(values: Values, grid: Grid) -> Spread | None:
    """The spread of what is finite, None where nothing is."""
    values = finite(values)
    if not len(values):
        return None
    places = np.floor((values - grid.low) / grid.step).astype(np.int64).clip(0, grid.bins - 1)
    tenth, middle, ninth = np.quantile(values, (0.1, 0.5, 0.9)).tolist()
    counts = np.bincount(places, minlength=grid.bins).tolist()
    low, high = float(values.min()), float(values.max())
    mean, deviation = float(values.mean()), float(values.std())
    return Spread(grid, len(values), mean, deviation, low, high, (tenth, middle, ninth), counts)


def finite(values: Values) -> Values:
    """Those that are."""
    return values[np.isfinite(values)]


def numbers(column: Any) -> Values:
    """A column as float64, with NaN for null."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.asarray(pc.cast(whole, pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def wilson(part: int, whole: int) -> tuple[float, float, float]:
    """A share and its 95% interval (Wilson 1927); all NaN of nothing."""
    if not whole:
        return math.nan, math.nan, math.nan
    share, square = part / whole, Z95**2
    middle = (share + square / (2 * whole)) / (1 + square / whole)
    spread = share * (1 - share) / whole + square / (4 * whole**2)
    half = Z95 * math.sqrt(spread) / (1 + square / whole)
    return share, max(middle - half, 0.0), min(middle + half, 1.0)
