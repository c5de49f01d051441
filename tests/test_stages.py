import asyncio
import math
import os
import re
import threading
from dataclasses import replace

import orjson
import pyarrow as pa
import pytest
from datasets import Dataset, IterableDataset
from pydantic import TypeAdapter, ValidationError
from waiting import wait_until

from prefdata.engines.scripted import Scripted
from prefdata.errors import PrefdataError, RowError
from prefdata.inference import Completion, Failure
from prefdata.recipe.columns import AnyColumn
from prefdata.recipe.schema import Model
from prefdata.rows import is_json
from prefdata.stages import STAGES, Tools, fields_of, make_expansion, make_stage
from prefdata.stages.lists import clean_item

SAMPLING = {"temperature": 0.9, "max_tokens": 16}
WINNER = {
    "type": "object",
    "properties": {"winner": {"type": "string", "enum": ["A", "B"]}},
    "required": ["winner"],
}
TEXT = {"type": "llm_text", "model_alias": "hot", "prompt": "{{ prompt }}"}


def model(alias, **fields):
    return Model(**({"alias": alias, "model": "m", "inference_parameters": SAMPLING} | fields))


def column(name="made", **fields):
    return TypeAdapter(AnyColumn).validate_python({"name": name, **fields})


def tools(reply=None, rate=None, models=(), folder="."):
    named = {m.alias: m for m in (model("hot"), model("cool"), model("grader"), *models)}
    engine = Scripted(reply)
    return Tools(
        seed=0,
        models=named,
        text=dict.fromkeys(named, engine),
        reward=dict.fromkeys(named, Scripted(rate)),
        folder=folder,
        given={"own:echo": echo},
    )


async def echo(row, ask):
    return {"made": (await ask("hot", row["prompt"])).text}


def stage(made, given=None, columns=()):
    return make_stage(made, replace(given or tools(), columns=(*columns, made)))


def run(made, row, given=None, columns=()):
    return asyncio.run(stage(made, given, columns)({"id": "r0", **row}))


ALL_KINDS = {
    "llm_text": column(**TEXT),
    "llm_structured": column(**{**TEXT, "type": "llm_structured"}, output_format=WINNER),
    "llm_judge": column(**{**TEXT, "type": "llm_judge"}, output_format=WINNER, both_orders=False),
    "candidates": column(**{**TEXT, "type": "candidates", "samples": 3}),
    "converse": column(**{**TEXT, "type": "converse"}, user_alias="cool", turns=2),
    "reward_model": column(
        type="reward_model", model_alias="grader", responses=["a", "b"], prompt="{{ prompt }}"
    ),
    "verifier": column(type="verifier", method="number", reference="answer", responses=["a"]),
    "rubric_judge": column(
        type="rubric_judge",
        model_alias="hot",
        prompt="{{ response }} {{ criterion }}",
        criteria={"right": "is it?", "short": "is it?"},
        scale=[1, 5],
        responses=["a", "b"],
    ),
    "extract": column(type="extract", column="a", pattern=r"(?P<word>\w+) (?P<rest>.*)"),
    "expression": column(type="expression", expression="{{ prompt }}!"),
    "category": column(type="category", values=["x", "y", "z"]),
    "stage": column(type="stage", function="own:echo", model_alias=["hot"]),
    "filter": column(type="filter", function="operator:truth"),
}
ROWS = [
    {"id": f"r{n}", "prompt": f"p{n}", "answer": n, "a": f"it is {n}", "b": "7"} for n in range(5)
]


def test_there_is_a_case_here_for_every_kind_of_column():
    assert ALL_KINDS.keys() == STAGES.keys() - {"expand"}  # which makes rows, not columns


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_stage_can_be_given_to_map_and_adds_what_its_fields_say(kind):
    made = ALL_KINDS[kind]
    mapped = Dataset.from_list(ROWS).map(stage(made), new_fingerprint=kind).to_list()
    streamed = list(IterableDataset.from_generator(lambda: iter(ROWS)).map(stage(made)))
    assert mapped == streamed
    fields = fields_of(made)
    assert [field.name for field in fields] == [n for n in mapped[0] if n not in ROWS[0]]
    for field in fields:
        pa.array([row[field.name] for row in mapped], field.type)


def test_candidates_are_ordered_by_alias_and_sample():
    made = column(type="candidates", model_alias=["hot", "cool"], samples=2, prompt="{{ prompt }}")
    found = run(made, {"prompt": "p"})["made"]
    places = [(one["alias"], one["sample"]) for one in found]
    assert places == [("hot", 0), ("hot", 1), ("cool", 0), ("cool", 1)]
    assert len({one["seed"] for one in found}) == 4


