import math
from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from prefdata.pairs.bounds import REASONS
from prefdata.pairs.pair import Candidate, tokens_of
from prefdata.pairs.picking import Picked, pick_by_verdict, pick_pairs
from prefdata.pairs.ranking import combine_scores
from prefdata.recipe.mix import OutputProjection
from prefdata.recipe.projection import DpoPreference, PreferencePairs

ONE_PAIR = ["best_vs_worst", "best_vs_random", "best_vs_second", "mu_minus_2sigma"]
RANKED = [*ONE_PAIR, "exhaustive", "top_k_bottom_k"]
EVERY = [*RANKED, "delta"]


def rule(strategy="best_vs_worst", **fields):
    given_by_strategy = {
        "top_k_bottom_k": {"k": 2},
        "delta": {"strong": "big", "weak": "small", "score": None},
    }
    base = {"type": "preference_pairs", "candidates": "c", "score": "s", "strategy": strategy}
    return PreferencePairs(**(base | given_by_strategy.get(strategy, {}) | fields))


def verdict_rule(**fields):
    return DpoPreference(type="dpo_preference", **fields)


def scored(*scores):
    return [Candidate(f"text {at}", score, sample=at) for at, score in enumerate(scores)]


def of(alias, *texts):
    return [Candidate(text, alias=alias, sample=at) for at, text in enumerate(texts)]


def pick(candidates, seed=0, /, **fields):
    return pick_pairs(candidates, rule(**fields), seed=seed)


def judge(winner, a="4", b="5", /, seed=0, **fields):
    return pick_by_verdict(Candidate(a), Candidate(b), winner, verdict_rule(**fields), seed=seed)


def texts(picked):
    return [(pair.chosen.text, pair.rejected.text) for pair in picked.pairs]


def positions(picked):
    return [(pair.chosen.sample, pair.rejected.sample) for pair in picked.pairs]


def reason(picked):
    assert (picked.drop is None) == bool(picked.pairs)
    return picked.drop.reason if picked.drop else None


def of_length(*told):
    """Candidates of these scores and tokens."""
    return [Candidate(f"text {n}", score, tokens=t, sample=n) for n, (score, t) in enumerate(told)]


def written(*told):
    """Candidates of these aliases, scores and other scores."""
    return [
        Candidate(f"text {n}", score, alias=alias, sample=n, scores={"other": other})
        for n, (alias, score, other) in enumerate(told)
    ]


# Length and sides


@pytest.mark.parametrize(
    ("bound", "expected"), [(100, [(0, 1)]), (99, [(0, 2)]), (-1, [(0, 3)]), (-300, [])]
)
def test_chosen_is_so_many_tokens_longer_at_most(bound, expected):
    candidates = of_length((4, 200), (1, 100), (2, 101), (3, 300))
    picked = pick(candidates, max_length_advantage=bound)
    assert positions(picked) == expected
    assert expected or reason(picked) == "length_advantage"


def test_a_text_of_unknown_length_takes_part_in_no_pair_whose_length_is_bound():
    picked = pick(of_length((2, None), (1, 5)), max_length_advantage=100)
    assert reason(picked) == "no_length"
    assert reason(judge("A", max_length_advantage=100)) == "no_length"


def test_the_thought_of_a_text_is_no_part_of_its_length():
    made = {"completion_tokens": 900, "reasoning_tokens": 850}
    assert tokens_of(made) == 50
    assert tokens_of({"completion_tokens": 900, "reasoning_tokens": None}) == 900
    assert tokens_of({}) is None


@pytest.mark.parametrize(
    ("within", "unit", "expected"),
    [
        pytest.param(0, "raw", [(0, 3)], id="the best alone"),
        pytest.param(0.1, "raw", [(1, 3)], id="inclusive"),
        pytest.param(0.5, "raw", [(2, 3)], id="the shortest of three"),
        pytest.param(1, "z_score", [(1, 3)], id="in standard deviations"),
        pytest.param(0.1, "z_score", [(0, 3)], id="of which a tenth is little"),
    ],
)
def test_the_shortest_of_the_best_is_chosen(within, unit, expected):
    candidates = of_length((0.9, 300), (0.8, 200), (0.5, 100), (0.1, 10))
    chosen = {"shortest_within": within}
    assert positions(pick(candidates, chosen=chosen, margin_unit=unit)) == expected


def test_each_side_may_come_from_models_of_its_own():
    candidates = written(("big", 5, 0), ("small", 4, 0), ("small", 2, 0), ("big", 1, 0))
    sides = {"chosen": {"model_alias": "small"}, "rejected": {"model_alias": ["big"]}}
    assert positions(pick(candidates, **sides)) == [(1, 3)]
    assert positions(pick(candidates, strategy="exhaustive", **sides)) == [(1, 3), (2, 3)]
    assert positions(pick(candidates, strategy="top_k_bottom_k", k=1, **sides)) == [(1, 3)]
    assert reason(pick(candidates, rejected={"model_alias": "none"})) == "no_partner"
    assert reason(pick(candidates[:3], **sides)) == "no_partner"


