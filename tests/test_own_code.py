"""Code of one's own: stages, filters, verifiers, strategies, formats, and what an edit repeats."""

import asyncio
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import forks
import moments
import orjson
import pytest
import yaml
from conftest import QUICKSTART, ROOT
from typer.testing import CliRunner

import prefdata
from prefdata import PrefdataError, RowError, pipeline
from prefdata.cli import app
from prefdata.cli.summary import print_plan
from prefdata.fingerprint import TextKeys
from prefdata.hub.fetched import _Stranger
from prefdata.inference import Completion
from prefdata.pairs.pair import Candidate, Pair
from prefdata.pairs.picking import pick_pairs
from prefdata.recipe.loader import load_recipe
from prefdata.recipe.own_code import Stage
from prefdata.recipe.projection import PreferencePairs
from prefdata.recipe.schema import Model
from prefdata.stages import Tools, make_stage
from prefdata.stages.code import hash_code
from prefdata.stages.functions import Functions
from prefdata.storage.folders import read_rows
from prefdata.storage.journal import Journal
from prefdata.storage.journaled import Journaled, NotNow, Opened, Work
from prefdata.workers.machine import Machine

PAGE = (ROOT / "docs" / "extending.md").read_text()


def blocks(kind, name):
    found = re.findall(rf"```{kind}\n# {re.escape(name)}\n(.*?)```", PAGE, re.S)
    assert found, name
    return "\n\n".join(found)


@pytest.fixture
def page(tmp_path):
    """The files that the page describes."""
    shutil.copytree(QUICKSTART, tmp_path, dirs_exist_ok=True)
    (tmp_path / "mine.py").write_text(blocks("python", "mine.py"))
    (tmp_path / "stage.yaml").write_text(blocks("yaml", "stage.yaml"))
    (tmp_path / "page.py").write_text(blocks("python", "page.py"))
    return tmp_path


