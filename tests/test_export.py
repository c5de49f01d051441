"""Exports: every trainer's lines, what stays behind and why, the split, what is told."""

import re
import shlex

import orjson
import pytest
from conftest import QUICKSTART
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import DIALOGUE, FIELDS, TOOL, make_run, read_lines
from typer.testing import CliRunner

from prefdata.cli import app
from prefdata.errors import PrefdataError
from prefdata.export import FORMATS, ExportOptions, export_run
from prefdata.export.conversation import TEMPLATE_TOKEN
from prefdata.pairs.repick import pairs_of_file
from prefdata.pipeline import build
from prefdata.rows import is_blank
from prefdata.seeds.identity import bare, prompt_identity

LM = str(QUICKSTART / "models" / "lm")
SCORES = {"chosen_score": 3.1, "rejected_score": 0.4, "margin": 2.7}
ASKED = {"role": "user", "content": "2+2?"}
FOUR = {"role": "assistant", "content": "4"}
FIVE = {"role": "assistant", "content": "5"}
LINES = {
    "trl": [{"prompt": [ASKED], "chosen": [FOUR], "rejected": [FIVE], **SCORES}],
    "trl_kto": [
        {"prompt": [ASKED], "completion": [FOUR], "label": True},
        {"prompt": [ASKED], "completion": [FIVE], "label": False},
    ],
    "nemo_rl": [
        {
            "context": [ASKED],
            "completions": [{"rank": 0, "completion": [FOUR]}, {"rank": 1, "completion": [FIVE]}],
        }
    ],
    "nemo_rl_binary": [{"prompt": "2+2?", "chosen": "4", "rejected": "5"}],
    "nemo_customizer": [{"prompt": "2+2?", "chosen_response": "4", "rejected_response": "5"}],
    "nemo_customizer_sft": [{"messages": [ASKED, FOUR]}],
    "nemo_platform": [{"prompt": "2+2?", "chosen": "4", "rejected": "5"}],
    "nemo_aligner": [
        {
            "prompt": [ASKED],
            "chosen_response": FOUR,
            "rejected_response": FIVE,
            "chosen_reward": 3.1,
            "rejected_reward": 0.4,
        }
    ],
    "axolotl": [{"messages": [ASKED], "chosen": FOUR, "rejected": FIVE}],
    "axolotl_passthrough": [{"prompt": [ASKED], "chosen": [FOUR], "rejected": [FIVE], **SCORES}],
    "llama_factory": [
        {
            "conversations": [{"from": "human", "value": "2+2?"}],
            "chosen": {"from": "gpt", "value": "4"},
            "rejected": {"from": "gpt", "value": "5"},
        }
    ],
    "openrlhf": [{"chosen": [ASKED, FOUR], "rejected": [ASKED, FIVE], "margin": 2.7}],
    "ms_swift": [{"messages": [ASKED, FOUR], "rejected_response": "5", "margin": 2.7}],
    "open_instruct": [{"chosen": [ASKED, FOUR], "rejected": [ASKED, FIVE]}],
    "openai": [{"messages": [ASKED, FOUR]}],
    "openai_preference": [
        {
            "input": {"messages": [ASKED]},
            "preferred_output": [FOUR],
            "non_preferred_output": [FIVE],
        }
    ],
}


def pairs_of(n, prompt="question {}"):
    return [(prompt.format(i), f"right {i}", f"wrong {i}") for i in range(n)]


def export(run, name="trl", said=None, out=None, **options):
    say = (said if said is not None else []).append
    return export_run(run, name, ExportOptions(**options), out, say=say)


def lines_of(exported):
    files = [exported.train] + ([exported.test] if exported.test else [])
    return [line for file in files for line in read_lines(file)]