def test_each_side_may_have_a_score_of_its_own():
    candidates = written(("m", 3, 0), ("m", 2, 9), ("m", 1, 8), ("m", 0, 7))
    assert positions(pick(candidates)) == [(0, 3)]
    assert positions(pick(candidates, chosen={"score": "other"})) == [(1, 3)]
    assert positions(pick(candidates, rejected={"score": "other"})) == [(0, 3)]
    second = {"strategy": "best_vs_second", "rejected": {"score": "other"}}
    assert positions(pick(candidates, **second)) == [(0, 1)]
    upside_down = written(("m", 1, 9), ("m", 5, 0))
    assert reason(pick(upside_down, chosen={"score": "other"})) == "rejected_scores_higher"


def test_a_pair_has_one_text_of_the_policy():
    candidates = written(("me", 5, 0), ("other", 4, 0), ("other", 3, 0), ("me", 2, 0))
    assert positions(pick(candidates, one_side="me")) == [(0, 2)]
    found = positions(pick(candidates, strategy="exhaustive", one_side="me"))
    assert sorted(found) == [(0, 1), (0, 2), (1, 3), (2, 3)]
    assert reason(pick(candidates[1:3], one_side="me")) == "one_side"


# Strategies


@pytest.mark.parametrize(
    ("fields", "scores", "expected"),
    [
        pytest.param({}, (1, 4, 2, 3), [(1, 0)], id="best over worst"),
        pytest.param({"strategy": "best_vs_second"}, (1, 4, 2, 3), [(1, 3)], id="second best"),
        pytest.param({"strategy": "best_vs_second"}, (4, 2, 1), [(0, 1)], id="second of three"),
        pytest.param(
            {"strategy": "best_vs_second", "min_margin": 1.5},
            (1, 4, 2, 3),
            [(1, 2)],
            id="best second that is far enough",
        ),
        pytest.param(
            {"strategy": "exhaustive"}, (2, 3, 0), [(1, 2), (0, 2), (1, 0)], id="every pair"
        ),
        pytest.param(
            {"strategy": "exhaustive", "max_pairs_per_prompt": 1},
            (2, 3, 0),
            [(1, 2)],
            id="the largest margin survives the cap",
        ),
        pytest.param(
            {"strategy": "top_k_bottom_k", "k": 2},
            (9, 8, 5, 3, 0),
            [(0, 4), (1, 4), (0, 3), (1, 3)],
            id="each of the best two over each of the worst two",
        ),
        pytest.param(
            {"strategy": "top_k_bottom_k", "k": 5},
            (3, 2, 1),
            [(0, 2)],
            id="top and bottom never overlap",
        ),
        pytest.param(
            # mean 4.6, sigma 1.36, target 1.89: 3 is nearer than 0
            {"strategy": "mu_minus_2sigma"},
            (6, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 3, 0),
            [(0, 13)],
            id="mean minus two deviations, not the outlier",
        ),
        pytest.param({"strategy": "mu_minus_2sigma"}, (3, 1, 2), [(0, 1)], id="of few the worst"),
    ],
)
def test_a_strategy_finds_its_partners(fields, scores, expected):
    assert positions(pick(scored(*scores), **fields)) == expected


def test_random_partners_are_all_worse_and_all_possible():
    drawn = Counter(
        positions(pick(scored(4, 3, 2, 1), seed, strategy="best_vs_random"))[0]
        for seed in range(300)
    )
    assert set(drawn) == {(0, 1), (0, 2), (0, 3)}
    assert min(drawn.values()) > 60


def test_a_random_partner_is_drawn_among_those_that_pass():
    for seed in range(20):
        picked = pick(scored(4, 3, 2, 1), seed, strategy="best_vs_random", min_margin=3)
        assert positions(picked) == [(0, 3)]


def test_one_seed_for_all_prompts_does_not_fix_the_rank_of_the_random_partner():
    ranks = set()
    for prompt in range(20):
        candidates = [Candidate(f"{prompt} {at}", 4 - at, sample=at) for at in range(4)]
        ranks.add(pick(candidates, 7, strategy="best_vs_random").pairs[0].rejected.sample)
    assert ranks == {1, 2, 3}


@pytest.mark.parametrize("strategy", ONE_PAIR)
def test_a_partner_of_unfit_length_gives_way_to_the_next(strategy):
    candidates = [
        Candidate("good answer", 3.0),
        Candidate("no", 1.0),
        Candidate("bad answer", 1.5),
        Candidate("x" * 99, 2.5),
    ]
    picked = pick(candidates, strategy=strategy, max_length_ratio=2)
    assert texts(picked) == [("good answer", "bad answer")]
    assert not picked.drops


@pytest.mark.parametrize("strategy", ONE_PAIR)
def test_a_failed_prompt_of_a_one_pair_strategy_counts_one_dropped_pair(strategy):
    picked = pick(scored(4, 3, 2, 1), strategy=strategy, min_margin=9)
    assert picked.drops == {"below_min_margin": 1}


# Delta


def test_delta_pairs_strong_with_weak_sample_by_sample():
    picked = pick([*of("small", "w0", "w1"), *of("big", "s0", "s1")], strategy="delta")
    assert texts(picked) == [("s0", "w0"), ("s1", "w1")]
    assert [pair.margin for pair in picked.pairs] == [None, None]