@pytest.mark.parametrize("kind", ["candidates", "llm_text"])
def test_what_was_cut_off_is_asked_again_with_more_tokens_and_nothing_else(kind):
    asked = []

    def reply(request):
        asked.append((request.seed, request.sampling.max_tokens))
        is_cut = request.seed % 2 and request.sampling.max_tokens < 100
        return Completion("half" if is_cut else "whole", "length" if is_cut else "stop", 1, 1)

    more = {"samples": 6} if kind == "candidates" else {}
    retry = {"when": "truncated", "max_tokens": 100}
    made = column(type=kind, model_alias=["hot"], prompt="{{ prompt }}", retry=retry, **more)
    for n in range(4):
        found = run(made, {"id": f"r{n}", "prompt": "p"}, tools(reply))["made"]
        texts = [one["text"] for one in found] if kind == "candidates" else [found]
        assert set(texts) == {"whole"}
    again = [seed for seed, tokens in asked if tokens == 100]
    assert again == [seed for seed, tokens in asked if tokens != 100 and seed % 2]
    assert again


def writers(count, **fields):
    """Who answers 60 rows, of a pool of five models."""
    pool = ["a", "b", "c", "d", "e"]
    made = column(
        type="candidates", model_alias=pool, samples=1, prompt="{{ prompt }}",
        models_per_row=count, **fields,
    )  # fmt: skip
    given = tools(models=[model(alias) for alias in pool])
    rows = [{"id": f"r{n}", "prompt": "p"} for n in range(60)]
    return [[one["alias"] for one in run(made, row, given)["made"]] for row in rows]


def test_each_row_is_answered_by_some_different_models_of_a_pool():
    found = writers(2)
    assert all(len(set(one)) == 2 and one == sorted(one) for one in found)
    assert {alias for one in found for alias in one} == set("abcde")
    assert found == writers(2)
    more = writers(3)  # keeps what is answered already
    assert all(set(few) < set(many) for few, many in zip(found, more, strict=True))


def test_the_policy_may_answer_every_row_beside_one_of_a_pool():
    found = writers(2, always="d")
    assert all("d" in one and len(one) == 2 for one in found)
    assert {alias for one in found for alias in one} == set("abcde")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"models_per_row": 3}, "models_per_row is 3, but model_alias names 2"),
        ({"models_per_row": 1, "always": "x"}, "always names 'x', which is not in model_alias"),
        ({"always": "hot"}, "always names 1, but models_per_row is None"),
    ],
)
def test_a_pool_that_is_too_small_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        column(type="candidates", model_alias=["hot", "cool"], samples=1, prompt="q", **fields)


def test_all_samples_of_a_row_reach_their_engine_in_one_call():
    calls = []

    class Counting(Scripted):
        async def ask(self, requests):
            calls.append(len(requests))
            async for answer in super().ask(requests):
                yield answer

    engine = Counting()
    given = Tools(0, {"hot": model("hot"), "cool": model("cool")}, dict.fromkeys(("hot", "cool"), engine), {})  # fmt: skip  # noqa: E501
    made = column(type="candidates", model_alias=["hot", "cool"], samples=3, prompt="{{ prompt }}")
    run(made, {"prompt": "p"}, given)
    assert calls == [6]


def test_the_system_prompt_opens_the_chat():
    seen = []
    given = tools(reply=lambda r: seen.append(r.messages) or "ok", models=[model("hot", system_prompt="Be kind.")])  # fmt: skip  # noqa: E501
    run(column(**TEXT), {"prompt": "hello"}, given)
    assert [m["role"] for m in seen[0]] == ["system", "user"]
    assert seen[0][0]["content"] == "Be kind."


def test_every_inference_parameter_reaches_the_engine():
    parameters = {
        "temperature": 0.5, "max_tokens": 7, "top_p": 0.8, "top_k": 5, "min_p": 0.1,
        "repetition_penalty": 1.2, "stop": ["END"],
    }  # fmt: skip
    seen = []
    hot = model("hot", inference_parameters=parameters, chat_template_kwargs={"think": False})
    run(column(**TEXT), {"prompt": "p"}, tools(lambda r: seen.append(r) or "ok", models=[hot]))
    sampling = seen[0].sampling
    assert sampling.stop == ("END",)
    for name in parameters.keys() - {"stop"}:
        assert getattr(sampling, name) == parameters[name]
    assert seen[0].chat_template_kwargs == {"think": False}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Completion('{"winner": "', "length", 3, 16), "truncated"),
        ("A is better", "not_json"),
        ('["A"]', "not_json"),
    ],
    ids=["cut", "prose", "list"],
)
def test_an_answer_that_is_no_dict_is_a_row_error(reply, reason):
    made = ALL_KINDS["llm_structured"]
    with pytest.raises(RowError) as err:
        run(made, {"prompt": "p"}, tools(lambda request: reply))
    assert err.value.reason == reason


NULLABLE = {
    "type": "object",
    "properties": {
        "n": {"type": ["integer", "null"]},
        "tags": {"type": "array", "items": {"type": ["string", "null"]}},
    },
    "required": ["n"],
}  # fmt: skip


def structured(schema, **fields):
    return column("o", type="llm_structured", model_alias="hot", prompt="p", output_format=schema, **fields)  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("answer", ['{"n": 3, "tags": ["x", null]}', '{"n": null}'])
