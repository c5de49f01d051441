"""Thoughts all the way: what is scored and judged, and what TRL makes of the export."""

import orjson
import pytest
import scripted_models as models
from scripted_models import ANSWER, OTHER, THOUGHT
from server_stub import Server, reason
from transformers import AutoTokenizer

from prefdata.errors import PrefdataError
from prefdata.export import ExportOptions, export_run
from prefdata.pipeline import build
from prefdata.storage.folders import read_rows

NO_PLACE = "the format has no place for them"
KINDS = {
    "qwen3": (models.qwen3, {}, True),
    "qwen3, thinking off": (models.qwen3, {"enable_thinking": False}, False),
    "r1": (models.r1, {}, True),
    "gpt_oss": (models.gpt_oss, {}, True),
    "gemma": (models.gemma, {}, False),
    "base": (models.base, {}, False),
    "server with a parser": (None, {}, True),
    "server without a parser": (None, {}, True),
}
"""What writes the checkpoint (None: a server answers), what its template is given, if it thinks."""
CHAT_OF_A_BASE = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"  # fmt: skip  # noqa: E501


@pytest.fixture
def server():
    """Scores every finished chat, rates what it is shown, and answers as two models that think."""

    def reply(body):
        said = body["messages"][-1]
        if body["model"] in ("right", "wrong"):
            answer = ANSWER if body["model"] == "right" else OTHER
            return reason(THOUGHT, answer, server.thought_key)
        if said["role"] == "assistant":
            return f"helpfulness:{9 if ANSWER in said['content'] else 2}"
        return "4" if ANSWER in said["content"] else "1"

    server = Server(reply)
    server.thought_key = "reasoning_content"
    yield server
    server.close()


def run(folder, server, kind, **rule):
    """Build pairs of two models with an answer each; returns the run, and who read what."""
    write, kwargs, _ = KINDS[kind]
    server.thought_key = None if kind == "server without a parser" else "reasoning_content"
    writers = []
    for alias, answer in (("right", ANSWER), ("wrong", OTHER)):
        # a base model goes on behind the colon, so its answer begins with a blank
        said = f" {answer}" if kind == "base" else answer
        made = {"alias": alias, "inference_parameters": {"temperature": 0.0, "max_tokens": 100}}
        (write or models.qwen3)(folder / alias, answer=said)
        where = {"model": str(folder / alias), "chat_template_kwargs": kwargs}
        if write is None:
            where = {"model": alias, "provider": "srv", "skip_health_check": True}
        writers.append(made | where | ({"chat_template": CHAT_OF_A_BASE} if kind == "base" else {}))
    recipe = {
        "output_dir": str(folder / "run"),
        "seed_dataset": {"rows": [{"prompt": f"What is 2 plus 2, {n}?"} for n in range(3)]},
        "providers": [{"name": "srv", "endpoint": server.address, "max_retries": 5}],
        "models": [
            *writers,
            {"alias": "rm", "model": "rm", "provider": "srv", "skip_health_check": True},
            {"alias": "judge", "model": "judge", "provider": "srv", "skip_health_check": True,
             "inference_parameters": {"temperature": 0, "max_tokens": 4}},
        ],
        "columns": [
            {"name": "candidates", "type": "candidates", "samples": 1,
             "model_alias": ["right", "wrong"], "prompt": "{{ prompt }}"},
            {"name": "reward", "type": "reward_model", "model_alias": "rm",
             "candidates": "candidates", "prompt": "{{ prompt }}"},
            {"name": "rated", "type": "rubric_judge", "model_alias": "judge",
             "candidates": "candidates", "prompt": "Rate this: {{ response }}",
             "criteria": {"right": "is it right?"}, "scale": [1, 5]},
        ],
        "output_projection": {"type": "preference_pairs", "candidates": "candidates",
            "score": "reward", "strategy": "best_vs_worst", "test_size": 0} | rule,
    }  # fmt: skip
    from prefdata.recipe.loader import load_recipe

    file = folder / "recipe.yaml"
    file.write_bytes(orjson.dumps(recipe))
    record = build(load_recipe(file), folder / "run", say=lambda line: None)
    asked = [body for _, _, body in server.asked if body["model"] in ("rm", "judge")]
    last = [body["messages"][-1] for body in asked]
    read = {one["content"] for one in last if one["role"] == "assistant"}
    judged = {one["content"] for one in last if one["role"] == "user"}
    return record, read, judged


def policy(folder, **options):
    """What an export is told of the model to be trained."""
    return ExportOptions(tokenizer=str(folder / "right"), **options)


def tokenizer_of(folder, kind):
    """The trainer's; a base model is trained under the chat template of the recipe."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "right")
    tokenizer.chat_template = tokenizer.chat_template or CHAT_OF_A_BASE
    return tokenizer


def rendered(tokenizer, line):
    """Prompt and chosen as TRL's DPOTrainer tokenizes them: ids, and what follows as text."""
    trl = pytest.importorskip("trl")
    if not trl.data_utils.is_conversational(line):
        ids = tokenizer(line["prompt"])["input_ids"]
        whole = tokenizer(line["prompt"] + line["chosen"])["input_ids"]
    else:
        given = line.get("chat_template_kwargs", {}) | {"return_dict": False}
        ids = tokenizer.apply_chat_template(line["prompt"], add_generation_prompt=True, **given)
        whole = tokenizer.apply_chat_template(line["prompt"] + line["chosen"], **given)
    assert whole[: len(ids)] == ids
    return ids, tokenizer.decode(whole[len(ids) :])


