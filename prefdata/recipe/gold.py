"""Preferences that are known, by which a judge is measured before it is believed."""

from typing import Annotated

from pydantic import Field

from prefdata.recipe.values import Filled, Frozen, OneOrMore, Positive


class Gold(Frozen):
    """Lines with `prompt`, `chosen`, `rejected`, and what else the judge's prompt reads."""

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