def test_a_type_or_null_is_that_type(answer):
    made = structured(NULLABLE)
    [field, _] = fields_of(made)
    assert field.type == pa.struct({"n": pa.int64(), "tags": pa.list_(pa.string())})
    row = run(made, {"prompt": "p"}, tools(lambda request: answer))
    assert pa.array([row["o"]], field.type).to_pylist()[0]["n"] == orjson.loads(answer)["n"]


OPEN = {"type": "object", "properties": {"winner": {"type": "string"}}, "required": ["winner"]}
TALKATIVE = '{"winner": "A", "because": {"of": "sums"}}'


def test_engines_are_told_that_keys_which_a_schema_does_not_list_are_not_wanted():
    seen = []
    inner = {"type": "object", "properties": {"x": OPEN, "y": {"type": "array", "items": OPEN}}}
    run(structured(inner), {"prompt": "p"}, tools(lambda r: seen.append(r.schema) or '{"x": {"winner": "A"}}'))  # fmt: skip  # noqa: E501
    closed = {**OPEN, "additionalProperties": False}
    assert seen[0]["properties"] == {"x": closed, "y": {"type": "array", "items": closed}}
    assert seen[0]["additionalProperties"] is False


def test_keys_that_come_all_the_same_are_kept_beside_the_column():
    made = structured(OPEN)
    row = run(made, {"prompt": "p"}, tools(lambda request: TALKATIVE))
    assert row["o"] == {"winner": "A"}
    assert orjson.loads(row["o__meta"]["answer"]) == orjson.loads(TALKATIVE)
    row = run(made, {"prompt": "p"}, tools(lambda request: '{"winner": "B"}'))
    assert row["o__meta"]["answer"] is None


def test_a_schema_that_allows_more_keys_makes_a_column_of_json_with_all_of_them():
    made = structured({**OPEN, "additionalProperties": True})
    assert is_json(fields_of(made)[0])
    assert run(made, {"prompt": "p"}, tools(lambda r: TALKATIVE))["o"] == orjson.loads(TALKATIVE)


def test_a_verdict_keeps_what_else_the_judge_has_written():
    made = column("judge", **JUDGE, output_format=OPEN, both_orders=False)
    row = run(made, {"a": "x", "b": "y"}, tools(lambda r: TALKATIVE), COMPARED)
    assert row["judge"] == {"winner": "A"}
    assert orjson.loads(row["judge__meta"]["verdicts"][0]) == orjson.loads(TALKATIVE)


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30, -(10**30)])
def test_an_integer_that_no_column_holds_breaks_the_schema(number):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    with pytest.raises(RowError) as err:
        run(structured(schema), {"prompt": "p"}, tools(lambda r: f'{{"n": {number}}}'))
    assert err.value.reason == "breaks_schema"
    assert "a number that no column can hold" in err.value.detail
    with pytest.raises(RowError, match="a number that no column can hold"):
        run(structured(OPEN), {"prompt": "p"}, tools(lambda r: f'{{"winner": "A", "n": {number}}}'))


@pytest.mark.parametrize("value", ['"\\ud83d"', "NaN", "-Infinity"])
@pytest.mark.parametrize("key", ["winner", "unlisted"])
def test_what_json_spells_and_no_file_holds_is_no_json(value, key):
    answer = f'{{"winner": "A", "{key}": {value}}}'
    with pytest.raises(RowError) as err:
        run(structured(OPEN), {"prompt": "p"}, tools(lambda r: answer))
    assert err.value.reason == "not_json"


def verdict(answers):
    """A judge whose answers are given in the order of asking."""
    left = list(answers)
    return lambda request: orjson.dumps({"winner": left.pop(0)}).decode()


def test_a_verdict_that_breaks_the_schema_gets_fresh_seeds_for_its_own_order_alone():
    seen = []

    def reply(request):
        seen.append((request.messages[-1]["content"], request.seed))
        return '{"winner": "A"}' if len(seen) in (1, 4) else '{"winner": "C"}'

    made = column("judge", **JUDGE, output_format=WINNER)
    row = run(made, {"a": "x", "b": "y"}, tools(reply), COMPARED)
    assert [prompt for prompt, _ in seen] == ["x or y?", "y or x?", "y or x?", "y or x?"]
    assert len({seed for _, seed in seen}) == 4
    assert row["judge"] == {"winner": "tie"}
    assert row["judge__meta"]["completion_tokens"] == 8


@pytest.mark.parametrize(
    ("reply", "reason"), [('{"winner": "C"}', "breaks_schema"), ("it is A", "not_json")]
)
def test_a_verdict_that_never_fits_is_a_row_error_after_the_retries(reply, reason):
    seen = []
    made = column("judge", **JUDGE, output_format=WINNER, max_retries=3)
    with pytest.raises(RowError) as caught:
        run(made, {"a": "x", "b": "y"}, tools(lambda r: seen.append(r) or reply), COMPARED)
    assert (caught.value.reason, len(seen)) == (reason, 8)