def test_delta_lets_the_next_sample_stand_in_for_an_empty_one():
    picked = pick([*of("big", "", "s1"), *of("small", "w0", "w1")], strategy="delta")
    assert texts(picked) == [("s1", "w0")]
    assert picked.drops == {"empty": 1, "no_partner": 1}


def test_delta_never_rejects_what_strong_wrote():
    crossed = [*of("big", "x", "y"), *of("small", "y", "x")]
    assert reason(pick(crossed, strategy="delta")) == "identical"
    shared = [*of("big", "x", "y"), *of("small", "x", "z")]
    assert texts(pick(shared, strategy="delta")) == [("x", "z")]


def test_delta_ignores_other_aliases_and_misses_absent_ones():
    picked = pick([*of("big", "a"), *of("medium", "b"), *of("small", "c")], strategy="delta")
    assert texts(picked) == [("a", "c")]
    assert reason(pick([*of("big", "a"), *of("medium", "b")], strategy="delta")) == "no_partner"


@pytest.mark.parametrize(
    ("strong", "weak", "expected"),
    [(3.0, 1.0, None), (1.0, 3.0, "rejected_scores_higher"), (2.0, 2.0, "tie")],
    ids=["strong is better", "weak is better", "equal"],
)
def test_a_score_may_veto_a_delta_pair(strong, weak, expected):
    candidates = [Candidate("s", strong, alias="big"), Candidate("w", weak, alias="small")]
    picked = pick(candidates, strategy="delta", score="s")
    assert reason(picked) == expected
    assert expected or picked.pairs[0].margin == 2.0


# Candidates that cannot take part


@pytest.mark.parametrize("strategy", RANKED)
@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        pytest.param(Candidate("bad", None), "no_score", id="no score"),
        pytest.param(Candidate("bad", float("nan")), "no_score", id="NaN"),
        pytest.param(Candidate("bad", float("inf")), "no_score", id="infinity"),
        pytest.param(Candidate("bad", float("-inf")), "no_score", id="minus infinity"),
        pytest.param(Candidate("bad", 1e300), "no_score", id="a score that would overflow"),
        pytest.param(Candidate("", 9.0), "empty", id="empty"),
        pytest.param(Candidate(" \n\t\u3000", 9.0), "empty", id="whitespace"),
        pytest.param(Candidate("bad", 9.0, finish_reason="length"), "truncated", id="truncated"),
        pytest.param(Candidate(" text 0\n", 9.0), "identical", id="a copy but for whitespace"),
    ],
)
def test_an_unfit_candidate_takes_part_in_no_pair(strategy, bad, expected):
    picked = pick([*scored(2.0, 1.0), bad], strategy=strategy)
    assert texts(picked) == [("text 0", "text 1")]
    assert picked.drops[expected] == 1
    assert reason(pick([Candidate("text 0", 2.0), bad], strategy=strategy)) == expected


def test_best_means_best_of_the_valid():
    candidates = [Candidate("cut", 9.0, finish_reason="length"), *scored(3.0, 2.0, 1.0)]
    assert texts(pick(candidates)) == [("text 0", "text 2")]


def test_a_cut_text_may_be_rejected_on_request_but_never_chosen():
    cut = Candidate("cut", 1.0, finish_reason="length")
    assert texts(pick([*scored(3.0, 2.0), cut], truncated_rejected=True)) == [("text 0", "cut")]
    cut = Candidate("cut", 9.0, finish_reason="length")
    assert texts(pick([*scored(3.0, 2.0), cut], truncated_rejected=True)) == [("text 0", "text 1")]
    assert reason(pick([*scored(3.0), cut], truncated_rejected=True)) == "truncated"


def test_of_two_copies_the_whole_one_stays():
    copies = [Candidate("a", 2.0, finish_reason="length"), Candidate("a", 2.0)]
    picked = pick([*copies, Candidate("b", 1.0)], truncated_rejected=True)
    assert texts(picked) == [("a", "b")]


def test_of_two_copies_the_first_score_counts():
    picked = pick([Candidate("a", 2.0), Candidate("a", 9.0), Candidate("b", 1.0)])
    assert picked.pairs[0].margin == 1.0


# Bounds


@pytest.mark.parametrize(
    ("scores", "bound", "passes"),
    [
        pytest.param((0.9, 0.8), 0.1, True, id="0.9 - 0.8 is 0.1"),
        pytest.param((0.3, 0.2), 0.1, True, id="0.3 - 0.2 is 0.1"),
        pytest.param((0.6, 0.3), 0.3, True, id="0.6 - 0.3 is 0.3"),
        pytest.param((0.9, 0.81), 0.1, False, id="clearly smaller"),
        pytest.param((0.9, 0.800001), 0.1, False, id="slightly smaller"),
        pytest.param((1e6 + 0.3, 1e6 + 0.2), 0.1, True, id="large scores round more"),
        pytest.param((-1.0, -3.0), 2.0, True, id="negative scores"),
    ],
)
def test_min_margin_is_inclusive_and_tolerant(scores, bound, passes):
    assert reason(pick(scored(*scores), min_margin=bound)) == (
        None if passes else "below_min_margin"
    )