@pytest.mark.slow
def test_the_page_runs(page, monkeypatch):
    commands = re.findall(r"^```\n(prefdata .*)\n```", PAGE, re.M)
    assert len(commands) == 3
    done = subprocess.run([sys.executable, "page.py"], cwd=page, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(page)
    for command in commands:
        done = CliRunner().invoke(app, command.split()[1:])
        assert done.exit_code == 0, done.output
    own = prefdata.open_run(page / "output" / "own")
    assert own.recipe.output_projection.pick == "mine:neighbours"
    assert {one["fits"][0] for one in own.candidates} <= {0.0, 1.0}
    other = prefdata.open_run(page / "output" / "other")
    assert other.pairs["train"].to_list() == own.pairs["train"].to_list()
    assert (own.folder / "exports" / "sides" / "train.jsonl").is_file()
    stage = prefdata.open_run(page / "output" / "stage")
    assert stage.candidates[0]["draft__meta"]["alias"] == "bold"
    assert stage.candidates[0]["second__meta"]["temperature"] == 0.3


def test_the_plan_says_that_a_stages_requests_are_a_guess(page, monkeypatch, capsys):
    monkeypatch.chdir(page)
    print_plan(load_recipe(page / "stage.yaml"))
    told = capsys.readouterr().out
    assert "a guess      twice counts as one request of each of its models a row" in told
    assert told.count("a guess") == 1


# What is there to run: rows, without a model


@pytest.fixture
def recipe(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    project.write_seeds([{"prompt": f"question {n}", "answer": n} for n in range(6)])
    return {key: value for key, value in project.recipe.items() if key != "output_dir"}


def build(recipe, out="run", **more):
    told = []
    return prefdata.build(recipe, out, rehearse=True, say=told.append, progress=False, **more), told


def with_stage(recipe, function, **more):
    stage = {"name": "made", "type": "stage", "function": function, "model_alias": "hot"}
    return recipe | {"columns": [stage | more, *recipe["columns"]]}


async def answer_twice(row, ask):
    first, second = await asyncio.gather(ask("hot", "Say it."), ask("hot", "Say it."))
    return {"made": first, "other": second.text}


TWO = {"made": "str", "other": "str"}


def test_a_stage_asks_and_the_same_question_is_another_draw(recipe):
    run, _ = build(with_stage(recipe, answer_twice, returns=TWO))
    rows = run.candidates.to_list()
    assert all(row["made"] and row["made"] != row["other"] for row in rows)
    assert len({row["made"] for row in rows}) == len(rows)
    assert rows[0]["made__meta"]["alias"] == "hot"
    assert rows[0]["other__meta"] is None
    assert run.summary["requests"]["generated"] == 6 * 2 + 6 * 4


async def by_chat(row, ask, score):
    chat = [{"role": "user", "content": row["prompt"]}]
    said = await ask("hot", chat, temperature=0.1, max_tokens=4)
    scored = await score("grader", [*chat, {"role": "assistant", "content": said.text}])
    return {"made": said, "good": scored, "notes": {"n": [row["answer"], None]}}


def test_a_stage_scores_and_samples_as_it_says(recipe):
    returns = {"made": "str", "good": "float", "notes": "json"}
    run, _ = build(with_stage(recipe, by_chat, returns=returns, reward_alias="grader"))
    row = next(read_rows(run.folder / "candidates"))
    assert row["made__meta"]["temperature"] == 0.1
    assert isinstance(row["good"], float)
    assert row["notes"] == {"n": [0, None]}


async def some_candidates(row, ask):
    return {"made": [await ask("hot", "Go."), "a text", {"text": "more", "alias": "me"}]}


def test_a_stage_may_make_candidates_that_are_scored_and_paired(recipe):
    recipe = with_stage(recipe, some_candidates, returns={"made": "candidates"})
    score = recipe["columns"].pop() | {"candidates": "made"}
    rule = recipe["output_projection"] | {"candidates": "made"}
    columns = [recipe["columns"][0], score]
    run, _ = build(recipe | {"columns": columns, "output_projection": rule})
    first = run.candidates[0]["made"]
    assert [one["alias"] for one in first] == ["hot", None, "me"]
    assert [one["sample"] for one in first] == [0, 1, 2]
    assert run.summary["pairs"]["train"] == 6


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("return {'made': 1 / row['zero']}", "stage", "KeyError in own.py:2"),
        ("raise prefdata.RowError('mine', 'no good')", "mine", "no good"),
        ("return {'other': 'x'}", "stage", "must return a dict with made, not"),
        ("return {'made': 3}", "stage", "'made' is 3, which is no str"),
        ("return {'made': await ask('hot', ' ')}", "empty_prompt", "its prompt is blank"),
        ("raise SystemExit(3)", "stage", "SystemExit in own.py:2: 3"),
    ],
    ids=["an error", "its own reason", "another column", "another type", "a blank prompt", "exit"],
)
def test_what_a_stage_cannot_make_is_the_fate_of_its_row(recipe, tmp_path, text, reason, detail):
    code = f"import prefdata\nasync def stage(row, ask): {text}\n"
    (tmp_path / "own.py").write_text(code.replace("import prefdata\n", "import prefdata\n"))
    sys.modules.pop("own", None)
    run, _ = build(with_stage(recipe, "own:stage"))
    assert {(row["stage"], row["reason"]) for row in run.rejects} == {("made", reason)}
    assert detail in run.rejects[0]["detail"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("async def stage(row, ask): await ask('cold', 'x')", "'cold', which is not in 'model_al"),
        ("async def stage(row, ask): await ask('hot', 'x', heat=1)", "heat: Extra inputs are not"),
        ("async def stage(row, ask): await ask('hot', 'x', top_p=3)", "top_p: Input should be"),
        ("def stage(row, ask): return {}", "write it as 'async def stage"),
    ],
)
def test_what_is_wrong_with_a_stage_itself_stops_the_run(recipe, tmp_path, text, message):
    (tmp_path / "own.py").write_text(text)
    sys.modules.pop("own", None)
    with pytest.raises(PrefdataError, match=message):
        build(with_stage(recipe, "own:stage"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"returns": {"a": "candidates", "b": "str"}}, "returns nothing else"),
        ({"returns": {"a__meta": "str"}}, "is reserved"),
        ({"reward_alias": "hot"}, "both asked and used to score"),
        ({"model_alias": "cold"}, "there is no model 'cold'"),
    ],
)
def test_a_stage_that_cannot_be_is_refused_before_the_run(recipe, more, message):
    with pytest.raises(PrefdataError, match=message):
        build(with_stage(recipe, answer_twice, **more))


