"""Thoughts told from answers: on the transformers engine, for every kind of model."""

import asyncio
import json

import pytest
import scripted_models as models
from scripted_models import ANSWER, THOUGHT

from prefdata.engines.reasoning import Tags, part, part_text
from prefdata.engines.transformers.model import Checkpoint
from prefdata.engines.transformers.text import load_text_engine
from prefdata.errors import PrefdataError
from prefdata.inference import Sampling, TextRequest
from prefdata.recipe.values import ReasoningParser, ReasoningTags

SCHEMA = {
    "type": "object",
    "properties": {"winner": {"enum": ["A", "B"]}},
    "required": ["winner"],
}


def ask(folder, *, reasoning="auto", schema=None, top_logprobs=0, kwargs=None, **sampling):
    """The one completion of a question."""
    asked = ({"role": "user", "content": "What is 2 plus 2?"},)
    given = Sampling(**{"temperature": 0.0, "max_tokens": 200} | sampling)
    request = TextRequest(asked, given, 1, schema, kwargs or {}, top_logprobs)
    checkpoint = Checkpoint(str(folder), None, False)
    engine = load_text_engine(checkpoint, {}, reasoning=reasoning)

    async def first():
        return [outcome async for _, outcome in engine.ask([request])]

    try:
        [outcome] = asyncio.run(first())
    finally:
        engine.close()
    return outcome


WRITTEN = {
    "qwen3": f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}",
    "r1": f"{THOUGHT}\n</think>\n\n{ANSWER}",
    "gpt_oss": f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant"
    f"<|channel|>final<|message|>{ANSWER}",
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_thought_is_kept_beside_the_answer(tmp_path, kind):
    made = ask(getattr(models, kind)(tmp_path))
    assert (made.text, made.reasoning, made.finish_reason) == (ANSWER, THOUGHT, "stop")
    before, between = made.reasoning_marks
    assert before + made.reasoning + between + made.text == WRITTEN[kind]
    assert 0 < made.reasoning_tokens < made.completion_tokens


@pytest.mark.parametrize(
    ("kind", "kwargs"), [("qwen3", {"enable_thinking": False}), ("gemma", {})], ids=["off", "gemma"]
)
def test_who_does_not_think_has_no_thought(tmp_path, kind, kwargs):
    made = ask(getattr(models, kind)(tmp_path), kwargs=kwargs)
    assert (made.text, made.reasoning, made.reasoning_tokens) == (ANSWER, None, 0)
    assert made.finish_reason == "stop"


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_thought_that_never_closes_is_truncated(tmp_path, kind):
    whole = ask(getattr(models, kind)(tmp_path))
    made = ask(getattr(models, kind)(tmp_path), max_tokens=whole.reasoning_tokens - 4)
    assert (made.text, made.finish_reason) == ("", "truncated")
    assert THOUGHT.startswith(made.reasoning) and made.reasoning
    assert made.reasoning_tokens == made.completion_tokens


@pytest.mark.parametrize(
    "said", ["Two and two.", "<think>\nTwo and two."], ids=["opened by the template", "by itself"]
)
def test_a_thought_that_ends_without_its_mark_is_truncated_although_it_stopped(tmp_path, said):
    write = models.qwen3 if "<think>" in said else models.r1
    made = ask(write(tmp_path, scripts={"\n": said}))
    assert (made.text, made.finish_reason, made.reasoning) == ("", "truncated", "Two and two.")


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_thought_without_an_answer_is_empty(tmp_path, kind):
    said = {
        "qwen3": {"\n": f"<think>\n{THOUGHT}\n</think>"},
        "r1": {"\n": f"{THOUGHT}\n</think>"},
        "gpt_oss": {"t": f"<|channel|>analysis<|message|>{THOUGHT}<|end|>"},
    }
    made = ask(getattr(models, kind)(tmp_path, scripts=said[kind]))
    assert (made.text, made.reasoning, made.finish_reason) == ("", THOUGHT, "empty")


def test_an_answer_that_is_cut_keeps_its_thought(tmp_path):
    models.qwen3(tmp_path)
    whole = ask(tmp_path)
    made = ask(tmp_path, max_tokens=whole.completion_tokens - 3)
    assert made.finish_reason == "length"
    assert ANSWER.startswith(made.text) and made.text
    assert made.reasoning == THOUGHT


