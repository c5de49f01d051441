"""The two projections of finished rows to pairs. Picks no pair."""

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    StrictInt,
    model_serializer,
    model_validator,
)

from prefdata.recipe.contract import Aliases
from prefdata.recipe.pair_rules import PairRules
from prefdata.recipe.values import Frozen, OneOrMore

Ties = Literal["drop", "keep", "reward"]
MarginUnit = Literal["raw", "z_score"]
Combine = Literal["rank", "z_score", "min"]
Strategy = Literal[
    "best_vs_worst",
    "best_vs_random",
    "best_vs_second",
    "exhaustive",
    "mu_minus_2sigma",
    "top_k_bottom_k",
    "delta",
    "given",
    "function",
]
_OWN_KEYS: dict[str, tuple[Strategy, str]] = {
    "k": ("top_k_bottom_k", "k: 2"),
    "strong": ("delta", "strong: ALIAS"),
    "weak": ("delta", "weak: ALIAS"),
    "pick": ("function", "pick: package.module:name"),
    "margin": ("given", "margin: COLUMN"),
}
"""Keys that one strategy alone reads, and how they are written."""


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


class DpoPreference(PairRules):
    """Two response columns and a judge's verdict become one pair (Nemotron's `dpo_preference`)."""

    type: Literal["dpo_preference"]

    prompt_field: str = "prompt"
    """Column that becomes the pair's prompt."""

    response_a_field: str = "response_a"
    """Column with response A."""

    response_b_field: str = "response_b"
    """Column with response B."""

    judge_field: str = "judge"
    """Column with the judge's answer, a dict."""

    winner_field: str = "winner"
    """Key of that dict; its value is A, B or tie, in upper or lower case."""

    ties: Ties = "drop"  # type: ignore[assignment]
    """As for all pairs, and `reward`: the response with the higher `score` is chosen."""

    score: str | None = None
    """`ties: reward`: column with a score per response."""

    @property
    def has_margins(self) -> bool:
        """Whether pairs have a margin: a verdict is none."""
        return False

    @model_validator(mode="after")
    def _score_belongs_to_reward(self) -> Self:
        if self.better == "lower" and self.score is None:
            raise ValueError(
                "better is lower, but no score is read; remove better, or add ties: reward and a "
                "score column"
            )
        if self.ties == "reward" and self.score is None:
            raise ValueError(
                "ties is reward and score is missing, but ties are decided by it; name a "
                "reward_model column"
            )
        if self.ties != "reward" and self.score is not None:
            raise ValueError(
                f"ties is {self.ties} and score is {self.score}, but only 'ties: reward' uses it; "
                "remove it"
            )
        return self


