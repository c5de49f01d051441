"""The checkpoints that other tests script: they say what was written for them."""

import asyncio

import scripted_models
from scripted_models import ANSWER, CALL, OTHER, THOUGHT, WEATHER
from transformers import AutoTokenizer

from prefdata.engines.transformers.model import Checkpoint
from prefdata.engines.transformers.reward import load_reward_engine
from prefdata.engines.transformers.text import load_text_engine
from prefdata.inference import Sampling, ScoreRequest, TextRequest

HELLO = {"role": "user", "content": "What is 2 plus 2?"}


def say(path, *messages, samples=1, temperature=0.0, **template):
    checkpoint = Checkpoint(path, None, False)
    engine = load_text_engine(checkpoint, {}, reasoning="none")
    sampling = Sampling(temperature, 64)
    requests = [TextRequest(messages, sampling, seed, None, template) for seed in range(samples)]

    async def run():
        return {index: completion async for index, completion in engine.ask(requests)}

    try:
        found = asyncio.run(run())
    finally:
        engine.close()
    return [found[index].text for index in range(samples)]


def test_qwen3_thinks_unless_told_not_to(tmp_path):
    model = scripted_models.qwen3(tmp_path)
    [text] = say(model, HELLO)
    assert text == f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"
    assert say(model, HELLO, enable_thinking=False) == [ANSWER]


def test_r1_goes_on_with_the_thought_that_its_template_has_opened(tmp_path):
    assert say(scripted_models.r1(tmp_path), HELLO) == [f"{THOUGHT}\n</think>\n\n{ANSWER}"]


def test_gpt_oss_writes_on_channels(tmp_path):
    [text] = say(scripted_models.gpt_oss(tmp_path), HELLO)
    assert text == f"analysis{THOUGHT}assistantfinal{ANSWER}"


def test_gemma_has_several_answers_and_gives_the_first_when_greedy(tmp_path):
    model = scripted_models.gemma(tmp_path, answer=(ANSWER, OTHER))
    assert say(model, HELLO) == [ANSWER]
    assert {*say(model, HELLO, samples=20, temperature=1.0)} == {ANSWER, OTHER}


def test_a_tool_caller_calls_and_then_answers(tmp_path):
    model = scripted_models.tool_caller(tmp_path)
    assert say(model, HELLO, tools=[WEATHER]) == [CALL]
    call = {"name": "weather", "arguments": "{}"}
    asked = {"role": "assistant", "content": "", "tool_calls": [{"function": call}]}
    assert say(model, HELLO, asked, {"role": "tool", "content": "sunny"}) == [ANSWER]


def test_a_base_model_has_no_template(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(scripted_models.base(tmp_path))
    assert tokenizer.chat_template is None


def test_a_reward_model_counts(tmp_path):
    path = scripted_models.write_reward_model(
        tmp_path, "4", template=scripted_models.read_template("gemma"), bos="<bos>"
    )
    engine = load_reward_engine(Checkpoint(path, None, False), {})
    chats = [(HELLO, {"role": "assistant", "content": text}) for text in ("no", "4", "4 44 444")]

    async def run():
        return {n: s async for n, s in engine.ask([ScoreRequest(chat) for chat in chats])}

    try:
        scores = asyncio.run(run())
    finally:
        engine.close()
    assert scores[0] == (0.0,)
    assert scores[0] < scores[1] < scores[2]
