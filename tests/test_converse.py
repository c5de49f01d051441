"""Conversations of two models: turns, ends, candidates that part, and kills."""

import asyncio
import multiprocessing
import os
import signal
from contextlib import closing

import orjson
import pytest
from conftest import ROOT
from runs import read_lines

import prefdata
from prefdata.engines.scripted import Scripted
from prefdata.engines.template_file import TemplateFile
from prefdata.errors import RowError
from prefdata.fingerprint import TextKeys
from prefdata.recipe.checks import check_recipe
from prefdata.recipe.columns import Expand, LlmText
from prefdata.recipe.converse import Converse
from prefdata.recipe.schema import Model, Recipe
from prefdata.stages import Tools, make_expansion, make_stage
from prefdata.storage.folders import read_rows
from prefdata.storage.journal import Journal
from prefdata.storage.journaled import Journaled, NotNow, Opened, Work

ROW = {"id": "r", "prompt": "2+2?", "who": "a child"}


def told(request):
    """What each side says: how many messages it has seen."""
    return f"said after {len(request.messages)}"


def model(alias):
    parameters = {"temperature": 1, "max_tokens": 9}
    return Model(alias=alias, model="m", inference_parameters=parameters)


def talk(user=told, policy=told, engines=None, row=ROW, **keys):
    engines = engines or {"user": Scripted(user), "policy": Scripted(policy)}
    column = Converse(
        name="talk", type="converse", user_alias="user", model_alias="policy",
        **{"prompt": "{{ prompt }}", "turns": 3} | keys,
    )  # fmt: skip
    tools = Tools(0, {alias: model(alias) for alias in engines}, engines, {})
    return asyncio.run(make_stage(column, tools)(row))


def roles(chat):
    return " ".join(message["role"][0] for message in chat)


def test_a_chat_ends_with_the_last_turn_of_the_user():
    made = talk()
    assert roles(made["talk"]) == "u a u a u"
    assert made["talk"][0]["content"] == "2+2?"
    assert [one["alias"] for one in made["talk__meta"]] == ["policy", "user"] * 2


def test_the_user_writes_the_first_turn_where_nothing_is_given():
    assert roles(talk(prompt=None, turns=2)["talk"]) == "u a u"


def test_the_user_is_told_who_it_is_and_sees_the_conversation_from_its_side():
    seen = []

    def reply(request):
        seen.append(request.messages)
        return "more"

    talk(reply, turns=2, persona="{{ who }}", goal="sums", done_when="it is bored")
    [system, *others] = seen[0]
    for part in ("The person: a child", "wants: sums", "[DONE] alone when it is bored"):
        assert part in system["content"]
    assert roles(others) == "u a u"
    assert [one["content"] for one in others[1:]] == ["2+2?", "said after 1"]


def test_the_user_ends_it():
    made = talk(lambda request: "Thanks! [done]")
    assert roles(made["talk"]) == "u a"
    assert len(made["talk__meta"]) == 1
    with pytest.raises(RowError, match="done before the first turn"):
        talk(lambda request: "[DONE]", prompt=None)


def test_samples_part_after_the_prompt_and_end_with_an_answer():
    def policy(request):
        return f"{request.seed} after {len(request.messages)}"

    found = talk(policy=policy, samples=2, turns=2)["talk"]
    assert [one["sample"] for one in found] == [0, 1]
    assert [roles(orjson.loads(one["turns"])) for one in found] == ["a u", "a u"]
    assert found[0]["turns"] != found[1]["turns"]
    assert all(one["text"].endswith("after 3") for one in found)


def test_a_conversation_that_fails_leaves_the_others():
    broken = []

    def once(request):
        if not broken:
            broken.append(1)
            raise RowError("refused_by_endpoint", "no")
        return told(request)

    found = talk(policy=once, samples=2)["talk"]
    assert [one["finish_reason"] for one in found] == ["refused_by_endpoint", "stop"]


def rehearse(project, columns, **rule):
    recipe = {key: value for key, value in project.recipe.items() if key != "output_dir"}
    rule = recipe["output_projection"] | rule
    given = recipe | {"columns": columns, "output_projection": rule}
    return prefdata.build(given, "run", rehearse=True, say=lambda line: None, progress=False)


