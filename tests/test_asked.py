"""Chats from seeds to pairs: what a model is asked is what the pair says it was asked."""

import asyncio

import orjson
import pytest
from test_stages import SAMPLING, WINNER, column

from prefdata.engines.scripted import Scripted
from prefdata.errors import PrefdataError, RowError
from prefdata.pipeline import build
from prefdata.recipe.chats import Roles
from prefdata.recipe.columns import given_columns
from prefdata.recipe.loader import load_recipe
from prefdata.recipe.schema import Model
from prefdata.seeds.seeds import seeds_of
from prefdata.stages import Tools, make_stage
from prefdata.storage.folders import read_rows

SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": "2+2?"}
REPLY = {"role": "assistant", "content": "4"}
AGAIN = {"role": "user", "content": "and 3+3?"}
CHAT = [SYSTEM, ASK, REPLY, AGAIN]


def sent(made, row, columns=(), roles=None, **fields):
    """The chats that a stage sends, to text models and to reward models."""
    seen = []

    def reply(request):
        seen.append(request)
        return "5" if made.type == "rubric_judge" else "an answer"

    def rate(request):
        seen.append(request)
        return 1.0

    model = Model(alias="hot", model="m", inference_parameters=SAMPLING, **fields)
    judge = Model(alias="judge", model="m", inference_parameters=SAMPLING)
    tools = Tools(
        0,
        {"hot": model, "judge": judge},
        dict.fromkeys(("hot", "judge"), Scripted(reply)),
        dict.fromkeys(("hot", "judge"), Scripted(rate)),
        columns=(*columns, made),
        roles=roles or {},
    )
    made_row = asyncio.run(make_stage(made, tools)({"id": "r0", **row}))
    tools = [request.tools for request in seen if request.tools]
    return [list(request.messages) for request in seen], made_row | {"offered": tools}


def text(**fields):
    return column(type="llm_text", model_alias="hot", **fields)


def test_a_prompt_that_prints_a_chat_and_nothing_else_sends_the_chat():
    [[asked], _] = sent(text(prompt="{{ prompt }}\n"), {"prompt": CHAT})
    assert asked == CHAT
    [[asked], _] = sent(text(prompt="{{ prompt }}"), {"prompt": "2+2?"})
    assert asked == [ASK]


def test_messages_may_splice_chats_between_turns_of_their_own():
    turns = [
        {"role": "system", "content": "Rhyme like {{ poet }}."},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"chat": "prompt"},
        {"role": "user", "content": "Why?"},
    ]
    [[asked], _] = sent(text(messages=turns), {"prompt": [ASK, REPLY], "poet": "Poe"})
    assert [turn["content"] for turn in asked] == ["Rhyme like Poe.", "1+1?", "2", "2+2?", "4", "Why?"]  # fmt: skip  # noqa: E501


def test_a_system_turn_without_a_text_is_left_out():
    turns = [{"role": "system", "content": "{{ persona }}"}, {"chat": "prompt"}]
    [[asked], _] = sent(text(messages=turns), {"prompt": [ASK], "persona": " "})
    assert asked == [ASK]


def test_the_answer_that_seeds_end_with_is_not_sent():
    [[asked], _] = sent(text(messages="prompt"), {"prompt": [ASK, REPLY]})
    assert asked == [ASK]


def test_an_answer_begun_by_the_recipe_is_continued_and_is_part_of_the_text():
    turns = [{"chat": "prompt"}, {"role": "assistant", "content": "It is"}]
    [[asked], made] = sent(text(messages=turns), {"prompt": [ASK]})
    assert asked == [ASK, {"role": "assistant", "content": "It is"}]
    assert made["made"] == "It isan answer"


def test_a_system_prompt_is_a_template_of_the_row():
    [[asked], _] = sent(
        text(prompt="{{ prompt }}"),
        {"prompt": [ASK], "poet": "Poe"},
        system_prompt="Rhyme like {{ poet }}.",
    )
    assert asked[0] == {"role": "system", "content": "Rhyme like Poe."}