def test_a_killed_stage_asks_nothing_twice(recipe, tmp_path):
    (tmp_path / "own.py").write_text(
        "import asyncio\n"
        "async def stage(row, ask):\n"
        "    a, b = await asyncio.gather(ask('hot', 'A'), ask('hot', 'B'))\n"
        "    return {'made': await ask('hot', a.text + b.text)}\n"
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(with_stage(recipe, "own:stage")))
    kill = moments.command(tmp_path / "run-rehearsal", signal.SIGKILL, "journal text", 12)
    arguments = ["build", "recipe.yaml", "--rehearse", "--out", "run"]
    done = forks.run(*arguments, watched=kill, cwd=tmp_path)
    assert done.returncode == -9, done.stderr
    kept = sum(
        b'"text"' in line
        for file in (tmp_path / "run-rehearsal" / "journal").iterdir()
        for line in file.read_bytes().splitlines()[:-1]  # the last one is cut in its middle
    )
    sys.modules.pop("own", None)
    run, _ = build("recipe.yaml")
    assert kept > 6
    assert run.summary["requests"]["generated"] + kept == 6 * 3 + 6 * 4


# Models that are not loaded at the same time


class Answering:
    """Answers a question when it is told to."""

    def __init__(self, may_answer):
        self.may_answer, self.asked = may_answer, 0

    async def ask(self, requests):
        self.asked += len(requests)
        await self.may_answer.wait()
        for number, request in enumerate(requests):
            yield number, Completion(request.messages[-1]["content"] + "!", "stop", 1, 1)

    def close(self):
        pass


@pytest.mark.parametrize("kind", ["gather", "group", "caught"])
def test_what_is_asked_beside_a_model_that_is_not_loaded_is_kept(tmp_path, kind):
    async def both(row, ask):
        if kind == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(ask("hot", "a"))
                group.create_task(ask("cold", "b"))
        try:
            await asyncio.gather(ask("hot", "a"), ask("cold", "b"))
        except Exception:  # a user's own net, which is not for this
            return {"made": "lost"}
        return {"made": "done"}

    async def run():
        answering = Answering(asyncio.Event())
        with closing(Journal(tmp_path / "journal")) as journal:
            work = Work()
            engines = {
                alias: Journaled(Opened(lambda: answering), TextKeys(alias), journal, work)
                for alias in ("hot", "cold")
            }
            engines["cold"].may_load = False
            model = {"model": "m", "inference_parameters": {"temperature": 1, "max_tokens": 9}}
            models = {alias: Model(alias=alias, **model) for alias in engines}
            column = Stage(name="made", type="stage", function="f", model_alias=("hot", "cold"))
            stage = make_stage(column, Tools(0, models, engines, {}, given={"f": both}))
            asked = asyncio.ensure_future(stage({"id": "r"}))
            await asyncio.sleep(0)
            answering.may_answer.set()
            with pytest.raises(NotNow):
                await asked
            assert work.generated == 1
            engines["cold"].may_load = True
            journal.refresh()
            made = await stage({"id": "r"})
            assert made["made"] == "done"
            assert answering.asked == work.generated == (4 if kind == "group" else 2)

    asyncio.run(run())


def test_a_stage_whose_models_are_loaded_in_turn_comes_to_its_end(page):
    async def turns(row, ask):
        chat = [{"role": "user", "content": row["prompt"]}]
        said = await ask("bold", chat)
        score = await ask.score("grader", [*chat, {"role": "assistant", "content": said.text}])
        return {"draft": said, "second": await ask("bold", chat), "gain": score}

    raw = yaml.safe_load((page / "stage.yaml").read_text())
    raw["columns"][0]["function"] = turns
    raw["seed_dataset"] |= {"path": str(page / "prompts.jsonl"), "limit": 4}
    for model in raw["models"]:
        model["model"] = str(page / model["model"])
    one_gpu = Machine(gpus=("0",), worker=(str(ROOT / "tests" / "stub_worker.py"),))
    record = pipeline.build(
        prefdata.load_recipe(raw), page / "turns", machine=one_gpu, progress=False
    )
    assert record["requests"]["generated"] == 4 * 2
    assert [Path(path).name for path in record["loads"]] == ["lm", "rm", "lm", "rm"]


