import asyncio
import re

import pytest
from pydantic import TypeAdapter, ValidationError

from prefdata.engines.scripted import Scripted
from prefdata.errors import PrefdataError, RowError
from prefdata.pairs.pair import Candidate
from prefdata.pairs.picking import pick_pairs
from prefdata.pipeline import build
from prefdata.recipe.columns import AnyColumn
from prefdata.recipe.projection import PreferencePairs
from prefdata.recipe.schema import Model
from prefdata.stages import Tools, make_stage
from prefdata.stages.rubric import Item, read_checklist

MET = {
    "name": "met", "type": "rubric_judge", "model_alias": "j", "candidates": "c", "scale": [1, 5],
    "criteria": "wanted", "prompt": "{{ criterion }}: {{ response }}",
}  # fmt: skip


def column(**fields):
    return TypeAdapter(AnyColumn).validate_python(MET | fields)


def run(made, texts, wanted, **row):
    """Scores, ratings and prompts, by a judge who finds an item where its word is in the text."""
    asked = []

    def reply(request):
        asked.append(request.messages[-1]["content"])
        word, text = asked[-1].split(": ")
        return "5" if word in text else "1"

    model = Model(alias="j", model="j", inference_parameters={"temperature": 0.5, "max_tokens": 4})
    tools = Tools(0, {"j": model}, {"j": Scripted(reply)}, {}, columns=(made,))
    cell = [{"text": text} for text in texts]
    told = asyncio.run(make_stage(made, tools)({"id": "r", "c": cell, "wanted": wanted, **row}))
    return told["met"], told["met__meta"], asked


def test_every_item_is_judged_for_every_text_and_counts_by_its_weight():
    wanted = [{"item": "sea", "weight": 3}, {"item": "sky", "weight": None}, "sun"]
    scores, ratings, asked = run(column(), ["sea sky", "sun"], wanted)
    assert ratings == [[5.0, 5.0, 1.0], [1.0, 1.0, 5.0]]
    assert scores == [(15 + 5 + 1) / 5, (3 + 1 + 5) / 5]
    assert asked == [f"{item}: {text}" for text in ("sea sky", "sun") for item in ("sea", "sky", "sun")]  # fmt: skip  # noqa: E501


def test_an_item_with_a_check_asks_no_model():
    wanted = {"items": [{"item": "short", "check": "is_short", "weight": 1}, "sea"]}
    made = column(checks=["is_short"])
    scores, ratings, asked = run(made, ["sea", "sea sea"], wanted, is_short=[1.0, 0.25])
    assert ratings == [[5.0, 5.0], [2.0, 5.0]]
    assert (scores, asked) == ([5.0, 3.5], ["sea: sea", "sea: sea sea"])
    scores, _, _ = run(made, ["sea", "sea"], wanted, is_short=[None, 7.0])
    assert scores == [None, 5.0]


def test_no_more_items_than_told_are_judged_and_plan_counts_these():
    made = column(max_items=2)
    assert len(run(made, ["a"], ["a", "b", "c"])[2]) == 2
    writers = TypeAdapter(AnyColumn).validate_python(
        {"name": "c", "type": "candidates", "model_alias": "j", "samples": 4, "prompt": "x"}
    )
    assert (made.requests([writers, made]), made.may_ask_less) == (8, True)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("be kind", "no list of items"),
        ('"be kind"', "no list of items"),
        ([], "no item that counts"),
        ([{"item": "x", "weight": 0}], "no item that counts"),
        ([{"weight": 1}], "no text and no object"),
        ([" "], "no text and no object"),
        ([{"item": "x", "weight": -1}], "no number from 0 up"),
        ([{"item": "x", "weight": "much"}], "no number from 0 up"),
        ([{"item": "x", "check": "os:system"}], "names the check 'os:system'; 'checks' has: short"),
        ({"a": ["x"], "b": ["y"]}, "no list of items"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_checklist_is_a_reject_and_no_code(cell, message):
    with pytest.raises(RowError, match=re.escape(message)):
        read_checklist(cell, ["short"], 10)
    assert read_checklist(["x"], [], 10) == [Item("x")]
    assert read_checklist('{"items": ["x"]}', [], 10) == [Item("x")]


def test_what_does_not_fit_a_checklist_is_said():
    with pytest.raises(ValidationError, match="items of a checklist have weights of their own"):
        column(weights={"a": 1.0})
    with pytest.raises(ValidationError, match="only a checklist reads 'checks'"):
        column(criteria={"a": "b"}, checks=["x"])


RULE = {"type": "preference_pairs", "candidates": "c", "score": "met", "strategy": "best_vs_worst"}


def test_rejected_is_what_falls_furthest_behind_on_one_item():
    told = {"best": (9, [9, 9]), "worst": (2, [2, 2]), "gap": (5, [9, 1]), "unknown": (1, [])}
    texts = [Candidate(text, score=float(s), ratings=r) for text, (s, r) in told.items()]
    for rejected, wanted in (({}, "unknown"), ({"largest_gap": "met"}, "gap")):
        rule = TypeAdapter(PreferencePairs).validate_python(RULE | {"rejected": rejected})
        [pair] = pick_pairs(texts, rule, seed=0).pairs
        assert (pair.chosen.text, pair.rejected.text) == ("best", wanted)
    with pytest.raises(ValidationError, match="rejected.largest_gap is given"):
        PreferencePairs(**RULE | {"strategy": "exhaustive", "rejected": {"largest_gap": "met"}})


@pytest.fixture
def checked(project):
    candidates = project.recipe["columns"][0]
    short = {"name": "short", "type": "verifier", "method": "regex", "pattern": "1",
             "candidates": "candidates"}  # fmt: skip
    met = MET | {"model_alias": "hot", "candidates": "candidates", "checks": ["short"]}
    project.recipe["columns"] = [candidates, short, met]
    project.recipe["seed_dataset"]["fields"].append("wanted")
    project.recipe["output_projection"] |= {"score": "met", "rejected": {"largest_gap": "met"}}
    wanted = [{"item": "kind", "weight": 2.0, "check": None}, {"item": "short", "check": "short"}]
    project.write_seeds([{"prompt": f"q{n}", "answer": n, "wanted": wanted} for n in range(6)])
    return project


def test_a_run_with_checklists_makes_pairs_by_the_largest_gap(checked):
    out = checked.folder / "run"
    record = build(checked.load(), out, rehearse=True, say=lambda line: None)
    assert record["requests"]["generated"] == 6 * 4 * 2
    assert record["prompts"] > 0


def test_mistakes_about_checks_and_gaps_are_named(checked):
    columns = checked.recipe["columns"]
    columns.append({"name": "n", "type": "expression", "expression": "1", "dtype": "int"})
    columns[2]["checks"] = ["candidates"]
    checked.recipe["output_projection"]["rejected"] = {"largest_gap": "short"}
    with pytest.raises(PrefdataError) as err:
        checked.load()
    assert "column 'candidates' is no verifier of the same texts" in str(err.value)
    assert "column 'short' has no criteria; name a column of type 'rubric_judge'" in str(err.value)