def test_deviations_are_those_of_the_whole_prompt_for_delta_too():
    told = [("big", 2.0), ("small", 0.0), ("other", 6.0), ("other", 0.0)]
    candidates = [Candidate(f"text {n}", score, alias=who) for n, (who, score) in enumerate(told)]
    picked = pick(candidates, strategy="delta", score="s", margin_unit="z_score")
    assert picked.pairs[0].z_margin == pytest.approx(2 / math.sqrt(6))


def test_min_margin_counts_deviations_with_z_score():
    # sigma is 1, so the margins are 2 deviations whatever the scale
    for scale in (0.001, 1, 1000):
        candidates = scored(scale, -scale)
        z_score = {"margin_unit": "z_score"}
        assert reason(pick(candidates, min_margin=2.01, **z_score)) == "below_min_margin"
        pair = pick(candidates, min_margin=2, **z_score).pairs[0]
        assert (pair.margin, pair.z_margin) == (2 * scale, 2.0)


def test_equal_scores_have_no_margin_in_deviations():
    picked = pick(scored(1.0, 1.0), margin_unit="z_score", ties="keep")
    assert picked.pairs[0].z_margin == 0.0
    picked = pick(scored(1.0, 1.0), margin_unit="z_score", ties="keep", min_margin=0.5)
    assert reason(picked) == "below_min_margin"


@pytest.mark.parametrize(
    ("best", "expected"),
    [(0.7, None), (0.1 + 0.6, None), (0.69, "below_min_chosen_score")],
    ids=["at the bound", "a rounding error below", "below"],
)
def test_min_chosen_score_is_inclusive(best, expected):
    assert reason(pick(scored(best, 0.1), min_chosen_score=0.7)) == expected


@pytest.mark.parametrize(
    ("longer", "expected"), [(20, None), (21, "length_ratio")], ids=["twice", "more than twice"]
)
def test_max_length_ratio_is_inclusive_in_both_directions(longer, expected):
    short, long = Candidate("s" * 10, 1.0), Candidate("l" * longer, 2.0)
    assert reason(pick([short, long], max_length_ratio=2)) == expected
    assert reason(pick([Candidate("s" * 10, 3.0), long], max_length_ratio=2)) == expected


def test_the_reason_is_the_furthest_rule_reached():
    candidates = [*scored(2.0, 2.0, 1.5), Candidate("", 1.0)]
    picked = pick(candidates, strategy="exhaustive", min_margin=1)
    assert picked.drops == {"empty": 1, "tie": 1, "below_min_margin": 2}
    assert reason(picked) == "below_min_margin"
    assert "scores 1 to 2" in picked.drop.detail


# Ties


@pytest.mark.parametrize("strategy", ONE_PAIR)
def test_which_of_equals_is_taken_does_not_hang_on_the_order_of_the_aliases(strategy):
    def aliases(order, seed):
        candidates = [
            Candidate(f"{alias} {score} {at}", score, alias=alias)
            for alias in order
            for score in (1.0, 0.0)
            for at in range(3)
        ]
        return texts(pick(candidates, seed, strategy=strategy))

    taken = [aliases("ab", seed) for seed in range(200)]
    assert taken == [aliases("ba", seed) for seed in range(200)]
    for side in (0, 1):
        assert 70 < sum(pairs[0][side].startswith("a") for pairs in taken) < 130


@pytest.mark.parametrize("strategy", RANKED)
def test_equal_scores_are_dropped_unless_kept(strategy):
    assert reason(pick(scored(1.0, 1.0), strategy=strategy)) == "tie"
    pair = pick(scored(1.0, 1.0), strategy=strategy, ties="keep").pairs[0]
    assert (pair.margin, pair.is_tie) == (0.0, True)


def test_the_direction_of_a_kept_tie_is_drawn_from_seed_and_texts():
    first, second = scored(1.0, 1.0)
    drawn = [texts(pick([first, second], seed, ties="keep")) for seed in range(50)]
    assert drawn == [texts(pick([second, first], seed, ties="keep")) for seed in range(50)]
    assert len(set(map(str, drawn))) == 2


def test_three_kept_ties_do_not_run_in_a_circle():
    for seed in range(20):
        pairs = texts(pick(scored(1.0, 1.0, 1.0), seed, strategy="exhaustive", ties="keep"))
        wins = Counter(chosen for chosen, _ in pairs)
        assert sorted(wins.values()) == [1, 2]


# Parity with the DPO builder of the NeMo Agent Toolkit


def test_parity_single_candidates_are_skipped():
    assert reason(pick(scored(1.0))) == "single_candidate"
    assert reason(pick([])) == "single_candidate"


def test_parity_exhaustive_pairs_of_negative_scores():
    picked = pick(scored(-1, -3, -2), strategy="exhaustive")
    assert [
        (*at, pair.margin) for at, pair in zip(positions(picked), picked.pairs, strict=True)
    ] == [
        (0, 1, 2),
        (0, 2, 1),
        (2, 1, 1),
    ]


def test_parity_a_score_of_zero_is_a_score():
    assert positions(pick(scored(0.0, -1.0))) == [(0, 1)]