def test_a_verdict_in_a_fenced_block_is_read():
    made = column("judge", **JUDGE, output_format=WINNER, both_orders=False)
    answer = 'Let me see.\n```json\n{"winner": "B"}\n```'
    assert run(made, {"a": "x", "b": "y"}, tools(lambda r: answer), COMPARED)["judge"] == {
        "winner": "B"
    }


def test_a_judge_sees_the_texts_of_candidates_and_nothing_else():
    seen = []
    made = column(
        "judge", type="llm_judge", model_alias="hot", output_format=WINNER, both_orders=False,
        prompt="{% for one in candidates %}{{ one }}{% endfor %}",
    )  # fmt: skip
    told = {"text": "4", "alias": "hot", "model": "m", "temperature": 0.9}
    answer = lambda r: seen.append(r.messages[-1]["content"]) or '{"winner": "A"}'  # noqa: E731
    run(made, {"candidates": [told, told | {"text": "5"}]}, tools(answer))
    assert seen == ['{"text":"4"}{"text":"5"}']


RUBRIC = {"type": "rubric_judge", "model_alias": "hot", "candidates": "c", "scale": [1, 5]}
RATED = {"c": [{"text": "four"}, {"text": "five"}], "prompt": "p"}


def said(text, **chances):
    logprobs = {token.strip("_"): math.log(chance) for token, chance in chances.items()}
    return Completion(text, "stop", 1, 1, logprobs or None)


def test_a_rating_is_the_mean_of_the_scale_under_the_models_probabilities():
    made = column(**RUBRIC, prompt="{{ response }} {{ criterion }}", criteria={"right": "?"})
    answer = lambda r: said("5", _5=0.6, _4=0.2, _9=0.1, x=0.1)  # noqa: E731
    row = run(made, RATED, tools(answer))
    assert row["made"] == pytest.approx([4.75, 4.75])
    assert row["made__meta"] == [{"right": pytest.approx(4.75)}] * 2


def test_probabilities_count_only_where_the_model_was_about_to_rate():
    made = column(**RUBRIC, prompt="{{ response }}", criteria={"right": "?"})
    answer = lambda r: said("2", The=0.6, _3=0.01)  # noqa: E731
    assert run(made, RATED, tools(answer))["made"] == [2.0, 2.0]


def test_without_probabilities_the_number_written_counts():
    made = column(**RUBRIC, prompt="{{ response }}", criteria={"right": "?"})
    assert run(made, RATED, tools(lambda r: " 4\n"))["made"] == [4.0, 4.0]


@pytest.mark.parametrize("reply", ["9", "0", "four", "", "45"])
def test_what_is_no_rating_is_a_row_error(reply):
    made = column(**RUBRIC, prompt="{{ response }}", criteria={"right": "?"})
    with pytest.raises(RowError, match="no_rating: the answer is not a number from 1 to 5"):
        run(made, RATED, tools(lambda r: reply))


def test_criteria_are_asked_one_by_one_and_weighed():
    seen = []

    def reply(request):
        seen.append(request.messages[-1]["content"])
        return "5" if "right" in seen[-1] else "1"

    made = column(
        **RUBRIC, criteria={"right": "no error", "short": "few words"},
        weights={"right": 3, "short": 1},
        prompt="{{ response }}: {{ criterion }} ({{ description }}) {{ lowest }}-{{ highest }}",
    )  # fmt: skip
    assert run(made, RATED, tools(reply))["made"] == [4.0, 4.0]
    assert seen[:2] == ["four: right (no error) 1-5", "four: short (few words) 1-5"]
    assert len(seen) == 4


def rewarded(logits, **fields):
    made = column(type="reward_model", model_alias="grader", candidates="c", prompt="p", **fields)
    return run(made, RATED, tools(rate=lambda r: logits))


def test_attributes_are_weighed_as_nemotron_does_and_kept():
    weights = [0.3, 0.74, 0.46, 0.47, -0.33]
    row = rewarded((3.0, 2.0, 4.0, 1.0, 2.0), weights=weights)
    assert row["made"] == pytest.approx([0.9 + 1.48 + 1.84 + 0.47 - 0.66] * 2)
    assert row["made__meta"] == [[3.0, 2.0, 4.0, 1.0, 2.0]] * 2


@pytest.mark.parametrize(
    ("logits", "weights", "message"),
    [
        ((1.0, 2.0), None, "returns 2 numbers per text, but the column has no 'weights'; give 2"),
        (
            (1.0, 2.0, 3.0),
            [1, 1],
            "returns 3 numbers per text, but the column has 2 weights; give 3",
        ),
        ((1.0,), [1, 1], "returns 1 numbers per text, but the column has 2 weights; remove them"),
    ],
)
def test_weights_have_to_fit_the_model(logits, weights, message):
    with pytest.raises(PrefdataError, match=message):
        rewarded(logits, weights=weights)