def read_back(name, lines):
    """(prompt, chosen, rejected) of every line; None for a side that the format does not have."""
    for line in lines:
        if name in ("trl", "axolotl_passthrough"):
            yield line["prompt"], line["chosen"][0]["content"], line["rejected"][0]["content"]
        elif name == "trl_kto":
            text = line["completion"][0]["content"]
            yield line["prompt"], *((text, None) if line["label"] else (None, text))
        elif name == "nemo_rl":
            chosen, rejected = sorted(line["completions"], key=lambda one: one["rank"])
            yield (
                line["context"],
                chosen["completion"][0]["content"],
                rejected["completion"][0]["content"],
            )
        elif name in ("nemo_rl_binary", "nemo_platform"):
            yield line["prompt"], line["chosen"], line["rejected"]
        elif name == "nemo_customizer":
            yield line["prompt"], line["chosen_response"], line["rejected_response"]
        elif name == "nemo_aligner":
            sides = (line["chosen_response"], line["rejected_response"])
            yield line["prompt"], *(side["content"] for side in sides)
        elif name == "axolotl":
            yield line["messages"], line["chosen"]["content"], line["rejected"]["content"]
        elif name == "llama_factory":
            yield line["conversations"], line["chosen"]["value"], line["rejected"]["value"]
        elif name == "ms_swift":
            yield (
                line["messages"][:-1],
                line["messages"][-1]["content"],
                line["rejected_response"],
            )
        elif name in ("open_instruct", "openrlhf"):
            assert line["chosen"][:-1] == line["rejected"][:-1]
            yield (
                line["chosen"][:-1],
                line["chosen"][-1]["content"],
                line["rejected"][-1]["content"],
            )
        elif name == "openai_preference":
            chosen, rejected = line["preferred_output"][0], line["non_preferred_output"][0]
            yield line["input"]["messages"], chosen["content"], rejected["content"]
        else:
            yield line["messages"][:-1], line["messages"][-1]["content"], None


def messages_in(value):
    """Every message, however deep."""
    if isinstance(value, dict):
        if "role" in value:
            yield value
        for part in value.values():
            yield from messages_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from messages_in(part)


def test_every_format_has_an_example():
    assert LINES.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", FORMATS)
def test_a_pair_becomes_the_trainers_lines(name, tmp_path):
    run = make_run(tmp_path, [("2+2?", "4", "5"), ("1+1?", "2", "3")])
    found = lines_of(export(run, name, test_size=1 if FORMATS[name].needs_test else 0))
    mine = [line for line in found if "2+2?" in orjson.dumps(line).decode()]
    for line in mine:
        line.pop("id", None)
        if "margin" in line:
            line["margin"] = round(line["margin"], 9)
    assert mine == LINES[name]


@pytest.mark.parametrize("name", FORMATS)
def test_a_dialogue_keeps_its_turns(name, tmp_path):
    run = make_run(tmp_path, [(DIALOGUE, "6", "7"), (DIALOGUE[:2], "4", "9")])
    said = orjson.dumps(lines_of(export(run, name, test_size=1))).decode()
    for text in ("Be brief.", "2+2?", "And 3+3?", "6"):
        assert text in said


def test_nemo_customizer_takes_the_last_message_alone_if_told_so(tmp_path):
    run = make_run(tmp_path, [(DIALOGUE, "6", "7"), ("1+1?", "2", "3")])
    prompts = {line["prompt"] for line in lines_of(export(run, "nemo_customizer", last_message_only=True))}  # fmt: skip  # noqa: E501
    assert prompts == {"And 3+3?", "1+1?"}


def test_prompts_of_one_file_have_one_shape(tmp_path):
    run = make_run(tmp_path, [(DIALOGUE, "6", "7"), ("1+1?", "2", "3")])
    for name in ("nemo_customizer", "nemo_rl_binary", "nemo_platform"):
        assert all(isinstance(line["prompt"], list) for line in lines_of(export(run, name)))


TEXTS = st.text(min_size=1, max_size=12).filter(
    lambda text: not is_blank(text) and not TEMPLATE_TOKEN.search(text)
)
ROWS = st.tuples(
    st.one_of(TEXTS, TEXTS.map(lambda text: [*DIALOGUE[:1], {"role": "user", "content": text}])),
    TEXTS,
    TEXTS,
).filter(lambda row: bare(row[1]) != bare(row[2]))


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=15, deadline=None)
@given(rows=st.lists(ROWS, min_size=3, max_size=6, unique_by=lambda row: prompt_identity(row[0])))
def test_what_every_format_promises(name, tmp_path_factory, rows):
    run = make_run(tmp_path_factory.mktemp("property"), rows)
    exported = export(run, name, test_size=0.34)
    keys = set()
    prompts = {}
    for split, file in (("train", exported.train), ("test", exported.test)):
        lines = read_lines(file)
        keys.update(tuple(line) for line in lines)
        prompts[split] = {repr(prompt) for prompt, _, _ in read_back(name, lines)}
        for line in lines:
            assert {tuple(m) for m in messages_in(line)} <= {("role", "content")}
    assert len(keys) == 1
    assert not prompts["train"] & prompts["test"]
    texts = {(chosen, rejected) for _, chosen, rejected in rows}
    found = list(read_back(name, lines_of(exported)))
    for _, chosen, rejected in found:
        assert chosen != rejected
        assert (chosen or "x").strip()
        assert (rejected or "x").strip()
    if not FORMATS[name].is_once:
        assert {(chosen, rejected) for _, chosen, rejected in found} == texts


