"""Real vLLM: both engines, against transformers."""

import asyncio
import os
from dataclasses import replace

import orjson
import pytest
from conftest import QUICKSTART

from prefdata.engines.transformers.model import Checkpoint
from prefdata.engines.transformers.reward import load_reward_engine
from prefdata.engines.transformers.text import load_text_engine
from prefdata.errors import PrefdataError
from prefdata.inference import Sampling, ScoreRequest, TextRequest
from prefdata.recipe.schema import Model
from prefdata.stages.rubric import read_rating

pytest.importorskip("vllm", reason="vLLM is not installed here")
pytestmark = pytest.mark.vllm

LM, RM = (Checkpoint(str(QUICKSTART / "models" / name), None, False) for name in ("lm", "rm"))
QUESTIONS = [
    orjson.loads(line)["prompt"]
    for line in (QUICKSTART / "prompts.jsonl").read_text().splitlines()[:24]
]
WINNER = {
    "type": "object",
    "properties": {"winner": {"type": "string", "enum": ["A", "B"]}},
    "required": ["winner"],
}


@pytest.fixture(scope="module", autouse=True)
def environment():
    for name, value in (("VLLM_ENABLE_V1_MULTIPROCESSING", "0"), ("VLLM_CPU_KVCACHE_SPACE", "1")):
        os.environ.setdefault(name, value)


@pytest.fixture(scope="module")
def text():
    from prefdata.engines.vllm import VllmTextEngine

    engine = VllmTextEngine(LM, {})
    yield engine
    engine.close()


def request(question, seed=1, schema=None, **sampling):
    chat = ({"role": "user", "content": question},)
    return TextRequest(
        chat, Sampling(**{"temperature": 0.9, "max_tokens": 24} | sampling), seed, schema
    )


async def complete(engine, *requests):
    found = {index: completion async for index, completion in engine.ask(requests)}
    return [found[index] for index in range(len(requests))]


def together(engine, *rows):
    async def run():
        return await asyncio.gather(*(complete(engine, *row) for row in rows))

    return asyncio.run(run())


def test_greedy_texts_and_their_counts_are_those_of_transformers(text):
    rows = [[request(question, temperature=0.0)] for question in QUESTIONS]
    reference = load_text_engine(LM, {})
    try:
        assert together(text, *rows) == together(reference, *rows)
    finally:
        reference.close()


def test_a_sample_does_not_depend_on_its_company(text):
    rows = [[request(question, seed) for seed in range(4)] for question in QUESTIONS]
    amid = together(text, *rows)
    [alone] = together(text, rows[3])
    assert alone == amid[3]
    [backwards] = together(text, rows[5][::-1])
    assert backwards[::-1] == amid[5]
    assert len({completion.text for row in amid for completion in row}) > 24


def test_texts_end_where_they_are_told_to(text):
    [[short, stopped, free]] = together(
        text,
        [
            request(QUESTIONS[0], max_tokens=2),
            request("What is 3 plus 4?", temperature=0.0, stop=(" is", "7", "T", "I")),
            request(QUESTIONS[0]),
        ],
    )
    assert (short.finish_reason, short.completion_tokens) == ("length", 2)
    assert stopped.finish_reason == free.finish_reason == "stop"
    assert not any(stop in stopped.text for stop in (" is", "7", "T", "I"))
    assert "<|" not in free.text


def test_a_schema_binds_every_answer(text):
    rows = [[request(question, seed, WINNER) for seed in range(2)] for question in QUESTIONS]
    verdicts = [orjson.loads(c.text) for row in together(text, *rows) for c in row]
    assert {verdict["winner"] for verdict in verdicts} <= {"A", "B"}
    assert all(verdict.keys() == {"winner"} for verdict in verdicts)


def test_ratings_are_those_of_transformers(text):
    scale = {"type": "integer", "enum": [1, 2, 3, 4, 5]}
    rows = [
        [replace(request(f"Rate from 1 to 5: {q}", 1, scale), top_logprobs=20)] for q in QUESTIONS
    ]
    reference = load_text_engine(LM, {})
    try:
        expected = [read_rating(c, 1, 5) for [c] in together(reference, *rows)]
    finally:
        reference.close()
    answers = [completion for [completion] in together(text, *rows)]
    assert all(answer.first_logprobs for answer in answers)
    assert [read_rating(answer, 1, 5) for answer in answers] == pytest.approx(expected, abs=1e-3)
    assert len({round(rating, 2) for rating in expected}) > 3


def test_a_prompt_longer_than_the_context_is_a_bad_row(text):
    [[failed, fine]] = together(text, [request("again " * 2000), request(QUESTIONS[0])])
    assert failed.reason == "prompt_too_long"
    assert "the context has room for 1024" in failed.detail
    assert fine.text


def test_the_context_bounds_a_text_too(text):
    [[long]] = together(text, [request("one " * 1005, max_tokens=500)])
    assert long.prompt_tokens + long.completion_tokens <= 1024


def test_a_schema_that_vllm_refuses_is_the_users_and_harms_nobody_else(text):
    with pytest.raises(PrefdataError, match="vLLM refused a request"):
        together(text, [request(QUESTIONS[0], schema={"type": "object", "$ref": "#/nowhere"})])
    [[fine]] = together(text, [request(QUESTIONS[0])])
    assert fine.text


