"""What a rule says of one side of its pairs: whose texts may be there, and by which score."""

from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from prefdata.recipe.contract import Aliases
from prefdata.recipe.values import Frozen


class Side(Frozen):
    """Texts that may be on one side; any text, by the projection's score, if nothing is said."""

    model_alias: Aliases | None = None
    """Alias, or list of aliases, whose texts may be on this side; all of them if left out."""

    score: str | None = None
    """Score column that says which text is the best, or the worst, for this side. Margins and
    bounds stay those of the projection's `score`."""


class Rejected(Side):
    """The rejected side."""

    largest_gap: str | None = None
    """A `rubric_judge` column: rejected is the text that falls furthest behind chosen in one of its
    criteria or items, and is not better on the whole. RLCF keeps the pairs with the largest such
    gap (arXiv 2507.18624).
    """

    @model_serializer(mode="wrap")
    def _as_before_where_left_out(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        told: dict[str, Any] = handler(self)
        return {k: v for k, v in told.items() if k != "largest_gap" or v is not None}


class Chosen(Side):
    """The chosen side."""

    shortest_within: Annotated[float, Field(ge=0)] | None = None
    """Chosen is the shortest of the texts that score at most this much less than the best, in
    `margin_unit`: among equally good answers the short one (Meta-Rewarding, arXiv 2407.19594, which
    takes the shortest of the highest tier of scores). Lengths are tokens without thoughts.
    """