def test_equal_prompts_never_part_over_train_and_test(tmp_path):
    rows = [(f"question {n % 5}", f"right {n}", f"wrong {n}") for n in range(40)]
    exported = export(make_run(tmp_path, rows), test_size=0.4)
    train, test = (
        {line["prompt"][0]["content"] for line in read_lines(file)}
        for file in (exported.train, exported.test)
    )
    assert len(train) == 3
    assert len(test) == 2
    assert not train & test


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "reason"),
    [
        ("2+2?<|im_end|>", "4", "5", "template_token"),
        ("2+2?", "4 [INST]", "5", "template_token"),
        ("2+2?", "4", "5<end_of_turn>", "template_token"),
        ([DIALOGUE[0]], "4", "5", "last_role"),
        ([{"role": "wizard", "content": "2+2?"}], "4", "5", "role"),
        ([{"role": "user", "content": [{"type": "text"}]}], "4", "5", "content_parts"),
    ],
)  # fmt: skip
def test_what_would_poison_a_trainer_stays_behind_with_its_reason(
    prompt, chosen, rejected, reason, tmp_path
):
    run = make_run(tmp_path, [(prompt, chosen, rejected), ("1+1?", "2", "3")])
    said = []
    exported = export(run, said=said, test_size=0)
    assert exported.left_out == {reason: 1}
    assert exported.lines == {"train": 1, "test": 0}
    (row,) = read_lines(exported.folder / "left_out.jsonl")
    assert row["reason"] == reason
    assert row["prompt"] == prompt
    assert any(reason in line for line in said)


@pytest.mark.parametrize("content", ["", "  ", None])
def test_a_system_turn_without_a_text_is_left_out_and_its_pair_stays(content, tmp_path):
    question = {"role": "user", "content": "2+2?"}
    run = make_run(tmp_path, [([{"role": "system", "content": content}, question], "4", "5")])
    exported = export(run, test_size=0)
    assert exported.left_out == {}
    assert read_lines(exported.train)[0]["prompt"] == [question]


def test_tools_stay_behind_where_a_layout_has_no_place_for_them(tmp_path):
    prompt = [ASKED, TOOL, {"role": "tool", "content": "4"}]
    run = make_run(tmp_path, [(prompt, "It is 4.", "5"), ("1+1?", "2", "3"), ("3+3?", "6", "7")])
    for name in ("nemo_customizer", "nemo_aligner", "axolotl"):
        assert export(run, name).left_out == {"tools": 1}
    (line,) = (line for line in lines_of(export(run, "trl")) if len(line["prompt"]) == 3)
    assert line["prompt"][1]["tool_calls"] == TOOL["tool_calls"]


def test_messages_of_one_file_have_the_same_keys(tmp_path):
    prompt = [ASKED, TOOL, {"role": "tool", "content": "4"}]
    run = make_run(tmp_path, [(prompt, "It is 4.", "5"), ("1+1?", "2", "3")])
    for name in ("nemo_customizer_sft", "open_instruct", "ms_swift"):
        keys = {tuple(m) for line in lines_of(export(run, name)) for m in messages_in(line)}
        assert len(keys) == 1


def test_turns_out_of_order_stay_out_of_llama_factory(tmp_path):
    twice = [ASKED, {"role": "user", "content": "Well?"}]
    run = make_run(tmp_path, [(twice, "4", "5"), ("1+1?", "2", "3")])
    assert export(run, "llama_factory").left_out == {"turns": 1}


@pytest.mark.parametrize("name", ["ms_swift", "nemo_aligner", "llama_factory"])
def test_a_system_message_among_others_stays_out_where_the_trainer_stumbles(name, tmp_path):
    late = [*DIALOGUE[1:3], DIALOGUE[0], DIALOGUE[3]]
    run = make_run(tmp_path, [(late, "6", "7"), ("1+1?", "2", "3"), ("2+2?", "4", "5")])
    assert export(run, name).left_out == {"turns": 1}


def test_a_special_token_of_the_model_stays_behind_too(tmp_path):
    run = make_run(tmp_path, [("2+2?", "4<|end|>", "5"), ("1+1?", "2", "3"), ("a", "b", "c")])
    assert export(run, tokenizer=LM, test_size=0).left_out == {"template_token": 1}