TAGGED = f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}<|im_end|>\n"
TABLE = {  # what TRL's trainer reads behind the prompt, and how the export carries the thought
    "qwen3": (TAGGED, "reasoning_content"),
    "qwen3, thinking off": (f"{ANSWER}<|im_end|>\n", None),
    "r1": (f"{THOUGHT}\n</think>\n\n{ANSWER}", "text"),
    "gpt_oss": (
        f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final"
        f"<|message|>{ANSWER}<|return|>",
        "thinking",
    ),
    "gemma": (f"{ANSWER}<end_of_turn>\n", None),
    "base": (f" {ANSWER}\n", None),
    "server with a parser": (TAGGED, "reasoning_content"),
    "server without a parser": (TAGGED, "reasoning_content"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_trl_reads_is_what_the_policy_wrote(tmp_path, server, kind):
    record, read, judged = run(tmp_path, server, kind)
    thinks = KINDS[kind][2]
    blank = " " if kind == "base" else ""
    assert read == {blank + ANSWER, blank + OTHER}
    assert judged == {f"Rate this: {text}" for text in read}
    assert record["reasoning"] == ("keep" if thinks else None)
    pairs = list(read_rows(tmp_path / "run" / "pairs"))
    assert {(one["chosen"], one["rejected"]) for one in pairs} == {(blank + ANSWER, blank + OTHER)}
    assert {one["chosen_reasoning"] for one in pairs} == {THOUGHT if thinks else None}
    told = []
    # a base model's folder has no chat template that could be named
    options = ExportOptions() if kind == "base" else policy(tmp_path, may_be_text=True)
    export = export_run(tmp_path / "run", "trl", options, say=told.append)
    assert ["chat_template of the recipe" in one for one in told] == [True] * (kind == "base")
    line = orjson.loads(export.train.read_bytes().splitlines()[0])
    [pair] = [one for one in pairs if one["id"] == line["id"]]
    tokenizer = tokenizer_of(tmp_path, kind)
    prompt_ids, answer = rendered(tokenizer, line)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": pair["prompt"]}],
        add_generation_prompt=True,
        return_dict=False,
        **KINDS[kind][1],
    )
    print(f"| {kind} | {pair['chosen']!r} | {pair['chosen_reasoning']!r} | {sorted(read)[1]!r} "
          f"| {sorted(judged)[1]!r} | {export.reasoning} | {answer!r} |")  # fmt: skip
    assert list(prompt_ids) == list(asked)
    assert (answer, export.reasoning) == TABLE[kind]


def test_thoughts_of_servers_stay_behind_without_a_tokenizer_and_this_is_said(tmp_path, server):
    run(tmp_path, server, "server with a parser")
    told = []
    export = export_run(tmp_path / "run", "trl", ExportOptions(), say=told.append)
    assert export.reasoning is None
    assert export.train.is_file()
    assert "a server or from a file; name one with --tokenizer" in told[0]


def test_a_recipe_may_drop_the_thoughts(tmp_path, server):
    record, _, _ = run(tmp_path, server, "qwen3", reasoning="drop")
    assert record["reasoning"] == "drop"
    export = export_run(tmp_path / "run", "trl", policy(tmp_path), say=print)
    assert export.reasoning is None
    line = orjson.loads(export.train.read_bytes().splitlines()[0])
    assert line["chosen"] == [{"role": "assistant", "content": ANSWER}]
    kept = policy(tmp_path, reasoning="keep")
    assert export_run(tmp_path / "run", "trl", kept, say=print).reasoning == "reasoning_content"


@pytest.mark.parametrize(
    ("name", "way"),
    [("trl_kto", "reasoning_content"), ("nemo_rl", "inline"), ("openrlhf", "reasoning_content"),
     ("axolotl", "inline"), ("openai", None)],
)  # fmt: skip
def test_formats_carry_thoughts_as_they_can(tmp_path, server, name, way):
    run(tmp_path, server, "qwen3")
    told = []
    export = export_run(tmp_path / "run", name, policy(tmp_path), say=told.append)
    assert export.reasoning == way
    if way is None:
        assert told == [f"{name}: the thoughts of the pairs are left out: {NO_PLACE}"]
        with pytest.raises(PrefdataError, match="cannot be kept: the format has no place"):
            export_run(
                tmp_path / "run",
                name,
                policy(tmp_path, reasoning="keep"),
                say=print,
            )


def test_a_template_that_drops_thoughts_leaves_them_out_and_says_so(tmp_path, server):
    run(tmp_path, server, "r1")
    told = []
    export = export_run(tmp_path / "run", "trl", policy(tmp_path), say=told.append)
    assert export.reasoning is None
    assert "they are not what the model has written" in told[0]
