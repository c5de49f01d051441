"""From scored rows on disk to pairs: several scores, their direction, groups."""

import random
from dataclasses import asdict

import pandas as pd
import pyarrow as pa
import pytest
from pydantic import ValidationError

from prefdata.pairs.calibration import fit_lengths, tell_calibration
from prefdata.pairs.choose import choose_pairs
from prefdata.pairs.prompts import Background
from prefdata.recipe.projection import DpoPreference, PreferencePairs
from prefdata.rows import CANDIDATE, LEFT_OUT, REJECTS
from prefdata.storage.folders import RowsWriter, read_rows

EMPTY = dict.fromkeys(field.name for field in CANDIDATE)
RULE = {"type": "preference_pairs", "candidates": "candidates", "strategy": "best_vs_worst"}


def row(number, texts, *, prompt="q", tokens=None, **scores):
    counts = tokens or [None] * len(texts)
    candidates = [
        EMPTY | {"text": text, "sample": n, "completion_tokens": count}
        for n, (text, count) in enumerate(zip(texts, counts, strict=True))
    ]
    return {"id": str(number), "prompt": prompt, "turn": 0, "candidates": candidates, **scores}


def choose(folder, rows, **rule):
    rule = PreferencePairs(**RULE | rule)
    names = [name for name in rows[0] if name not in ("id", "prompt", "turn", "candidates")]
    fields = {"id": pa.string(), "prompt": pa.string(), "turn": pa.int64()}
    lists = {"candidates": pa.list_(CANDIDATE)} | dict.fromkeys(names, pa.list_(pa.float64()))
    with RowsWriter(folder / "scored", pa.schema(fields | lists)) as writer:
        for start in range(0, len(rows), 7):  # several tables
            writer.write(pa.Table.from_pylist(rows[start : start + 7], schema=writer.schema))
    with RowsWriter(folder / "rejects", REJECTS) as rejects:
        choose_pairs(folder / "scored", folder / "pairs", rejects, rule, Background(names))
    return list(read_rows(folder / "pairs"))


def sides(pairs):
    return [(pair["chosen"], pair["rejected"]) for pair in pairs]


def test_a_text_that_is_repeated_counts_once_in_the_ranks(tmp_path):
    draw = random.Random(0)
    rule = {"score": {"a": 0.5, "b": 0.5}, "strategy": "exhaustive"}
    for case in range(40):
        texts = [f"t{n}" for n in range(5)]
        scores = {name: [draw.randrange(9) for _ in texts] for name in "ab"}
        once = choose(tmp_path / f"{case}a", [row(0, texts, **scores)], **rule)
        copies = draw.choices(range(5), k=6)
        repeated = {name: [*told, *(told[n] for n in copies)] for name, told in scores.items()}
        more = [*texts, *(texts[n] + " " for n in copies)]
        again = choose(tmp_path / f"{case}b", [row(0, more, **repeated)], **rule)
        keep = ("chosen", "rejected", "chosen_score", "rejected_score", "margin")
        assert [{k: p[k] for k in keep} for p in again] == [{k: p[k] for k in keep} for p in once]


def test_the_lowest_score_may_be_the_best(tmp_path):
    rows = [row(0, ["third", "first", "second"], rank=[3, 1, 2])]
    [pair] = choose(tmp_path, rows, score="rank", better="lower")
    assert (pair["chosen"], pair["rejected"], pair["margin"]) == ("first", "third", 2)
    assert (pair["chosen_score"], pair["rejected_score"]) == (-1, -3)
    assert (pair["chosen_scores"], pair["rejected_scores"]) == ({"rank": 1}, {"rank": 3})


@pytest.mark.parametrize(("bound", "count"), [(2, 1), (1, 1), (0.9, 0)])
def test_where_lower_is_better_the_worst_score_of_a_chosen_is_a_maximum(tmp_path, bound, count):
    rows = [row(0, ["worse", "better"], rank=[3, 1])]
    rule = {"score": "rank", "better": "lower", "min_chosen_score": bound}
    assert len(choose(tmp_path, rows, **rule)) == count