@pytest.mark.parametrize("end", ["", " "])
def test_an_answer_that_one_pair_prefers_and_another_refuses_has_no_label(tmp_path, end):
    rows = [("q", "best", "middle"), ("q", f"middle{end}", "worst"), ("q", f"best{end}", "worst")]
    exported = export(make_run(tmp_path, rows), "trl_kto", test_size=0)
    found = {(line["completion"][0]["content"], line["label"]) for line in lines_of(exported)}
    assert found == {("best", True), ("worst", False)}
    assert len(lines_of(exported)) == 2
    assert exported.lines_left_out == {"answer_on_both_sides": 2, "repeated_answer": 2}
    assert exported.left_out == {}


def test_sft_gets_each_best_answer_once(tmp_path):
    rows = [("q", "best", "middle"), ("q", "middle", "worst"), ("q", "best", "worst")]
    exported = export(make_run(tmp_path, rows), "openai", test_size=0)
    assert [line["messages"][-1]["content"] for line in lines_of(exported)] == ["best"]


def test_ties_have_no_label(tmp_path):
    folder = tmp_path / "ties"
    folder.mkdir()
    lines = [{"turn": 0, "prompt": "q", "text": text, "score": 1} for text in ("a", "b")]
    lines += [{"turn": 1, "prompt": "p", "text": text, "score": n} for n, text in enumerate("cd")]
    file = folder / "scored.jsonl"
    file.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    pairs_of_file(file, FIELDS, ["ties=keep"], folder / "run", seed=0, say=print)
    assert export(folder / "run", "trl_kto", test_size=0).left_out == {"tie": 1}


def test_pairs_that_were_only_judged_have_no_scores_in_their_lines(project):
    project.recipe["columns"] = [
        {"name": name, "type": "llm_text", "model_alias": "hot", "prompt": f"{name} {{{{ prompt }}}}"}  # noqa: E501
        for name in ("response_a", "response_b")
    ] + [
        {
            "name": "judge", "type": "llm_judge", "model_alias": "hot", "both_orders": False,
            "prompt": "{{ response_a }} or {{ response_b }}?",
            "output_format": {
                "type": "object", "properties": {"winner": {"enum": ["A", "B"]}}, "required": ["winner"],  # noqa: E501
            },
        }
    ]  # fmt: skip
    project.recipe["models"] = project.recipe["models"][:1]
    project.recipe["output_projection"] = {"type": "dpo_preference"}
    build(project.load(), project.folder / "run", rehearse=True, say=print)
    for name in ("nemo_aligner", "openrlhf", "trl"):
        (keys,) = {tuple(line) for line in lines_of(export(project.folder / "run", name))}
        assert not [key for key in keys if "score" in key or "reward" in key or key == "margin"]


def test_the_models_own_template_serves_nemo_aligner(tmp_path):
    run = make_run(tmp_path, [("2+2?", "4", "5"), ("1+1?", "2", "3")])
    (line, _) = lines_of(export(run, "nemo_aligner", tokenizer=LM, test_size=0))
    assert line["prompt"].endswith("<|assistant|>")
    assert line["chosen_response"].endswith("<|end|>")


def test_the_runs_own_split_is_kept(tmp_path):
    run = make_run(tmp_path, pairs_of(20), "test_size=7")
    assert export(run).lines == {"train": 13, "test": 7}
    assert export(run, "nemo_customizer").lines == {"train": 13, "test": 7}
    assert export(run, test_size=0.5).lines == {"train": 10, "test": 10}


def test_a_run_without_a_split_gets_the_formats(tmp_path):
    run = make_run(tmp_path, pairs_of(40))
    assert export(run).lines == {"train": 38, "test": 2}
    assert export(run, "nemo_customizer").lines == {"train": 32, "test": 8}
    assert export(run, test_size=0).test is None


def test_a_split_depends_on_the_seed_alone(tmp_path):
    exported = [
        read_lines(export(make_run(tmp_path / str(n), pairs_of(40), seed=seed)).test)
        for n, seed in enumerate((0, 0, 1))
    ]
    assert exported[0] == exported[1] != exported[2]


def test_lengths_are_told_and_what_is_too_long_is_left_out_on_demand(tmp_path):
    rows = [("1+1?", "2", "3"), ("1+1? " * 40, "2", "3"), ("2+2?", "4 " * 60, "5")]
    run, said = make_run(tmp_path, rows), []
    exported = export(run, said=said, test_size=0, max_tokens=60, tokenizer=LM)
    assert exported.lines["train"] == 3
    assert (exported.lengths["cut"], exported.lengths["emptied"]) == (2, 1)
    assert re.search(r"would cut 2 pairs, and learn nothing from 1\b", said[-1])
    dropped = export(run, test_size=0, max_tokens=60, tokenizer=LM, drop_too_long=True)
    assert dropped.lines["train"] == 1
    assert dropped.left_out == {"too_long": 2}


