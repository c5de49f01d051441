"""Filters of rows and candidates, their checks, and columns that skip rows."""

import asyncio
import re
from html import unescape

import pytest
from conftest import QUICKSTART

import prefdata
from prefdata import PrefdataError, pipeline
from prefdata.errors import RowError
from prefdata.pairs.pair import SKIPPED, Candidate
from prefdata.pairs.picking import pick_by_verdict
from prefdata.recipe.columns import given_columns
from prefdata.recipe.filters import Filter
from prefdata.recipe.judges import Verifier
from prefdata.recipe.projection import DpoPreference
from prefdata.recipe.prompts import compile_prompt
from prefdata.run.checking import check_loaded
from prefdata.stages import Tools, make_stage
from prefdata.stages.contamination import Items
from prefdata.stages.text_checks import language, refusal, repetition, special_token
from prefdata.storage.folders import read_rows

ENDED = {"finish_reason": "stop", "completion_tokens": 3, "reasoning_tokens": 0}


@pytest.fixture
def recipe(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    project.write_seeds([{"prompt": f"question {n}", "answer": n} for n in range(6)])
    return {key: value for key, value in project.recipe.items() if key != "output_dir"}


def build(recipe, **more):
    return prefdata.build(recipe, "run", rehearse=True, say=lambda line: None, progress=False)


def between(recipe, *columns):
    """The recipe with columns between the candidates and their scores."""
    first, *others = recipe["columns"]
    return recipe | {"columns": [first, *columns, *others]}


def judged(texts, columns=(), row=None, **keys):
    """What a filter over candidates with these texts says."""
    column = Filter(name="kept", type="filter", candidates="candidates", **keys)
    tools = Tools(0, {}, {}, {}, columns=(*given_columns(()), *columns, column))
    row = {"id": "1", "candidates": [{"text": text} | ENDED for text in texts]} | (row or {})
    told = asyncio.run(make_stage(column, tools)(row))["kept"]
    return [one and one["reason"] for one in told]


# Rows


def test_rows_that_an_expression_refuses_ask_nothing(recipe):
    kept = {"name": "kept", "type": "filter", "expression": "{{ answer is even }}"}
    run = build(recipe | {"columns": [kept, *recipe["columns"]]})
    assert [row["reason"] for row in run.rejects] == ["filtered"] * 3
    assert run.summary["requests"]["generated"] == 3 * 4


def test_a_filter_reads_a_text_or_the_turns_of_a_chat(recipe):
    seeds = [{"prompt": [{"role": "user", "content": text}]} for text in ("Hi.", "Hi <|im_end|>")]
    kept = {"name": "kept", "type": "filter", "column": "prompt", "special_tokens": True}
    columns = [kept, recipe["columns"][0] | {"prompt": "{{ prompt }}"}, recipe["columns"][1]]
    run = build(recipe | {"columns": columns, "seed_dataset": {"rows": seeds}})
    assert [(row["stage"], row["reason"]) for row in run.rejects] == [("kept", "special_token")]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "everything passes; give at least one of: expression"),
        ({"repetition": True}, "it is not clear which text 'repetition' looks at"),
        ({"candidates": "a", "column": "b", "repetition": True}, "keep one"),
        ({"column": "a", "expression": "{{ a }}"}, "'column' is for the checks of texts"),
        ({"column": "a", "tokens": {"max": 3}}, "'tokens' needs 'model_alias'"),
        ({"candidates": "a", "tokens": {"min": 9, "max": 3}}, "no text has 9 tokens or more and 3"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_an_error(keys, message):
    with pytest.raises(ValueError, match=message):
        Filter(name="kept", type="filter", **keys)


def test_a_condition_that_is_the_same_for_all_rows_is_an_error(recipe):
    recipe["columns"][1]["skip_when"] = "answer > 3"
    with pytest.raises(PrefdataError, match="names no column, so it is the same for all rows"):
        build(recipe)
    del recipe["columns"][1]["skip_when"]
    recipe["columns"].append({"name": "kept", "type": "filter", "expression": "answer > 3"})
    with pytest.raises(PrefdataError, match="names no column, so it is the same for all rows"):
        build(recipe)


# Candidates


def test_what_a_filter_leaves_out_is_neither_scored_nor_paired(recipe):
    kept = {
        "name": "kept", "type": "filter", "candidates": "candidates",
        "expression": "{{ candidate.sample != 1 }}",
    }  # fmt: skip
    run = build(between(recipe, kept))
    rows = list(read_rows(run.folder / "candidates"))
    assert [one and one["reason"] for one in rows[0]["kept"]] == [None, "filtered", None, None]
    assert [score is None for score in rows[0]["reward"]] == [False, True, False, False]
    assert run.summary["requests"]["scored"] == 6 * 3
    assert run.summary["drops"]["filtered"] == 6
    assert all(
        1 not in (pair["chosen_sample"], pair["rejected_sample"]) for pair in run.pairs["train"]
    )


def test_a_row_of_which_no_candidate_is_left_is_a_reject(recipe):
    kept = {
        "name": "kept", "type": "filter", "candidates": "candidates", "tokens": {"min": 1000},
    }  # fmt: skip
    run = build(between(recipe, kept))
    assert [row["reason"] for row in run.rejects] == ["too_short"] * 6
    assert run.summary["requests"]["scored"] == 0


def test_each_candidate_is_judged_by_its_own_scores():
    texts, row = ["a", "b", "c"], {"right": [1.0, 0.0, None]}
    right = Verifier(
        name="right", type="verifier", method="regex", pattern="a", candidates="candidates"
    )
    filtered = [None, "filtered", "filtered"]
    assert judged(texts, [right], row, verifier="right") == filtered
    assert judged(texts, [right], row, expression="{{ (right or 0) > 0.5 }}") == filtered
    expression = "{{ text in ('a', 'c') }}"
    assert judged(texts, [right], row, expression=expression) == [None, "filtered", None]


def test_a_function_gets_the_text_and_the_row(recipe):
    kept = {
        "name": "kept", "type": "filter", "candidates": "candidates",
        "function": lambda text, row: row["answer"] != 2 or "too much",
    }  # fmt: skip
    run = build(between(recipe, kept))
    assert [row["detail"] for row in run.rejects] == ["too much"]


def test_tokens_are_the_candidates_or_those_of_a_tokenizer():
    assert judged(["a", "b"], tokens={"max": 3}) == [None, None]
    with pytest.raises(RowError, match="3 tokens, more than 2"):
        judged(["a", "b"], tokens={"max": 2})


# Checks of texts


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that request.",
        "I\u2019m sorry, I cannot help with this.",
        "Sorry, but I am not able to do this.",
        "I cannot provide instructions for that.",
        "As an AI language model, I cannot have opinions.",
        "I must decline.",
        "I won't write that.",
    ],
)
def test_refusals_are_found(text):
    assert refusal("kept", (), 200)(text).startswith("it refuses")


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry to hear that you are ill. Drink water.",
        "I can help with that.",
        "You cannot divide by zero.",
        "I can't help but notice a typo.",
        "The answer is 4. " * 20 + "I cannot help with more.",
    ],
)
def test_what_is_no_refusal_passes(text):
    assert refusal("kept", (), 200)(text) is None