COMPARED = [column("a", **TEXT), column("b", **{**TEXT, "model_alias": "cool"})]
JUDGE = {"type": "llm_judge", "model_alias": "hot", "prompt": "{{ a }} or {{ b }}?"}


@pytest.mark.parametrize(
    ("answers", "winner", "agreed"),
    [
        (["A", "B"], "A", True),
        (["B", "A"], "B", True),
        (["A", "A"], "tie", False),
        (["B", "B"], "tie", False),
        (["tie", "tie"], "tie", True),
        (["A", "tie"], "tie", False),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_a_judge_is_asked_in_both_orders_and_disagreement_is_a_tie(answers, winner, agreed):
    schema = {**WINNER, "properties": {"winner": {"enum": ["A", "B", "tie"]}}}
    made = column("judge", **JUDGE, output_format=schema)
    row = run(made, {"a": "x", "b": "y"}, tools(verdict(answers)), COMPARED)
    assert row["judge"] == {"winner": winner}
    assert row["judge__meta"]["agreed"] is agreed
    assert [orjson.loads(v)["winner"] for v in row["judge__meta"]["verdicts"]] == answers


def test_a_judge_can_be_asked_once():
    made = column("judge", **JUDGE, output_format=WINNER, both_orders=False)
    row = run(made, {"a": "x", "b": "y"}, tools(verdict(["B"])), COMPARED)
    assert (row["judge"], row["judge__meta"]["agreed"]) == ({"winner": "B"}, None)


def test_a_judge_with_another_key_for_the_winner():
    schema = {"type": "object", "properties": {"best": {"type": "string", "enum": ["A", "B"]}}}
    made = column("judge", **JUDGE, output_format=schema, winner_field="best")
    answer = lambda request: '{"best": "A"}'  # noqa: E731
    row = run(made, {"a": "x", "b": "y"}, tools(answer), COMPARED)
    assert row["judge"] == {"best": "tie"}


REWARD = {"type": "reward_model", "model_alias": "grader", "prompt": "Q: {{ prompt }}"}


def test_rewards_stand_in_the_order_of_the_candidates():
    made = column(**REWARD, candidates="c")
    row = {"prompt": "p", "c": [{"text": "aaa"}, {"text": "a"}, {"text": "aa"}]}
    given = tools(rate=lambda request: len(request.messages[-1]["content"]))
    assert run(made, row, given)["made"] == [3.0, 1.0, 2.0]


def test_rewards_of_responses_carry_their_names():
    made = column(**REWARD, responses=["a", "b"])
    given = tools(rate=lambda request: len(request.messages[-1]["content"]))
    assert run(made, {"prompt": "p", "a": "xx", "b": "x"}, given)["made"] == {"a": 2.0, "b": 1.0}


def test_why_a_text_has_no_score_stands_beside_it():
    def rate(request):
        text = request.messages[-1]["content"]
        return Failure("too_long_to_score", f"{text} is long") if len(text) > 1 else 1.0

    made = column(**REWARD, candidates="c")
    row = run(made, {"prompt": "p", "c": [{"text": "a"}, {"text": "aa"}]}, tools(rate=rate))
    assert row["made"] == [1.0, None]
    assert row["made__failures"] == [None, "too_long_to_score: aa is long"]
    assert run(made, {"prompt": "p", "c": [{"text": "a"}]}, tools(rate=rate))["made__failures"] is None  # fmt: skip  # noqa: E501
    made = column(**REWARD, responses=["a", "b"])
    row = run(made, {"prompt": "p", "a": "x", "b": "xx"}, tools(rate=rate))
    assert row["made__failures"] == {"a": None, "b": "too_long_to_score: xx is long"}


def test_the_reward_model_reads_the_stated_prompt():
    seen = []
    given = tools(rate=lambda request: seen.append(request.messages) or 0.0)
    run(column(**REWARD, responses=["a"]), {"prompt": "p", "a": "x"}, given)
    assert [m["content"] for m in seen[0]] == ["Q: p", "x"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_becomes_null(bad):
    made = column(**REWARD, responses=["a"])
    row = run(made, {"prompt": "p", "a": "x"}, tools(rate=lambda request: bad))
    assert row["made"] == {"a": None}


@pytest.mark.parametrize(
    ("text", "reference", "score"),
    [
        ("The answer is 42.", 42, 1.0),
        ("12 + 30 = 42", "42", 1.0),
        ("42 is not 41", 42, 0.0),
        ("", 0, 0.0),
    ],
)
def test_number_compares_the_last_number_of_the_text(text, reference, score):
    made = column(type="verifier", method="number", reference="answer", responses=["a"])
    assert run(made, {"a": text, "answer": reference})["made"] == {"a": score}


def test_number_needs_a_number_to_compare_with():
    made = column(type="verifier", method="number", reference="answer", responses=["a"])
    with pytest.raises(RowError, match="reference: the reference 'many' is not a number"):
        run(made, {"a": "1", "answer": "many"})


def test_exact_match_ignores_surrounding_space_only():
    made = column(type="verifier", method="exact_match", reference="ref", responses=["a", "b"])
    row = run(made, {"a": " Paris\n", "b": "paris", "ref": "Paris"})
    assert row["made"] == {"a": 1.0, "b": 0.0}


def test_regex_searches_the_text():
    made = column(type="verifier", method="regex", pattern=r"\bfour\b", candidates="c")
    row = run(made, {"c": [{"text": "it is four"}, {"text": "fourteen"}]})
    assert row["made"] == [1.0, 0.0]


def test_a_function_beside_the_recipe_can_verify(tmp_path):
    (tmp_path / "my_checks.py").write_text("def short(text, row):\n    return len(text) < row['n']\n")  # fmt: skip  # noqa: E501
    made = column(type="verifier", method="function", function="my_checks:short", responses=["a"])
    row = run(made, {"a": "abc", "n": 5}, tools(folder=tmp_path))
    assert row["made"] == {"a": 1.0}


def test_a_slow_function_leaves_the_loop_to_others(tmp_path):
    (tmp_path / "waits.py").write_text(
        "import time\nfrom pathlib import Path\n"
        "def wait(text, row):\n"
        "    while not Path(row['gate']).exists():\n        time.sleep(0.01)\n"
        "    return 1\n"
    )
    made = column(type="verifier", method="function", function="waits:wait", responses=["a"])
    score = stage(made, tools(folder=tmp_path))

    async def others() -> None:
        (tmp_path / "gate").touch()

    async def both():
        return await asyncio.gather(score({"a": "abc", "gate": str(tmp_path / "gate")}), others())

    assert asyncio.run(both())[0]["made"] == {"a": 1.0}


def test_a_function_that_cannot_be_called_so_is_shown_without_a_line_of_ours(tmp_path):
    (tmp_path / "one_word.py").write_text("def alone(text):\n    return 1\n")
    made = column(type="verifier", method="function", function="one_word:alone", responses=["a"])
    with pytest.raises(RowError, match=r"raised TypeError: alone\(\) takes 1 positional"):
        run(made, {"a": "abc"}, tools(folder=tmp_path))


def test_what_a_function_prints_goes_to_stderr(tmp_path, capfd):
    (tmp_path / "prints.py").write_text(
        "print('imported')\ndef loud(text, row):\n    print('called')\n    return 1\n"
    )
    made = column(type="verifier", method="function", function="prints:loud", responses=["a"])
    assert run(made, {"a": "abc"}, tools(folder=tmp_path))["made"] == {"a": 1.0}
    out, err = capfd.readouterr()
    assert (out, err.split()) == ("", ["imported", "imported", "called"])


@pytest.mark.parametrize("name", ["no.such.module:f", "math:nothing", "math"])
def test_a_function_that_is_not_there_stops_the_run(name):
    made = column(type="verifier", method="function", function=name, responses=["a"])
    with pytest.raises(
        PrefdataError, match="cannot be imported|no package has an entry point"
    ) as caught:
        stage(made)
    assert ".py" not in str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "text", "value"),
    [("int", " 4 ", 4), ("float", "2.5", 2.5), ("bool", "true", True), ("str", "4", "4")],
)
def test_an_expression_is_cast(dtype, text, value):
    made = column(type="expression", expression="{{ x }}", dtype=dtype)
    assert run(made, {"x": text})["made"] == value


def test_an_expression_that_cannot_be_cast_is_a_row_error():
    made = column(type="expression", expression="{{ x }}", dtype="int")
    with pytest.raises(RowError, match="expression: 'four' is not of type int"):
        run(made, {"x": "four"})


def test_a_category_is_drawn_by_row_and_evenly():
    made = column(type="category", values=["x", "y", "z"])
    draws = [run(made, {"id": f"row {n}"})["made"] for n in range(600)]
    assert draws == [run(made, {"id": f"row {n}"})["made"] for n in range(600)]
    assert all(150 < draws.count(value) < 250 for value in "xyz")


def test_each_row_is_answered_by_one_member_of_a_pool():
    pooled = column(**{**TEXT, "model_alias": ["hot", "cool", "grader"]})
    drawn = [run(pooled, {"id": f"r{n}", "prompt": "p"})["made__meta"]["alias"] for n in range(60)]
    again = [run(pooled, {"id": f"r{n}", "prompt": "p"})["made__meta"]["alias"] for n in range(60)]
    assert drawn == again
    assert {drawn.count(alias) > 8 for alias in ("hot", "cool", "grader")} == {True}


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        ("3. the sea", "the sea"),
        ("12) the sea", "the sea"),
        ("(4) the sea", "the sea"),
        ("- the sea", "the sea"),
        ("\u2022 the sea", "the sea"),
        ("* **the sea**", "the sea"),
        ('"the sea",', "the sea"),
        ('1. "the sea"', "the sea"),
        ("\u201cthe sea\u201d", "the sea"),
        ("-5 degrees", "-5 degrees"),
        ("3.5 litres of milk", "3.5 litres of milk"),
        ("1.What is it?", "What is it?"),
        ("1\\. the sea", "the sea"),
        ("\u2022the sea", "the sea"),
        ("2024: the year in review", "2024: the year in review"),
        ("1997. A year", "1997. A year"),
        ("2 plus 2?", "2 plus 2?"),
        ('"yes" or "no"?', '"yes" or "no"?'),
        ("'tis the season", "'tis the season"),
        ("3.", ""),
        ("--", ""),
        (" ", ""),
    ],
)
def test_an_item_loses_the_marks_of_its_list_and_nothing_else(given, clean):
    assert clean_item(given) == clean


