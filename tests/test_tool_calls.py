"""Calls of tools: found in answers, kept as written, told apart, scored and exported as calls."""

import json

import datasets
import orjson
import pytest
from scripted_models import (
    CALL,
    WEATHER,
    gpt_oss,
    qwen3,
    read_template,
    tool_caller,
    write_reward_model,
)  # fmt: skip
from server_stub import Server, call_tools
from transformers import AutoTokenizer

from prefdata.engines.tool_calls import as_written, find_parser
from prefdata.engines.transformers.model import Checkpoint, encode_request
from prefdata.engines.transformers.reward import load_reward_engine
from prefdata.errors import PrefdataError, RowError
from prefdata.export import ExportOptions, export_run
from prefdata.export.conversation import Answer, Conversation
from prefdata.export.formats import FORMATS, Shape
from prefdata.inference import ScoreRequest
from prefdata.pairs.pair import said
from prefdata.pipeline import build
from prefdata.storage.folders import read_rows

ARGUMENTS = '{"city": "Paris", "days":2}'
OTHER = '{"days": 2, "city":"Paris"}'
OTHER_CALL = CALL.replace("Paris", "Rome")
HARMONY_CALL = (
    "<|channel|>analysis<|message|>Look it up.<|end|><|start|>assistant<|channel|>commentary "
    f"to=functions.weather <|constrain|>json<|message|>{ARGUMENTS}<|call|>"
)


def policy(project, model, *, samples=1, temperature=0.0, tools=(WEATHER,), **keys):
    """The project asks a model that may call tools; the verifier counts Paris."""
    project.recipe["models"] = [
        {
            "alias": "m",
            "model": model,
            "inference_parameters": {"temperature": temperature, "max_tokens": 64},
            **keys,
        }
    ]
    candidates, score = project.recipe["columns"]
    candidates |= {"model_alias": "m", "samples": samples, "prompt": "{{ prompt }}"}
    candidates["tools"] = tools if isinstance(tools, str) else list(tools)
    del score["model_alias"], score["prompt"]
    score |= {"type": "verifier", "method": "regex", "pattern": "Paris"}


def build_it(project):
    record = build(project.load(), project.folder / "run", say=lambda line: None)
    rows = [*read_rows(project.folder / "run" / "stages" / record["stages"][-1])]
    return record, rows


def first_candidate(project):
    return build_it(project)[1][0]["candidates"][0]


@pytest.mark.parametrize(
    ("name", "text", "left"),
    [
        ("hermes", f"Sure.\n{CALL}", "Sure."),
        ("hermes", CALL.replace("</tool_call>", ""), ""),
        ("llama3_json", f'{{"name": "weather", "parameters": {ARGUMENTS}}}', ""),
        ("llama3_json", f'{{"a":{OTHER},"name":"weather","arguments":{ARGUMENTS}}}', ""),
        ("openai", HARMONY_CALL.partition("<|end|>")[2], ""),
    ],
    ids=["behind a text", "not closed", "json alone", "beside others", "harmony"],
)
def test_arguments_are_kept_exactly_as_written(name, text, left):
    found = find_parser(name, None)(text, [WEATHER])
    assert found.calls == (("weather", ARGUMENTS),)
    assert found.text == left


@pytest.mark.parametrize("name", ["hermes", "llama3_json", "openai"])
@pytest.mark.parametrize("text", ["Nothing.", '<tool_call>\n{"name": </tool_call>', "{}"])
def test_what_is_no_call_stays_text(name, text):
    found = find_parser(name, None)(text, [WEATHER])
    assert (found.text, found.calls) == (text, ())


def test_arguments_that_a_parser_spelled_anew_are_found_in_the_text():
    assert as_written(f"x {{}} {ARGUMENTS}", '{"days": 2, "city": "Paris"}') == ARGUMENTS
    assert as_written("no JSON", '{"a": 1}') == '{"a": 1}'


def test_calls_with_other_ids_say_the_same():
    first, second = (
        json.dumps([{"id": name, "function": {"name": "f", "arguments": "{}"}}]) for name in "ab"
    )
    assert said("Hi", first) == said("Hi", second) != said("Hi", None)


def test_an_answer_of_calls_alone_is_a_candidate(project, tmp_path):
    policy(project, tool_caller(tmp_path / "model"), tool_parser="hermes")
    made = first_candidate(project)
    [call] = orjson.loads(made["tool_calls"])
    assert (made["text"], made["finish_reason"]) == ("", "tool_calls")
    assert call["function"] == {"name": "weather", "arguments": ARGUMENTS}


def test_harmony_calls_are_kept_beside_the_thought(project, tmp_path):
    policy(project, gpt_oss(tmp_path / "model", scripts={"t": HARMONY_CALL}), tool_parser="openai")
    made = first_candidate(project)
    assert (made["reasoning"], made["finish_reason"]) == ("Look it up.", "tool_calls")
    [call] = orjson.loads(made["tool_calls"])
    assert call["function"]["arguments"] == ARGUMENTS


