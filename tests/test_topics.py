"""One topic into many rows: recipes/topics.yaml and its variant, and how rows are accounted for."""

import re
from pathlib import Path

import orjson
import pytest

from prefdata.errors import PrefdataError
from prefdata.pipeline import build
from prefdata.recipe.loader import load_recipe
from prefdata.storage.folders import read_rows

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
VARIANTS = ("topics", "topics_one_call")


def rows(out, folder):
    return list(read_rows(out / folder))


@pytest.fixture(scope="module", params=VARIANTS)
def built(request, tmp_path_factory):
    """A run of the recipe on the tiny models: its folder and its record."""
    out = tmp_path_factory.mktemp(request.param)
    loaded = load_recipe(RECIPES / f"{request.param}.yaml", ["inputs.topic=toys"])
    return out, build(loaded, out, say=lambda line: None)


def test_one_topic_becomes_pairs_on_the_tiny_models(built):
    out, record = built
    pairs, rejects = rows(out, "pairs"), rows(out, "rejects")
    assert record["seeds"] == 1
    assert record["rows"] == 1 + sum(record["added"].values()) == len(pairs) + len(rejects)
    assert 6 <= 1 + record["added"]["sub_topic"] <= 10
    assert len(pairs) >= 15
    assert all(pair["chosen"] != pair["rejected"] for pair in pairs)
    assert all(pair["chosen_score"] > pair["rejected_score"] for pair in pairs)


def test_every_row_tells_its_way_from_the_topic(built):
    out, record = built
    [topic] = rows(out, f"stages/{record['stages'][0]}")
    by_id = {row["id"]: row for row in rows(out, f"stages/{record['stages'][2]}")}
    questions = rows(out, f"stages/{record['stages'][4]}")
    assert len({row["id"] for row in questions}) == len(questions)
    for row in questions:
        subtopic = by_id[row["question__meta"]["parent"]]
        assert subtopic["sub_topic"] == row["sub_topic"]
        assert subtopic["sub_topic__meta"]["parent"] == topic["id"]
        assert (row["topic"], row["n_questions"]) == ("toys", 5)
    assert {row["questions__meta"]["alias"] for row in questions} == {"planner", "asker"}


def listed(project, answer, **how):
    """A project whose one text is expanded."""
    project.recipe["columns"][0] = {"name": "list", "type": "expression", "expression": answer}
    project.recipe["columns"][1:1] = [
        {"name": "item", "type": "expand", "column": "list", **how},
        {
            "name": "candidates", "type": "candidates", "model_alias": "hot", "samples": 2,
            "prompt": "{{ prompt }} {{ item }}",
        },
    ]  # fmt: skip
    return project


def run(project, *overrides):
    out = project.folder / "run"
    return build(project.load(*overrides), out, rehearse=True, say=lambda line: None)


def test_rows_without_items_are_rejects_with_their_text(project):
    listed(project, "{{ 'a,b,c' if answer % 2 else ' , ' }}", separator=",")
    record = run(project)
    refused = [r for r in rows(project.folder / "run", "rejects") if r["reason"] == "no_items"]
    assert len(refused) == record["rejects"]["item: no_items"] == 10
    assert {orjson.loads(row["row"])["list"] for row in refused} == {" , "}
    assert record["added"] == {"item": 20}
    assert record["rows"] == 40


def test_asking_for_more_items_keeps_what_was_made(project):
    listed(project, "a,b,c", separator=",", max_items=2)
    first = run(project)
    more = run(project, "columns.1.max_items=3")
    assert more["requests"]["generated"] * 2 == first["requests"]["generated"]


def test_an_input_is_a_column_of_every_row_but_no_part_of_its_id(project):
    project.recipe["inputs"] = {"style": "short"}
    project.recipe["columns"][0]["prompt"] = "{{ prompt }} {{ style }}"
    run(project)
    before = {row["id"]: row["style"] for row in rows(project.folder / "run", "candidates")}
    record = run(project, "inputs.style=long")
    after = {row["id"]: row["style"] for row in rows(project.folder / "run", "candidates")}
    assert before.keys() == after.keys()
    assert (set(before.values()), set(after.values())) == ({"short"}, {"long"})
    assert record["requests"]["generated"] > 0


def test_a_column_of_the_seeds_wins_over_an_input(project):
    project.recipe["inputs"] = {"prompt": "the same for all"}
    run(project)
    assert len({row["prompt"] for row in rows(project.folder / "run", "candidates")}) == 20