def test_parity_best_vs_worst_makes_one_pair_whatever_the_cap():
    assert positions(pick(scored(3, 2, 1), max_pairs_per_prompt=5)) == [(0, 2)]


def test_parity_the_margin_bound_is_inclusive():
    assert positions(pick(scored(0.5, 0.25), min_margin=0.25)) == [(0, 1)]


@pytest.mark.parametrize(
    ("candidates", "fields", "expected"),
    [
        pytest.param(scored(0.5, 0.5), {}, "tie", id="ties are not pairs"),
        pytest.param(scored(float("nan"), 1.0), {"min_margin": 0.5}, "no_score", id="NaN"),
        pytest.param(scored(float("inf"), float("inf")), {}, "no_score", id="inf - inf"),
        pytest.param([Candidate("a", 2), Candidate("a", 1)], {}, "identical", id="equal texts"),
        pytest.param([Candidate("a", 2), Candidate("", 1)], {}, "empty", id="empty responses"),
        pytest.param(scored(0.9, 0.8), {"min_margin": 0.1}, None, id="0.9 - 0.8 passes 0.1"),
        pytest.param(scored(0.3, 0.2), {"min_margin": 0.1}, None, id="0.3 - 0.2 passes 0.1"),
        pytest.param(scored(0.5, 0.2), {"min_margin": 0.3}, None, id="0.5 - 0.2 passes 0.3"),
    ],
)
def test_where_we_differ_from_nemo_agent_toolkit(candidates, fields, expected):
    for strategy in ("exhaustive", "best_vs_worst"):
        assert reason(pick(candidates, strategy=strategy, **fields)) == expected


# Verdicts (Nemotron's dpo_preference)


@pytest.mark.parametrize(
    ("winner", "expected"),
    [
        pytest.param("A", [("4", "5")], id="A"),
        pytest.param("b", [("5", "4")], id="lower case b"),
        pytest.param("B", [("5", "4")], id="B"),
        pytest.param(" A", [("4", "5")], id="spaces around, which Nemotron refuses"),
    ],
)
def test_the_winner_is_chosen(winner, expected):
    assert texts(judge(winner)) == expected


@pytest.mark.parametrize(
    ("winner", "expected"),
    [
        pytest.param("tie", "tie", id="tie"),
        pytest.param("TIE ", "tie", id="tie in capitals"),
        pytest.param(None, "bad_verdict", id="null"),
        pytest.param("", "bad_verdict", id="nothing"),
        pytest.param("C", "bad_verdict", id="a third response"),
        pytest.param("I think A wins", "bad_verdict", id="prose"),
        pytest.param(["A"], "bad_verdict", id="a list"),
        pytest.param({"winner": "A"}, "bad_verdict", id="the whole dict"),
        pytest.param(True, "bad_verdict", id="a boolean"),
    ],
)
def test_one_bad_verdict_is_a_reject_not_the_end_of_the_run(winner, expected):
    assert reason(judge(winner)) == expected


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param("same", "same ", "identical", id="equal responses"),
        pytest.param("good", " ", "empty", id="an empty loser"),
        pytest.param("", "good", "empty", id="an empty winner"),
    ],
)
def test_unfit_responses_are_rejects_whatever_the_judge_says(a, b, expected):
    for winner in ("A", "B", "tie", None):
        assert reason(judge(winner, a, b, ties="keep")) == expected


def test_a_kept_tie_is_marked_and_has_a_drawn_direction():
    picked = [judge("tie", seed=seed, ties="keep") for seed in range(30)]
    assert all(one.pairs[0].is_tie and one.pairs[0].margin is None for one in picked)
    assert {texts(one)[0] for one in picked} == {("4", "5"), ("5", "4")}


def test_a_verdict_for_a_cut_text_is_a_reject():
    cut, whole = Candidate("4", finish_reason="length"), Candidate("5", finish_reason="stop")

    def picked(winner, **fields):
        return pick_by_verdict(cut, whole, winner, verdict_rule(**fields), seed=0)

    assert reason(picked("A")) == reason(picked("B")) == "truncated"
    assert reason(picked("A", truncated_rejected=True)) == "truncated"
    assert texts(picked("B", truncated_rejected=True)) == [("5", "4")]
    assert texts(picked("tie", truncated_rejected=True, ties="keep")) == [("5", "4")]


def test_verdict_pairs_obey_the_length_ratio():
    assert reason(judge("A", "a" * 30, "b" * 10, max_length_ratio=2)) == "length_ratio"