def test_a_recipe_adds_patterns_of_refusals():
    assert judged(["Arr, no.", "Aye."], refusals={"patterns": ["^arr, no"]}) == ["refusal", None]


def test_a_pattern_of_refusals_that_never_ends_rejects_the_row():
    with pytest.raises(RowError, match="was not through") as caught:
        judged(["x" * 60 + "!"], refusals={"patterns": ["(?:x|xx)+$"]})
    assert caught.value.reason == "pattern_timeout"


@pytest.mark.parametrize(
    "text",
    [
        "la la la la la la la la",
        "One line.\n" * 10,
        "\n\n".join(["A paragraph of some words.", "Another one of them."] * 4),
        "so he said that " + "we have to go home now and then " * 6,
    ],
)
def test_repetition_is_found(text):
    assert repetition(text)


@pytest.mark.parametrize("text", ["", "Yes.", "4", "Berlin is in Germany.", "2 + 2 = 4, so 4."])
def test_short_answers_are_no_repetition(text):
    assert repetition(text) is None


def test_special_tokens_are_those_of_templates_and_those_given():
    check = special_token(["<mine>"])
    for token in (
        "<|im_end|>",
        "<|eot_id|>",
        "[/INST]",
        "<end_of_turn>",
        "<\uff5cUser\uff5c>",
        "<mine>",
    ):
        assert token in check(f"Fine. {token} More.")
    assert check("a < b | c > d, <b>bold</b>, f[INS]") is None


