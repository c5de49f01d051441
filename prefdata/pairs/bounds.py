"""Whether two texts may be a pair: every bound of a rule, asked in one order. Picks no text."""

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

from prefdata.pairs.pair import Candidate, Pair, is_score
from prefdata.recipe.pair_rules import PairRules
from prefdata.recipe.projection import PreferencePairs

TOLERANCE = 1e-9

Reason = Literal[
    "single_candidate",
    "no_partner",
    "empty",
    "no_score",
    "truncated",
    "identical",
    "not_picked",
    "skipped",
    "bad_verdict",
    "below_min_chosen_score",
    "tie",
    "rejected_scores_higher",
    "below_min_margin",
    "disagreement",
    "one_side",
    "length_ratio",
    "no_length",
    "length_advantage",
    "over_max_pairs_per_prompt",
]

REASONS: dict[str, str] = {
    "single_candidate": "fewer than two candidates were given",
    "no_partner": "no text is left of the aliases that the other side may come from",
    "empty": "the text is empty or shows nothing",
    "no_score": "the score is missing, NaN or infinite",
    "truncated": "the text was cut off by max_tokens, or its thought never ended",
    "identical": "the texts differ at most in blanks at their ends, or in Unicode form",
    "not_picked": "the function of the strategy offers no pair of these candidates",
    "skipped": "what the pair needs was not asked, as its skip_when says",
    "bad_verdict": "the judge named neither A nor B nor tie",
    "below_min_chosen_score": "the chosen's score is worse than min_chosen_score",
    "tie": "the two are equally good",
    "rejected_scores_higher": "the text to be rejected has the higher score",
    "below_min_margin": "the score difference is below min_margin",
    "disagreement": "one of the score columns prefers the rejected text",
    "one_side": "both texts, or neither, are by the aliases of one_side",
    "length_ratio": "the longer text exceeds max_length_ratio times the shorter",
    "no_length": "max_length_advantage: the tokens of a text are not known",
    "length_advantage": "the chosen is longer than the rejected by more than max_length_advantage",
    "over_max_pairs_per_prompt": "max_pairs_per_prompt is reached by pairs with larger margins",
}
"""Every reason with its meaning, in the order in which the rules are asked."""


class Spread(NamedTuple):
    """Mean and deviation (population) of a prompt's scores."""

    mean: float
    sigma: float


def judge_pair(
    chosen: Candidate, rejected: Candidate, rule: PreferencePairs, spread: Spread | None
) -> Pair | Reason:
    """The pair, or the first bound that it breaks; `spread` is that of the prompt's scores."""
    if rule.score is None or chosen.score is None or rejected.score is None:
        return pair_flaw(chosen, rejected, rule) or Pair(chosen, rejected)
    high, low = chosen.score, rejected.score
    margin = high - low
    is_tie = abs(margin) <= slack_of(max(abs(high), abs(low)))
    z_margin = None
    if rule.margin_unit == "z_score" and spread is not None:
        z_margin = 0.0 if is_tie or not spread.sigma else margin / spread.sigma
    flaw = _score_flaw(rule, high, low, z_margin, is_tie)
    return _first_flaw(chosen, rejected, rule, flaw) or Pair(
        chosen, rejected, margin, z_margin, is_tie
    )


def judge_given(
    chosen: Candidate, rejected: Candidate, rule: PreferencePairs, margin: float | None
) -> Pair | Reason:
    """The same for a pair from elsewhere, of which a margin may be all that is known, or not even.

    Scores that are there say how much better the chosen is unless `margin` does.
    """
    is_tie = margin is not None and abs(margin) <= slack_of(0)
    flaw: Reason | None = "no_score" if rule.min_margin else None
    if margin is not None:
        flaw = _score_flaw(rule, margin, 0.0, None, is_tie)
    return _first_flaw(chosen, rejected, rule, flaw) or Pair(
        chosen, rejected, margin, is_tie=is_tie
    )


def _first_flaw(
    chosen: Candidate, rejected: Candidate, rule: PreferencePairs, of_scores: Reason | None
) -> Reason | None:
    flaw = _is_too_low(chosen, rule) or of_scores
    if flaw is None and rule.agree and not _agree(chosen, rejected, rule):
        return "disagreement"
    return flaw or pair_flaw(chosen, rejected, rule)


def _is_too_low(chosen: Candidate, rule: PreferencePairs) -> Reason | None:
    """Whether a raw score of the chosen is worse than the rule allows."""
    if rule.min_chosen_score is None:
        return None
    for column, floor in rule.floors.items():
        sign = rule.sign_of(column)
        score = chosen.scores.get(column) if isinstance(rule.score, dict) else chosen.score
        if not is_score(score):
            return "below_min_chosen_score"
        have = sign * score if isinstance(rule.score, dict) else score
        if have < sign * floor - slack_of(max(abs(score), abs(floor))):
            return "below_min_chosen_score"
    return None


def _score_flaw(
    rule: PreferencePairs, high: float, low: float, z_margin: float | None, is_tie: bool
) -> Reason | None:
    if is_tie and rule.ties == "drop":
        return "tie"
    if high >= low and not rule.min_margin:  # of most pairs this is all
        return None
    slack = slack_of(max(abs(high), abs(low)))
    if high - low < -slack:  # however little of the deviation this is
        return "rejected_scores_higher"
    if z_margin is not None:
        margin, slack = z_margin, slack_of(abs(z_margin))
    else:
        margin = high - low
    return "below_min_margin" if margin < rule.min_margin - slack else None


def _agree(chosen: Candidate, rejected: Candidate, rule: PreferencePairs) -> bool:
    """Whether no score column prefers the rejected; a tie is no preference."""
    for column, weight in (rule.score if isinstance(rule.score, dict) else {}).items():
        high, low = chosen.scores[column], rejected.scores[column]
        if not (is_score(high) and is_score(low)):
            return False
        if math.copysign(1.0, weight) * (high - low) < -slack_of(max(abs(high), abs(low))):
            return False
    return True


def pair_flaw(chosen: Candidate, rejected: Candidate, rule: PairRules) -> Reason | None:
    """What of two texts, whatever their scores, breaks a bound."""
    if chosen.finish_reason == "length":
        return "truncated"
    one_side = rule.one_side if isinstance(rule, PreferencePairs) else None
    if one_side and (chosen.alias in one_side) == (rejected.alias in one_side):
        return "one_side"
    if rule.max_length_ratio is not None:
        shorter, longer = sorted((len(chosen.text), len(rejected.text)))
        if longer > rule.max_length_ratio * shorter + slack_of(longer):
            return "length_ratio"
    if rule.max_length_advantage is not None:
        if chosen.tokens is None or rejected.tokens is None:
            return "no_length"
        if chosen.tokens - rejected.tokens > rule.max_length_advantage:
            return "length_advantage"
    return None


def slack_of(magnitude: float) -> float:
    """By how much scores of this size may differ and be equal."""
    return TOLERANCE + TOLERANCE * magnitude


def spread_of(found: Iterable[float | None]) -> Spread:
    """Of the scores that there are, of which there is one at least."""
    scores = [score for score in found if score is not None]
    mean = math.fsum(scores) / len(scores)
    return Spread(mean, math.sqrt(math.fsum((one - mean) ** 2 for one in scores) / len(scores)))