def test_a_system_prompt_gives_way_to_that_of_the_chat_or_stands_before_it():
    made, row = text(messages="prompt"), {"prompt": CHAT}
    [[asked], _] = sent(made, row, system_prompt="Rhyme.")
    assert asked == CHAT
    [[asked], _] = sent(made, row, system_prompt="Rhyme.", system_prompt_mode="prepend")
    assert asked[0]["content"] == "Rhyme.\n\nBe brief."


def test_a_system_prompt_goes_into_the_users_turn_where_the_template_has_no_place():
    roles = {"hot": Roles(system=False, developer=False)}
    [[asked], _] = sent(text(messages="prompt"), {"prompt": CHAT}, roles=roles)
    assert asked[0] == {"role": "user", "content": "Be brief.\n\n2+2?"}


def given(**fields):
    return column("texts", type="candidates", model_alias=["hot", "judge"], samples=1, **fields)


def scored(kind, **fields):
    return column(type=kind, model_alias="judge", candidates="texts", **fields)


CANDIDATES = {"texts": [{"text": "7", "alias": "hot"}, {"text": "8", "alias": "judge"}]}


def test_a_reward_model_reads_each_text_after_what_its_own_model_was_asked():
    [asked, _] = sent(
        scored("reward_model"),
        {"prompt": [ASK], **CANDIDATES},
        [given(prompt="{{ prompt }}")],
        system_prompt="Rhyme.",
    )
    seven, eight = ({"role": "assistant", "content": said} for said in "78")
    assert asked == [[{"role": "system", "content": "Rhyme."}, ASK, seven], [ASK, eight]]


def test_a_reward_model_with_messages_of_its_own_reads_those():
    [asked, _] = sent(
        scored("reward_model", messages="prompt"),
        {"prompt": CHAT, "wrapped": "x", **CANDIDATES},
        [given(prompt="Say {{ wrapped }}")],
    )
    assert [chat[:-1] for chat in asked] == [CHAT, CHAT]


def test_a_reward_model_reads_given_candidates_after_their_prompt():
    made = column(type="reward_model", model_alias="judge", candidates="candidates")
    row = {"prompt": CHAT, "candidates": [{"text": "7", "alias": None}]}
    [asked, _] = sent(made, row, given_columns(["score"]))
    assert asked == [[*CHAT, {"role": "assistant", "content": "7"}]]


def test_a_rubric_without_a_prompt_shows_the_conversation_and_the_reply():
    rubric = scored("rubric_judge", criteria={"truth": "Is it true?"}, scale=[1, 5])
    [asked, _] = sent(rubric, {"prompt": CHAT, **CANDIDATES}, [given(messages="prompt")])
    [question] = asked[0]
    assert "User: 2+2?\nAssistant: 4\nUser: and 3+3?" in question["content"]
    assert "Reply:\n7" in question["content"]
    assert "truth. Is it true?" in question["content"]


def test_a_function_finds_in_the_row_what_the_text_was_asked(tmp_path):
    (tmp_path / "rules.py").write_text("def turns(text, row): return len(row['asked'])\n")
    rule = column(type="verifier", method="function", function="rules:turns", candidates="texts")
    models = {a: Model(alias=a, model="m") for a in ("hot", "judge")}
    tools = Tools(0, models, {}, {}, tmp_path, columns=(given(messages="prompt"), rule))
    row = {"id": "r0", "prompt": CHAT, **CANDIDATES}
    assert asyncio.run(make_stage(rule, tools)(row))["made"] == [4.0, 4.0]


def test_a_judge_reads_a_chat_as_turns_or_as_a_transcript():
    prompt = "{{ prompt | transcript }}\nA: {{ a }}"
    judge = column(
        type="llm_judge", model_alias="hot", prompt=prompt, output_format=WINNER, both_orders=False
    )
    seen = []

    def reply(request):
        seen.append(request.messages)
        return '{"winner": "A"}'

    model = Model(alias="hot", model="m", inference_parameters=SAMPLING)
    tools = Tools(0, {"hot": model}, {"hot": Scripted(reply)}, {})
    asyncio.run(make_stage(judge, tools)({"id": "r0", "prompt": CHAT, "a": "6"}))
    said = "System: Be brief.\nUser: 2+2?\nAssistant: 4\nUser: and 3+3?\nA: 6"
    assert seen[0][0]["content"] == said