def test_a_tokenizer_brings_its_special_tokens_and_counts(recipe):
    recipe["models"][0]["model"] = str(QUICKSTART / "models" / "lm")
    kept = {
        "name": "kept", "type": "filter", "column": "prompt",
        "tokens": {"max": 1, "model_alias": "hot"},
    }  # fmt: skip
    recipe["columns"].insert(0, kept)
    run = build(recipe)
    assert {row["reason"] for row in run.rejects} == {"too_long"}


def test_check_and_the_start_of_a_run_look_at_what_a_filter_needs(project):
    pytest.importorskip("py3langid")
    (project.folder / "checkpoint").mkdir()
    (project.folder / "checkpoint" / "config.json").write_text("{}")
    bench = {"path": "bench.jsonl", "column": "question"}
    unseen = {"name": "unseen", "type": "filter", "column": "prompt"}
    project.recipe["columns"].append(unseen | {"decontaminate": {"against": [bench]}})
    with pytest.raises(PrefdataError, match=r"^decontaminate\.against\.path: file not found"):
        check_loaded(project.load())
    project.write_seeds([{"question": "none of these"}], "bench.jsonl")
    said = check_loaded(project.load())
    assert "column 'unseen': the first 1 texts of bench.jsonl can be read" in said
    project.recipe["columns"][-1] = unseen | {"languages": "eng"}
    with pytest.raises(PrefdataError, match="'eng' is no language"):
        check_loaded(project.load())
    with pytest.raises(PrefdataError, match="'eng' is no language"):
        pipeline.build(project.load(), project.folder / "run", rehearse=True, say=print)
    assert not any((project.folder / "run" / "journal").glob("*"))


def test_languages_are_told_apart_and_short_texts_pass():
    pytest.importorskip("py3langid")
    check = language(["en"])
    assert check("The weather is fine today, and we will go to the sea.") is None
    assert "'de'" in check("Das Wetter ist heute schön, und wir fahren ans Meer.")
    assert check("Ja.") is None
    with pytest.raises(PrefdataError, match="'xx' is no language"):
        language(["xx"])


# Decontamination

ITEM = "Natalia sold clips to 48 of her friends in April, and then she sold half as many in May."


def items(*texts, ngram=8, overlap=0.5, near=0.8):
    return Items(((f"bench:{n}", text) for n, text in enumerate(texts)), ngram=ngram,
                 overlap=overlap, near=near)  # fmt: skip


def test_punctuation_hides_no_near_duplicate():
    known = items("one two three four five six seven eight nine ten eleven twelve", ngram=13)
    assert known.find("zero, two. three! four; five: six, seven - eight, nine ten. eleven? twelve!")
    assert known.find("zero, one. two! five; six: seven, eight - nine, zero") is None


@pytest.mark.parametrize(
    "text",
    [
        ITEM,
        ITEM.upper(),
        ITEM.replace(",", " -").replace(".", "!"),
        f"Solve this, please. {ITEM} How many are that in all?",
        ITEM.replace("in May", "the month after"),
        ITEM.replace("Natalia", "Anna").replace("48", "49").replace("half", "twice"),
    ],
    ids=["verbatim", "case", "punctuation", "embedded", "end", "numbers"],
)
def test_an_item_is_found_however_it_is_dressed(text):
    known = items("What is the capital of France?", ITEM, near=0.4)
    assert known.find(text).source == "bench:1"


def test_half_of_the_words_must_be_covered():
    start = " ".join(ITEM.split()[:8])
    assert items(ITEM).find(f"{start} and lost them.") is None
    assert items(ITEM, overlap=0.4).find(f"{start} and lost them.").overlap == pytest.approx(8 / 19)


def test_short_items_must_be_the_whole_text():
    assert items("Who are you?").find("who are you") is not None
    assert items("Who are you?").find("Tell me who are you and why") is None
    assert (
        items("What is the capital of France?").find("So: what is the capital of France")
        is not None
    )