# The recipe's rule


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        pytest.param({"score": None}, "score is missing", id="no score"),
        pytest.param({"strategy": "top_k_bottom_k", "k": None}, "k is missing", id="no k"),
        pytest.param({"k": 2}, "only top_k_bottom_k uses it", id="k nobody reads"),
        pytest.param({"strong": "a"}, "only delta uses it", id="strong nobody reads"),
        pytest.param({"strategy": "delta", "weak": "big"}, "two different", id="strong is weak"),
        pytest.param({"strategy": "delta", "weak": None}, "weak is missing", id="no weak"),
        pytest.param({"strategy": "delta", "min_margin": 1}, "need scores", id="margin of what"),
        pytest.param({"min_margin": float("nan")}, "finite", id="NaN margin"),
        pytest.param({"min_margin": float("inf")}, "finite", id="infinite margin"),
        pytest.param({"min_margin": -0.1}, "greater than or equal to 0", id="negative margin"),
        pytest.param({"min_chosen_score": float("nan")}, "finite", id="NaN floor"),
        pytest.param({"max_length_ratio": 1}, "greater than 1", id="a ratio of 1"),
        pytest.param({"max_pairs": 0}, "greater than or equal to 1", id="no pairs at all"),
        pytest.param({"max_pairs_per_prompt": 1.5}, "integer", id="half a pair"),
        pytest.param({"test_size": 1.0}, "a fraction must be in [0, 1)", id="everything to test"),
        pytest.param(
            {"test_size": -1}, "a number of prompts must be 0 or more", id="negative count"
        ),
        pytest.param({"test_size": float("nan")}, "finite", id="NaN test size"),
        pytest.param({"test_size": True}, "is not a number", id="a yes for a number"),
        pytest.param({"threshold": 1}, "Extra inputs", id="an unknown key"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(fields, words):
    with pytest.raises(ValidationError) as caught:
        rule(**fields)
    assert words in str(caught.value)


def test_the_type_decides_which_projection_it_is():
    parse = TypeAdapter(OutputProjection).validate_python
    assert isinstance(parse({"type": "dpo_preference"}), DpoPreference)
    pairs = {"type": "preference_pairs", "candidates": "c", "strategy": "delta"}
    assert isinstance(parse(pairs | {"strong": "a", "weak": "b"}), PreferencePairs)


@pytest.mark.parametrize("size", [0, 5, 0.0, 0.25])
def test_a_count_stays_a_count_and_a_fraction_a_fraction(size):
    assert type(rule(test_size=size).test_size) is type(size)


# What always holds

SCORES = st.one_of(
    st.none(),
    st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.8, 0.9, 1.0, -1.0, 1e-12, 1e99, -1e300]),
    st.floats(),
)
TEXTS = st.one_of(
    st.sampled_from(["", " ", "a", "a ", "\na", "b", "c", "cc", "ab" * 20, "é", "日本", "\ud800"]),
    st.text(max_size=12),
)
CANDIDATES = st.lists(
    st.builds(
        Candidate,
        text=TEXTS,
        score=SCORES,
        alias=st.sampled_from(["big", "small", None]),
        sample=st.integers(0, 3),
        finish_reason=st.sampled_from(["stop", "stop", "stop", "length", None]),
        scores=st.fixed_dictionaries({"other": SCORES}),
        tokens=st.one_of(st.none(), st.integers(0, 400)),
    ),
    max_size=9,
)
SHARED = {
    "ties": st.sampled_from(["drop", "keep"]),
    "truncated_rejected": st.booleans(),
    "max_length_ratio": st.sampled_from([None, 1.5, 10.0]),
    "max_length_advantage": st.sampled_from([None, None, 100, 0, -10]),
}
ONE_SIDE = {"one_side": st.sampled_from([None, None, ["big"], ["big", "small"]])}
SIDES = {
    "chosen": st.sampled_from([{}, {"model_alias": "big"}]),
    "rejected": st.sampled_from([{}, {"model_alias": ["small", "big"]}]),
}
ONE_CHOSEN = {
    "chosen": st.sampled_from(
        [{}, {"shortest_within": 0.5}, {"model_alias": "big", "score": "other"}]
    ),
    "rejected": st.sampled_from([{}, {"score": "other"}]),
}
BOUNDS = (
    SHARED
    | ONE_SIDE
    | {
        "min_margin": st.sampled_from([0.0, 0.1, 0.5, 2.0]),
        "margin_unit": st.sampled_from(["raw", "z_score"]),
        "min_chosen_score": st.sampled_from([None, 0.0, 0.9]),
        "max_pairs_per_prompt": st.sampled_from([None, 1, 3]),
    }
)


@st.composite
def rules(draw, strategies=tuple(EVERY)):
    strategy = draw(st.sampled_from(strategies))
    scored_delta = strategy == "delta" and draw(st.booleans())
    fields = draw(st.fixed_dictionaries(SHARED if strategy == "delta" else BOUNDS))
    if scored_delta:
        fields = draw(st.fixed_dictionaries(BOUNDS)) | {"score": "s"}
    if strategy == "top_k_bottom_k":
        fields |= {"k": draw(st.integers(1, 4))}
    if strategy != "delta":
        fields |= draw(st.fixed_dictionaries(ONE_CHOSEN if strategy in ONE_PAIR else SIDES))
    return rule(strategy, **fields)


