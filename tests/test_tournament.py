import asyncio
import math
import re

import orjson
import pytest
from pydantic import TypeAdapter, ValidationError

from prefdata.engines.scripted import Scripted
from prefdata.errors import PrefdataError, RowError
from prefdata.fingerprint import TextKeys, digest
from prefdata.recipe.checks import check_recipe
from prefdata.recipe.columns import AnyColumn
from prefdata.recipe.plan import plan_passes
from prefdata.recipe.schema import Model, Recipe
from prefdata.recipe.tournament import Tournament, judge_names, read_judge
from prefdata.rows import rows_of
from prefdata.run.estimate import estimate_pass
from prefdata.seeds.seeds import seeds_of
from prefdata.stages import Tools, make_stage
from prefdata.stages.matches import schedule
from prefdata.stages.strength import Agreement, bradley_terry, panel_says, win_rates
from prefdata.storage.journal import Journal
from prefdata.storage.journaled import Journaled, NotNow, Opened, Work

SAMPLING = {"temperature": 0.5, "max_tokens": 16}
PROMPT = "A: {{ response_a }} B: {{ response_b }}"
LIST = "{% for one in replies %}{{ one.letter }}: {{ one.text }};{% endfor %}"


def judge(how, **fields):
    told = {"name": "judged", "type": "llm_judge", "model_alias": "j", "candidates": "c"}
    prompt = {} if how.get("type") == "listwise" or "judge" in fields else {"prompt": PROMPT}
    if how.get("type") == "listwise":
        prompt = {"prompt": LIST}
    made = told | {"tournament": how} | prompt | fields
    return TypeAdapter(AnyColumn).validate_python({k: v for k, v in made.items() if v is not None})


def larger(request):
    """The judge who knows: the larger number is better; in front where both are equal."""
    text = request.messages[-1]["content"]
    if "ranking" in request.schema["properties"]:
        told = sorted(re.findall(r"(\w): (\d+)", text), key=lambda one: -int(one[1]))
        return orjson.dumps({"ranking": " > ".join(letter for letter, _ in told)}).decode()
    first, second = map(int, re.findall(r"\d+", text))
    return orjson.dumps({"winner": "A" if first >= second else "B"}).decode()


def says(word):
    return lambda request: orjson.dumps({"winner": word}).decode()


def run(column, texts, replies=larger, seed=0, **row):
    """The row's new columns, and every request."""
    asked = []

    def reply(alias):
        return lambda request: asked.append((alias, request)) or by_alias[alias](request)

    by_alias = replies if isinstance(replies, dict) else dict.fromkeys(column.aliases, replies)
    models = {a: Model(alias=a, model=a, inference_parameters=SAMPLING) for a in column.aliases}
    engines = {alias: Scripted(reply(alias)) for alias in column.aliases}
    tools = Tools(seed=seed, models=models, text=engines, reward={}, columns=(column,))
    cell = [text if isinstance(text, dict) else {"text": text} for text in texts]
    made = asyncio.run(make_stage(column, tools)({"id": "r0", "c": cell, **row}))
    return made, [request for _, request in asked]


def keys(requests):
    return [TextKeys("m").key(request) for request in requests]


TYPES = [
    {"type": "round_robin"}, {"type": "swiss"}, {"type": "knockout"}, {"type": "listwise"},
    {"type": "against", "reference": "gold"}, {"type": "round_robin", "score": "win_rate"},
]  # fmt: skip


@pytest.mark.parametrize("how", TYPES, ids=lambda how: "-".join(how.values()))
def test_a_judge_who_knows_puts_the_best_text_first_and_is_asked_as_often_as_told(how):
    texts = ["30", "10", "50", "20", "40"]
    column = judge(how)
    made, asked = run(column, texts, gold="45")
    scores = made["judged"]
    assert scores.index(max(scores)) == 2
    if how["type"] in ("round_robin", "listwise"):
        assert sorted(range(5), key=lambda n: -scores[n]) == [2, 4, 0, 3, 1]
    candidates = TypeAdapter(AnyColumn).validate_python(
        {"name": "c", "type": "candidates", "model_alias": "j", "samples": 5, "prompt": "x"}
    )
    assert len(asked) == column.requests([candidates, column])
    assert len(made["judged__meta"]["errors"]) == 5
    assert made["judged__meta"]["completion_tokens"] > 0