def items(text, **how):
    made = column("item", type="expand", column="text", **how)
    return [row["item"] for row in make_expansion(made)({"id": "r0", "text": text})]


@pytest.mark.parametrize(
    ("text", "how", "found"),
    [
        ("a, b , c", {"separator": ","}, ["a", "b", "c"]),
        ("a, b\nand c", {"separator": ","}, ["a", "b", "and c"]),
        ("1. a, 2. b", {"separator": ","}, ["a", "b"]),
        ("1. a\n2. b\n", {"separator": ","}, ["a", "b"]),
        ("a, A, a ,b", {"separator": ","}, ["a", "b"]),
        ("Here are two:\n- is it a?\n\n- is it b?", {"lines": True}, ["is it a?", "is it b?"]),
        ("a?\r\nb?", {"lines": True}, ["a?", "b?"]),
        ("x=1 y=22", {"regex": r"=(\d+)"}, ["1", "22"]),
        ("x=1 y=22", {"regex": r"\w=\d+"}, ["x=1", "y=22"]),
        ('["a", "b, c", 3]', {"json_list": True}, ["a", "b, c", "3"]),
        ("A, B, C, a", {"separator": ",", "max_items": 2}, ["A", "B"]),
        ('Sure:\n```json\n["a"]\n```', {"json_list": True}, ["a"]),
        ("a;b;c;d", {"separator": ";", "max_items": 2}, ["a", "b"]),
    ],
)
def test_a_list_becomes_its_items(text, how, found):
    assert items(text, **how) == found


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("", {"lines": True}),
        (", ,", {"separator": ","}),
        ("none here", {"regex": r"\d+"}),
        ("[1, {}]", {"json_list": True}),
        ("no json", {"json_list": True}),
        (None, {"lines": True}),
        (7, {"lines": True}),
    ],
)
def test_a_list_without_items_is_a_row_error(text, how):
    with pytest.raises(RowError, match="no_items"):
        items(text, **how)