def assert_sound(picked: Picked, rule):
    assert bool(picked.pairs) == (picked.drop is None)
    assert set(picked.drops) <= set(REASONS)
    assert all(count > 0 for count in picked.drops.values())
    seen = set()
    for pair in picked.pairs:
        chosen, rejected = pair.chosen.text.strip(), pair.rejected.text.strip()
        assert chosen and rejected and chosen != rejected
        assert pair.chosen.finish_reason != "length"
        assert rule.truncated_rejected or pair.rejected.finish_reason != "length"
        assert frozenset((chosen, rejected)) not in seen
        seen.add(frozenset((chosen, rejected)))
        assert rule.ties == "keep" or not pair.is_tie
        if rule.max_length_ratio:
            shorter, longer = sorted((len(pair.chosen.text), len(pair.rejected.text)))
            assert longer <= rule.max_length_ratio * shorter * 1.000001
        if rule.max_length_advantage is not None:
            assert pair.chosen.tokens - pair.rejected.tokens <= rule.max_length_advantage
        if getattr(rule, "one_side", None):
            assert (pair.chosen.alias in rule.one_side) != (pair.rejected.alias in rule.one_side)


def assert_bounds(picked: Picked, rule):
    for pair in picked.pairs:
        for one, side in ((pair.chosen, rule.chosen), (pair.rejected, rule.rejected)):
            assert side.model_alias is None or one.alias in side.model_alias
    assert len(picked.pairs) <= (rule.max_pairs_per_prompt or 99)
    for pair in picked.pairs if rule.score else []:
        high, low = pair.chosen.score, pair.rejected.score
        slack = 1e-8 * (1 + max(abs(high), abs(low)))
        assert pair.margin == high - low and abs(pair.margin) < 1e101
        assert pair.margin >= -slack
        assert pair.is_tie == (pair.margin <= slack) or abs(pair.margin) <= slack
        assert (pair.z_margin is None) == (rule.margin_unit == "raw")
        unit = pair.margin if pair.z_margin is None else pair.z_margin
        assert unit >= rule.min_margin - slack - 1e-8 * abs(unit)
        assert rule.min_chosen_score is None or high >= rule.min_chosen_score - slack
    margins = [pair.margin for pair in picked.pairs if pair.margin is not None]
    assert margins == sorted(margins, reverse=True)


@settings(max_examples=1000)
@given(CANDIDATES, rules(), st.integers())
def test_no_rule_makes_an_unsound_pair(candidates, rule, seed):
    picked = pick_pairs(candidates, rule, seed=seed)
    assert_sound(picked, rule)
    assert_bounds(picked, rule)
    assert pick_pairs(candidates, rule, seed=seed) == picked


@settings(max_examples=300)
@given(
    TEXTS,
    TEXTS,
    st.sampled_from(["stop", "length", None]),
    st.sampled_from(["A", "b ", "tie", "x", None]),
    st.fixed_dictionaries(SHARED),
)
def test_no_verdict_makes_an_unsound_pair(a, b, finish_reason, winner, fields):
    rule = verdict_rule(**fields)
    candidates = Candidate(a, finish_reason=finish_reason), Candidate(b)
    assert_sound(pick_by_verdict(*candidates, winner, rule, seed=1), rule)


@settings(max_examples=300)
@given(st.data(), rules(), st.integers())
def test_the_order_of_distinct_candidates_does_not_matter(data, rule, seed):
    scores = data.draw(st.lists(st.integers(-50, 50), unique=True, min_size=2, max_size=7))
    cut = data.draw(st.sets(st.integers(0, 6)))
    candidates = [
        Candidate(
            f"text {at}" + at * "x",
            score / 7,
            alias=("big", "small")[at % 2],
            sample=at // 2,
            finish_reason="length" if at in cut else "stop",
        )
        for at, score in enumerate(scores)
    ]
    shuffled = data.draw(st.permutations(candidates))
    assert pick_pairs(shuffled, rule, seed=seed) == pick_pairs(candidates, rule, seed=seed)


@given(st.lists(SCORES, min_size=2, max_size=6))
def test_what_best_vs_worst_finds_exhaustive_puts_first(scores):
    candidates = scored(*scores)
    one, many = pick(candidates), pick(candidates, strategy="exhaustive")
    assert one.pairs == many.pairs[:1] or one.pairs[0].margin == many.pairs[0].margin
    assert reason(one) == reason(many)


def test_every_order_of_two_copies_gives_the_same_texts():
    candidates = [Candidate("a", 3.0), Candidate("a ", 3.0), Candidate("b", 1.0)]
    found = {(c.strip(), r) for order in permutations(candidates) for c, r in texts(pick(order))}
    assert found == {("a", "b")}


@pytest.mark.parametrize(
    ("a", "b", "chosen"),
    [(0.2, 0.9, "5"), (0.9, 0.2, "4"), (0.5, 0.5, None), (None, 0.5, None), (0.1, math.nan, None)],
)
def test_a_tie_can_be_decided_by_reward(a, b, chosen):
    one, other = Candidate(text="4", score=a), Candidate(text="5", score=b)
    fields = {"ties": "reward", "score": "reward"}
    picked = pick_by_verdict(one, other, "tie", verdict_rule(**fields), seed=0)
    assert [pair.chosen.text for pair in picked.pairs] == ([chosen] if chosen else [])
    assert reason(picked) == (None if chosen else "tie")
    assert not any(pair.is_tie for pair in picked.pairs)