def test_a_chat_that_a_template_would_print_is_refused_for_the_row_if_nothing_saw_it_before():
    with pytest.raises(RowError, match="transcript"):
        sent(text(prompt="{% set x = prompt %}Answer: {{ x }}"), {"prompt": CHAT})
    with pytest.raises(RowError, match="transcript"):
        sent(text(prompt="Answer: {{ prompt[-1] }}"), {"prompt": CHAT})
    [[asked], _] = sent(text(prompt="Answer: {{ prompt[-1].content }}"), {"prompt": CHAT})
    assert asked == [{"role": "user", "content": "Answer: and 3+3?"}]


# --- recipes and seeds


def seeds(project):
    loaded = project.load()
    return seeds_of(loaded.recipe, loaded.locate, loaded.place)


@pytest.fixture
def chats(project):
    """The project with chats as its seeds."""
    rows = [{"prompt": [{"role": "user", "content": f"question {n}"}], "answer": n} for n in range(8)]  # fmt: skip  # noqa: E501
    project.write_seeds(rows)
    return project


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prompt", "Answer: {{ prompt }}"),
        ("prompt", "{{ prompt or 'nothing' }}"),
        ("prompt", "{{ prompt[:-1] }}"),
        ("prompt", "{{ prompt | string }}"),
        ("messages", [{"role": "user", "content": "{{ prompt }}"}]),
    ],
    ids=["words around", "or", "slice", "filter", "a turn"],
)
def test_a_chat_in_a_template_stops_the_run_before_it_starts(chats, key, value):
    first = chats.recipe["columns"][0]
    first.pop("prompt")
    first[key] = value
    with pytest.raises(PrefdataError) as err:
        seeds(chats)
    message = str(err.value)
    assert "recipe.yaml:" in message
    assert f"columns.0.{key}" in message
    assert "messages: prompt" in message
    assert "{{ prompt | transcript }}" in message


def test_an_expression_that_prints_a_chat_is_refused_like_any_other_template(chats):
    chats.recipe["columns"][0]["prompt"] = "{{ prompt }}"
    made = {"name": "copy", "type": "expression", "expression": "{{ prompt }}"}
    chats.recipe["columns"].insert(0, made)
    with pytest.raises(PrefdataError, match="columns.0.expression"):
        seeds(chats)


def test_messages_that_name_a_column_of_texts_are_refused(project):
    project.recipe["columns"][0] = {**project.recipe["columns"][0], "messages": "prompt"}
    project.recipe["columns"][0].pop("prompt")
    with pytest.raises(PrefdataError, match=r"messages.0.chat.*contains no chats"):
        seeds(project)


def test_a_chat_is_no_text_to_search_compare_or_score(chats):
    chats.recipe["columns"][0]["prompt"] = "{{ prompt }}"
    chats.recipe["columns"].append(
        {"name": "words", "type": "extract", "column": "prompt", "pattern": "(?P<word>.*)"}
    )
    message = r"columns.2.column.*contains chats, but a text is needed"
    with pytest.raises(PrefdataError, match=message):
        seeds(chats)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved"])
def test_chats_are_known_from_the_seeds_whatever_they_lie_in(chats, kind, tmp_path):
    from datasets import Dataset

    rows = [{"prompt": CHAT, "answer": n} for n in range(4)]
    if kind == "jsonl":
        chats.write_seeds(rows)
    elif kind == "parquet":
        Dataset.from_list(rows).to_parquet(tmp_path / "seeds.parquet")
        chats.recipe["seed_dataset"]["path"] = "seeds.parquet"
    else:
        Dataset.from_list(rows).save_to_disk(tmp_path / "seeds")
        chats.recipe["seed_dataset"]["path"] = "seeds"
    with pytest.raises(PrefdataError, match="transcript"):
        seeds(chats)
    chats.recipe["columns"][0]["prompt"] = "{{ prompt }}"
    assert len(seeds(chats)) == 4