def test_the_last_item_of_a_list_that_was_cut_off_is_left_out():
    made = column("item", type="expand", column="text", lines=True)
    row = {"id": "r0", "text": "whole?\nhal", "text__meta": {"finish_reason": "length"}}
    assert [child["item"] for child in make_expansion(made)(row)] == ["whole?"]
    with pytest.raises(RowError, match="no_items"):
        make_expansion(made)(row | {"text": "hal"})


def test_children_know_their_parent_and_keep_their_id_wherever_they_stand():
    made = column("item", type="expand", column="text", separator=",")
    first = {c["item"]: c for c in make_expansion(made)({"id": "r0", "text": "a,b"})}
    second = {c["item"]: c for c in make_expansion(made)({"id": "r0", "text": "c,b"})}
    assert first["b"]["id"] == second["b"]["id"]
    assert len({c["id"] for c in [*first.values(), *second.values(), {"id": "r0"}]}) == 4
    assert first["b"]["item__meta"] == {"parent": "r0", "item": 1, "items": 2}


TWO = r"RESPONSE A:(?P<a>.*)RESPONSE B:(?P<b>.*)"
META = {"alias": "hot", "finish_reason": "length", "completion_tokens": 9}


FUNCTIONS = """
import os, sys

def odd(text, row):
    if text == "hang":
        os.system("sleep 1000")
    if text == "spin":
        with open(row["gate"], "w") as gate:
            gate.write(f"{os.getpid()}.")
        while True:
            pass
    if text == "exit":
        sys.exit(3)
    if text == "crash":
        os._exit(3)
    if text == "segfault":
        os.kill(os.getpid(), 11)
    if text == "object":
        print(text)
        return {"score": 1}
    if text == "interrupt":
        raise KeyboardInterrupt
    return os.getpid()
"""


@pytest.fixture
def odd(tmp_path, request):
    """The stage; its limit is short where a test says so, else none that a busy machine reaches."""
    (tmp_path / "odd_checks.py").write_text(FUNCTIONS)
    made = column(
        type="verifier", method="function", function="odd_checks:odd", responses=["a"],
        timeout=getattr(request, "param", 300),
    )  # fmt: skip
    return stage(made, tools(folder=tmp_path))


