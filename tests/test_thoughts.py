"""Thoughts all the way: what is scored and judged, and what TRL makes of the export."""

import orjson
import pytest
import scripted_models as models
from scripted_models import ANSWER, OTHER, THOUGHT
from server_stub import Server
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
}


@pytest.fixture
def server():
    """Scores every finished chat, and rates whatever it is shown."""

    def reply(body):
        said = body["messages"][-1]
        if said["role"] == "assistant":
            return f"helpfulness:{9 if ANSWER in said['content'] else 2}"
        return "4" if ANSWER in said["content"] else "1"

    server = Server(reply)
    yield server
    server.close()


def run(folder, server, kind, **rule):
    """Build pairs of two models with an answer each; returns the run, and who read what."""
    write, kwargs, _ = KINDS[kind]
    given = {"temperature": 0.0, "max_tokens": 100}
    writers = [
        {"alias": alias, "model": str(write(folder / alias, answer=answer)),
         "inference_parameters": given, "chat_template_kwargs": kwargs}
        for alias, answer in (("right", ANSWER), ("wrong", OTHER))
    ]  # fmt: skip
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
    last = [body["messages"][-1] for _, _, body in server.asked]
    read = {one["content"] for one in last if one["role"] == "assistant"}
    judged = {one["content"] for one in last if one["role"] == "user"}
    return record, read, judged


def policy(folder, **options):
    """What an export is told of the model to be trained."""
    return ExportOptions(tokenizer=str(folder / "right"), **options)


def rendered(folder, line):
    """Prompt and chosen as TRL's DPOTrainer tokenizes them, as text."""
    trl = pytest.importorskip("trl")
    tokenizer = AutoTokenizer.from_pretrained(folder / "right")
    if not trl.data_utils.is_conversational(line):
        ids = tokenizer(line["prompt"])["input_ids"]
        whole = tokenizer(line["prompt"] + line["chosen"])["input_ids"]
    else:
        ids = tokenizer.apply_chat_template(
            line["prompt"], add_generation_prompt=True, return_dict=False
        )
        whole = tokenizer.apply_chat_template(line["prompt"] + line["chosen"], return_dict=False)
    assert whole[: len(ids)] == ids
    return ids, tokenizer.decode(whole[len(ids) :])


@pytest.mark.parametrize("kind", KINDS)
def test_what_trl_reads_is_what_the_policy_wrote(tmp_path, server, kind):
    record, read, judged = run(tmp_path, server, kind)
    thinks = KINDS[kind][2]
    assert read == {ANSWER, OTHER}
    assert judged == {f"Rate this: {text}" for text in read}
    assert record["reasoning"] == ("keep" if thinks else None)
    pairs = list(read_rows(tmp_path / "run" / "pairs"))
    assert {(one["chosen"], one["rejected"]) for one in pairs} == {(ANSWER, OTHER)}
    assert {one["chosen_reasoning"] for one in pairs} == {THOUGHT if thinks else None}
    told = []
    export = export_run(
        tmp_path / "run", "trl", policy(tmp_path, may_be_text=True), say=told.append
    )
    line = orjson.loads(export.train.read_bytes().splitlines()[0])
    [pair] = [one for one in pairs if one["id"] == line["id"]]
    prompt_ids, answer = rendered(tmp_path, line)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "right")
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": pair["prompt"]}],
        add_generation_prompt=True,
        return_dict=False,
    )
    assert list(prompt_ids) == list(asked)
    marks = pair["chosen_reasoning_marks"] or ["", ""]
    written = marks[0] + (pair["chosen_reasoning"] or "") + marks[1] + ANSWER
    assert answer.startswith(written) or not thinks
    print(f"| {kind} | {ANSWER!r} | {pair['chosen_reasoning']!r} | {min(read)!r} "
          f"| {min(judged)!r} | {export.reasoning} | {answer!r} |")  # fmt: skip


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