def test_seeds_can_stand_in_the_recipe(project):
    project.recipe["seed_dataset"] = {"rows": [{"prompt": "one"}, {"prompt": "two"}, {"q": "x"}]}
    record = run(project, "num_records=2")
    assert [row["prompt"] for row in rows(project.folder / "run", "candidates")] == ["one", "two"]
    record = run(project)
    assert record["rejects"] == {"seeds: missing_field": 1}
    [bad] = rows(project.folder / "run", "rejects")
    assert bad["source"] == "seed_dataset.rows.2"


def test_a_prompt_can_be_a_file_beside_the_recipe(project):
    (project.folder / "prompts").mkdir()
    (project.folder / "prompts" / "answer.md").write_text("Reply to {{ prompt }}\nbriefly\n")
    del project.recipe["columns"][0]["prompt"]
    project.recipe["columns"][0]["prompt_file"] = "prompts/answer.md"
    assert project.load().recipe.columns[0].prompt == "Reply to {{ prompt }}\nbriefly"
    assert "Reply to" in project.load().resolved


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_file": "nowhere.md"}, "columns.0.prompt_file: 'nowhere.md' cannot be read"),
        ({"prompt_file": "x.md", "prompt": "p"}, "there is also a 'prompt'; keep one of them"),
        ({"prompt_file": 7}, "the path of a file"),
        ({}, "columns.0: the model has nothing to answer; add 'prompt' .or 'prompt_file'."),
    ],
)
def test_a_prompt_that_cannot_be_found_is_told(project, change, message):
    del project.recipe["columns"][0]["prompt"]
    project.recipe["columns"][0] |= change
    with pytest.raises(PrefdataError, match=message):
        project.load()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"type": "expand", "column": "prompt"}, "in exactly one way where items end, but has 0"),
        (
            {"type": "expand", "column": "prompt", "lines": True, "separator": ","},
            "in exactly one way where items end, but has 2",
        ),
        ({"type": "expand", "column": "nothing", "lines": True}, "there is no column 'nothing'"),
        ({"type": "expand", "column": "prompt", "regex": "("}, "not a valid regular expression"),
        (
            {"type": "extract", "column": "prompt", "pattern": "abc"},
            "the pattern has no named group",
        ),
        (
            {"type": "extract", "column": "prompt", "pattern": "(?P<answer>.*)"},
            "there are two columns 'answer'",
        ),
        (
            {"type": "extract", "column": "prompt", "pattern": "(?P<x__meta>.*)"},
            "the group 'x__meta' cannot be a column name",
        ),
        ({"type": "expand", "column": "candidates", "lines": True}, "contains no text"),
    ],
)
def test_what_cannot_be_split_or_extracted_is_told_before_the_run(project, column, message):
    project.recipe["columns"].insert(1, {"name": "item", **column})
    with pytest.raises(PrefdataError, match=message.replace("(", r"\(")):
        project.load("seed_dataset.fields=[prompt,answer]")


TEXT = {"type": "llm_text", "prompt": "{{ prompt }}"}


def test_a_text_cut_off_in_an_earlier_pass_gives_no_chosen_answer(project):
    """The pass between them asks another checkpoint, so the parts are made in a later one."""
    parts = r"rehearsed (?P<a>\w+) (?P<b>.*)"
    project.recipe["models"].append(project.recipe["models"][0] | {"alias": "b", "model": "other"})
    project.recipe["columns"] = [
        {"name": "both", "model_alias": "hot", **TEXT},
        {"name": "more", "model_alias": "b", **TEXT},
        {"name": "parts", "type": "extract", "column": "both", "pattern": parts},
        {"name": "long", "type": "verifier", "method": "regex", "pattern": r"\d",
         "responses": ["a", "b"]},
    ]  # fmt: skip
    project.recipe["output_projection"] = {
        "type": "preference_pairs", "responses": ["a", "b"], "score": "long",
        "strategy": "best_vs_worst",
    }  # fmt: skip
    run(project)
    row = next(read_rows(project.folder / "run" / "candidates"))
    assert row["a__meta"]["alias"] == row["b__meta"]["alias"] == "hot"


PATTERN = load_recipe(RECIPES / "topics_one_call.yaml").recipe.columns[5].pattern


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("RESPONSE A: one\n\ntwo RESPONSE B: three", (" one\n\ntwo ", " three")),
        ("**RESPONSE A:** one\n\n**RESPONSE B:** two", (" one\n\n", " two")),
        ("Response A: one\nResponse B: two", (" one\n", " two")),
        ("RESPONSE A: a RESPONSE B: b RESPONSE A: c RESPONSE B: d", None),
        ("RESPONSE B: b RESPONSE A: a", None),
        ("RESPONSE A: a", None),
    ],
)
def test_the_pattern_of_the_recipe(text, parts):
    found = re.search(PATTERN, text, re.DOTALL)
    assert (found and found.groups()) == parts