def test_a_verdict_wins_over_the_reward():
    one, other = Candidate(text="4", score=1.0), Candidate(text="5", score=9.0)
    fields = {"ties": "reward", "score": "reward"}
    picked = pick_by_verdict(one, other, "A", verdict_rule(**fields), seed=0)
    assert picked.pairs[0].chosen.text == "4"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ties": "reward"}, "ties is reward and score is missing"),
        ({"ties": "drop", "score": "r"}, "score is r, but only 'ties: reward' uses it"),
    ],
)
def test_ties_by_reward_need_a_score_and_nothing_else_does(fields, message):
    with pytest.raises(ValidationError, match=message):
        verdict_rule(**fields)


def rated(total, **scores):
    return Candidate(text=f"{total} {scores}", score=total, scores=scores)


@pytest.mark.parametrize(
    ("weights", "best", "worst", "agrees"),
    [
        ({"a": 0.5, "b": 0.5}, {"a": 3.0, "b": 2.0}, {"a": 1.0, "b": 1.0}, True),
        ({"a": 0.5, "b": 0.5}, {"a": 3.0, "b": 1.0}, {"a": 1.0, "b": 2.0}, False),
        ({"a": 0.5, "b": 0.5}, {"a": 3.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, True),
        ({"a": 0.5, "b": -0.5}, {"a": 3.0, "b": 1.0}, {"a": 1.0, "b": 2.0}, True),
        ({"a": 0.5, "b": -0.5}, {"a": 3.0, "b": 2.0}, {"a": 1.0, "b": 1.0}, False),
        ({"a": 0.5, "b": 0.5}, {"a": 3.0, "b": 2.0}, {"a": 1.0, "b": None}, False),
    ],
)
def test_pairs_on_which_scores_disagree_can_be_dropped(weights, best, worst, agrees):
    candidates = [rated(0.1, **worst), rated(0.9, **best)]
    picked = pick(candidates, score=weights, agree=True)
    assert reason(picked) == (None if agrees else "disagreement")
    assert pick(candidates, score=weights).pairs


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"score": {"a": 0.0, "b": 1.0}}, "a weight of 0"),
        ({"score": "a", "agree": True}, "it needs several score columns"),
        ({"score": {}}, "at least 1 item"),
        ({"candidates": None}, "candidates and responses are both missing"),
        ({"responses": ["a", "b"]}, "candidates and responses are both given"),
        ({"candidates": None, "responses": ["a", "a"]}, "responses names a column twice"),
    ],
)
def test_what_does_not_fit_together_is_told(fields, message):
    with pytest.raises(ValidationError, match=message):
        rule(**fields)


@pytest.mark.parametrize(
    ("rated", "weights", "expected"),
    [
        ([{"a": 9.0}, {"a": 1.0}, {"a": 5.0}], {"a": 1.0}, [1.0, 0.0, 0.5]),
        ([{"a": 9.0}, {"a": 9.0}, {"a": 1.0}], {"a": 1.0}, [0.75, 0.75, 0.0]),
        ([{"a": 9.0}, {"a": 1.0}], {"a": -2.0}, [0.0, 1.0]),
        ([{"a": 0.9, "b": 100.0}, {"a": 0.1, "b": 200.0}], {"a": 3.0, "b": 1.0}, [0.75, 0.25]),
        (
            [{"a": 9.0}, {"a": None}, {"a": math.nan}, {"a": 2.0}],
            {"a": 1.0},
            [1.0, None, None, 0.0],
        ),
        ([{"a": 9.0}], {"a": 1.0}, [0.5]),
        ([], {"a": 1.0}, []),
    ],
)
def test_scores_of_different_scales_are_combined_by_rank(rated, weights, expected):
    assert combine_scores(rated, weights, "rank") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("rank", [0.5, 0.75, 0.25]),
        ("z_score", [0, 0.6124, -0.6124]),
        ("min", [-1.2247, 0, -1.2247]),
    ],
)
def test_how_several_scores_become_one(how, expected):
    rated = [{"a": 9.0, "b": -30.0}, {"a": 6.0, "b": -10.0}, {"a": 3.0, "b": -20.0}]
    told = combine_scores(rated, {"a": 1.0, "b": 1.0}, how)
    assert told == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("how", ["rank", "z_score", "min"])
def test_a_scale_of_a_score_makes_no_difference(how):
    rated = [
        {"a": 9.0, "b": 1.0, "c": 2.0},
        {"a": 6.0, "b": 3.0, "c": 2.0},
        {"a": 4.0, "b": 2.0, "c": 2.0},
    ]  # noqa: E501
    weights = {"a": 0.5, "b": -0.3, "c": 0.2}
    scaled = [{"a": 1e6 * r["a"] + 7, "b": r["b"] / 1e3, "c": r["c"]} for r in rated]
    once = combine_scores(rated, weights, how)
    assert combine_scores(scaled, weights, how) == pytest.approx(once)
    assert once == sorted(once, reverse=True) or how == "min"


def test_a_weak_side_that_scores_higher_is_never_rejected_however_wide_the_scores_are():
    candidates = [
        Candidate("a", 0.0, "big"), Candidate("b", 2e8, "big"), Candidate("c", 0.1, "small"),
    ]  # fmt: skip
    picked = pick(candidates, strategy="delta", score="s", margin_unit="z_score")
    assert reason(picked) == "rejected_scores_higher"