# Filters and verifiers


def filtered(row):
    return row["answer"] % 2 == 0 or f"{row['answer']} is odd"


def test_a_filter_rejects_rows_before_anything_is_asked_for_them(recipe):
    columns = [{"name": "even", "type": "filter", "function": filtered}, *recipe["columns"]]
    run, _ = build(recipe | {"columns": columns})
    assert run.summary["requests"]["generated"] == 3 * 4
    assert [row["reason"] for row in run.rejects] == ["filtered"] * 3
    assert run.rejects[0]["detail"] == "1 is odd"
    assert "even" not in run.candidates.column_names


@pytest.mark.parametrize("verdict", [None, 3])
def test_a_filter_that_returns_no_verdict_is_told_what_it_returned(recipe, verdict):
    columns = [
        {"name": "all", "type": "filter", "function": lambda row: verdict},
        *recipe["columns"],
    ]
    run, _ = build(recipe | {"columns": columns})
    assert len(run.pairs["train"]) == 0
    wanted = f"must return true, false or a reason, not {verdict}"
    assert all(row["detail"].endswith(wanted) for row in run.rejects)


def test_a_text_for_which_a_verifier_has_no_number_has_no_score(recipe):
    def odd(text, row):
        return None if row["asked"][-1]["content"].endswith("question 1") else 1.0

    columns = [recipe["columns"][0], {"name": "odd", "type": "verifier", "method": "function",
               "candidates": "candidates", "function": odd}]  # fmt: skip
    run, _ = build(recipe | {"columns": columns, "output_projection": recipe["output_projection"] | {"score": "odd"}})  # noqa: E501  # fmt: skip
    found = [row["odd"] for row in run.candidates]
    assert [1.0] * 4 in found
    assert {value for row in found for value in row} <= {None, 1.0}
    assert {row["reason"] for row in run.rejects} <= {"no_score", "tie", "identical"}


def test_a_verifier_sees_all_texts_of_a_row_at_once(recipe):
    bonus = 0.5

    def by_length(texts, row):
        assert row["asked"][0][-1]["content"] == "Answer: " + row["prompt"]
        return [bonus + len(text) for text in texts[:-1]] + [None]

    rule = {"name": "long", "type": "verifier", "method": "function", "per": "row",
            "function": by_length, "candidates": "candidates"}  # fmt: skip
    run, _ = build(recipe | {"columns": [*recipe["columns"], rule]})
    row = run.candidates[0]
    texts = [one["text"] for one in row["candidates"]]
    assert row["long"] == [0.5 + len(text) for text in texts[:3]] + [None]

    rule["function"] = lambda texts, row: [1.0]
    run, _ = build(recipe | {"columns": [*recipe["columns"], rule]}, "other")
    assert "returned 1 numbers for 4 texts" in run.rejects[0]["detail"]


# Strategies and formats


def candidates(*scores):
    return [Candidate(f"text {n}", score, sample=n) for n, score in enumerate(scores)]


RULE = PreferencePairs(
    type="preference_pairs", candidates="c", score="s", strategy="function", pick="m:f"
)


def test_a_strategy_gets_valid_candidates_best_first_and_rules_still_hold():
    seen = []

    def pick(given):
        seen.extend(given)
        return [(given[0], given[1]), Pair(given[1], given[2]), (given[2], given[0])]

    made = pick_pairs(
        [*candidates(1.0, 3.0, None, 2.0), Candidate(" ", 9.0)], RULE, seed=0, own=pick
    )
    assert [one.score for one in seen] == [3.0, 2.0, 1.0]
    assert [(p.chosen.score, p.rejected.score, p.margin) for p in made.pairs] == [
        (3.0, 2.0, 1.0), (2.0, 1.0, 1.0),
    ]  # fmt: skip
    assert made.drops["rejected_scores_higher"] == 1
    assert pick_pairs(candidates(1.0, 2.0), RULE, seed=0, own=lambda given: []).drop.reason == (
        "not_picked"
    )