def test_a_prompt_bears_one_begin_token(text):
    ids = text._chats.encode(
        ({"role": "user", "content": "Hello"},), {"add_generation_prompt": True}
    )
    begin = text._chats.tokenizer.bos_token_id
    assert ids.count(begin) == 1


def test_samples_of_a_prompt_share_its_prefill(text):
    question = "Here is a long story. " * 20 + QUESTIONS[1]
    cached = []
    read = text._work._read
    text._work._read = lambda job, output: (
        cached.append(output.num_cached_tokens) or read(job, output)
    )
    try:
        together(text, [request(question, seed) for seed in range(4)])
    finally:
        text._work._read = read
    assert sorted(cached)[0] == 0
    assert sum(n > 64 for n in cached) == 3


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"max_model_length": 100}, "did you mean 'max_model_len'"),
        ({"data_parallel_size": 2}, "use --gpus instead"),
        ({"max_model_len": 100_000}, "could not be loaded by vLLM"),
    ],
    ids=["unknown", "ours", "impossible"],
)
def test_an_option_that_cannot_be_is_told(option, message):
    from prefdata.engines import open_engine

    with pytest.raises(PrefdataError, match=message):
        open_engine("text", Model(alias="lm", model=LM.model, engine=option), LM.model, "vllm")


def test_rewards_are_raw_and_those_of_transformers():
    from prefdata.engines.vllm import VllmRewardEngine

    answers = ["The answer is 12.", "12", "It is 7 apples.", ""]
    rows = [
        [
            ScoreRequest(({"role": "user", "content": q}, {"role": "assistant", "content": a}))
            for a in answers
        ]
        for q in QUESTIONS
    ]

    async def run(engine):
        async def scores(row):
            found = {index: logits async for index, logits in engine.ask(row)}
            return [found[index][0] for index in range(len(row))]

        return await asyncio.gather(*map(scores, rows))

    engine = VllmRewardEngine(RM, {})
    mine = asyncio.run(run(engine))
    long = ScoreRequest(({"role": "user", "content": "again " * 2000},))
    _, failed = asyncio.run(anext(engine.ask([long])))
    assert failed.reason == "too_long_to_score"
    assert "the reward model has room for 1024" in failed.detail
    engine.close()
    reference = load_reward_engine(RM, {})
    theirs = asyncio.run(run(reference))
    reference.close()
    assert min(min(row) for row in mine) < -1  # no sigmoid
    worst = max(
        abs(a - b) for x, y in zip(mine, theirs, strict=True) for a, b in zip(x, y, strict=True)
    )
    assert worst < 1e-3


def test_a_reward_model_is_examined_before_it_scores():
    from prefdata.engines import open_engine

    engine = open_engine("reward", Model(alias="grader", model=RM.model), RM.model, "vllm")
    assert engine.last_read[0] == engine.bos_token_id
    assert engine.last_read.count(engine.bos_token_id) == 1
    engine.close()


def test_what_transformers_reads_is_kept_and_vllm_is_compared_with_it(monkeypatch, tmp_path):
    from prefdata.engines import open_engine

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = Model(alias="grader", model=RM.model)
    open_engine("reward", model, RM.model, "vllm").close()
    [kept] = (tmp_path / "prefdata" / "reward-checks").glob("*.json")
    scores = orjson.loads(kept.read_bytes())
    kept.write_bytes(orjson.dumps([[value + 1 for value in logits] for logits in scores]))
    with pytest.raises(PrefdataError, match="they differ"):
        open_engine("reward", model, RM.model, "vllm")


def test_a_reward_model_that_is_read_wrongly_is_refused(monkeypatch):
    from prefdata.engines import open_engine, vllm

    raw = vllm.PoolingParams
    monkeypatch.setattr(
        vllm, "PoolingParams", lambda **more: raw(**more | {"use_activation": True})
    )
    with pytest.raises(PrefdataError, match="differ by more than 0.001 in float32"):
        open_engine("reward", Model(alias="grader", model=RM.model), RM.model, "vllm")


def test_vllm_reads_the_ids_of_every_chat_as_its_template_writes_them(text):
    from test_chat_ids import make_chats
    from transformers import AutoTokenizer

    from prefdata.engines.vllm import VllmRewardEngine

    chats = [tuple(chat) for chat in make_chats(200, has_tools=False)]
    answer = {"role": "assistant", "content": "It is 4."}
    tokenizers = [AutoTokenizer.from_pretrained(one.model) for one in (LM, RM)]
    asked = [
        tokenizers[0].apply_chat_template([*chat], add_generation_prompt=True, return_dict=False)
        for chat in chats
    ]
    requests = [TextRequest(chat, Sampling(0.0, 1), 1) for chat in chats]
    found = asyncio.run(complete(text, *requests))
    assert [one.prompt_tokens for one in found] == [len(ids) for ids in asked]
    engine = VllmRewardEngine(RM, {})

    async def read(chat):
        async for _ in engine.ask([ScoreRequest((*chat, answer))]):
            pass
        return engine.last_read

    equal = [
        asyncio.run(read(chat))
        == tokenizers[1].apply_chat_template([*chat, answer], return_dict=False)
        for chat in chats
    ]
    engine.close()
    assert sum(equal) == 200
