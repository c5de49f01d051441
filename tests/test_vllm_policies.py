"""Real vLLM with scripted models: its own parsers of thoughts and calls, and LoRA adapters."""

import asyncio
import os

import pytest
from scripted_models import (
    ANSWER,
    CALL,
    OTHER,
    THOUGHT,
    WEATHER,
    base,
    gemma,
    gpt_oss,
    qwen3,
    r1,
    tool_caller,
    write_adapter,
)  # fmt: skip

from prefdata.engines.transformers.model import Checkpoint
from prefdata.errors import PrefdataError
from prefdata.inference import Sampling, TextRequest
from prefdata.recipe.values import ReasoningParser

pytest.importorskip("vllm", reason="vLLM is not installed here")
pytestmark = pytest.mark.vllm

ARGUMENTS = '{"city": "Paris", "days":2}'
HELLO = ({"role": "user", "content": "What is 2 plus 2?"},)
HARMONY_CALL = (
    "<|channel|>analysis<|message|>Look it up.<|end|><|start|>assistant<|channel|>commentary "
    f"to=functions.weather <|constrain|>json<|message|>{ARGUMENTS}<|call|>"
)


@pytest.fixture(scope="module", autouse=True)
def environment():
    for name, value in (("VLLM_ENABLE_V1_MULTIPROCESSING", "0"), ("VLLM_CPU_KVCACHE_SPACE", "1")):
        os.environ.setdefault(name, value)


def ask(model, *requests, adapters=(), template=None, **options):
    from prefdata.engines.vllm import VllmTextEngine

    checkpoint = Checkpoint(model, None, False, template, adapters)
    engine = VllmTextEngine(checkpoint, {"max_model_len": 2048}, **options)

    async def run():
        return {index: made async for index, made in engine.ask(requests)}

    try:
        found = asyncio.run(run())
    finally:
        engine.close()
    return [found[index] for index in range(len(requests))]


def request(**given):
    return TextRequest(HELLO, Sampling(0.0, 64), 0, **given)


@pytest.mark.parametrize("parser", [None, "qwen3"], ids=["told by the template", "vLLM's parser"])
def test_qwen3_thinks_unless_told_not_to(tmp_path, parser):
    reasoning = ReasoningParser(parser=parser) if parser else "auto"
    thinking, plain = ask(
        qwen3(tmp_path),
        request(),
        request(chat_template_kwargs={"enable_thinking": False}),
        reasoning=reasoning,
    )
    assert (thinking.text, thinking.reasoning) == (ANSWER, THOUGHT)
    assert plain.text == ANSWER


@pytest.mark.parametrize("parser", [None, "deepseek_r1"], ids=["by the template", "vLLM's parser"])
def test_a_thought_that_the_template_opens_is_parted(tmp_path, parser):
    reasoning = ReasoningParser(parser=parser) if parser else "auto"
    [made] = ask(r1(tmp_path), request(), reasoning=reasoning)
    assert (made.text, made.reasoning) == (ANSWER, THOUGHT)


def test_harmony_channels_are_parted_and_their_calls_kept(tmp_path):
    [made] = ask(gpt_oss(tmp_path / "plain"), request())
    assert (made.text, made.reasoning) == (ANSWER, THOUGHT)
    model = gpt_oss(tmp_path / "calls", scripts={"t": HARMONY_CALL})
    [made] = ask(model, request(tools=(WEATHER,)), tool_parser="openai")
    assert (made.reasoning, made.finish_reason) == ("Look it up.", "tool_calls")
    assert made.tool_calls[0]["function"] == {"name": "weather", "arguments": ARGUMENTS}


def test_calls_found_by_vllm_keep_their_arguments_as_written(tmp_path):
    [made] = ask(tool_caller(tmp_path), request(tools=(WEATHER,)), tool_parser="hermes")
    assert (made.text, made.finish_reason) == ("", "tool_calls")
    assert made.tool_calls[0]["function"] == {"name": "weather", "arguments": ARGUMENTS}


def test_a_parser_that_vllm_does_not_have_is_refused(tmp_path):
    with pytest.raises(PrefdataError, match="no tool_parser 'hermse'"):
        ask(tool_caller(tmp_path), request(), tool_parser="hermse")


def test_without_a_parser_calls_stay_text(tmp_path):
    [made] = ask(tool_caller(tmp_path), request(tools=(WEATHER,)))
    assert (made.text, made.tool_calls) == (CALL, ())


def test_adapters_of_one_base_share_one_engine_with_it(tmp_path):
    scripts = {("<one>", "\n"): OTHER, ("<two>", "\n"): "Nobody knows."}
    model = gemma(tmp_path / "base", scripts=scripts, specials=("<one>", "<two>"))
    first, second = (write_adapter(tmp_path / f"a{n}", model, n, r=8 + n) for n in (0, 1))
    requests = [request(adapter=adapter) for adapter in (None, first, second, None)]
    made = ask(model, *requests, adapters=(first, second))
    assert [one.text for one in made] == [ANSWER, OTHER, "Nobody knows.", ANSWER]


def test_an_adapter_that_vllm_cannot_run_is_one_line(tmp_path):
    model = gemma(tmp_path / "base", scripts={("<one>", "\n"): OTHER}, specials=("<one>",))
    adapter = write_adapter(tmp_path / "adapter", model, use_dora=True)
    with pytest.raises(PrefdataError, match=r"cannot run the adapter .*DoRA.*provider: transf"):
        ask(model, request(), adapters=(adapter,))


def test_a_base_model_answers_under_the_template_of_the_recipe(tmp_path):
    template = "{% for message in messages %}{{ message.content }}{% endfor %} A:"
    [made] = ask(base(tmp_path), request(), template=template)
    assert made.text == f" {ANSWER}"