def test_without_tools_or_without_a_parser_the_text_stays(project, tmp_path):
    policy(project, tool_caller(tmp_path / "model"))
    made = first_candidate(project)
    assert (made["text"], made["tool_calls"]) == (CALL, None)


def test_a_parser_that_nobody_has_is_refused_before_the_first_row(project, tmp_path):
    policy(project, tool_caller(tmp_path / "model"), tool_parser="hermse", provider="transformers")
    with pytest.raises(PrefdataError, match="no tool_parser 'hermse'"):
        build_it(project)


def test_tools_of_a_row_keep_their_own_keys(project, tmp_path):
    other = {
        "type": "function",
        "function": {"name": "add", "parameters": {"properties": {"a": {}}}},
    }
    seeds = [{"prompt": "q", "answer": 1, "tools": [WEATHER]},
             {"prompt": "r", "answer": 2, "tools": [other]}]  # fmt: skip
    project.write_seeds(seeds)
    project.recipe["seed_dataset"] = {"path": "seeds.jsonl"}
    policy(project, tool_caller(tmp_path / "model"), tools="tools", tool_parser="hermes")
    _, rows = build_it(project)
    assert [row["tools"] for row in rows] == [[WEATHER], [other]]


def test_pairs_are_of_calls_where_the_answers_are(project, tmp_path):
    model = qwen3(tmp_path / "model", scripts={"\n": (CALL, OTHER_CALL)})
    policy(project, model, samples=6, temperature=1.0, tool_parser="hermes")
    record, _ = build_it(project)
    pairs = [*read_rows(project.folder / "run" / "pairs")]
    assert record["pairs"]["train"] + record["pairs"]["test"] > 0
    for pair in pairs:
        chosen, rejected = (orjson.loads(pair[f"{s}_tool_calls"]) for s in ("chosen", "rejected"))
        assert "Paris" in chosen[0]["function"]["arguments"]
        assert "Rome" in rejected[0]["function"]["arguments"]


def test_a_server_is_sent_the_tools_and_its_calls_are_kept(project):
    server = Server(lambda body: call_tools(("weather", ARGUMENTS)))
    try:
        project.recipe["providers"] = [{"name": "srv", "endpoint": server.address}]
        policy(project, "x", provider="srv")
        made = first_candidate(project)
    finally:
        server.close()
    assert server.asked[-1][2]["tools"] == [WEATHER]
    [call] = orjson.loads(made["tool_calls"])
    assert (call["function"]["arguments"], made["finish_reason"]) == (ARGUMENTS, "tool_calls")


def test_a_reward_model_reads_the_calls_under_its_template(project, tmp_path):
    model = qwen3(tmp_path / "model", scripts={"\n": (CALL, OTHER_CALL)})
    policy(project, model, samples=6, temperature=1.0, tool_parser="hermes")
    grader = write_reward_model(tmp_path / "rm", "P", template=read_template("qwen3"))
    project.recipe["models"].append({"alias": "grader", "model": grader})
    score = project.recipe["columns"][1]
    del score["method"], score["pattern"]
    score |= {"type": "reward_model", "model_alias": "grader"}
    _, rows = build_it(project)
    for row in rows:
        scores = dict(zip((c["tool_calls"] for c in row["candidates"]), row["reward"], strict=True))
        if len(scores) == 2:
            paris, rome = (next(s for c, s in scores.items() if w in c) for w in ("Paris", "Rome"))
            assert paris > rome


def test_a_reward_model_s_template_prints_the_tools(tmp_path):
    grader = write_reward_model(tmp_path / "rm", "P", template=read_template("qwen3"))
    engine = load_reward_engine(Checkpoint(grader, None, False), {})
    chat = ({"role": "user", "content": "q"}, {"role": "assistant", "content": "4"})
    try:
        ids = encode_request(engine._work._loaded.chats, ScoreRequest(chat, (WEATHER,)))
    finally:
        engine.close()
    tokenizer = AutoTokenizer.from_pretrained(grader)
    assert ids == tokenizer.apply_chat_template([*chat], tools=[WEATHER], return_dict=False)


def paired(project, tmp_path):
    """A run whose pairs are of calls, and the folder of its model."""
    model = qwen3(tmp_path / "model", scripts={"\n": (CALL, OTHER_CALL)})
    policy(project, model, samples=6, temperature=1.0, tool_parser="hermes")
    build_it(project)
    return project.folder / "run", model