@pytest.mark.parametrize(
    ("odd", "text", "reason", "message"),
    [
        (5, "hang", "verifier_timeout", "odd_checks:odd for column 'made', row r7: not through"),
        (5, "spin", "verifier_timeout", "row r7: not through after 5 s"),
        (300, "exit", "verifier", "odd_checks:odd raised SystemExit in odd_checks.py:.*: 3"),
        (300, "crash", "verifier", r"row r7: its process ended \(exit code 3\)"),
        (300, "segfault", "verifier", r"row r7: its process ended \(signal 11\)"),
        (300, "object", "verifier", "odd_checks:odd must return a number, not {'score': 1}$"),
        (300, "interrupt", "verifier", "odd_checks:odd raised KeyboardInterrupt"),
    ],
    indirect=["odd"],
)
def test_a_function_that_goes_wrong_costs_its_row_only(odd, text, reason, message, tmp_path):
    async def both():
        row = {"id": "r7", "a": text, "gate": str(tmp_path / "gate")}
        bad = await asyncio.gather(odd(row), return_exceptions=True)
        return bad[0], await odd({"id": "r8", "a": "well"})

    err, good = asyncio.run(both())
    assert isinstance(err, RowError)
    assert err.reason == reason
    assert re.search(message, err.detail)
    assert good["made"]["a"] > 0


def test_functions_run_side_by_side_in_processes_of_their_own(odd):
    async def many():
        return await asyncio.gather(*(odd({"id": f"r{n}", "a": "well"}) for n in range(8)))

    pids = {one["made"]["a"] for one in asyncio.run(many())}
    assert os.getpid() not in pids
    assert len(pids) > 1


def test_a_call_that_is_given_up_leaves_no_process(odd, tmp_path):
    async def give_up():
        gate = tmp_path / "gate"
        gate.touch()
        task = asyncio.create_task(odd({"id": "r1", "a": "spin", "gate": str(gate)}))
        await asyncio.to_thread(wait_until, lambda: gate.read_text().endswith("."))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return int(gate.read_text()[:-1])

    pid = asyncio.run(give_up())
    with pytest.raises(ProcessLookupError):
        for _ in range(3000):
            os.kill(pid, 0)
            threading.Event().wait(0.01)


def test_only_a_function_has_a_timeout():
    with pytest.raises(ValueError, match="'regex' does not read 'timeout'; remove it"):
        column(type="verifier", method="regex", pattern="x", responses=["a"], timeout=3)


ENDLESS = r"(?P<all>(?:a|a)+$)"
BY_PATTERN = {
    "verifier": ({"type": "verifier", "method": "regex", "pattern": ENDLESS, "responses": ["a"]}),
    "extract": ({"type": "extract", "column": "a", "pattern": ENDLESS}),
    "expand": ({"type": "expand", "column": "a", "regex": ENDLESS}),
}


@pytest.mark.parametrize("kind", BY_PATTERN)
def test_a_pattern_that_never_ends_costs_its_row_only(kind):
    made, row = column("parts", **BY_PATTERN[kind]), {"id": "r0", "a": "a" * 60 + "b"}
    with pytest.raises(RowError, match="pattern of column 'parts'.*aaa") as caught:
        make_expansion(made)(row) if kind == "expand" else run(made, row)
    assert caught.value.reason == "pattern_timeout"


@pytest.mark.parametrize("pattern", ["x{e}", r"\\boxed{(\d+)}", "[{i}]", r"\N{BULLET}", "a{2,3}{"])
def test_braces_mean_what_they_mean_to_python(pattern):
    for text in ("xe", "x{e}", r"\boxed{12}", "{", "\u2022", "aa{", "y"):
        made = column(type="verifier", method="regex", pattern=pattern, responses=["a"])
        assert run(made, {"a": text})["made"]["a"] == bool(re.search(pattern, text))


def test_parts_of_several_paragraphs_survive_extraction():
    parts = column("parts", type="extract", column="text", pattern=TWO)
    text = "RESPONSE A: one\n\ntwo\n  three \nRESPONSE B:\n\nfour\n\n- five\n"
    made = run(parts, {"text": text})
    assert (made["a"], made["b"]) == ("one\n\ntwo\n  three", "four\n\n- five")
    assert made["a__meta"] is None


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("RESPONSE A: only one", "a, b"),
        ("RESPONSE A: RESPONSE B: x", "a"),
        ("RESPONSE A: x RESPONSE B: ", "b"),
        ("", "a, b"),
    ],
)
def test_a_text_without_a_part_is_a_row_error_that_shows_it(text, lost):
    parts = column("parts", type="extract", column="text", pattern=TWO)
    with pytest.raises(RowError) as caught:
        run(parts, {"text": text})
    assert caught.value.reason == "not_extracted"
    assert caught.value.detail == f"'text' has no {lost}: {text!r}"


def test_of_a_text_that_was_cut_off_only_the_last_part_counts_as_cut():
    parts = column("parts", type="extract", column="text", pattern=TWO)
    made = run(parts, {"text": "RESPONSE A: one RESPONSE B: two th", "text__meta": META})
    assert made["a__meta"] == META | {"finish_reason": "stop", "completion_tokens": None}
    assert made["b__meta"]["finish_reason"] == "length"