def test_a_row_is_compared_likewise_in_every_run_and_otherwise_under_another_seed():
    column = judge({"type": "swiss"})
    texts = ["1", "2", "3", "4", "5", "6", "7", "8"]
    first, again = run(column, texts), run(column, texts)
    assert (first[0], keys(first[1])) == (again[0], keys(again[1]))
    assert keys(run(column, texts, seed=1)[1]) != keys(first[1])


def test_more_texts_and_another_tournament_repeat_no_request():
    few = run(judge({"type": "round_robin"}), ["1", "2", "3"])[1]
    many = run(judge({"type": "round_robin"}), ["1", "2", "3", "4", "5"])[1]
    swiss = run(judge({"type": "swiss"}), ["1", "2", "3", "4", "5"])[1]
    panel = run(judge({"type": "round_robin"}, model_alias=["j", "k"]), ["1", "2", "3"])[1]
    assert {*keys(few), *keys(swiss)} <= {*keys(many)}
    assert {*keys(few)} <= {*keys(panel)}


@pytest.mark.parametrize("how", ["swiss", "knockout"])
def test_a_verdict_that_came_is_not_asked_again_after_a_kill(how, tmp_path):
    column, texts = judge({"type": how}), [str(n) for n in range(8)]
    whole, wanted = run(column, texts)
    asked, left = [], len(wanted) // 2

    def reply(request):
        if len(asked) == left:
            raise KeyboardInterrupt
        asked.append(request)
        return larger(request)

    def once():
        with Journal(tmp_path) as journal:
            engine = Journaled(Opened(lambda: Scripted(reply)), TextKeys("j"), journal, Work())
            model = Model(alias="j", model="j", inference_parameters=SAMPLING)
            tools = Tools(seed=0, models={"j": model}, text={"j": engine}, reward={})
            row = {"id": "r0", "c": [{"text": text} for text in texts]}
            return asyncio.run(make_stage(column, tools)(row))

    with pytest.raises(KeyboardInterrupt):
        once()
    left = None
    assert once() == whole
    assert sorted(keys(asked)) == sorted(keys(wanted))


def test_a_panel_that_is_loaded_in_turns_asks_nothing_twice(tmp_path):
    column, texts = judge({"type": "swiss"}, model_alias=["j", "k"]), [str(n) for n in range(8)]
    whole, wanted = run(column, texts)
    models = {a: Model(alias=a, model=a, inference_parameters=SAMPLING) for a in column.aliases}
    asked, row = [], {"id": "r0", "c": [{"text": text} for text in texts]}
    script = Scripted(lambda request: asked.append(request) or larger(request))
    for turn in range(10):
        with Journal(tmp_path) as journal:
            work = Work()
            engines = {
                alias: Journaled(Opened(lambda: script), TextKeys(alias), journal, work)
                for alias in models
            }
            engines["jk"[(turn + 1) % 2]].may_load = False
            try:
                tools = Tools(seed=0, models=models, text=engines, reward={})
                made = asyncio.run(make_stage(column, tools)(row))
                break
            except NotNow:
                continue
    assert made == whole
    assert (turn, len(asked)) == (5, len(wanted))  # three rounds of two judges


def test_equal_texts_tie_and_failed_ones_take_no_part_without_a_request():
    failed = {"text": "", "finish_reason": "refusal"}
    made, asked = run(judge({"type": "round_robin", "score": "win_rate"}), ["7", failed, "7"])
    assert (made["judged"], asked) == ([0.5, None, 0.5], [])
    made, asked = run(judge({"type": "round_robin"}), ["7"])
    assert (made["judged"], asked) == ([None], [])


