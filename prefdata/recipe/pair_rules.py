"""The rules that every preference projection has: of one pair, and of the whole set. Picks none."""

from typing import Annotated, Literal, Self

from pydantic import Field, StrictInt, field_validator, model_validator

from prefdata.recipe.values import Frozen

Dedupe = Literal["exact", "minhash", "none"]
Better = Literal["higher", "lower"]
Count = Annotated[StrictInt, Field(ge=1)]

_PAIR_COLUMNS = frozenset(
    ("id", "row_id", "prompt", "chosen", "rejected", "margin", "z_margin", "is_tie", "reward")
)


class SetRules(Frozen):
    """The rules for a whole set of pairs."""

    dedupe: Dedupe = "exact"
    """`exact` drops repeated (prompt, chosen, rejected); `minhash` also all but one of every group
    of near-duplicate prompts. Contradictions are always dropped."""

    keep_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the pairs that stays, rounded up: those with the largest margins. A tenth of
    UltraFeedback, chosen so, trained better models than all of it (arXiv 2502.14560).
    """

    max_pairs: Count | Annotated[dict[str, Count], Field(min_length=1)] | None = None
    """Maximum number of pairs, train and test together, or one for each value of `select_group`;
    values without one keep all.
    """

    select_by: Literal["margin", "random"] | None = None
    """Which pairs stay where `keep_fraction` or `max_pairs` leaves some out: those with the largest
    margins, or a seeded sample of whole prompts. If left out, `keep_fraction` goes by margin and
    `max_pairs` alone is a sample.
    """

    select_group: str | None = None
    """`keep_fraction`, `max_pairs`: column whose values have a share or a number each, for example
    a topic.
    """

    reasoning: Literal["drop", "keep"] | None = None
    """Whether trainers are given the thoughts of the texts, too. If left out, they are if all texts
    have one.
    """

    test_size: int | float = 0
    """Prompts that go to test: an int is a count, a float in [0, 1) a fraction."""

    @property
    def has_margins(self) -> bool:
        """Whether pairs have a margin."""
        return True

    @property
    def is_selected_by_margin(self) -> bool:
        """Whether the largest margins stay."""
        return (self.select_by or ("margin" if self.keep_fraction else "random")) == "margin"

    @model_validator(mode="after")
    def _what_is_selected_and_how(self) -> Self:
        is_cut = self.keep_fraction is not None or self.max_pairs is not None
        if (self.select_by or self.select_group) and not is_cut:
            key = "select_by" if self.select_by else "select_group"
            raise misused(
                key, "nothing is left out", "add keep_fraction or max_pairs, or remove it"
            )
        if isinstance(self.max_pairs, dict) and self.select_group is None:
            why = "no column has the values"
            raise misused("max_pairs by value", why, "name the column as select_group")
        if is_cut and self.is_selected_by_margin and not self.has_margins:
            key = "keep_fraction" if self.select_by is None else "select_by: margin"
            remedy = "add a score, or write select_by: random"
            raise misused(key, "these pairs have no margin", remedy)
        return self

    @field_validator("max_pairs", mode="before")
    @classmethod
    def _values_are_texts(cls, value: object) -> object:
        return {str(k): v for k, v in value.items()} if isinstance(value, dict) else value

    @field_validator("test_size", mode="before")
    @classmethod
    def _leaves_a_train_set(cls, value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(
                f"test_size is {value!r}, which is not a number; give a number of prompts such as "
                "500, or a fraction such as 0.05"
            )
        if value < 0 or (isinstance(value, float) and value >= 1):
            raise ValueError(
                f"test_size is {value}, but a fraction must be in [0, 1) and a number of prompts "
                "must be 0 or more; write 500 for 500 prompts, or 0.05 for 5 %"
            )
        return value


class PairRules(SetRules):
    """The rules for a pair and for the whole set that both preference projections share."""

    ties: Literal["drop", "keep"] = "drop"
    """`keep` makes a pair of two equally good texts, in a seeded random order and marked `is_tie`:
    for losses that model ties. For plain DPO such a pair is noise.
    """

    truncated_rejected: bool = False
    """Whether a completion cut off by `max_tokens` may be the rejected one; it is never chosen. By
    default it takes part in no pair: a model trained on such pairs learns where texts were cut.
    """

    max_length_ratio: Annotated[float, Field(gt=1)] | None = None
    """Maximum length of the longer text divided by the shorter one's, in characters (inclusive)."""

    max_length_advantage: StrictInt | None = None
    """Tokens by which a chosen text may be longer than the rejected one, thoughts not counted
    (inclusive); below 0 it must be shorter. Bounds what a judge's liking for length leaves in the
    pairs: Olmo 3's preference mixes have 100 (arXiv 2512.13961; the sets named `lbc100`).
    """

    better: Better = "higher"
    """Which scores are better. With `lower`, `chosen_score` and `rejected_score` are the negatives
    of the scores, so that higher is better there; `chosen_scores` keep the scores unchanged."""

    keep: tuple[str, ...] = ()
    """Columns of the row that are copied to its pairs, for example ids."""

    @property
    def sign(self) -> int:
        """What a score is multiplied by so that higher is better."""
        return -1 if self.better == "lower" else 1

    @field_validator("keep")
    @classmethod
    def _not_a_column_of_pairs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name in _PAIR_COLUMNS or name.startswith(("chosen_", "rejected_")):
                raise ValueError(
                    f"pairs have a column {name!r} of their own; copy yours into an 'expression' "
                    "column with another name, and keep that"
                )
        return value


def misused(key: str, why: str, remedy: str) -> ValueError:
    """What is raised for a key that is given where it has no sense."""
    return ValueError(f"{key} is given, but {why}; {remedy}")
