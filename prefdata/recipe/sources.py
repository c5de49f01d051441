"""Whatever a recipe reads lines from: seeds, known preferences, benchmarks."""

from collections.abc import Sequence
from typing import Protocol


class Source(Protocol):
    """Files, or datasets of the Hub."""

    @property
    def paths(self) -> Sequence[str]:
        """As the recipe has them."""

    @property
    def revision(self) -> str | None:
        """Branch, tag or commit of a Hub dataset."""