def test_matches_are_rejects_with_item_and_overlap(recipe, project):
    project.write_seeds([{"question": "What is the question of 3"}], "bench.jsonl")
    project.write_seeds(
        [{"prompt": f"what is the QUESTION of {n}?", "answer": n} for n in range(6)]
    )
    kept = {
        "name": "unseen", "type": "filter", "column": "prompt",
        "decontaminate": {"against": [{"path": "bench.jsonl", "column": "question"}]},
    }  # fmt: skip
    recipe["columns"].insert(0, kept)
    run = build(recipe)
    [reject] = run.rejects
    assert reject["reason"] == "contaminated"
    told = "bench.jsonl:1, 1.00 of its words: 'What is the question of 3'"
    assert reject["detail"] == told
    run.report()
    page = unescape((run.folder / "report.html").read_text())
    [table] = re.findall("Texts with items of benchmarks.*?</table>", page, re.DOTALL)
    assert reject["id"] in table
    assert told in table


def test_another_benchmark_makes_the_rows_again(recipe, project):
    project.write_seeds([{"question": "none of these at all"}], "bench.jsonl")
    kept = {
        "name": "unseen", "type": "filter", "column": "prompt",
        "decontaminate": {"against": [{"path": "bench.jsonl", "column": "question"}]},
    }  # fmt: skip
    recipe["columns"].insert(0, kept)
    assert len(build(recipe).rejects) == 0
    project.write_seeds([{"question": "question 3"}], "bench.jsonl")
    assert len(build(recipe).rejects) == 1
    project.write_seeds([{"question": "question 3"}, {"question": 3}], "bench.jsonl")
    with pytest.raises(PrefdataError, match=r"bench\.jsonl:2: column 'question' has no text"):
        build(recipe)
    (project.folder / "bench.jsonl").write_text('{"question": "question 3"}\n{"question": \n')
    with pytest.raises(PrefdataError, match=r"bench\.jsonl:2: .*what cannot be read cannot be"):
        build(recipe)
    project.write_seeds([{"question": "question 3"}], "bench.jsonl")
    kept["decontaminate"]["against"][0]["column"] = "answer"
    with pytest.raises(PrefdataError, match="there is no column 'answer'"):
        build(recipe)
    kept["decontaminate"]["against"][0]["path"] = "none.jsonl"
    with pytest.raises(
        PrefdataError, match=r"^decontaminate\.against\.path: file not found: 'none"
    ):
        build(recipe)


# Rows that are skipped


def test_a_skipped_row_asks_nothing_and_is_told(recipe):
    recipe["columns"][1]["skip_when"] = "{{ answer > 3 }}"
    run = build(recipe)
    rows = list(read_rows(run.folder / "candidates"))
    assert run.summary["requests"]["scored"] == 4 * 4
    assert [row["reward"] for row in rows[4:]] == [[None] * 4] * 2
    assert [row["reward__skipped"] for row in rows[3:5]] == [None, "{{ answer > 3 }}"]
    assert run.summary["skipped"] == {"reward": 2}
    assert run.summary["rejects"] == {"pairs: skipped": 2}
    assert run.summary["drops"] == {}
    assert {r["detail"] for r in run.rejects} == {"column 'reward' asked nothing: {{ answer > 3 }}"}


def test_what_reads_skipped_candidates_is_skipped_too(recipe):
    recipe["columns"][0]["skip_when"] = "{{ answer > 3 }}"
    recipe["columns"][1]["skip_when"] = "{{ answer == 0 }}"
    run = build(recipe)
    rows = list(read_rows(run.folder / "candidates"))
    assert [row["candidates"] for row in rows[4:]] == [None, None]
    assert [row["reward__skipped"] for row in rows[3:5]] == [None, "'candidates' is skipped"]
    assert run.summary["skipped"] == {"candidates": 2, "reward": 3}
    why = {row["detail"]: row["reason"] for row in run.rejects}
    assert why == {
        "column 'candidates' asked nothing: {{ answer > 3 }}": "skipped",
        "column 'reward' asked nothing: {{ answer == 0 }}": "skipped",
    }


def test_a_reject_for_want_of_a_skipped_column_names_it(recipe):
    hint = recipe["columns"][0] | {
        "name": "hint",
        "type": "llm_text",
        "skip_when": "{{ answer > 3 }}",
    }
    del hint["samples"]
    turns = {"name": "turn", "type": "expand", "column": "hint", "lines": True}
    recipe["columns"].insert(0, hint)
    recipe["columns"].insert(1, {"name": "y", "type": "expression", "expression": "{{ hint }}!"})
    why = "; column 'hint' asked nothing: {{ answer > 3 }}"
    assert [row["detail"].endswith(why) for row in build(recipe).rejects] == [True, True]
    recipe["columns"][1] = turns
    assert [row["detail"].endswith(why) for row in build(recipe).rejects] == [True, True]
    del recipe["columns"][1]
    recipe["output_projection"]["prompt_field"] = "hint"
    assert {row["reason"] for row in build(recipe).rejects} == {"skipped"}


