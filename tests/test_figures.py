import math
import random

import numpy as np
import pyarrow as pa
import pytest

from prefdata.report.figures import (
    Sources,
    funnel,
    groups_of,
    largest_rows,
    rates,
    scores_by_writer,
    slowest_rows,
)
from prefdata.report.sides import count_wins, measure_lengths, read_sides
from prefdata.report.spreads import finite, grid_of, grid_over, spread_of, wilson
from prefdata.rows import CANDIDATE

LISTS = Sources("candidates", (), ("score",), "prompt", ("candidates", "score"))
SINGLE = Sources(None, ("a", "b"), ("score",), "prompt", ("a", "b", "score"))


def listed(*rows):
    """A table of candidates from lists of (alias, temperature, tokens, score)."""
    made = [
        [
            {"text": "x" * (tokens or 1), "alias": a, "temperature": t, "completion_tokens": tokens}
            for a, t, tokens, _ in row
        ]
        for row in rows
    ]
    return pa.table(
        {
            "id": [f"r{n}" for n in range(len(rows))],
            "candidates": pa.array(made, pa.list_(CANDIDATE)),
            "score": pa.array([[one[3] for one in row] for row in rows], pa.list_(pa.float64())),
        }
    )


def paired(*rows, by=(None, None), tied=False):
    """Tables of pairs from (chosen, rejected, margin)."""
    made = {
        "chosen": [row[0] for row in rows],
        "rejected": [row[1] for row in rows],
        "margin": pa.array([row[2] for row in rows], pa.float64()),
        "is_tie": [tied] * len(rows),
    }
    for side, writer in zip(("chosen", "rejected"), by, strict=True):
        alias, temperature = writer or (None, None)
        made |= {
            f"{side}_completion_tokens": pa.array(map(len, made[side]), pa.int32()),
            f"{side}_score": pa.nulls(len(rows), pa.float64()),
            f"{side}_alias": [alias] * len(rows),
            f"{side}_model": pa.nulls(len(rows), pa.string()),
            f"{side}_temperature": [temperature] * len(rows),
        }
    return pa.table(made)


# the funnel


def test_the_funnel_accounts_for_every_row():
    record = {
        "seeds": 10,
        "added": {"question": 6},
        "rejects": {
            "seeds: bad_json": 2,
            "pairs: tie": 4,
            "topic: empty": 1,
            "pairs: identical": 1,
        },
    }
    steps = funnel(record, ("topic", "question", "answers"))
    assert [(s.name, s.rows, s.lost) for s in steps] == [
        ("seeds", 10, 2),
        ("topic", 8, 1),
        ("question", 13, 0),
        ("answers", 13, 0),
        ("pairs", 13, 5),
        ("with a pair", 8, 0),
    ]


def test_a_stage_that_the_recipe_does_not_name_is_in_the_funnel():
    record = {"seeds": 3, "added": {}, "rejects": {"elsewhere: gone": 1}}
    assert [(s.name, s.lost) for s in funnel(record, ())][1] == ("elsewhere", 1)


# distributions


def test_bins_cover_the_range_and_have_round_bounds():
    for low, high in [(0, 1), (-9.83, 7.51), (0.001, 0.002), (1e6, 3e6), (-5, -4.99)]:
        grid = grid_of(low, high)
        assert grid.edges[0] <= low + 1e-12 * abs(low)
        assert grid.edges[-1] > high
        assert grid.bins <= 42
        digits = f"{grid.step:.10e}".rstrip("0").split("e")[0].replace(".", "").rstrip("0")
        assert digits in ("1", "2", "25", "5")


@pytest.mark.parametrize("value", [0.0, 3.5, -1e-9, 7e8])
def test_equal_values_have_one_bin(value):
    told = spread_of(np.array([value] * 5), grid_over([np.array([value])]))
    assert told.counts == [5]
    assert told.quantiles == pytest.approx((value, value, value))


def test_a_spread_is_numpys():
    drawn = random.Random(1)
    values = np.array([drawn.gauss(3, 2) for _ in range(5000)])
    told = spread_of(values, grid_over(np.array_split(values, 7)))
    assert (told.mean, told.deviation) == (values.mean(), values.std())
    assert told.quantiles == tuple(np.quantile(values, (0.1, 0.5, 0.9)))
    assert sum(told.counts) == told.count == 5000


def test_values_that_are_not_finite_are_passed_over():
    assert spread_of(np.array([0.5, math.nan, math.inf]), grid_of(0, 1)).count == 1
    assert grid_over([np.array([math.nan])]) is None
    assert spread_of(np.array([math.nan]), grid_of(0, 1)) is None


def test_few_values_are_told_one_by_one_and_many_are_not():
    assert grid_over([np.array([0.0, 1.0, 0.0]), np.array([2.0])]).points == (0.0, 1.0, 2.0)
    assert grid_over([np.arange(1000.0)]).points == ()


def test_scores_are_told_by_alias_and_temperature():
    table = listed([("hot", 0.9, 3, 1.0), ("cool", 0.3, 3, 5.0)], [("hot", 0.9, 3, 3.0)])
    found = scores_by_writer([table], LISTS)["score"]
    assert {group: values.tolist() for group, values in found.items()} == {
        ("hot", 0.9): [1.0, 3.0],
        ("cool", 0.3): [5.0],
    }