def test_trl_renders_the_calls_as_the_model_wrote_them(project, tmp_path):
    run, model = paired(project, tmp_path)
    made = export_run(run, "trl", ExportOptions(), tmp_path / "export", say=lambda line: None)
    lines = datasets.load_dataset(
        "json", data_files=str(made.train), split="train", cache_dir=str(tmp_path / "cache")
    )
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert len(lines) > 0
    for line in lines:  # as its DPOTrainer does
        whole = tokenizer.apply_chat_template(
            line["prompt"] + line["chosen"], tools=json.loads(line["tools"]), tokenize=False
        )
        assert whole.endswith(f"{CALL}<|im_end|>\n")
        asked = tokenizer.apply_chat_template(
            line["prompt"], tools=[WEATHER], tokenize=False, add_generation_prompt=True
        )
        assert whole.startswith(asked)


CITIES = {"Paris", "Rome"}


def exported(run, name, tmp_path):
    made = export_run(run, name, ExportOptions(), tmp_path / name, say=lambda line: None)
    return orjson.loads(made.train.read_bytes().splitlines()[0]), made


def test_calls_and_tools_go_where_the_trainer_reads_them(project, tmp_path):
    run, _ = paired(project, tmp_path)

    line, made = exported(run, "llama_factory", tmp_path)
    chosen, rejected = (orjson.loads(line[side]["value"]) for side in ("chosen", "rejected"))
    assert chosen == [{"name": "weather", "arguments": {"city": "Paris", "days": 2}}]
    assert rejected[0]["arguments"]["city"] == "Rome"
    assert line["chosen"]["from"] == line["rejected"]["from"] == "function_call"
    assert json.loads(line["tools"]) == [WEATHER]
    info = json.loads(made.configuration["dataset_info.json"])
    assert info["prefdata_train"]["columns"]["tools"] == "tools"

    line, _ = exported(run, "ms_swift", tmp_path)
    answers = [line["messages"][-1], *line["rejected_response"]]
    assert [arguments(one)["city"] for one in answers] == ["Paris", "Rome"]
    assert json.loads(line["tools"]) == [WEATHER]

    line, _ = exported(run, "openai", tmp_path)
    assert arguments(line["messages"][-1])["city"] == "Paris"
    assert line["tools"] == [WEATHER]

    line, _ = exported(run, "openai_preference", tmp_path)
    answers = [*line["preferred_output"], *line["non_preferred_output"]]
    assert [arguments(one)["city"] for one in answers] == ["Paris", "Rome"]
    assert line["input"]["tools"] == [WEATHER]

    line, _ = exported(run, "axolotl_passthrough", tmp_path)
    assert line == exported(run, "trl", tmp_path)[0]


def arguments(message):
    return json.loads(message["tool_calls"][0]["function"]["arguments"])


@pytest.mark.parametrize(
    ("said", "reason"),
    [({"content": "I look."}, "a text beside calls"), ({"arguments": "[2"}, "no JSON object")],
    ids=["a text, too", "broken"],
)
def test_a_call_that_a_layout_cannot_say_stays_behind(said, reason):
    function = {"name": "weather", "arguments": said.get("arguments", ARGUMENTS)}
    call = {"type": "function", "function": function}
    sides = {"chosen": Answer(said.get("content", ""), calls=(call,)), "rejected": Answer("no")}
    pair = Conversation("p", ({"role": "user", "content": "q"},), sides)
    with pytest.raises(RowError, match=reason):
        FORMATS["llama_factory"].make(pair, Shape(has_tools=True))


def test_lengths_count_the_tools(project, tmp_path):
    run, model = paired(project, tmp_path)
    options = ExportOptions(max_tokens=50, tokenizer=model)
    made = export_run(run, "trl", options, tmp_path / "out", say=lambda line: None)
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [made.train.read_bytes(), made.test.read_bytes()]
    chats = [one["prompt"] + one["chosen"] for one in map(orjson.loads, b"".join(texts).split(b"\n")[:-1])]  # fmt: skip  # noqa: E501
    counted = [tokenizer.apply_chat_template(one, tools=[WEATHER])["input_ids"] for one in chats]
    assert made.lengths["longest"] == max(map(len, counted))


def test_calls_stay_behind_where_the_trainer_s_template_would_quote_them(project, tmp_path):
    run, _ = paired(project, tmp_path)
    options = ExportOptions(tokenizer=gpt_oss(tmp_path / "other"))
    for name in ("trl", "trl_kto", "axolotl_passthrough"):
        with pytest.raises(PrefdataError, match="tools"):
            export_run(run, name, options, tmp_path / name, say=lambda line: None)
    made = export_run(run, "openai", options, tmp_path / "out", say=lambda line: None)
    assert made.lines["train"] > 0


STAY = ["nemo_rl", "nemo_rl_binary", "nemo_customizer", "nemo_customizer_sft", "nemo_platform",
        "nemo_aligner", "axolotl", "openrlhf", "open_instruct"]  # fmt: skip


def test_a_layout_without_calls_leaves_such_pairs_behind_with_the_reason(project, tmp_path):
    run, _ = paired(project, tmp_path)
    for name in STAY:
        with pytest.raises(PrefdataError, match="tools"):
            export_run(run, name, ExportOptions(), tmp_path / name, say=lambda line: None)