def test_a_response_that_is_skipped_is_not_counted_as_empty(recipe):
    texts = [
        {"name": name, "type": "llm_text", "model_alias": "hot", "prompt": name + "{{ prompt }}"}
        for name in "abc"
    ]
    texts[2]["skip_when"] = "{{ answer > 3 }}"
    recipe["columns"][:1] = texts
    for reader in (recipe["columns"][-1], recipe["output_projection"]):
        del reader["candidates"]
        reader["responses"] = ["a", "b", "c"]
    run = build(recipe)
    assert run.summary["drops"]["skipped"] == 2
    assert "empty" not in run.summary["drops"]


def test_plan_tells_what_may_be_skipped(project, capsys):
    from prefdata.cli.summary import print_plan

    project.recipe["columns"][1]["skip_when"] = "{{ answer > 3 }}"
    print_plan(project.load())
    told = " ".join(capsys.readouterr().out.split())
    assert "skips reward: nothing is asked where {{ answer > 3 }}" in told
    assert "requests at most 80" in told


# Judges that are asked where reward models disagree


def test_a_judge_is_asked_where_reward_models_disagree_and_the_reward_decides_elsewhere(project):
    recipe = {key: value for key, value in project.recipe.items() if key != "output_dir"}
    other = recipe["columns"][1] | {"name": "other", "prompt": "Once more: {{ prompt }}"}
    judge = {
        "name": "judge", "type": "rubric_judge", "model_alias": "hot", "candidates": "candidates",
        "criteria": {"good": "Is it good?"}, "scale": [1, 5],
        "skip_when": "{{ (reward | best) == (other | best) }}",
    }  # fmt: skip
    recipe["columns"] += [other, judge]
    recipe["output_projection"] |= {"score": "judge", "otherwise": "reward"}
    recipe["seed_dataset"] = {"rows": [{"prompt": f"question {n}"} for n in range(20)]}
    run = prefdata.build(
        recipe, project.folder / "run", rehearse=True, say=lambda line: None, progress=False
    )
    rows = list(read_rows(run.folder / "candidates"))
    agreed = [row for row in rows if places(row["reward"])[0] == places(row["other"])[0]]
    assert 0 < len(agreed) < 20
    assert run.summary["skipped"] == {"judge": len(agreed)}
    assert run.summary["requests"]["generated"] == 20 * 4 + (20 - len(agreed)) * 4
    pairs = {pair["row_id"]: pair for pair in run.pairs["train"]}
    for row in agreed:
        best = row["candidates"][places(row["reward"])[0]]["text"]
        assert pairs[row["id"]]["chosen"] == best
        assert row["judge"] == [None] * 4


def places(scores):
    return sorted(range(len(scores)), key=lambda place: -scores[place])


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ scores | best }}", "2"),
        ("{{ scores | worst }}", "0"),
        ("{{ named | best }}", "b"),
        ("{{ (none | best) is none }}", "True"),
    ],
)
def test_templates_know_the_best_and_the_worst_score(template, told):
    row = {"scores": [1.0, None, 3.0], "named": {"a": 1.0, "b": 2.0}, "none": [None]}
    assert compile_prompt(template).render(row) == told


def test_best_of_a_single_score_is_told():
    with pytest.raises(RowError, match="this is one: 0.5; a filter over candidates sees the score"):
        compile_prompt("{{ score | best }}").render({"score": 0.5})


def test_a_verdict_that_is_skipped_is_the_rewards_or_a_reject_of_its_own():
    rule = {
        "type": "dpo_preference", "response_a_field": "a", "response_b_field": "b",
        "judge_field": "judge", "winner_field": "winner",
    }  # fmt: skip
    a, b = Candidate("one", 1.0), Candidate("two", 2.0)
    dropped = pick_by_verdict(a, b, SKIPPED, DpoPreference(**rule), seed=0)
    assert dropped.drop.reason == "skipped"