@pytest.mark.parametrize(
    "pick",
    [lambda given: 1, lambda given: [given], lambda given: [(given[0], given[0])],
     lambda given: [(Candidate("x", 1.0), given[0])], lambda given: 1 / 0],
)  # fmt: skip
def test_a_strategy_that_fails_stops_the_choice_and_is_named(pick):
    with pytest.raises(PrefdataError, match="the function m:f fails"):
        pick_pairs(candidates(1.0, 2.0, 3.0), RULE, seed=0, own=pick)


def test_a_strategy_that_offers_one_text_twice_is_shown_both():
    with pytest.raises(PrefdataError, match=r"it offers \['text 1', 'text 1'\], and not two of"):
        pick_pairs(candidates(1.0, 2.0), RULE, seed=0, own=lambda given: [(given[0], given[0])])


def test_pairs_are_picked_again_by_a_function_and_by_its_edit(recipe):
    run, _ = build(recipe)
    models = set()

    def best_two(given):
        models.update(one.model for one in given)
        return [(given[0], given[1])]

    first = run.repick("first", strategy=best_two)
    assert models == {model.model for model in run.recipe.models if model.alias != "grader"}
    assert first.recipe.output_projection.strategy == "function"
    assert first.summary["fingerprint"] != run.summary["fingerprint"]
    second = run.repick("second", strategy=lambda given: [(given[0], given[2])])
    assert second.summary["fingerprint"] != first.summary["fingerprint"]
    assert run.repick("third", strategy="exhaustive").recipe.output_projection.pick is None


def test_a_format_is_a_function(recipe, tmp_path):
    run, _ = build(recipe)

    def trl(pair):
        if pair.prompt[-1]["content"].endswith("1"):
            raise RowError("mine", "no ones")
        return {"q": pair.prompt[-1]["content"], "a": pair.chosen}

    export = run.export(trl, say=lambda line: None, test_size=0)
    assert export.folder.name == "trl_own"
    assert export.left_out == {"mine": 1}
    assert '"q":"question 0"' in export.train.read_text()
    for bad in (object(), float("nan")):
        with pytest.raises(PrefdataError, match="returns for pair .* cannot be written as JSON"):
            run.export(lambda pair, bad=bad: [{"x": bad}])
    with pytest.raises(PrefdataError, match="fails for pair .*returns a dict or a list"):
        run.export(lambda pair: 1)
    with pytest.raises(PrefdataError, match="none of the .* pairs can be exported.*no_lines"):
        run.export(lambda pair: [])
    with pytest.raises(PrefdataError, match="export has no option 'may_be_text'"):
        run.export("trl", may_be_text=True)
    with pytest.raises(PrefdataError, match="cannot be imported"):
        run.export("no_such_module:lines")


def test_a_package_brings_functions_by_entry_points(recipe, tmp_path, monkeypatch):
    (tmp_path / "brought.py").write_text("def keep(row):\n    return row['answer'] > 3\n")
    info = tmp_path / "brought-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brought\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[prefdata]\nlarge = brought:keep\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    columns = [{"name": "kept", "type": "filter", "function": "large"}, *recipe["columns"]]
    run, _ = build(recipe | {"columns": columns})
    assert run.summary["pairs"]["train"] == 2
    with pytest.raises(PrefdataError, match="no package has an entry point 'larg'"):
        Functions().find("larg", "column 'kept'")


# What an edit repeats


def test_an_edit_of_a_stage_repeats_its_rows_and_asks_only_what_is_new(recipe):
    def stage(question):
        async def made(row, ask):
            return {"made": await ask("hot", question)}

        return made

    first, _ = build(with_stage(recipe, stage("one")))
    assert build(with_stage(recipe, stage("one")))[1] == ["nothing to do: this run is finished"]
    second, _ = build(with_stage(recipe, stage("two")))
    assert second.summary["requests"]["generated"] == 6
    assert second.summary["requests"]["replayed"] >= 6 * 4
    assert build(with_stage(recipe, stage("one")))[0].summary["requests"]["generated"] == 0