@pytest.mark.parametrize(
    ("floor", "count"),
    [({"a": 4}, 1), ({"a": 4.1}, 0), ({"b": 2}, 1), ({"b": 1.9}, 0), ({"a": 4, "b": 1}, 0)],
)
def test_bounds_of_several_scores_are_on_the_raw_ones(tmp_path, floor, count):
    rows = [row(0, ["good", "bad"], a=[4, 1], b=[2, 9])]  # of b, lower is better
    rule = {"score": {"a": 1, "b": -1}, "min_chosen_score": floor}
    assert len(choose(tmp_path, rows, **rule)) == count


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"score": {"a": 1, "b": 1}, "min_chosen_score": 0.5}, "min_chosen_score: {a: 0.5}"),
        ({"score": {"a": 1, "b": 1}, "min_chosen_score": {"c": 1}}, "names ['c']"),
        ({"score": "a", "min_chosen_score": {"a": 1}}, "write one number"),
        ({"score": {"a": 1, "b": 1}, "better": "lower"}, "negative weight"),
    ],
)
def test_bounds_and_directions_that_say_nothing_clear_are_refused(rule, message):
    with pytest.raises(ValidationError) as caught:
        PreferencePairs(**RULE | rule)
    assert message in str(caught.value)


def test_a_direction_without_a_score_is_refused():
    with pytest.raises(ValidationError, match="no score is read"):
        DpoPreference(type="dpo_preference", better="lower")


@pytest.mark.parametrize("group_by", ["prompt", ["prompt"], ["turn", "prompt"]], ids=str)
def test_rows_of_one_prompt_are_pooled_wherever_they_lie(tmp_path, group_by):
    rows = [
        row(n, [f"text {n}"], prompt=f"p{n % 10}" + " " * (n % 3), s=[n / 7]) for n in range(40)
    ]
    pairs = choose(tmp_path, rows, score="s", group_by=group_by)
    assert sides(pairs) == [(f"text {n + 30}", f"text {n}") for n in range(10)]
    refused = [reject["reason"] for reject in read_rows(tmp_path / "rejects")]
    assert refused == ["pooled"] * 30


def test_a_tenth_of_the_pairs_is_what_pandas_sorts_to_the_top(tmp_path):
    draw = random.Random(0)
    rows = [
        row(n, [f"a {n}", f"b {n}", f"c {n}"], prompt=f"q {n}", s=[draw.random() for _ in range(3)])
        for n in range(205)
    ]
    rule = {"score": "s", "strategy": "exhaustive"}
    every = pd.DataFrame(choose(tmp_path / "all", rows, **rule))
    tenth = pd.DataFrame(choose(tmp_path / "tenth", rows, keep_fraction=0.1, **rule))
    best = every.sort_values("margin", ascending=False).head(62)  # of 615, rounded up
    assert sorted(tenth["id"]) == sorted(best["id"])


def of_lengths(count, slope, noise=1.0):
    """Rows of four texts; a score is quality and so much a token; prompts have levels of their own.

    A prompt that scores high has short answers, so that only differences within prompts tell.
    """
    draw, rows = random.Random(0), []
    for n in range(count):
        level, quality = draw.uniform(-50, 50), [draw.gauss(0, noise) for _ in range(4)]
        tokens = [draw.randint(50, 450) + int(500 - 10 * level) for _ in range(4)]
        scores = [level + q + slope * t for q, t in zip(quality, tokens, strict=True)]
        texts = [f"{n} {q}" for q in quality]
        rows.append(row(n, texts, prompt=f"q {n}", tokens=tokens, s=scores))
    return rows


def test_what_a_score_has_for_length_is_taken_off(tmp_path):
    rows = of_lengths(300, slope=0.02)
    found = choose(tmp_path, rows, score="s", calibrate_length="s")
    best = [max(one["candidates"], key=lambda c: float(c["text"].split()[1])) for one in rows]
    right = sum(p["chosen"] == b["text"] for p, b in zip(found, best, strict=True))
    plain = choose(tmp_path / "plain", rows, score="s")
    wrong = sum(p["chosen"] == b["text"] for p, b in zip(plain, best, strict=True))
    assert right > 290 > 200 > wrong
    raw = {c["text"]: s for one in rows for c, s in zip(one["candidates"], one["s"], strict=True)}
    assert all(pair["chosen_scores"] == {"s": raw[pair["chosen"]]} for pair in found)
    mean = sum(p["chosen_score"] - raw[p["chosen"]] for p in found) / 300
    assert abs(mean) < 5  # calibrated scores stay where the raw ones are