def test_a_stop_string_ends_the_answer(tmp_path):
    made = ask(models.qwen3(tmp_path), stop=(" is 4",))
    assert (made.text, made.reasoning, made.finish_reason) == ("The answer", THOUGHT, "stop")
    assert (
        "".join([made.reasoning_marks[0], THOUGHT, made.reasoning_marks[1], made.text])
        in (WRITTEN["qwen3"])
    )


def test_none_leaves_the_text_as_it_is(tmp_path):
    made = ask(models.qwen3(tmp_path), reasoning="none")
    assert (made.text, made.reasoning) == (WRITTEN["qwen3"], None)


@pytest.mark.parametrize(
    ("said", "tags"),
    [
        ("(thinks) two (says) four", ReasoningTags(begin="(thinks)", end="(says)")),
        ("two (says) four", ReasoningTags(end="(says)")),
    ],
    ids=["both marks", "always open"],
)
def test_marks_of_the_recipe_s_own(tmp_path, said, tags):
    made = ask(models.gemma(tmp_path, answer=said), reasoning=tags)
    assert (made.text, made.reasoning) == (" four", "two")
    assert made.reasoning_marks[0] + "two" + made.reasoning_marks[1] + made.text == said


def test_a_parser_of_vllm_needs_vllm(tmp_path):
    with pytest.raises(PrefdataError, match="'qwen3', which only vLLM has; set provider: vllm"):
        ask(models.qwen3(tmp_path), reasoning=ReasoningParser(parser="qwen3"))


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_bounded_thought_goes_on_to_the_answer(tmp_path, kind):
    whole = ask(getattr(models, kind)(tmp_path))
    made = ask(getattr(models, kind)(tmp_path), max_reasoning_tokens=3)
    assert len(made.reasoning) < len(whole.reasoning)
    assert THOUGHT.startswith(made.reasoning) and made.reasoning
    assert (made.text, made.finish_reason) == (ANSWER, "stop")


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_bound_that_is_not_reached_changes_nothing(tmp_path, kind):
    folder = getattr(models, kind)(tmp_path)
    assert ask(folder, max_reasoning_tokens=150) == ask(folder)


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_thinking_model_thinks_first_and_is_bound_afterwards(tmp_path, kind):
    made = ask(getattr(models, kind)(tmp_path), schema=SCHEMA)
    assert json.loads(made.text)["winner"] in ("A", "B")
    assert made.reasoning == THOUGHT


def test_a_model_that_could_think_and_does_not_is_bound_at_once(tmp_path):
    made = ask(models.qwen3(tmp_path), schema=SCHEMA, kwargs={"enable_thinking": False})
    assert json.loads(made.text)["winner"] in ("A", "B")
    assert made.reasoning is None


def test_the_probabilities_told_are_those_of_the_answer_s_first_token(tmp_path):
    schema = {"type": "integer", "enum": [1, 2, 3, 4, 5]}
    made = ask(models.qwen3(tmp_path), schema=schema, top_logprobs=5)
    assert set(made.first_logprobs) == {"1", "2", "3", "4", "5"}
    assert made.reasoning == THOUGHT


@pytest.mark.parametrize(
    ("text", "answer", "thought", "reason"),
    [
        ("<think>\na\n</think>\n\nb", "b", "a", "stop"),
        ("a\n</think>\n\n    b", "    b", "a", "stop"),
        ("<think>\na", "", "a", "truncated"),
        ("<think>\n\n</think>\n\nb", "b", "", "stop"),
        ("<think>a</think>", "", "a", "empty"),
        ("b", "b", None, "stop"),
        ("Write <think>x</think> so.", "Write <think>x</think> so.", None, "stop"),
        ("[THINK]a[/THINK]b", "b", "a", "stop"),
    ],
)
def test_a_server_s_text_is_parted_by_its_marks(text, answer, thought, reason):
    made = part_text(text, "auto", "stop")
    assert (made.text, made.reasoning, made.finish_reason) == (answer, thought, reason)
    if made.marks:
        assert made.marks[0] + made.reasoning + made.marks[1] + made.text == text


def test_a_server_whose_template_opens_the_thought_is_told_by_an_end_alone():
    made = part_text("never closed", ReasoningTags(end="</think>"), "length")
    assert (made.text, made.finish_reason) == ("", "truncated")


def test_the_first_end_closes_the_thought():
    tags = Tags("<think>", "</think>")
    made = part("<think>a</think>b</think>", tags, is_open=False, finish_reason="stop")
    assert (made.text, made.reasoning) == ("b</think>", "a")
