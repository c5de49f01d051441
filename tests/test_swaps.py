"""What changes places in a judge's second order."""

import pytest
from pydantic import TypeAdapter

from prefdata.recipe.columns import AnyColumn
from prefdata.recipe.contract import Scope
from prefdata.recipe.swaps import swap_of

A = {"type": "llm_text", "model_alias": "hot", "prompt": "{{ prompt }}"}
COUNT = "{{{{ {0}.split() | length }}}}"
WINNER = {"type": "object", "properties": {"winner": {"enum": ["A", "B"]}}}
READ = TypeAdapter(AnyColumn)


def columns(**given):
    return [READ.validate_python({"name": name, **column}) for name, column in given.items()]


def texts():
    return {"a": A, "b": A | {"model_alias": "cool"}}


def words(name):
    return {"type": "expression", "expression": COUNT.format(name), "dtype": "int"}


def extract(source, *groups):
    pattern = " ".join(f"{group[0]}: (?P<{group}>.*?);" for group in groups)
    return {"type": "extract", "column": source, "pattern": pattern}


def swapped(made, row, compared=("a", "b")):
    swap = swap_of(frozenset(row), compared, made)
    return swap.apply(row), dict(swap.stuck)


def test_the_two_responses_change_places_and_the_prompt_stays():
    row = {"prompt": "q", "a": "one", "b": "two"}
    assert swapped(columns(**texts()), row) == ({"prompt": "q", "a": "two", "b": "one"}, {})


def test_what_is_made_of_each_response_follows_it():
    made = columns(**texts(), words_a=words("a"), words_b=words("b"))
    row = {"a": "one two three", "b": "one", "words_a": 3, "words_b": 1}
    assert swapped(made, row) == ({"a": "one", "b": "one two three", "words_a": 1, "words_b": 3}, {})  # noqa: E501  # fmt: skip


def test_what_is_made_of_that_follows_too():
    twice = {n: {"type": "expression", "expression": f"{{{{ words_{n} * 2 }}}}"} for n in "ab"}
    made = columns(**texts(), words_a=words("a"), words_b=words("b"), d_a=twice["a"], d_b=twice["b"])  # noqa: E501  # fmt: skip
    row = {"a": "x y", "b": "x", "d_a": 4, "d_b": 2}
    assert swapped(made, row) == ({"a": "x", "b": "x y", "d_a": 2, "d_b": 4}, {})


def test_parts_of_the_two_texts_change_places_with_them():
    made = columns(
        first=A, second=A, one=extract("first", "t_a", "a"), other=extract("second", "t_b", "b")
    )
    row = {"a": 1, "b": 2, "t_a": 3, "t_b": 4, "first": 5, "second": 6}
    assert swapped(made, row) == ({"a": 2, "b": 1, "t_a": 4, "t_b": 3, "first": 6, "second": 5}, {})


def test_parts_of_the_responses_change_places():
    made = columns(**texts(), one=extract("a", "end_a"), other=extract("b", "end_b"))
    made_alike = columns(
        **texts(),
        one={"type": "extract", "column": "a", "pattern": "(?P<end_a>x+)"},
        other={"type": "extract", "column": "b", "pattern": "(?P<end_b>x+)"},
    )
    row = {"a": 1, "b": 2, "end_a": 3, "end_b": 4}
    assert swapped(made_alike, row) == ({"a": 2, "b": 1, "end_a": 4, "end_b": 3}, {})
    assert swapped(made, row)[1] == {}


def test_another_part_of_a_text_that_has_both_responses_stays():
    made = columns(both=A, parts=extract("both", "c", "a", "b"))
    assert swapped(made, {"a": 1, "b": 2, "c": 3}) == ({"a": 2, "b": 1, "c": 3}, {})
    assert swapped(made, {"a": 1, "b": 2, "both": 3})[1] == {"both": ("a", "b")}


@pytest.mark.parametrize("responses", [["a", "b"], ["b", "a"]])
def test_scores_by_response_change_keys(responses):
    score = {"type": "verifier", "method": "regex", "pattern": "x", "responses": responses}
    made = columns(**texts(), score=score)
    row = {"a": "x", "b": "y", "score": {"a": 1.0, "b": 0.0}}
    assert swapped(made, row) == ({"a": "y", "b": "x", "score": {"a": 0.0, "b": 1.0}}, {})


@pytest.mark.parametrize(
    ("more", "shown", "stuck"),
    [
        ({"words_a": words("a")}, "words_a", {"words_a": ("a",)}),
        ({"words_a": words("a"), "words_b": words("b")}, "words_a", {"words_a": ("a",)}),
        (
            {"words_a": words("a"), "words_b": words("b") | {"dtype": "str"}},
            "words_a words_b",
            {"words_a": ("a",), "words_b": ("b",)},
        ),
        (
            {"longer": {"type": "expression", "expression": "{{ a | length > b | length }}"}},
            "longer",
            {"longer": ("a", "b")},
        ),
        ({"critique": A | {"prompt": "Criticise {{ a }}"}}, "critique", {"critique": ("a",)}),
        ({"one": extract("a", "end_a")}, "end_a", {"end_a": ("a",)}),
    ],
    ids=["alone", "partner not shown", "defined otherwise", "made of both", "a text", "a part"],
)
def test_what_has_no_counterpart_in_the_prompt_is_stuck_and_refused(more, shown, stuck):
    made, names = columns(**texts(), **more), shown.split()
    assert swapped(made, dict.fromkeys(["a", "b", *names], 0))[1] == stuck
    prompt = "{{ a }} {{ b }} " + " ".join(f"{{{{ {name} }}}}" for name in names)
    judge = {"type": "llm_judge", "model_alias": "hot", "prompt": prompt, "compare": ["a", "b"]}
    [asked] = columns(judge=judge | {"output_format": WINNER})
    [once] = columns(judge=judge | {"output_format": WINNER, "both_orders": False})
    scope = Scope(frozenset({"prompt"}), {name: c for c in made for name in c.makes})
    told = [problem.message for problem in asked.problems(scope)]
    assert len(told) == len(stuck)
    assert all(repr(name) in message for name, message in zip(stuck, told, strict=True))
    assert "show the same column of the other response too" in told[0]
    assert not list(once.problems(scope))