class PreferencePairs(PairRules):
    """One list of scored candidates becomes up to `max_pairs_per_prompt` pairs."""

    type: Literal["preference_pairs"]

    candidates: str | None = None
    """Column with the candidates."""

    responses: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """Text columns that are the candidates, instead of `candidates`."""

    score: str | Annotated[dict[str, float], Field(min_length=1)] | None = None
    """Column with one score per candidate (higher is better), or several columns with their
    weights, which `combine` makes one. Only `delta`, `given` and `function` need none; where these
    have one, a pair whose rejected side scores higher is dropped.
    """

    otherwise: str | None = None
    """Score column that takes the place of `score` in rows where no text has one, since a judge was
    skipped there (`skip_when`).
    """

    margin: str | None = None
    """`given`: column that says how much better the first candidate is; 0 is a tie. The difference
    of the scores if left out.
    """

    combine: Combine = "rank"
    """How several score columns become one, within each prompt: the weighted mean of ranks (0
    worst, 1 best), the weighted mean of z-scores, or the lowest of the z-scores."""

    calibrate_length: Annotated[tuple[str, ...], Field(min_length=1), OneOrMore] | None = None
    """Score column, or list of columns, from which what a text has for its length is taken off: the
    slope of a regression of the scores on tokens, within prompts and over all of them, times its
    tokens above the mean. The slope is told in summary and report.
    """

    agree: bool = False
    """Whether a pair is dropped when one of several score columns prefers the rejected text."""

    prompt_field: str = "prompt"
    """Column that becomes the pairs' prompt."""

    strategy: Strategy
    """How pairs are formed; `pairs/picking.py` describes each strategy with its source."""

    pick: str | None = None
    """`function`: `package.module:name`, or the name of a package's entry point, called with the
    candidates of a prompt and returning pairs; see docs/extending.md."""

    k: Annotated[StrictInt, Field(ge=1)] | None = None
    """`top_k_bottom_k`: the best k are paired with the worst k."""

    strong: str | None = None
    """`delta`: alias of the model whose completions are chosen."""

    weak: str | None = None
    """`delta`: alias of the model whose completions are rejected."""

    chosen: Chosen = Chosen()
    """Which texts may be chosen, and how the best of them is found."""

    rejected: Rejected = Rejected()
    """Which texts may be rejected, and by which score the strategy picks among them."""

    one_side: Aliases | None = None
    """Aliases of which every pair has exactly one text, chosen or rejected: with the policy here,
    each pair tells it from another model (Tulu 3, arXiv 2411.15124; `--one_side_model` of
    open-instruct's `create_annotation_mix.py`).
    """

    min_margin: Annotated[float, Field(ge=0)] = 0.0
    """Minimum score difference of a pair (inclusive), in `margin_unit`."""

    margin_unit: MarginUnit = "raw"
    """`z_score` divides by the standard deviation (population) of the prompt's valid scores."""

    min_chosen_score: float | Annotated[dict[str, float], Field(min_length=1)] | None = None
    """Worst raw score that a chosen text may have (inclusive): the minimum, or the maximum where
    lower is better. Where `score` names several columns, one number for each column to check."""

    max_pairs_per_prompt: Annotated[StrictInt, Field(ge=1)] | None = None
    """Keeps the pairs with the largest margins."""

    reward: Literal["margin", "chosen_score"] | None = None
    """What the pairs' column `reward` holds, for trainers that weight pairs; no such column if left
    out.
    """

    order_by: Literal["margin"] | None = None
    """`margin` writes pairs from easy to hard: the largest margin first."""

    order_group: str | None = None
    """`order_by`: pairs with equal values in this column stay together; groups are ordered by their
    mean margin.
    """

    group_by: Annotated[tuple[str, ...], Field(min_length=1), OneOrMore] | None = None
    """Column, or list of columns, whose equal values put the candidates of several rows together,
    for example a turn id or the prompt; None treats every row separately.
    """

    @property
    def has_margins(self) -> bool:
        """Whether pairs have a margin."""
        return self.score is not None or self.margin is not None

    @property
    def weights(self) -> dict[str, float]:
        """Those of several score columns."""
        return self.score if isinstance(self.score, dict) else {}

    @property
    def floors(self) -> dict[str, float]:
        """The worst raw score of a chosen text, by score column."""
        floor = self.min_chosen_score
        if isinstance(floor, dict):
            return floor
        return {} if floor is None or not isinstance(self.score, str) else {self.score: floor}

    def sign_of(self, column: str) -> int:
        """What the scores of a column are multiplied by so that higher is better."""
        return -1 if self.weights.get(column, 1.0) < 0 else self.sign

    @property
    def scores(self) -> tuple[str, ...]:
        """The columns of `score`."""
        return (self.score,) if isinstance(self.score, str) else tuple(self.score or ())

    @model_validator(mode="after")
    def _keys_that_go_together(self) -> Self:
        rules = (self._texts, self._own_keys, self._sides, self._scores, self._several_scores)
        for found, why, remedy in (problem for rule in rules for problem in rule()):
            raise ValueError(f"strategy is {self.strategy} and {found}, but {why}; {remedy}")
        return self

    def _texts(self) -> Iterator[tuple[str, str, str]]:
        """(what was found, why it cannot be, what to do) about the texts that are paired."""
        if (self.candidates is None) == (self.responses is None):
            told = "missing" if self.responses is None else "given"
            remedy = "name one 'candidates' column or two text columns"
            why = "pairs are made from only one of them"
            yield f"candidates and responses are both {told}", why, remedy
        if len(set(self.responses or ())) < len(self.responses or ()):
            yield "responses names a column twice", "a pair needs two", "name each once"

    def _own_keys(self) -> Iterator[tuple[str, str, str]]:
        """The same about keys that belong to a strategy, or are none of its."""
        for key, (owner, example) in _OWN_KEYS.items():
            value = getattr(self, key)
            if value is not None and self.strategy != owner:
                yield f"{key} is {value}", f"only {owner} uses it", f"remove {key}"
            if not value and self.strategy == owner and key != "margin":
                yield f"{key} is missing", f"{owner} needs it", f"add {example}"
        if self.strategy == "delta" and self.strong == self.weak:
            why = "a pair needs two different aliases"
            yield f"strong and weak are {self.weak}", why, "name the stronger and the weaker model"
        if self.strategy == "given" and (self.group_by or self.margin_unit != "raw"):
            found = f"group_by is {self.group_by}, margin_unit is {self.margin_unit}"
            why = "it takes the pair of each row as it is"
            yield found, why, "remove group_by and margin_unit"
        if self.order_group is not None and self.order_by is None:
            found = f"order_group is {self.order_group}"
            yield found, "only order_by uses it", "add order_by: margin"

    def _sides(self) -> Iterator[tuple[str, str, str]]:
        """The same about the sides: not every strategy chooses a text for one."""
        is_fixed = self.strategy in ("delta", "given")
        if is_fixed and (self.chosen, self.rejected) != (Chosen(), Rejected()):
            of = {"delta": "strong and weak", "given": "the pair as it is"}[self.strategy]
            yield "chosen or rejected is given", f"the sides are those of {of}", "remove them"
        read = {
            "chosen.score": self.chosen.score,
            "rejected.score": self.rejected.score,
            "rejected.largest_gap": self.rejected.largest_gap,
            "chosen.shortest_within": self.chosen.shortest_within,
        }
        if self.strategy in ("exhaustive", "top_k_bottom_k", "function"):
            remedy = "remove it, or write strategy: best_vs_worst"
            for key in (key for key, value in read.items() if value is not None):
                yield f"{key} is given", "only a strategy that chooses one text uses it", remedy

    def _scores(self) -> Iterator[tuple[str, str, str]]:
        """The same about what is read and not there."""
        found, remedy = "score is missing", "name a score column"
        if self.otherwise is not None and not isinstance(self.score, str):
            why = "it takes the place of one score column"
            yield f"otherwise is {self.otherwise}", why, "write score: COLUMN"
        if self.score is None and self.reward == "chosen_score":
            yield found, "reward needs scores", remedy
        if self.has_margins:
            return
        if self.strategy not in ("delta", "given", "function"):
            remedy = "name the column of a reward_model, rubric_judge or verifier stage"
            yield found, "candidates are ranked by score", remedy
        if self.reward is not None or self.order_by is not None:
            yield found, "reward and order_by need scores", remedy
        if self.min_margin or self.margin_unit != "raw" or self.min_chosen_score is not None:
            why = "min_margin, margin_unit and min_chosen_score need scores"
            yield found, why, "name a score column, or remove them"

    def _several_scores(self) -> Iterator[tuple[str, str, str]]:
        """The same about weights, directions and bounds of several score columns."""
        weights, floor = self.weights, self.min_chosen_score
        if any(not math.isfinite(weight) or weight == 0 for weight in weights.values()):
            yield f"score is {weights}", "a weight of 0 has no effect", "remove the column"
        if len(weights) < 2 and (self.agree or self.combine != "rank"):
            found = "agree is true" if self.agree else f"combine is {self.combine}"
            yield found, "it needs several score columns", "write score: {a: 0.5, b: 0.5}"
        if weights and self.better == "lower":
            why = "each of several score columns has a direction of its own"
            remedy = "remove better, and give a negative weight to a column where lower is better"
            yield "better is lower", why, remedy
        if weights and isinstance(floor, float):
            why = "with several score columns it is not clear which of them it bounds"
            remedy = f"write min_chosen_score: {{{next(iter(weights))}: {floor}}}"
            yield f"min_chosen_score is {floor}", why, remedy
        if isinstance(floor, dict) and not floor.keys() <= weights.keys():
            found = f"min_chosen_score names {sorted(floor.keys() - weights.keys())}"
            remedy = "name columns of score" if weights else "write one number"
            yield found, f"score is {weights or self.score}", remedy