HELPERS = """
import functools, json, math
BOUND = {bound}
class Rule:
    limit = {limit}
    def fits(self, text): return len(text) < self.limit
def helper(text): return len(text) * BOUND {comment}
def score(text, row, base={base}):
    return json.dumps([helper(text), Rule().fits(text), math.pi]){more}
def unrelated(): return {unrelated}
"""
SAME = {"bound": 1, "limit": 2, "comment": "", "base": 3, "more": "", "unrelated": 0}


def code_with(folder, **changes):
    (folder / "helped.py").write_text(HELPERS.format(**SAME | changes))
    sys.modules.pop("helped", None)
    return Functions(folder).code("helped:score", "here")


@pytest.mark.parametrize(
    "change",
    [{"bound": 2}, {"limit": 9}, {"base": 4}, {"more": " + ''"}],
    ids=["a value", "a class", "a default", "the function"],
)
def test_the_hash_changes_with_what_a_function_hangs_on(tmp_path, change):
    assert code_with(tmp_path, **change) != code_with(tmp_path)


@pytest.mark.parametrize(
    "change", [{"unrelated": 1}, {"comment": "# a comment"}], ids=["another function", "a comment"]
)
def test_the_hash_stays_where_nothing_of_a_function_changes(tmp_path, change):
    assert code_with(tmp_path, **change) == code_with(tmp_path)


def test_the_hash_is_that_of_another_process_too(tmp_path):
    here = code_with(tmp_path)
    code = (
        "import pathlib, sys\nfrom prefdata.stages.functions import Functions\n"
        "print(Functions(pathlib.Path(sys.argv[1])).code('helped:score', ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert done.stdout.strip() == here


def test_the_hash_knows_partials_methods_instances_and_circles():
    class Scorer:
        def __init__(self, weight):
            self.weight, self.me = weight, self

        def __call__(self, text, row):
            return self.weight

        def score(self, text, row):
            return self.weight

    def plain(text, row, weight):
        return weight

    for make in (lambda n: functools.partial(plain, weight=n), lambda n: Scorer(n).score, Scorer):
        assert hash_code(make(1)) == hash_code(make(1))
        assert hash_code(make(1)) != hash_code(make(2))
    assert hash_code(print) == hash_code(print)
    assert hash_code(eval("lambda text, row: 1")) != hash_code(eval("lambda text, row: 2"))


def test_the_hash_does_not_hang_on_addresses(tmp_path):
    lock = object()

    def one(text, row):
        return lock, {3, 1, 2}, Path("x"), re.compile("a")

    assert hash_code(one) == hash_code(one)


# Strangers


ADDRESS = "hf://datasets/user/pairs/recipe.yaml"


@pytest.mark.parametrize("what", ["stage", "filter", "verifier", "strategy"])
def test_a_recipe_from_the_hub_may_call_no_function(recipe, what):
    column = {"name": "x", "type": what, "function": "os:system"}
    if what == "verifier":
        column |= {"method": "function", "candidates": "candidates"}
    if what == "strategy":
        recipe["output_projection"] |= {"strategy": "function", "pick": "os:system"}
    else:
        recipe["columns"].append(column)
    loaded = prefdata.load_recipe(recipe | {"output_dir": "x"})
    with pytest.raises(PrefdataError, match="may call no Python function"):
        _Stranger(ADDRESS, ["seed_dataset.path=x", "models.0.model=x"], False).check(loaded)


def test_a_run_from_the_hub_calls_no_function(recipe):
    run, _ = build(recipe)
    picked = run.repick("picked", strategy=lambda given: [(given[0], given[1])])
    record = picked.summary | {"fetched": ADDRESS}
    (picked.folder / "run.json").write_bytes(orjson.dumps(record))
    with pytest.raises(PrefdataError, match="a run from the Hub may call none"):
        picked.repick("again", min_margin=0.1)
    assert picked.repick("again", strategy="best_vs_worst").summary["pairs"]["train"] == 6