@pytest.mark.parametrize("reference", ["", " \n\u200b", None])
def test_a_row_whose_reference_says_nothing_is_a_reject(reference):
    with pytest.raises(RowError, match="'gold' is empty or blank") as told:
        run(judge({"type": "against", "reference": "gold"}), ["1", "2"], gold=reference)
    assert told.value.reason == "reference"


def test_a_judge_who_names_a_place_makes_ties_in_both_orders_and_noise_in_one():
    made, _ = run(judge({"type": "round_robin"}), ["1", "2", "3"], says("A"))
    assert made["judged"] == [0.0, 0.0, 0.0]
    column = judge({"type": "round_robin"}, both_orders=False)
    shown = {r.messages[-1]["content"] for r in run(column, list("123456789"), says("A"))[1]}
    assert len(shown) == 36
    assert {int(text[3]) < int(text[8]) for text in shown} == {True, False}  # drawn


PANELS = {
    "majority": {"j": larger, "k": larger, "l": says("B")},
    "minimum": {"j": larger, "k": larger, "l": says("tie")},
}


def test_a_panel_says_what_most_say_or_what_all_say():
    for how, replies in PANELS.items():
        fields = {"model_alias": ["j", "k", "l"], "panel": how}
        made, _ = run(judge({"type": "round_robin", "score": "win_rate"}, **fields), ["1", "2"], replies)  # fmt: skip  # noqa: E501
        [one] = made["judged__meta"]["comparisons"]
        assert one["judges"] == [0.0, 0.0, 0.5]
        assert made["judged"] == ([0.0, 1.0] if how == "majority" else [0.25, 0.75])
    assert panel_says([1, 0, 0.5], "majority") == 0.5
    assert panel_says([1, 0.5, 0.5], "majority") == panel_says([0, 0.5], "majority") == 0.5
    assert panel_says([1, 0, 0.5], "mean") == 0.5
    assert panel_says([1, 1, 0], "minimum") == 0.5
    assert panel_says([1, 1, 0], "mean") == pytest.approx(2 / 3)


@pytest.mark.parametrize("how", ["majority", "mean", "minimum"])
def test_a_panel_of_two_responses_gives_one_verdict_and_keeps_each(how):
    column = TypeAdapter(AnyColumn).validate_python(
        {
            "name": "v", "type": "llm_judge", "model_alias": ["j", "k", "l"], "panel": how,
            "prompt": "{{ x }} {{ y }}", "compare": ["x", "y"],
            "output_format": {"type": "object", "properties": {"winner": {"enum": ["A", "B"]}}},
        }
    )  # fmt: skip
    replies = {"j": larger, "k": larger, "l": says("A")}
    made, asked = run(column, [], replies, x="3", y="9")
    assert made["v"] == {"winner": "B"}
    assert (made["v__meta"]["panel"], len(asked)) == (["B", "B", "TIE"], 6)
    assert made["v__meta"]["agreed"] is False


def test_two_texts_asked_under_two_system_prompts_are_shown_what_both_share():
    models = [
        {"alias": a, "model": a, "inference_parameters": SAMPLING, "system_prompt": a}
        for a in ("j", "k")
    ]
    writers = TypeAdapter(AnyColumn).validate_python(
        {"name": "c", "type": "candidates", "model_alias": ["j", "k"], "samples": 1, "prompt": "Q"}
    )
    column = judge({"type": "round_robin"}, judge="pairwise-v1")
    seen = []
    engine = Scripted(lambda r: seen.append(r.messages[-1]["content"]) or '{"winner": "tie"}')
    tools = Tools(
        seed=0, models={m["alias"]: Model(**m) for m in models}, text={"j": engine, "k": engine},
        reward={}, columns=(writers, column),
    )  # fmt: skip
    cell = [{"text": "1", "alias": "j"}, {"text": "2", "alias": "k"}]
    asyncio.run(make_stage(column, tools)({"id": "r", "c": cell}))
    assert len(seen) == 2
    assert all("User: Q" in text and "System" not in text for text in seen)