def test_a_turn_that_cannot_be_sent_rejects_its_row_by_name(chats):
    chats.recipe["columns"][0]["prompt"] = "{{ prompt }}"
    image = [{"type": "image_url", "image_url": {"url": "x"}}]
    parts = [{"type": "text", "text": "hi"}]
    chats.write_seeds(
        [
            {"prompt": [{"role": "user", "content": parts}], "answer": 1},
            {"prompt": [{"role": "user", "content": image}], "answer": 2},
            {"prompt": [{"role": "user", "content": "hi"}], "answer": 3},
        ]
    )
    found = seeds(chats)
    assert found.table.num_rows == 2
    [bad] = found.rejects
    assert (bad["source"], bad["reason"]) == ("seeds.jsonl:2", "chat")
    assert "'image_url'" in bad["detail"]


@pytest.mark.parametrize(
    "bad",
    [[{"content": "x"}], [], ["x"], [{"role": "user"}], [{"role": "critic", "content": "x"}]],
    ids=["no role", "empty", "text", "no content", "role"],
)
@pytest.mark.parametrize("place", [0, 1], ids=["first", "second"])
def test_a_list_among_chats_that_is_none_rejects_its_row_and_no_other(chats, bad, place):
    chats.recipe["columns"][0]["prompt"] = "{{ prompt }}"
    rows = [{"prompt": [{"role": "user", "content": f"{n}?"}], "answer": n} for n in range(3)]
    rows.insert(place, {"prompt": bad, "answer": 9})
    chats.write_seeds(rows)
    chats.recipe["output_projection"]["prompt_field"] = "asked"
    made = seeds(chats)
    [found] = made.rejects
    assert (found["source"], found["reason"]) == (f"seeds.jsonl:{place + 1}", "chat")
    assert made.table["answer"].to_pylist() == [0, 1, 2]


def test_a_run_goes_on_past_a_chat_that_is_none(chats):
    chats.recipe["columns"][0]["prompt"] = "{{ prompt }}"
    good = [{"role": "user", "content": "one"}]
    chats.write_seeds([{"prompt": good, "answer": 1}, {"prompt": [{"content": "x"}], "answer": 2}])
    rows, _ = pairs_of(chats)
    assert {row["prompt"][0]["content"] for row in rows} == {"one"}


def test_chats_of_both_layouts_in_one_file_make_pairs(chats):
    chats.recipe["columns"][0]["prompt"] = "{{ prompt }}"
    share = [{"from": "human", "value": "two"}]
    lines = [[{"role": "user", "content": "one"}], share]
    chats.write_seeds([{"prompt": chat, "answer": n} for n, chat in enumerate(lines)])
    rows, _ = pairs_of(chats)
    assert {turn["content"] for row in rows for turn in row["prompt"]} == {"one", "two"}


@pytest.mark.parametrize("field", ["prompt", "asked"])
def test_a_blank_system_turn_of_a_chat_is_left_out_and_makes_room_for_the_models(chats, field):
    chats.recipe["models"][0]["system_prompt"] = "Be brief."
    chats.recipe["columns"][0]["prompt"] = "{{ prompt }}"
    blank = [{"role": "system", "content": " "}, ASK]
    chats.write_seeds([{"prompt": blank, "answer": 1}])
    rows, record = pairs_of(chats, f"output_projection.prompt_field={field}")
    assert rows[0]["prompt"] == ([SYSTEM, ASK] if field == "asked" else [ASK])
    assert record["asked"].get("wrapper", 0) == 0


@pytest.mark.parametrize("role", ["system", "developer"])
@pytest.mark.parametrize("fields", [{"prompt": "{{ prompt }}"}, {"messages": "prompt"}])
def test_there_is_nothing_to_answer_in_a_chat_of_a_system_turn_alone(role, fields):
    for chat in ([{**SYSTEM, "role": role}], [{**SYSTEM, "role": role}, REPLY], [REPLY]):
        with pytest.raises(RowError, match="no turn to answer") as err:
            sent(text(**fields), {"prompt": chat})
        assert err.value.reason == "chat"


def test_a_recipe_may_write_a_system_turn_alone():
    turns = [{"role": "system", "content": "Write a poem."}]
    [[asked], _] = sent(text(messages=turns), {})
    assert asked == [{"role": "system", "content": "Write a poem."}]


