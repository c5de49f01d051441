"""The two projections of finished rows to pairs. Picks no pair."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, StrictInt, model_validator
from pydantic_core import PydanticCustomError

from prefdata.recipe.contract import Aliases
from prefdata.recipe.pair_rules import PairRules
from prefdata.recipe.sides import Chosen, Rejected
from prefdata.recipe.values import OneOrMore

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
            raise PydanticCustomError(
                "pair_rule",
                "better is lower, but no score is read; remove better, or add ties: reward and a "
                "score column",
            )
        if (self.ties == "reward") != (self.score is not None):
            found, why, remedy = (
                ("score is missing", "ties are decided by it", "name a reward_model column")
                if self.score is None
                else (f"score is {self.score}", "only 'ties: reward' uses it", "remove it")
            )
            raise PydanticCustomError(
                "pair_rule",
                "ties is {ties} and {found}, but {why}; {remedy}",
                {"ties": self.ties, "found": found, "why": why, "remedy": remedy},
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
    def floors(self) -> dict[str, float]:
        """The worst raw score of a chosen text, by score column."""
        floor = self.min_chosen_score
        if isinstance(floor, dict):
            return floor
        return {} if floor is None or not isinstance(self.score, str) else {self.score: floor}

    def sign_of(self, column: str) -> int:
        """What the scores of a column are multiplied by so that higher is better."""
        weights = self.score if isinstance(self.score, dict) else {}
        return -1 if weights.get(column, 1.0) < 0 else self.sign

    @property
    def scores(self) -> tuple[str, ...]:
        """The columns of `score`."""
        return (self.score,) if isinstance(self.score, str) else tuple(self.score or ())

    @model_validator(mode="after")
    def _margins_are_there_for_those_who_read_them(self) -> Self:
        if self.order_group is not None and self.order_by is None:
            found, why = f"order_group is {self.order_group}", "only order_by uses it"
            raise _problem(self.strategy, found, why, "add order_by: margin")
        needs_score = not self.has_margins or self.reward == "chosen_score"
        if (
            needs_score
            and self.score is None
            and (self.reward is not None or self.order_by is not None)
        ):
            why = "reward and order_by need scores"
            raise _problem(self.strategy, "score is missing", why, "name a score column")
        return self

    @model_validator(mode="after")
    def _one_score_to_replace(self) -> Self:
        if self.otherwise is not None and not isinstance(self.score, str):
            found, why = f"otherwise is {self.otherwise}", "it takes the place of one score column"
            raise _problem(self.strategy, found, why, "write score: COLUMN")
        return self

    @model_validator(mode="after")
    def _weights_that_count(self) -> Self:
        weights = self.score if isinstance(self.score, dict) else {}
        if any(not math.isfinite(weight) or weight == 0 for weight in weights.values()):
            found = f"score is {weights}"
            raise _problem(self.strategy, found, "a weight of 0 has no effect", "remove the column")
        if self.agree and len(weights) < 2:
            why = "it needs two or more score columns"
            raise _problem(self.strategy, "agree is true", why, "write score: {a: 0.5, b: 0.5}")
        if self.combine != "rank" and len(weights) < 2:
            found, why = f"combine is {self.combine}", "there is one score to combine"
            raise _problem(self.strategy, found, why, "write score: {a: 0.5, b: 0.5}")
        return self

    @model_validator(mode="after")
    def _bounds_and_directions_of_several_scores(self) -> Self:
        floor, weights = self.min_chosen_score, self.score if isinstance(self.score, dict) else {}
        if weights and self.better == "lower":
            why = "each of several score columns has a direction of its own"
            remedy = "remove better, and give a negative weight to a column where lower is better"
            raise _problem(self.strategy, "better is lower", why, remedy)
        if weights and isinstance(floor, float):
            found = f"min_chosen_score is {floor}"
            why = "with several score columns it is not clear which of them it bounds"
            remedy = f"write min_chosen_score: {{{next(iter(weights))}: {floor}}}"
            raise _problem(self.strategy, found, why, remedy)
        if isinstance(floor, dict) and not floor.keys() <= weights.keys():
            found = f"min_chosen_score names {sorted(floor.keys() - weights.keys())}"
            remedy = "name columns of score" if weights else "write one number"
            raise _problem(self.strategy, found, f"score is {weights or self.score}", remedy)
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.candidates is None) == (self.responses is None):
            why = "pairs are made from only one of them"
            found = "candidates and responses are both " + (
                "missing" if self.responses is None else "given"
            )
            raise _problem(
                self.strategy, found, why, "name one 'candidates' column or two text columns"
            )
        if len(set(self.responses or ())) < len(self.responses or ()):
            found = "responses names a column twice"
            raise _problem(self.strategy, found, "a pair needs two", "name each once")
        return self

    @model_validator(mode="after")
    def _k_belongs_to_top_k_bottom_k(self) -> Self:
        wants_k = self.strategy == "top_k_bottom_k"
        if wants_k and self.k is None:
            raise _problem(
                self.strategy,
                "k is missing",
                "top_k_bottom_k pairs the best k with the worst k",
                "add k: 2",
            )
        if not wants_k and self.k is not None:
            why = "only top_k_bottom_k uses it"
            raise _problem(self.strategy, f"k is {self.k}", why, "remove k")
        return self

    @model_validator(mode="after")
    def _strong_and_weak_belong_to_delta(self) -> Self:
        names = f"strong is {self.strong}, weak is {self.weak}"
        if self.strategy != "delta":
            if self.strong is not None or self.weak is not None:
                raise _problem(self.strategy, names, "only delta uses them", "remove both")
        elif not self.strong or not self.weak or self.strong == self.weak:
            why = "delta needs two different aliases"
            raise _problem(self.strategy, names, why, "name the stronger and the weaker model")
        return self

    @model_validator(mode="after")
    def _pick_belongs_to_function(self) -> Self:
        if (self.strategy == "function") != bool(self.pick):
            if self.pick:
                why, remedy = "only strategy: function calls it", "remove pick"
                raise _problem(self.strategy, f"pick is {self.pick}", why, remedy)
            why = "it is the function that picks"
            raise _problem(self.strategy, "pick is missing", why, "add pick: package.module:name")
        return self

    @model_validator(mode="after")
    def _sides_of_a_strategy_that_reads_them(self) -> Self:
        is_fixed = self.strategy in ("delta", "given")
        if is_fixed and (self.chosen, self.rejected) != (Chosen(), Rejected()):
            of = {"delta": "strong and weak", "given": "the pair as it is"}[self.strategy]
            why = f"the sides are those of {of}"
            raise _problem(self.strategy, "chosen or rejected is given", why, "remove them")
        found = [f"{name}.score" for name in ("chosen", "rejected") if getattr(self, name).score]
        found += ["rejected.largest_gap"] if self.rejected.largest_gap is not None else []
        found += ["chosen.shortest_within"] if self.chosen.shortest_within is not None else []
        if found and self.strategy in ("exhaustive", "top_k_bottom_k", "function"):
            why = "only a strategy that chooses one text uses it"
            remedy = "remove it, or write strategy: best_vs_worst"
            raise _problem(self.strategy, f"{found[0]} is given", why, remedy)
        return self

    @model_validator(mode="after")
    def _given_is_the_pair_of_a_row(self) -> Self:
        if self.strategy != "given" and self.margin is not None:
            found = f"margin is {self.margin}"
            raise _problem(self.strategy, found, "only given reads it", "remove margin")
        if self.strategy == "given" and (self.group_by or self.margin_unit != "raw"):
            found = f"group_by is {self.group_by}, margin_unit is {self.margin_unit}"
            why = "it takes the pair of each row as it is"
            raise _problem(self.strategy, found, why, "remove group_by and margin_unit")
        return self

    @model_validator(mode="after")
    def _score_is_there_for_those_who_read_it(self) -> Self:
        if self.score is not None or self.margin is not None:
            return self
        if self.strategy not in ("delta", "given", "function"):
            raise _problem(
                self.strategy,
                "score is missing",
                "candidates are ranked by score",
                "name the column of a reward_model, rubric_judge or verifier stage",
            )
        if self.min_margin or self.margin_unit != "raw" or self.min_chosen_score is not None:
            raise _problem(
                self.strategy,
                "score is missing",
                "min_margin, margin_unit and min_chosen_score need scores",
                "name a score column, or remove them",
            )
        return self


def _problem(strategy: str, found: str, why: str, remedy: str) -> PydanticCustomError:
    return PydanticCustomError(
        "pair_rule",
        "strategy is {strategy} and {found}, but {why}; {remedy}",
        {"strategy": strategy, "found": found, "why": why, "remedy": remedy},
    )