def test_plan_counts_comparisons_of_candidates_that_the_seeds_bring(project):
    lines = [{"prompt": f"q{n % 2}", "text": str(n), "score": n} for n in range(10)]
    project.write_seeds([*lines, {"prompt": "q1", "text": "x", "score": 0}])
    project.recipe["seed_dataset"] = {
        "path": "seeds.jsonl",
        "candidates": {"prompt": "prompt", "text": "text", "score": "score"},
    }
    told = {"type": "llm_judge", "model_alias": "hot", "candidates": "candidates"}
    project.recipe["columns"] = [told | {"name": "judged", "tournament": {"type": "round_robin"}}]
    project.recipe["output_projection"]["score"] = "judged"
    loaded = project.load()
    rows = rows_of(seeds_of(loaded.recipe, loaded.locate, loaded.place).table)
    [step] = plan_passes(loaded.recipe)
    paths = {model.alias: model.model for model in loaded.recipe.models}
    told = estimate_pass(step, loaded.recipe, len(rows), rows, paths)
    assert (told.requests, told.bound) == (2 * (10 + 15), "at most ")  # 5 and 6 texts
    assert estimate_pass(step, loaded.recipe, 20, rows, paths).bound == "about "


# The schedule


def play(how, players, strength):
    rounds, pairs = [], None
    plan = schedule(Tournament(**how), players)
    pairs = next(plan, None)
    while pairs is not None:
        rounds.append(pairs)
        try:
            pairs = plan.send({(a, b): float(strength(a) > strength(b)) for a, b in pairs})
        except StopIteration:
            pairs = None
    return rounds


@pytest.mark.parametrize("count", range(10))
def test_no_schedule_lets_two_texts_meet_twice_or_asks_more_than_told(count):
    for how in ({"type": "round_robin"}, {"type": "swiss", "rounds": 3}, {"type": "knockout"}):
        pairs = [pair for told in play(how, range(count), lambda n: n) for pair in told]
        assert len(set(pairs)) == len(pairs) <= Tournament(**how).comparisons(count)
        assert all(a < b for a, b in pairs)


def test_in_swiss_rounds_winners_meet_winners_and_the_one_who_sits_out_changes():
    rounds = play({"type": "swiss", "rounds": 2}, range(8), lambda n: n)
    winners = {b for _, b in rounds[0]}
    assert all((a in winners) == (b in winners) for a, b in rounds[1])
    resting = [set(range(5)) - {n for p in told for n in p} for told in play({"type": "swiss", "rounds": 3}, range(5), lambda n: n)]  # fmt: skip  # noqa: E501
    assert len(set.union(*resting)) == 3


# Scores


def test_strengths_are_those_of_the_posterior_and_finite_whoever_won_all():
    found = bradley_terry(3, [(0, 1, 1.0), (0, 2, 1.0), (1, 2, 1.0)])
    assert found.scores == pytest.approx([1.2254308, 0.0, -1.2254308])
    s0 = found.scores[0]  # where the slope of the log posterior is zero
    assert 2 - 1 / (1 + math.exp(-s0)) - 1 / (1 + math.exp(-2 * s0)) == pytest.approx(s0 / 4)
    assert max(abs(s) for s in bradley_terry(2, [(0, 1, 1.0)] * 10_000).scores) < 10
    few, many = (bradley_terry(2, [(0, 1, 0.5)] * n).errors[0] for n in (1, 100))
    assert few > many
    assert bradley_terry(2, [(0, 1, 0.5)]).scores == [0, 0]


def test_strengths_against_a_reference_are_above_or_below_its_own():
    found = bradley_terry(3, [(0, 2, 1.0), (1, 2, 0.0)], anchor=2)
    assert found.scores[0] == pytest.approx(-found.scores[1])
    assert (found.scores[2], found.errors[2]) == (0.0, 0.0)


def test_win_rates_are_shares_and_no_certainty():
    found = win_rates(3, [(0, 1, 1.0), (0, 1, 0.5)])
    assert found.scores == [0.75, 0.25, 0.0]
    assert found.errors[0] > 0