def test_scores_of_single_responses_are_told_by_their_writer_or_their_name():
    meta = [{"alias": "hot", "model": "m", "temperature": 0.9}] * 2
    table = pa.table({"a": ["x", "y"], "a__meta": meta, "b": ["z", "w"], "score": [{"a": 1.0, "b": None}, {"a": 2.0, "b": 4.0}]})  # fmt: skip  # noqa: E501
    found = scores_by_writer([table], SINGLE)["score"]
    assert {group: finite(values).tolist() for group, values in found.items()} == {
        ("hot", 0.9): [1.0, 2.0],
        ("b", None): [4.0],
    }


def test_a_model_stands_in_for_an_alias_that_nobody_gave():
    assert groups_of(pa.array([{"alias": None, "model": "m"}, {"alias": None, "model": None}])) == [
        ("m", None),
        ("unknown", None),
    ]


# pairs


def test_wilson_gives_the_published_interval():
    # Newcombe 1998, table I: 81 of 263
    share, low, high = wilson(81, 263)
    assert (round(share, 4), round(low, 4), round(high, 4)) == (0.308, 0.2553, 0.3662)
    assert all(math.isnan(value) for value in wilson(0, 0))


def test_wins_count_both_sides_and_leave_ties_out():
    hot, cool = ("hot", 0.9), ("cool", 0.3)
    one = ("a", "b", None)
    tables = [
        paired(one, by=(hot, cool)), paired(one, by=(cool, hot)), paired(one, by=(cool, cool)),
        paired(one, by=(hot, cool), tied=True),
    ]  # fmt: skip
    wins = count_wins(read_sides(tables))
    assert wins.ties == 1
    assert wins.share(cool)[0] == pytest.approx(2 / 4)
    assert wins.share(hot)[0] == pytest.approx(1 / 2)
    assert wins.duels(cool) == (1, 1)


def test_lengths_tell_who_is_longer_and_how_margin_follows_length():
    drawn = random.Random(2)
    rows = [("x" * drawn.randint(1, 90), "x" * drawn.randint(1, 90), drawn.random()) for _ in range(200)]  # fmt: skip  # noqa: E501
    lengths = measure_lengths(read_sides([paired(*rows[:50]), paired(*rows[50:])]))
    longer = sum(len(c) > len(r) for c, r, _ in rows)
    shorter = sum(len(c) < len(r) for c, r, _ in rows)
    assert (lengths.longer, lengths.shorter) == (longer, shorter)
    assert lengths.share[0] == pytest.approx(longer / (longer + shorter))
    assert lengths.tokens[0] == pytest.approx(sum(len(c) for c, _, _ in rows) / 200)
    ratios = [math.log2(len(c) / len(r)) for c, r, _ in rows]
    expected = np.corrcoef(ratios, [margin for *_, margin in rows])[0, 1]
    assert lengths.correlation == pytest.approx(expected)
    assert lengths.ratios.sum() == 200


def test_pairs_without_scores_have_no_correlation():
    tables = [paired(("aa", "b", None), ("a", "bbb", None), ("a", "b", None))]
    lengths = measure_lengths(read_sides(tables))
    assert lengths.correlation is None
    assert lengths.pairs == 3


def test_letters_count_and_not_their_bytes():
    lengths = measure_lengths(read_sides([paired(("äöü", "abcd", 1.0))]))
    assert (lengths.longer, lengths.shorter) == (0, 1)


# rows and time


def test_the_largest_rows_come_first_whatever_the_tables():
    one = listed([("a", 0.1, 3, 0.0), ("a", 0.1, 4, 0.0)], [], [("a", 0.1, 50, 0.0)])
    found = largest_rows([one, one], LISTS, by="completion_tokens")
    assert [(row.id, row.size) for row in found] == [("r2", 50), ("r2", 50), ("r0", 7), ("r0", 7)]
    assert [row.size for row in largest_rows([one], LISTS, by="characters")] == [50, 7]


def test_the_slowest_rows_of_all_passes_stand_together():
    record = {"slowest": {"first": [["r1", 2.0], ["r2", 1.0]], "second": [["r1", 1.5]]}}
    assert [(r.id, r.size, r.where) for r in slowest_rows(record)] == [
        ("r1", 2.0, "first"),
        ("r1", 1.5, "second"),
        ("r2", 1.0, "first"),
    ]
    assert slowest_rows({}) == []


@pytest.mark.parametrize("name", ["throughput", "pace"], ids=["now", "in_earlier_runs"])
def test_rates_add_up_to_the_work_done(name):
    samples = [[0.0, 0, 0, 0, 0], [1.0, 10, 0, 0, 100], [2.0, 10, 5, 0, 100], [4.0, 30, 5, 9, 700]]
    columns = ["seconds", "generated", "scored", "replayed", "completion_tokens"]
    found = rates({name: {"columns": columns, "samples": samples, "passes": [[0.0, "a"]]}})
    width = found.lasted / len(found.seconds)
    assert sum(found.tokens) * width == pytest.approx(700)
    assert sum(found.requests) * width == pytest.approx(35)


@pytest.mark.parametrize("record", [{}, {"throughput": {"columns": ["seconds"], "samples": []}}])
def test_a_run_that_has_recorded_no_throughput_has_no_rates(record):
    assert rates(record) is None
