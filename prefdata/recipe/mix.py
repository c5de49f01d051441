"""The recipe's `output_projection`: one projection, or several as one set. Picks no pair."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from prefdata.recipe.pair_rules import SetRules, misused
from prefdata.recipe.projection import DpoPreference, PreferencePairs

SOURCE = "source"
"""The column of a mix's pairs that names their projection."""
_OF_ALL = {
    "test_size": "write it beside 'of'",
    "reasoning": "write it beside 'of'",
    "order_by": "remove it",
}


OneProjection = Annotated[DpoPreference | PreferencePairs, Field(discriminator="type")]


class Mix(SetRules):
    """Pairs of several projections as one set; their column `source` names the projection.

    So do Olmo 3's preference sets, half of a strong and a weak model, half of a judge
    (open-instruct, `scripts/train/olmo3/7b_instruct_dpo.sh`).
    """

    type: Literal["mix"]

    of: Annotated[dict[str, OneProjection], Field(min_length=2)]
    """The projections, by the names that are their sources. Their rules for a whole set but
    `test_size` and `reasoning` hold for their own pairs; those of the mix come after.
    """

    weights: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)] | None = None
    """Shares of the pairs by source: of those that have more than their share the surplus is left
    out. Without weights all pairs stay. Select `select_group: source` for quotas.
    """

    @property
    def prompt_field(self) -> str:
        """Of all of them."""
        return next(iter(self.of.values())).prompt_field

    @property
    def has_margins(self) -> bool:
        """Whether pairs have a margin."""
        return all(part.has_margins for part in self.of.values())

    @model_validator(mode="after")
    def _parts_that_can_be_mixed(self) -> Self:
        for name, part in self.of.items():
            if SOURCE in part.keep:
                why = "the pairs have a column 'source' of their own"
                raise misused(f"of.{name}.keep: {SOURCE}", why, "keep a copy with another name")
            for key, remedy in _OF_ALL.items():
                if getattr(part, key, None):
                    raise misused(f"of.{name}.{key}", "it is said of all pairs together", remedy)
        if len({part.prompt_field for part in self.of.values()}) > 1:
            why = "the pairs have one kind of prompt"
            raise misused("a second prompt_field", why, "name the same column in all projections")
        if self.weights is not None and self.weights.keys() != self.of.keys():
            why = f"'of' names {sorted(self.of)}"
            raise misused(f"weights of {sorted(self.weights)}", why, "write one weight for each")
        if self.weights is not None and self.select_group not in (None, SOURCE):
            why = "weights are shares of sources"
            raise misused(f"select_group: {self.select_group}", why, "remove one of them")
        return self


OutputProjection = Annotated[DpoPreference | PreferencePairs | Mix, Field(discriminator="type")]


def projections_of(
    rule: DpoPreference | PreferencePairs | Mix,
) -> dict[str, DpoPreference | PreferencePairs]:
    """The projections of a mix by name; one alone has no name."""
    return dict(rule.of) if isinstance(rule, Mix) else {"": rule}


def picks_of(rule: DpoPreference | PreferencePairs | Mix) -> dict[str, str]:
    """The functions that pick pairs, by the path of their key in the projection."""
    parts = projections_of(rule).items()
    picks = {name: part.pick for name, part in parts if isinstance(part, PreferencePairs)}
    return {f"of.{name}.pick" if name else "pick": pick for name, pick in picks.items() if pick}


def first_projection(
    rule: DpoPreference | PreferencePairs | Mix,
) -> DpoPreference | PreferencePairs:
    """The first of a mix, whose prompts are those of all."""
    return next(iter(projections_of(rule).values()))