def test_lists_that_are_no_chats_are_printed_as_ever(chats):
    chats.recipe["columns"][0]["prompt"] = "{{ prompt }}"
    chats.write_seeds([{"prompt": [{"content": "a paper"}], "answer": n} for n in range(2)])
    found = seeds(chats)
    assert (found.table.num_rows, found.rejects) == (2, [])


def test_rows_with_tool_calls_lend_each_other_no_arguments(chats):
    chats.recipe["columns"][0]["prompt"] = "{{ prompt }}"

    def called(arguments):
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
        answer = {"role": "tool", "content": "ok", "tool_call_id": "1"}
        return [ASK, {"role": "assistant", "content": None, "tool_calls": [call]}, answer]

    chats.write_seeds([{"prompt": called(a), "answer": 1} for a in ('{"city": "Paris"}', '{"b": 2}')])  # fmt: skip  # noqa: E501
    build(chats.load(), chats.folder / "run", rehearse=True, say=lambda line: None)
    kept = [row["prompt"] for row in read_rows(chats.folder / "run" / "candidates")]
    assert [chat[1]["tool_calls"][0]["function"]["arguments"] for chat in kept] == ['{"city": "Paris"}', '{"b": 2}']  # fmt: skip  # noqa: E501
    assert kept[0][0] == ASK


def test_a_default_reward_needs_texts_that_answer_something(project):
    project.recipe["columns"][1] = {
        "name": "reward", "type": "reward_model", "model_alias": "grader",
        "responses": ["answer", "prompt"],
    }  # fmt: skip
    with pytest.raises(PrefdataError, match="no model was asked for column 'answer'"):
        project.load()


# --- pairs


def pairs_of(project, *overrides):
    run = project.folder / "run"
    record = build(project.load(*overrides), run, rehearse=True, say=lambda line: None)
    return list(read_rows(run / "pairs")), record


def test_the_pairs_prompt_may_be_what_was_asked(chats):
    chats.recipe["models"][0]["system_prompt"] = "Be brief."
    chats.recipe["columns"][0]["prompt"] = "{{ prompt }}"
    rows, record = pairs_of(chats, "output_projection.prompt_field=asked")
    assert rows
    assert all([turn["role"] for turn in row["prompt"]] == ["system", "user"] for row in rows)
    assert record["asked"] == {"pairs": len(rows)}


def test_a_prompt_that_lacks_what_was_asked_is_told_in_one_sentence(chats):
    from prefdata.pairs.prompts import tell_of_prompts

    chats.recipe["models"][0]["system_prompt"] = "Be brief."
    chats.recipe["columns"][0]["prompt"] = "{{ prompt }}"
    rows, record = pairs_of(chats)
    assert record["asked"] == {"pairs": len(rows), "system": len(rows)}
    told = tell_of_prompts(record)
    assert "a system prompt" in told
    assert "prompt_field: asked" in told


def test_a_wrapper_around_the_prompt_is_told_and_kept_where_asked(project):
    rows, record = pairs_of(project)
    assert record["asked"] == {"pairs": len(rows), "wrapper": len(rows)}
    rows, record = pairs_of(project, "output_projection.prompt_field=asked")
    assert all(row["prompt"][0]["content"].startswith("Answer: ") for row in rows)
    assert len(rows[0]["prompt"]) == 1


def test_two_answers_under_two_system_prompts_share_the_users_turn(project):
    models = project.recipe["models"]
    models.append({**models[0], "alias": "cool", "system_prompt": "Rhyme."})
    models[0]["system_prompt"] = "Be brief."
    project.recipe["columns"][0] |= {"model_alias": ["hot", "cool"], "samples": 1, "prompt": "{{ prompt }}"}  # fmt: skip  # noqa: E501
    rows, record = pairs_of(project, "output_projection.prompt_field=asked")
    assert all([turn["role"] for turn in row["prompt"]] == ["user"] for row in rows)
    assert record["asked"]["sides"] == len(rows)