@pytest.fixture
def made(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    project.write_seeds([{"prompt": f"question {n}", "answer": n} for n in range(3)])
    return project


TALK = {
    "name": "talk", "type": "converse", "model_alias": "hot", "user_alias": "hot",
    "prompt": "{{ prompt }}", "turns": 2,
}  # fmt: skip
REWARD = {"name": "reward", "type": "reward_model", "model_alias": "grader"}


def test_candidates_answer_the_last_turn_of_a_conversation(made):
    answers = {
        "name": "candidates", "type": "candidates", "model_alias": "hot", "samples": 3,
        "messages": "talk",
    }  # fmt: skip
    columns = [TALK, answers, REWARD | {"candidates": "candidates"}]
    run = rehearse(made, columns, prompt_field="talk")
    pair = run.pairs["train"][0]
    assert roles(pair["prompt"]) == "u a u"
    assert run.summary["pairs"]["train"] == 3


def test_each_turn_becomes_a_row(made):
    turn = {"name": "turn", "type": "expand", "column": "talk", "turns": True}
    answers = {
        "name": "candidates", "type": "candidates", "model_alias": "hot", "samples": 3,
        "messages": "turn",
    }  # fmt: skip
    columns = [TALK, turn, answers, REWARD | {"candidates": "candidates"}]
    run = rehearse(made, columns, prompt_field="turn")
    assert sorted({roles(row["turn"]) for row in run.candidates}) == ["u", "u a u"]
    assert run.summary["pairs"]["train"] == 6


CALLS = [{"function": {"name": "f", "arguments": "{}"}}]
CALL = {"role": "assistant", "content": "", "tool_calls": CALLS}
CALLING = [{"role": "user", "content": "hi"}, CALL, {"role": "tool", "content": "3"}]
ASKING = {"role": "user", "content": "and?"}


def test_a_conversation_that_cannot_be_held_is_a_reject(made):
    turn = make_expansion(Expand(name="turn", type="expand", column="chat", turns=True))
    assert [roles(row["turn"]) for row in turn({"id": "r", "chat": CALLING})] == ["u"]
    for chat, reason in (([*CALLING, ASKING], "tool_calls"), ([CALL], "no_items")):
        with pytest.raises(RowError) as refused:
            turn({"id": "r", "chat": chat})
        assert refused.value.reason == reason
    with pytest.raises(RowError, match="turns without their calls"):
        talk(prompt=None, messages=({"chat": "chat"},), row={"id": "r", "chat": [*CALLING, ASKING]})


@pytest.mark.parametrize("prompt_field", ["turn", "asked"])
def test_all_turns_of_a_conversation_are_in_one_split(made, prompt_field):
    turn = {"name": "turn", "type": "expand", "column": "talk", "turns": True}
    answers = {
        "name": "candidates", "type": "candidates", "model_alias": "hot", "samples": 2,
        "messages": "turn",
    }  # fmt: skip
    columns = [TALK | {"turns": 3}, turn, answers, REWARD | {"candidates": "candidates"}]
    run = rehearse(made, columns, prompt_field=prompt_field, test_size=0.4)
    exported = run.export("trl", test_size=0.3)
    splits = [
        {row["prompt"][0]["content"] for row in rows}
        for rows in (*run.pairs.values(), *map(read_lines, (exported.train, exported.test)))
    ]
    assert all(splits) and sum(map(len, splits)) == 6
    assert not splits[0] & splits[1] and not splits[2] & splits[3]


def test_pairs_part_after_the_shared_prompt_and_are_scored_as_wholes(made):
    columns = [TALK | {"samples": 3}, REWARD | {"candidates": "talk"}]
    run = rehearse(made, columns, candidates="talk")
    pair = run.pairs["train"][0]
    assert pair["prompt"].startswith("question")
    assert roles(orjson.loads(pair["chosen_turns"])) == "a u"
    assert pair["chosen_turns"] != pair["rejected_turns"]
    rows = list(read_rows(run.folder / "candidates"))
    assert all(len(set(row["reward"])) == 3 for row in rows)


def converse_until_killed(folder, turn):
    """Ask in a process that is killed when the model is asked for the so-manieth time."""

    def reply(request):
        with (folder / "asked").open("a") as file:
            file.write(f"{TextKeys('m').key(request)}\n")
        asked.append(request)
        if len(asked) == turn:
            os.kill(os.getpid(), signal.SIGKILL)
        return told(request)

    asked = []
    with closing(Journal(folder / "journal")) as journal:
        engines = {
            alias: Journaled(Opened(lambda: Scripted(reply)), TextKeys("m"), journal, Work())
            for alias in ("user", "policy")
        }
        (folder / "done").write_bytes(orjson.dumps(talk(engines=engines)))


def test_a_turn_that_was_finished_is_never_asked_again_after_a_kill(tmp_path):
    fork = multiprocessing.get_context("fork")
    for turn in (2, 2, 2, 0):
        process = fork.Process(target=converse_until_killed, args=(tmp_path, turn))
        process.start()
        process.join()
        assert process.exitcode == (-signal.SIGKILL if turn else 0)
    asked = (tmp_path / "asked").read_text().split()
    assert len(set(asked)) == 4
    assert len(asked) == 4 + 3  # what was in flight is asked again, once
    assert orjson.loads((tmp_path / "done").read_bytes())["talk"] == talk()["talk"]


@pytest.mark.parametrize("samples", [None, 2])
def test_models_that_do_not_fit_together_are_asked_in_turn(tmp_path, samples):
    with closing(Journal(tmp_path / "journal")) as journal:
        work = Work()
        engines = {
            alias: Journaled(Opened(Scripted), TextKeys(alias), journal, work)
            for alias in ("user", "policy")
        }
        for alias, other in (("policy", "user"), ("user", "policy")):
            engines[alias].may_load, engines[other].may_load = True, False
            with pytest.raises(NotNow):
                talk(engines=engines, samples=samples)
            journal.refresh()
        engines["policy"].may_load = True
        talk(engines=engines, samples=samples)
        assert work.generated == (4 if samples is None else 2 * 5)


# A user's turn from the prefix of a chat template


MAGPIE = {"name": "prompt", "type": "llm_text", "model_alias": "hot", "writes": "user"}


def test_a_model_writes_the_turn_of_the_user_from_the_prefix_of_its_template(quickstart_models):
    from prefdata.engines.transformers.model import (
        ChatTokenizer,
        Checkpoint,
        encode_request,
        load_tokenizer,
    )
    from prefdata.inference import Sampling, TextRequest

    tokenizer = load_tokenizer(Checkpoint(str(quickstart_models / "lm"), None, False))
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    chat = ({"role": "system", "content": "Sums."}, {"role": "user", "content": ""})
    request = TextRequest(chat, Sampling(1.0, 9), 0, continues=True)
    ids = encode_request(ChatTokenizer("lm", tokenizer, 512), request)
    wanted = "<|system|>\nSums.<|end|>\n<|user|>\n"
    assert ids == tokenizer(wanted, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("template", "prefix"),
    [
        ("deepseek_r1_distill", "<\uff5cUser\uff5c>"),
        ("gemma", "<start_of_turn>user\n"),
        ("gptoss", "<|start|>user<|message|>"),
        ("qwen3", "<|im_start|>user\n"),
    ],
)
def test_known_templates_are_cut_where_the_user_begins(template, prefix):
    text = (ROOT / "tests" / "chat_templates" / f"{template}.jinja").read_text()
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    chat = [{"role": "user", "content": ""}]
    assert TemplateFile(template, text, tokens).render(chat).endswith(prefix)


def test_prompts_that_a_model_has_made_up_are_answered(made):
    columns = [MAGPIE, *made.recipe["columns"]]
    made.recipe["seed_dataset"] = {"rows": [{"topic": "sums"}]}
    made.recipe["num_records"] = 4
    run = rehearse(made, columns)
    rows = list(read_rows(run.folder / "candidates"))
    assert len({row["prompt"] for row in rows}) == 4
    assert run.summary["pairs"]["train"] == 4
    assert rows[0]["prompt__meta"]["alias"] == "hot"


def test_what_stands_before_the_turn_of_the_user_is_sent(made):
    seen = []

    def reply(request):
        seen.append(request)
        return " What is 2+2? "

    column = LlmText(**MAGPIE, messages=[{"role": "system", "content": "About {{ prompt }}"}])
    engines = {"hot": Scripted(reply)}
    row = asyncio.run(make_stage(column, Tools(0, {"hot": model("hot")}, engines, {}))(ROW))
    assert row["prompt"] == "What is 2+2?"
    assert seen[0].continues
    assert [(one["role"], one["content"]) for one in seen[0].messages] == [
        ("system", "About 2+2?"), ("user", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("column", "key"),
    [
        ({"type": "expression", "expression": "{{ talk }}"}, "expression"),
        ({"type": "llm_text", "model_alias": "m", "prompt": "Sum up: {{ talk }}"}, "prompt"),
        ({"type": "extract", "column": "talk", "pattern": "(?P<a>.)"}, "column"),
    ],
    ids=["expression", "prompt", "extract"],
)
def test_a_conversation_is_no_text_to_print_or_to_search(column, key):
    parameters = {"temperature": 1, "max_tokens": 8}
    talk = {"type": "converse", "model_alias": "m", "user_alias": "m", "turns": 2, "prompt": "hi"}
    recipe = Recipe.model_validate({
        "output_dir": "o", "seed_dataset": {"rows": [{"q": "x"}]},
        "models": [{"alias": "m", "model": "m", "inference_parameters": parameters}],
        "columns": [{"name": "talk", **talk}, {"name": "made", **column}],
        "output_projection": {
            "type": "preference_pairs", "responses": ["q", "q2"], "strategy": "given",
        },
    })  # fmt: skip
    told = {problem.at: problem.message for problem in check_recipe(recipe, recipe.seed_fields)}
    assert "talk" in told["columns", 1, key]
    sent = recipe.columns[0].model_copy(update={"name": "again", "prompt": "{{ talk }}"})
    bare = recipe.model_copy(update={"columns": (recipe.columns[0], sent)})
    assert not [p for p in check_recipe(bare, bare.seed_fields) if p.at[0] == "columns"]