@pytest.mark.parametrize("group_by", [None, "prompt"])
def test_the_slope_is_that_of_a_regression_within_prompts(tmp_path, group_by):
    rows = of_lengths(100, slope=0.02)
    if group_by:  # each text in a row of its own
        rows = [
            one | {"id": f"{one['id']} {n}", "candidates": one["candidates"][n:][:1], "s": one["s"][n:][:1]}  # noqa: E501
            for n in range(4) for one in rows
        ]  # fmt: skip
    choose(tmp_path, rows, score="s", group_by=group_by)
    rule = PreferencePairs(**RULE, score="s", calibrate_length="s", group_by=group_by)
    fit = fit_lengths(tmp_path / "scored", rule)["s"]
    told = pd.DataFrame(
        [
            (one["prompt"], c["completion_tokens"], s)
            for one in rows
            for c, s in zip(one["candidates"], one["s"], strict=True)
        ],  # noqa: E501
        columns=["prompt", "tokens", "score"],
    )
    within = told[["tokens", "score"]] - told.groupby("prompt")[["tokens", "score"]].transform(
        "mean"
    )
    assert fit.slope == pytest.approx(within.cov().loc["tokens", "score"] / within["tokens"].var())
    assert fit.correlation == pytest.approx(within.corr().loc["tokens", "score"])
    assert (fit.texts, fit.tokens) == (400, pytest.approx(told["tokens"].mean()))
    assert fit.slope == pytest.approx(0.02, rel=0.1)


def test_a_text_that_cannot_be_paired_has_no_part_in_the_slope(tmp_path):
    kept = [row(n, ["a", "b"], tokens=[7, 9], s=[1.0, 2.0], f=[None, None]) for n in range(2)]
    long = {"tokens": [7, 9, 99], "s": [1.0, 2.0, 0.0]}
    rows = [row(0, ["a", "b", "c"], **long, f=[None, None, {"reason": "repetition"}]), kept[1]]
    rows.append(row(1, ["a", "b", " "], **long, f=[None] * 3))  # nor has one that is blank
    fits = []
    for name, filters in (("all", ()), ("kept", ["f"])):
        fields = {"id": pa.string(), "prompt": pa.string(), "candidates": pa.list_(CANDIDATE)}
        kinds = {"s": pa.list_(pa.float64()), "f": pa.list_(LEFT_OUT)}
        with RowsWriter(tmp_path / name, pa.schema(fields | kinds)) as writer:
            writer.write(pa.Table.from_pylist([*rows, kept[0] | {"f": None}], schema=writer.schema))
        rule = PreferencePairs(**RULE, score="s", calibrate_length="s")
        fits.append(fit_lengths(tmp_path / name, rule, filters)["s"])
    assert (fits[0].texts, fits[1].texts) == (9, 8)
    assert fits[0].slope < 0 and fits[1].slope == pytest.approx(0.5)


def test_texts_of_one_length_have_no_slope(tmp_path):
    rows = [row(0, ["a", "b"], tokens=[7, 7], s=[1.0, 2.0]), row(1, ["c", "d"], s=[1.0, 2.0])]
    choose(tmp_path, rows, score="s")
    fit = fit_lengths(tmp_path / "scored", PreferencePairs(**RULE, score="s", calibrate_length="s"))
    assert tell_calibration({"calibration": {"s": asdict(fit["s"])}})["s"].startswith("nothing")
    again = choose(tmp_path / "again", rows[:1], score="s", calibrate_length="s")
    assert sides(again) == [("b", "a")]


def test_the_cautious_score_is_the_lowest(tmp_path):
    rows = [row(0, ["loved by one", "liked by both", "weak"], a=[9, 5, 0], b=[0, 4, 5])]
    for how, best in (("z_score", "loved by one"), ("min", "liked by both")):
        found = choose(tmp_path / how, rows, score={"a": 3.0, "b": 1.0}, combine=how)
        assert found[0]["chosen"] == best
