"""What a rule says of one side of its pairs: whose texts may be there, and by which score."""

from typing import Annotated

from pydantic import Field

from prefdata.recipe.contract import Aliases
from prefdata.recipe.values import Frozen


class Side(Frozen):
    """Texts that may be on one side; any text, by the projection's score, if nothing is said."""

    model_alias: Aliases | None = None
    """Alias, or list of aliases, whose texts may be on this side; all of them if left out."""

    score: str | None = None
    """Score column that says which text is the best, or the worst, for this side. Margins and
    bounds stay those of the projection's `score`."""


class Chosen(Side):
    """The chosen side."""

    shortest_within: Annotated[float, Field(ge=0)] | None = None
    """Chosen is the shortest of the texts that score at most this much less than the best, in
    `margin_unit`: among equally good answers the short one (Meta-Rewarding, arXiv 2407.19594, which
    takes the shortest of the highest tier of scores). Lengths are tokens without thoughts.
    """
