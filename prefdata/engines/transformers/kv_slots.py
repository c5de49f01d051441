"""The KV cache of a batch whose members come and go. Knows tensors, no requests.

Every sequence has a row, right-aligned: all newest tokens share one column, so a step of the model
writes one column and reads a view. A sequence joins by a copy of its prompt's keys and values to
the left of that column and leaves by moving the last row into its place; nothing else is copied.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

MIN_COLUMNS = 128


class KVSlots:
    """Keys and values of the live rows 0 to `rows - 1`.

    Attributes:
        cache: what the model takes as `past_key_values`; every forward pass adds one column.
    """

    def __init__(self, max_rows: int, device: torch.device) -> None:
        """Takes no memory before the first join, which tells the shapes."""
        self.rows = 0
        self._max_rows, self._device = max_rows, device
        self._low = self._high = self._columns = 0  # live columns are _low to _high - 1 of _columns
        self._starts = torch.zeros(max_rows, dtype=torch.long, device=device)
        self._layers: list[_SlotLayer] = []
        self.cache = Cache(layers=[])

    def join(self, prompts: DynamicCache, picks: Sequence[int], lengths: Sequence[int]) -> None:
        """Add one row per pick, a row of the right-padded `prompts` that holds `length` tokens."""
        if not self._layers:
            self._make_layers(prompts)
        if not self.rows:
            self._low = self._high = 0
        width = max(lengths)
        if self._high < width:
            self._shift(width)
        first, self.rows = self.rows, self.rows + len(picks)
        row = torch.tensor(picks, device=self._device)[:, None]
        length = torch.tensor(lengths, device=self._device)
        # padding moves from right to left, as copies of the first token; it stays masked
        column = (torch.arange(width, device=self._device) - width + length[:, None]).clamp_(min=0)
        target = (slice(first, self.rows), slice(None), slice(self._high - width, self._high))
        for slots, layer in zip(self._layers, prompts.layers, strict=True):
            slots.write(target, layer, (row, column))
        self._starts[first : self.rows] = self._high - length
        self._low = int(self._starts[: self.rows].min())

    def prepare(self) -> tuple[Tensor, Tensor]:
        """Attention mask (rows, columns) and position ids (rows, 1) of the next forward pass."""
        if self._high == self._columns:
            self._shift(0)
        starts = self._starts[: self.rows, None]
        columns = torch.arange(self._low, self._high + 1, device=self._device)
        for slots in self._layers:
            slots.live = (self.rows, self._low, self._high)
        self._high += 1
        return columns >= starts, self._high - 1 - starts

    def leave(self, gone: Sequence[int]) -> list[tuple[int, int]]:
        """Free rows; returns which others moved, as (from, to), for the caller to do the same."""
        left = self.rows - len(gone)
        holes = sorted(row for row in gone if row < left)
        movers = sorted(set(range(left, self.rows)).difference(gone))
        if holes:
            target = torch.tensor(holes, device=self._device)
            source = torch.tensor(movers, device=self._device)
            for slots in self._layers:
                slots.move(source, target, slice(self._low, self._high))
            self._starts[target] = self._starts[source]
        self.rows = left
        if left:
            self._low = int(self._starts[:left].min())
        return list(zip(movers, holes, strict=True))

    def _make_layers(self, prompts: DynamicCache) -> None:
        self._layers = [_SlotLayer(layer, self._max_rows) for layer in prompts.layers]
        self.cache = Cache(layers=list(self._layers))

    def _shift(self, min_high: int) -> None:
        """Move the live columns into new buffers, as far left as `min_high` columns permit."""
        width = self._high - self._low
        high = max(width, min_high)
        columns = max(MIN_COLUMNS, self._columns, 2 * high)
        shift = high - self._high
        for slots in self._layers:
            slots.resize(columns, self.rows, slice(self._low, self._high), shift)
        self._starts += shift
        self._low, self._high, self._columns = self._low + shift, high, columns


class _SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's part of the slots, in the shape transformers expects of a cache layer."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, like: Any, max_rows: int) -> None:
        super().__init__()
        self.is_initialized = True
        self.keys = like.keys.new_empty(max_rows, like.keys.shape[1], 0, like.keys.shape[3])
        self.values = like.values.new_empty(max_rows, like.values.shape[1], 0, like.values.shape[3])
        self.live = (0, 0, 0)  # rows, first column, column to write

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is left to do."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the newest column, show all live ones."""
        rows, low, high = self.live
        self.keys[:rows, :, high] = key_states[:, :, 0]
        self.values[:rows, :, high] = value_states[:, :, 0]
        return self.keys[:rows, :, low : high + 1], self.values[:rows, :, low : high + 1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what `update` will show."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Columns before the newest."""
        return self.live[2] - self.live[1]

    def get_max_length(self) -> int:
        """Unbounded."""
        return -1

    def write(
        self, target: tuple[slice, slice, slice], prompts: Any, source: tuple[Tensor, Tensor]
    ) -> None:
        self.keys[target] = prompts.keys.transpose(1, 2)[source].transpose(1, 2)
        self.values[target] = prompts.values.transpose(1, 2)[source].transpose(1, 2)

    def move(self, source: Tensor, target: Tensor, columns: slice) -> None:
        for live in (self.keys[:, :, columns], self.values[:, :, columns]):
            live.index_copy_(0, target, live.index_select(0, source))

    def resize(self, columns: int, rows: int, live: slice, shift: int) -> None:
        self.keys = _resized(self.keys, columns, rows, live, shift)
        self.values = _resized(self.values, columns, rows, live, shift)


def _resized(old: Tensor, columns: int, rows: int, live: slice, shift: int) -> Tensor:
    # zeros: what is masked is still multiplied by nothing, and NaN would survive that
    new = old.new_zeros(old.shape[0], old.shape[1], columns, old.shape[3])
    new[:rows, :, live.start + shift : live.stop + shift] = old[:rows, :, live]
    return new
