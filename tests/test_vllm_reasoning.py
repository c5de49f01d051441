"""Thoughts under real vLLM, with our marks and with its own parsers, on models written for it."""

import asyncio
import json
import os

import pytest
import scripted_models as models
from scripted_models import ANSWER, THOUGHT

pytest.importorskip("vllm")

from test_reasoning import SCHEMA, WRITTEN
from test_reasoning import ask as ask_transformers

from prefdata.engines.transformers.model import Checkpoint
from prefdata.engines.vllm import VllmTextEngine
from prefdata.errors import PrefdataError
from prefdata.inference import Sampling, TextRequest
from prefdata.recipe.values import ReasoningParser

pytestmark = pytest.mark.vllm
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"


def ask_all(folder, *requests, reasoning="auto"):
    """The outcomes of some requests, from one engine."""
    engine = VllmTextEngine(
        Checkpoint(str(folder), None, False), {"max_model_len": 1024}, reasoning
    )

    async def run():
        return {index: outcome async for index, outcome in engine.ask(requests)}

    try:
        found = asyncio.run(run())
    finally:
        engine.close()
    return [found[index] for index in range(len(requests))]


def request(schema=None, top_logprobs=0, kwargs=None, **sampling):
    asked = ({"role": "user", "content": "What is 2 plus 2?"},)
    given = Sampling(**{"temperature": 0.0, "max_tokens": 200} | sampling)
    return TextRequest(asked, given, 1, schema, kwargs or {}, top_logprobs)


@pytest.mark.parametrize("kind", WRITTEN)
def test_vllm_parts_thoughts_as_transformers_does(tmp_path, kind):
    folder = getattr(models, kind)(tmp_path)
    free, cut, bounded, bound = ask_all(
        folder,
        request(),
        request(max_tokens=5),
        request(max_reasoning_tokens=3),
        request(SCHEMA),
    )
    assert free == ask_transformers(folder)
    assert (free.text, free.reasoning) == (ANSWER, THOUGHT)
    assert cut == ask_transformers(folder, max_tokens=5)
    assert cut.finish_reason == "truncated"
    # what this gpt-oss writes has other tokens than its marks, which vLLM counts from; see below
    if kind != "gpt_oss":
        assert THOUGHT.startswith(bounded.reasoning) and len(bounded.reasoning) < len(THOUGHT)
    assert (bounded.text, bounded.finish_reason) == (ANSWER, "stop")
    assert json.loads(bound.text)["winner"] in ("A", "B")
    assert bound.reasoning == THOUGHT


def harmony(folder):
    """A gpt-oss whose words of channels are single tokens, as in its own vocabulary."""
    return models.write_model(
        folder,
        {"assistant": WRITTEN["gpt_oss"]},
        template=models.read_template("gptoss"),
        specials=(*models.HARMONY, "assistant", "analysis", "final"),
        eos=("<|return|>", "<|endoftext|>", "<|call|>"),
        bos="<|startoftext|>",
    )


@pytest.mark.parametrize("reasoning", ["auto", ReasoningParser(parser="openai_gptoss")], ids=str)
def test_a_thought_on_a_channel_is_bounded_and_waited_for(tmp_path, reasoning):
    free, bounded, bound = ask_all(
        harmony(tmp_path),
        request(),
        request(max_reasoning_tokens=3),
        request(SCHEMA),
        reasoning=reasoning,
    )
    assert (free.text, free.reasoning) == (ANSWER, THOUGHT)
    assert THOUGHT.startswith(bounded.reasoning) and len(bounded.reasoning) < len(THOUGHT)
    assert (bounded.text, bounded.finish_reason) == (ANSWER, "stop")
    assert json.loads(bound.text)["winner"] in ("A", "B")
    assert bound.reasoning == THOUGHT


def test_a_rubric_under_vllm_reads_the_answer_s_first_token(tmp_path):
    schema = {"type": "integer", "enum": [1, 2, 3, 4, 5]}
    thinking, quick = ask_all(
        models.qwen3(tmp_path),
        request(schema, top_logprobs=20),
        request(schema, top_logprobs=20, kwargs={"enable_thinking": False}),
    )
    assert set(thinking.first_logprobs) >= {"1", "2", "3", "4", "5"}
    assert thinking.reasoning == THOUGHT
    assert set(quick.first_logprobs) >= {"1", "2", "3", "4", "5"}
    assert (quick.reasoning, quick.reasoning_tokens) == (None, 0)


@pytest.mark.parametrize(
    ("kind", "parser"),
    [("qwen3", "qwen3"), ("r1", "deepseek_r1"), ("gpt_oss", "openai_gptoss")],
    ids=["qwen3", "deepseek_r1", "openai_gptoss"],
)
def test_vllm_s_own_parsers_part_the_same(tmp_path, kind, parser):
    folder = getattr(models, kind)(tmp_path)
    free, cut, bound = ask_all(
        folder,
        request(),
        request(max_tokens=5),
        request(SCHEMA),
        reasoning=ReasoningParser(parser=parser),
    )
    assert free == ask_transformers(folder)
    assert (cut.text, cut.finish_reason) == ("", "truncated")
    assert json.loads(bound.text)["winner"] in ("A", "B")
    assert bound.reasoning == THOUGHT


def test_a_parser_that_vllm_does_not_have_is_one_line(tmp_path):
    folder = models.qwen3(tmp_path)
    with pytest.raises(PrefdataError, match="no reasoning parser 'qwen33'; did you mean 'qwen3'"):
        ask_all(folder, request(), reasoning=ReasoningParser(parser="qwen33"))