def test_an_export_again_is_the_same_and_replaces_the_first(tmp_path):
    run = make_run(tmp_path, pairs_of(20))
    first = {file.name: file.read_bytes() for file in export(run).folder.iterdir()}
    second = {file.name: file.read_bytes() for file in export(run).folder.iterdir()}
    assert first == second
    assert [folder.name for folder in (run / "exports").iterdir() if folder.is_dir()] == ["trl"]


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    run, place = make_run(tmp_path, pairs_of(20)), tmp_path / "mine"
    place.mkdir()
    (place / "thesis.tex").write_text("years of work")
    with pytest.raises(PrefdataError, match="not part of an export"):
        export(run, out=place)
    assert (place / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tlr", {}, "did you mean 'trl'"),
        ("trl", {"drop_too_long": True}, "requires --max-tokens"),
        ("trl", {"max_tokens": 9}, "name one with --tokenizer"),
        ("trl", {"max_tokens": 9, "tokenizer": "/no/such/model"}, "/no/such/model"),
        (
            "trl",
            {"max_tokens": 1, "tokenizer": LM, "drop_too_long": True},
            "of the 20 pairs can be",
        ),
        ("trl", {"last_message_only": True}, "an option of --format nemo_customizer only"),
        ("trl", {"test_size": 20}, "none would be left to train on"),
        ("nemo_customizer", {"test_size": 0}, "needs a test set"),
    ],
)
def test_what_cannot_be_done_is_one_message(name, options, message, tmp_path):
    with pytest.raises(PrefdataError, match=message):
        export(make_run(tmp_path, pairs_of(20)), name, **options)


def test_what_is_no_finished_run_is_one_message(tmp_path):
    for folder, why in (
        (tmp_path, "does not contain a finished run"),
        (tmp_path / "x", "does not exist"),
    ):
        with pytest.raises(PrefdataError, match=why):
            export(folder)


@pytest.mark.parametrize("name", ["openrlhf", "ms_swift", "open_instruct"])
def test_a_shell_reads_the_arguments_with_the_file_as_it_is_called(name, tmp_path):
    folder = tmp_path / "it's mine"
    folder.mkdir()
    exported = export(make_run(folder, pairs_of(20)), name)
    assert str(exported.train) in shlex.split(exported.configuration[f"{name}.args"])


def test_the_command_prints_the_lines_of_the_trainers_configuration(tmp_path):
    run = make_run(tmp_path, pairs_of(20))
    words = ["--format", "axolotl", "--format", "llama_factory", "--test-size", "5"]
    done = CliRunner().invoke(app, ["export", str(run), *words])
    assert done.exit_code == 0, done.output
    for name, file in (("axolotl", "axolotl.yaml"), ("llama_factory", "dataset_info.json")):
        folder = run / "exports" / name
        assert (folder / file).read_text().strip() in done.stdout
        assert len(read_lines(folder / "test.jsonl")) == 5


@pytest.mark.parametrize("size", ["1.5", "-3", "many"])
def test_a_test_size_that_is_none_is_one_message(size, tmp_path):
    words = ["export", str(tmp_path), "--format", "trl", "--test-size", size]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "test_size" in done.stderr


def written_with(project, *arguments):
    """A run whose answers were written by one alias for each of these template arguments."""
    models = project.recipe["models"]
    first, grader = models
    project.recipe["models"] = [
        *({**first, "alias": f"m{n}", "chat_template_kwargs": a} for n, a in enumerate(arguments)),
        grader,
    ]
    project.recipe["columns"][0]["model_alias"] = [f"m{n}" for n in range(len(arguments))]
    run = project.folder / "run"
    build(project.load(), run, rehearse=True, say=lambda line: None)
    return run


@pytest.mark.parametrize("name", ["trl", "trl_kto"])
def test_what_the_chat_template_was_given_travels_to_trainers_that_read_it(project, name):
    run = written_with(project, {"enable_thinking": False}, {"enable_thinking": False})
    lines = lines_of(export(run, name))
    assert {orjson.dumps(line["chat_template_kwargs"]) for line in lines} == {
        b'{"enable_thinking":false}'
    }


def test_what_a_format_cannot_say_of_the_chat_template_is_said_to_the_user(project):
    said = []
    export(written_with(project, {"enable_thinking": False}), "nemo_rl", said)
    assert [line for line in said if "enable_thinking" in line]


def test_arguments_that_differ_between_the_models_are_in_no_line_and_this_is_said(project):
    said = []
    made = export(written_with(project, {"enable_thinking": False}, {}), "trl", said)
    assert all("chat_template_kwargs" not in line for line in lines_of(made))
    assert [line for line in said if "differ" in line]
