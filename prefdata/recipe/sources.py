"""What a recipe reads lines from besides its seeds: known preferences, benchmarks."""

from collections.abc import Sequence
from typing import Annotated, Protocol

from pydantic import Field

from prefdata.recipe.values import Filled, Frozen, OneOrMore, Positive


class Source(Protocol):
    """Files, or datasets of the Hub."""

    @property
    def paths(self) -> Sequence[str]:
        """As the recipe has them."""

    @property
    def revision(self) -> str | None:
        """Branch, tag or commit of a Hub dataset."""


class Gold(Frozen):
    """Preferences that are known, by which a judge is measured before it is believed.

    Lines with `prompt`, `chosen`, `rejected`, and what else the judge's prompt reads.
    """

    path: Annotated[tuple[Filled, ...], Field(min_length=1), OneOrMore]
    """Files, or Hub datasets, as for `seed_dataset`."""
    name: str | None = None
    """Configuration of a Hub dataset, or of a folder."""
    split: str | None = None
    """Its split."""
    revision: str | None = None
    """Branch, tag or commit of a Hub dataset."""
    limit: Positive | None = None
    """Preferences that are judged, at most."""
    min_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of them that the judge must find, a tie counting half; below it the run stops before
    anything else is asked.
    """

    @property
    def paths(self) -> tuple[str, ...]:
        """What is read, as of other sources."""
        return self.path


class Benchmark(Frozen):
    """Texts that nothing may contain."""

    path: Filled
    """A file, folder or Hub dataset, as `seed_dataset.path`."""
    column: Filled
    """The field with the text; a chat is read turn by turn."""
    name: str | None = None
    """Configuration of a Hub dataset."""
    split: str | None = None
    """Its split."""
    revision: str | None = None
    """Its branch, tag or commit."""

    @property
    def paths(self) -> tuple[str, ...]:
        """What is read, as of other sources."""
        return (self.path,)