def test_answers_to_two_turns_under_one_system_prompt_have_no_prompt_in_common(project):
    made = project.recipe["columns"]
    made[0] = {"name": "a", "type": "llm_text", "model_alias": "hot", "prompt": "Say: {{ prompt }}"}
    made[1] = made[0] | {"name": "b", "prompt": "Sing: {{ prompt }}"}
    made.append({"name": "score", "type": "reward_model", "model_alias": "grader", "responses": ["a", "b"]})  # fmt: skip  # noqa: E501
    project.recipe["models"][0]["system_prompt"] = "Be brief."
    project.recipe["output_projection"] = {"type": "preference_pairs", "responses": ["a", "b"], "score": "score", "strategy": "best_vs_worst", "prompt_field": "asked"}  # fmt: skip  # noqa: E501
    rows, record = pairs_of(project)
    assert rows == []
    [lost, *_] = read_rows(project.folder / "run" / "rejects")
    assert lost["reason"] == "asked_differently"
    assert "do not answer the same last turn" in lost["detail"]


def test_a_chat_as_prompt_has_roles_and_contents_alone_and_no_answer(chats):
    chats.recipe["columns"][0]["prompt"] = "{{ prompt }}"
    turn = {"role": "user", "content": "hi", "country": "FI"}
    reply = {"role": "assistant", "content": "hello", "country": None}
    chats.write_seeds([{"prompt": [{**turn, "content": f"hi {n}"}, reply], "answer": n} for n in range(4)])  # fmt: skip  # noqa: E501
    rows, record = pairs_of(chats)
    assert all(set(row["prompt"][0]) == {"role", "content"} for row in rows)
    assert all(len(row["prompt"]) == 1 for row in rows)
    assert record["asked"] == {"pairs": len(rows)}


def test_one_turn_chats_are_answered_like_the_same_texts(tmp_path, quickstart_models):
    folder = quickstart_models.parent
    lines = (folder / "prompts.jsonl").read_bytes().splitlines()[:24]
    rows = [orjson.loads(line) for line in lines]
    for row in rows:
        row["chat"] = [{"role": "user", "content": row["prompt"]}]
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    found = []
    for number, name in enumerate(("prompt", "chat")):
        changed = [
            f"seed_dataset.path={seeds}", "seed_dataset.fields=null", f"num_records={len(rows)}",
            f'columns.0.prompt="{{{{ {name} }}}}"', "columns.1.prompt=null",
        ]  # fmt: skip
        out = tmp_path / str(number)
        build(load_recipe(folder / "recipe.yaml", changed), out, say=lambda line: None)
        found.append([{**row, "id": None} for row in read_rows(out / "candidates")])
    assert found[0] == found[1]


CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {}}}


@pytest.mark.parametrize(("own", "count"), [({}, 2), ({"prompt": "{{ prompt }}"}, 0)], ids=["what was asked", "its own"])  # fmt: skip  # noqa: E501
def test_a_reward_model_is_shown_the_tools_that_were_offered(own, count):
    asked = column("answers", type="candidates", model_alias="hot", samples=2, prompt="{{ prompt }}", tools="tools")  # fmt: skip  # noqa: E501
    rule = column(type="reward_model", model_alias="judge", candidates="answers", **own)
    texts = [{"text": text, "alias": "hot", "finish_reason": "stop"} for text in ("4", "5")]
    _, row = sent(rule, {"prompt": "2+2?", "tools": [CLOCK], "answers": texts}, (asked,))
    assert row["offered"] == [(CLOCK,)] * count


def test_an_answer_under_a_schema_is_asked_for_with_tools():
    made = column(type="llm_structured", model_alias="hot", prompt="{{ prompt }}", output_format=WINNER, max_retries=0, tools=[CLOCK])  # fmt: skip  # noqa: E501
    seen = []
    models = {"hot": Model(alias="hot", model="m", inference_parameters=SAMPLING)}
    engine = Scripted(lambda request: seen.append(request) or '{"winner": "A"}')
    stage = make_stage(made, Tools(0, models, {"hot": engine}, {}))
    assert asyncio.run(stage({"id": "r0", "prompt": "q"}))["made"] == {"winner": "A"}
    assert [request.tools for request in seen] == [(CLOCK,)]