def test_agreement_is_that_of_krippendorffs_example():
    """The data of kripp.alpha's documentation (R package irr): interval alpha is 0.849."""
    rated = [
        "11.1", "2232", "3333", "3333", "2222", "1234", "4444", "1121", "2222", ".555", "..11",
        "..3.",
    ]  # fmt: skip
    found = Agreement()
    for unit in rated:
        found.add(float(one) for one in unit if one != ".")
    assert (round(found.alpha, 3), found.units) == (0.849, 11)
    assert Agreement().alpha is None


# The recipe


def test_a_list_of_six_is_refused_and_so_is_one_that_only_the_rows_show():
    six = ["1", "2", "3", "4", "5", "6"]
    with pytest.raises(RowError, match="6 texts are too many"):
        run(judge({"type": "listwise"}), six)
    recipe = {
        "output_dir": "o", "seed_dataset": {"path": "p", "fields": ["prompt"]},
        "models": [{"alias": "j", "model": "m", "inference_parameters": SAMPLING}],
        "columns": [
            {"name": "c", "type": "candidates", "model_alias": "j", "samples": 6, "prompt": "x"},
            judge({"type": "listwise"}, judge="listwise-v1", prompt=None),
        ],
        "output_projection": {
            "type": "preference_pairs", "candidates": "c", "score": "judged",
            "strategy": "best_vs_worst",
        },
    }  # fmt: skip
    made = Recipe.model_validate(recipe)
    [problem] = check_recipe(made, made.seed_fields)
    assert problem.at == ("columns", 1, "tournament", "type")
    assert "a list of 6 texts is too long" in problem.message
    hidden = made.columns[1].model_copy(update={"prompt": "nothing"})
    told = check_recipe(made.model_copy(update={"columns": (made.columns[0], hidden)}), frozenset())
    assert any("add 'replies'" in problem.message for problem in told)


@pytest.mark.parametrize(
    ("how", "fields", "message"),
    [
        ({"type": "knockout", "rounds": 3}, {}, "only type: swiss reads 'rounds'"),
        ({"type": "against"}, {}, "name its column"),
        ({"type": "swiss"}, {"candidates": None}, "give 'tournament' and one of"),
        ({"type": "swiss"}, {"compare": ["a", "b"]}, "remove 'compare'"),
        ({"type": "swiss"}, {"panel": "mean"}, "a panel has several judges"),
        ({"type": "swiss"}, {"judge": "pairwise-v9", "prompt": None}, "no judge 'pairwise-v9'"),
        ({"type": "swiss"}, {"judge": "listwise-v1", "prompt": None}, "no judge 'listwise-v1'"),
        ({"type": "swiss"}, {"judge": "pairwise-v1", "prompt": "own"}, "keep one of them"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_a_tournament_is_said(how, fields, message):
    with pytest.raises(ValidationError, match=re.escape(message)):
        judge(how, **fields)


def test_several_models_that_rate_are_several_columns(project):
    rubric = {
        "name": "rated", "type": "rubric_judge", "candidates": "candidates", "scale": [1, 5],
        "criteria": {"good": "is it?"}, "model_alias": ["hot", "cold"],
    }  # fmt: skip
    project.recipe["columns"].append(rubric)
    with pytest.raises(PrefdataError, match="write a column for each of them"):
        project.load()


SHIPPED = {
    "checklist-v1": "0b76aaf4", "listwise-v1": "57717575", "pairwise-v1": "7aa42e49",
    "pointwise-v1": "20c2969c",
}  # fmt: skip


def test_a_prompt_that_ships_never_changes_under_its_name():
    found = {n: digest(read_judge(n, (n.rpartition("-")[0],)), size=4) for n in judge_names()}
    assert found == SHIPPED


def test_only_an_engine_that_is_there_is_asked_in_turns():
    assert judge({"type": "swiss"}, model_alias=["j", "k"]).asks_in_turns
    assert not judge({"type": "swiss"}).asks_in_turns
    assert not judge({"type": "round_robin"}, model_alias=["j", "k"]).asks_in_turns
