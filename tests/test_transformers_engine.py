"""What the transformers engines promise, on the shipped models and on one with random weights."""

import asyncio
import json
import random
import shutil
import threading
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

import jsonschema
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from prefdata.engines.checkpoints import count_parameters
from prefdata.engines.transformers.batching import pick_batch
from prefdata.engines.transformers.model import Checkpoint, load_model
from prefdata.engines.transformers.reward import load_reward_engine
from prefdata.engines.transformers.text import load_text_engine, run_text_model
from prefdata.errors import PrefdataError
from prefdata.inference import Sampling, ScoreRequest, TextRequest

MODELS = Path(__file__).parents[1] / "recipes/quickstart/models"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WORDS = [
    "what",
    "is",
    "the",
    "sum",
    "of",
    "seven",
    "and",
    "nine",
    "list",
    "four",
    "rivers",
    "write",
]
QUESTIONS = [f"What is {a} plus {b}?" for a in (3, 40, 57) for b in (2, 19)] + [
    "Take 11 away from 48. What is left?",
    "Jan has 10 horses and Sam has 12. How many horses do they have together?",
]
VERDICT = {
    "type": "object",
    "properties": {"winner": {"type": "string", "enum": ["A", "B"]}},
    "required": ["winner"],
}
REPORT = {
    "type": "object",
    "properties": {
        "score": {"type": "integer", "minimum": 1, "maximum": 10},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 3},
        "safe": {"type": "boolean"},
        "by": {"anyOf": [{"$ref": "#/$defs/person"}, {"type": "null"}]},
    },
    "required": ["score", "tags", "safe", "by"],
    "$defs": {"person": {"type": "object", "properties": {"age": {"enum": [1, 2.5]}}}},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """What the engines choose for tiny models; it makes the comparisons fast on busy cores, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer():
    shuffle = random.Random(0)
    lines = [
        " ".join(shuffle.choices(WORDS, k=8)) + f' {shuffle.randint(0, 99)} = {{"winner": "A"}}\n'
        for _ in range(500)
    ]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|bos|>", "<|user|>", "<|assistant|>", "<|system|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    bpe.train_from_iterator(lines, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", bos_token="<|bos|>", padding_side="left"
    )
    fast.chat_template = TEMPLATE
    return fast


@pytest.fixture(scope="module")
def make_checkpoint(tokenizer, tmp_path_factory):
    """Saves a tiny model with random weights and returns its folder."""

    def make(model_class, config_class, **changes):
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(model_class.__name__)
        sizes = {
            "vocab_size": len(tokenizer) + 3,  # as models whose embedding is padded
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 160,
            "initializer_range": 0.3,
            "eos_token_id": 0,
            "bos_token_id": 1,
        }
        model = model_class(config_class(**{**sizes, **changes}))
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="module")
def random_lm(make_checkpoint):
    return make_checkpoint(LlamaForCausalLM, LlamaConfig)


@pytest.fixture
def load_text():
    """Loads text engines and closes them after the test."""
    engines = []

    def load(model, **options):
        engine = load_text_engine(Checkpoint(str(model), None, False), options)
        engines.append(engine)
        return engine

    yield load
    for engine in engines:
        engine.close()


@pytest.fixture
def load_reward():
    engines = []

    def load(model, **options):
        engine = load_reward_engine(Checkpoint(str(model), None, False), options)
        engines.append(engine)
        return engine

    yield load
    for engine in engines:
        engine.close()


def request(text, seed=0, schema=None, **sampling):
    chat = ({"role": "user", "content": text},)
    knobs = Sampling(**{"temperature": 1.0, "max_tokens": 24, **sampling})
    return TextRequest(chat, knobs, seed, schema)


def chat(question, answer):
    turns = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return ScoreRequest(turns)


PLACE = itemgetter(0)


async def collect(stream):
    return [item async for item in stream]


def complete(engine, *calls):
    """Completions of several concurrent calls, each a list of requests, in their order."""

    async def gather():
        return await asyncio.gather(*(collect(engine.ask(call)) for call in calls))

    return [[done for _, done in sorted(results, key=PLACE)] for results in asyncio.run(gather())]


def score(engine, *calls):
    async def gather():
        return await asyncio.gather(*(collect(engine.ask(call)) for call in calls))

    return [[done for _, done in sorted(results, key=PLACE)] for results in asyncio.run(gather())]


def many_requests(count, **sampling):
    return [request(QUESTIONS[i // 4 % len(QUESTIONS)], seed=i, **sampling) for i in range(count)]


KNOBS = {
    "shipped": {"temperature": 1.2},
    "random": {"temperature": 1.0},
    "filtered": {"top_p": 0.9, "top_k": 50, "repetition_penalty": 1.1},
    "greedy": {"temperature": 0.0},
}


@pytest.mark.parametrize("case", KNOBS)
def test_a_sample_does_not_depend_on_its_batch(case, random_lm, load_text):
    model = MODELS / "lm" if case == "shipped" else random_lm
    requests = many_requests(96, **KNOBS[case])
    by_row = [requests[i : i + 4] for i in range(0, len(requests), 4)]
    [*reference] = complete(load_text(model, max_num_seqs=64), *by_row)
    expected = [done for row in reference for done in row]

    order = random.Random(1).sample(range(len(requests)), len(requests))
    shuffled = complete(load_text(model, max_num_seqs=7), *([requests[i]] for i in order))
    assert {i: done for i, [done] in zip(order, shuffled, strict=True)} == dict(enumerate(expected))

    alone = complete(load_text(model, max_num_seqs=1), requests[:12])
    assert alone[0] == expected[:12]


def test_seeds_decide_the_text(random_lm, load_text):
    engine = load_text(random_lm)
    [first] = complete(engine, [request("list", seed=seed) for seed in range(20)])
    [again] = complete(engine, [request("list", seed=seed) for seed in range(20)])
    assert first == again
    assert len({done.text for done in first}) == 20


def greedy_by_transformers(folder, question, max_tokens):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    turns = [{"role": "user", "content": question}]
    encoded = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**encoded, do_sample=False, max_new_tokens=max_tokens)
    new = output[0, encoded["input_ids"].shape[1] :]
    return tokenizer.decode(new, skip_special_tokens=True), len(new)


@pytest.mark.parametrize("kind", ["shipped", "random", "sliding window"])
def test_temperature_zero_is_what_generate_writes(kind, random_lm, make_checkpoint, load_text):
    folder = MODELS / "lm" if kind == "shipped" else random_lm
    if kind == "sliding window":
        folder = make_checkpoint(MistralForCausalLM, MistralConfig, sliding_window=10)
    questions = [*QUESTIONS, "Hi", " ".join(WORDS * 2)]
    requests = [request(question, temperature=0.0, max_tokens=30) for question in questions]
    for done, question in zip(complete(load_text(folder), requests)[0], questions, strict=True):
        assert (done.text, done.completion_tokens) == greedy_by_transformers(folder, question, 30)


def test_requests_of_all_kinds_share_a_batch(random_lm, load_text):
    kinds = [
        request("list", seed=1),
        request("list", seed=2, schema=REPORT, temperature=2.0, max_tokens=90),
        request("four rivers", temperature=0.0),
        request("four rivers", seed=3, repetition_penalty=1.5, top_k=9),
        request("seven", seed=4, stop=("a", "e"), min_p=0.001),
        request("seven", seed=5, schema=VERDICT, top_p=0.9),
    ]
    together = complete(load_text(random_lm), kinds)[0]
    alone = load_text(random_lm, max_num_seqs=1)
    assert together == [complete(alone, [kind])[0][0] for kind in kinds]


def test_the_text_ends_before_the_first_stop_string(load_text):
    engine = load_text(MODELS / "lm")
    free = complete(engine, many_requests(32))[0]
    cut = complete(engine, many_requests(32, stop=(" is ", "zebra")))[0]
    stopped = [i for i, done in enumerate(free) if " is " in done.text]
    assert stopped
    for i, (whole, part) in enumerate(zip(free, cut, strict=True)):
        assert part.text == whole.text.split(" is ")[0]
        assert part.completion_tokens < whole.completion_tokens or i not in stopped
        assert part.finish_reason == ("stop" if i in stopped else whole.finish_reason)


def test_length_ends_a_completion_at_max_tokens_and_at_the_context(random_lm, load_text):
    engine = load_text(random_lm, max_model_len=40)
    [short, long] = complete(
        engine, [request("list", max_tokens=3), request("list", max_tokens=500)]
    )[0]
    assert (short.finish_reason, short.completion_tokens) == ("length", 3)
    assert long.finish_reason == "length"
    assert long.prompt_tokens + long.completion_tokens == 40


def test_every_eos_token_ends_a_completion_and_is_counted(random_lm, tmp_path, load_text):
    free = complete(load_text(random_lm), [request("list", seed=5)])[0][0]
    model = AutoModelForCausalLM.from_pretrained(random_lm)
    model.generation_config.eos_token_id = [0, *range(5, 60)]
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(random_lm).save_pretrained(tmp_path)
    done = complete(load_text(tmp_path), [request("list", seed=5)])[0][0]
    assert done.finish_reason == "stop"
    assert 1 < done.completion_tokens < free.completion_tokens
    assert free.text.startswith(done.text)


def test_a_prompt_that_fills_the_context_costs_its_own_request(random_lm, load_text):
    engine = load_text(random_lm, max_model_len=20)
    [[failed, made]] = complete(engine, [request("rivers " * 30), request("list")])
    assert failed.reason == "prompt_too_long"
    assert "the context has room for 20" in failed.detail
    assert made.completion_tokens > 0


@pytest.mark.parametrize("folder", ["random", "shipped"])
@pytest.mark.parametrize("schema", [VERDICT, REPORT], ids=["verdict", "report"])
def test_a_schema_holds_at_temperature_two(folder, schema, random_lm, load_text):
    engine = load_text(random_lm if folder == "random" else MODELS / "lm")
    hot = [request("list", seed, schema, temperature=2.0, max_tokens=120) for seed in range(60)]
    verdicts = complete(engine, hot)[0]
    for done in verdicts:
        assert done.finish_reason == "stop"
        value = json.loads(done.text)
        jsonschema.validate(value, schema)
        assert set(value) == set(schema["properties"])
    if schema is VERDICT:
        assert {done.text for done in verdicts} <= {'{"winner": "A"}', '{"winner": "B"}'}


def test_the_likeliest_first_tokens_are_told_and_do_not_depend_on_the_batch(load_text):
    engine, folder = load_text(MODELS / "lm"), MODELS / "lm"
    scale = {"type": "integer", "enum": [1, 2, 3, 4, 5]}
    wanted = [replace(request(f"Rate it. {q}", 1, scale), top_logprobs=20) for q in QUESTIONS]
    amid = [row[0] for row in complete(engine, *([one] for one in wanted))]
    alone = [complete(engine, [one])[0][0] for one in wanted]
    assert amid == alone
    assert all(set(one.first_logprobs) == set("12345") for one in amid)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(
        [dict(m) for m in wanted[0].messages], add_generation_prompt=True, return_tensors="pt",
        return_dict=False,
    )  # fmt: skip
    digits = [tokenizer.convert_tokens_to_ids(digit) for digit in "12345"]
    with torch.inference_mode():
        expected = model(ids).logits[0, -1, digits].log_softmax(-1).tolist()
    assert [amid[0].first_logprobs[digit] for digit in "12345"] == pytest.approx(expected, abs=1e-4)


def test_a_schema_cut_by_max_tokens_says_so(random_lm, load_text):
    [done] = complete(load_text(random_lm), [request("list", schema=VERDICT, max_tokens=2)])[0]
    assert done.finish_reason == "length"
    assert '{"winner": "A"}'.startswith(done.text)


def test_a_schema_that_cannot_be_enforced_is_named(random_lm, load_text):
    engine = load_text(random_lm)
    with pytest.raises(PrefdataError, match="uniqueItems"):
        complete(engine, [request("list", schema={"type": "array", "uniqueItems": True})])


def test_samples_of_a_call_share_one_prefill(random_lm):
    loaded = load_model(AutoModelForCausalLM, Checkpoint(random_lm, None, False), {})
    engine = run_text_model(loaded, max_num_seqs=3)
    prefilled = []

    def count(_module, arguments, keywords):
        if keywords.get("use_cache") and "attention_mask" not in keywords:
            prefilled.append(arguments[0].numel())

    loaded.model.register_forward_pre_hook(count, with_kwargs=True)
    samples = [request("four rivers", seed) for seed in range(10)]
    done = complete(engine, samples)[0]
    engine.close()
    assert prefilled == [done[0].prompt_tokens - 1]


def loaded_text(folder, **arguments):
    loaded = load_model(AutoModelForCausalLM, Checkpoint(folder, None, False), {})
    return loaded, run_text_model(loaded, **{"max_num_seqs": 4, **arguments})


def test_an_error_in_the_thread_reaches_every_caller(random_lm):
    loaded, engine = loaded_text(random_lm)

    def fail(*_):
        raise torch.OutOfMemoryError("no memory")

    loaded.model.register_forward_pre_hook(fail)

    async def three_calls():
        calls = (collect(engine.ask([request("list", seed)])) for seed in range(3))
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20)

    assert [type(error) for error in asyncio.run(three_calls())] == [torch.OutOfMemoryError] * 3
    with pytest.raises(torch.OutOfMemoryError):
        complete(engine, [request("too late")])
    engine.close()


def test_close_ends_the_thread_and_fails_what_is_in_flight(random_lm):
    _, engine = loaded_text(random_lm)
    before = threading.active_count()

    async def close_early():
        stream = engine.ask(many_requests(200))
        await anext(stream)
        engine.close()
        async for _ in stream:  # what was finished before, then the error
            pass

    with pytest.raises(RuntimeError, match="engine was closed"):
        asyncio.run(close_early())
    assert threading.active_count() == before - 1
    with pytest.raises(RuntimeError, match="engine was closed"):
        complete(engine, [request("list")])


def test_a_call_that_is_left_costs_nothing_more(random_lm):
    loaded, engine = loaded_text(random_lm)
    steps = []
    loaded.model.register_forward_pre_hook(lambda *_: steps.append(1))

    async def leave_after_one():
        stream = engine.ask(many_requests(400, max_tokens=100))
        async for _ in stream:
            break
        await stream.aclose()
        left_at = len(steps)
        await collect(engine.ask([request("list", max_tokens=10)]))
        return len(steps) - left_at

    assert asyncio.run(leave_after_one()) < 60
    engine.close()


def test_an_engine_serves_one_event_loop_after_another(random_lm, load_text):
    engine = load_text(random_lm)
    assert complete(engine, [request("list")]) == complete(engine, [request("list")])


def test_chat_template_arguments_reach_the_template(random_lm, load_text):
    engine = load_text(random_lm)
    turns = ({"role": "user", "content": "list"},)
    plain, bare = (
        TextRequest(turns, Sampling(0.0, 2), 0, None, arguments)
        for arguments in ({}, {"add_generation_prompt": False})
    )
    with_prompt, without = complete(engine, [plain, bare])[0]
    assert with_prompt.prompt_tokens == without.prompt_tokens + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float8"}, "give one of auto, float32"),
        ({"max_num_seqs": 0}, "at least 1"),
        ({"max_model_len": 4096}, "has only 160 positions"),
    ],
    ids=["dtype", "count", "length"],
)
def test_an_option_that_cannot_be_met_is_refused(options, message, random_lm, load_text):
    with pytest.raises(PrefdataError, match=message):
        load_text(random_lm, **options)


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path, load_text, load_reward):
    with pytest.raises(PrefdataError, match="nothing' was not found locally or on the Hub"):
        load_text(tmp_path / "nothing")
    with pytest.raises(PrefdataError, match="was not found locally or on the Hub"):
        load_reward(tmp_path)


def test_a_tokenizer_without_chat_template_is_refused(random_lm, tmp_path, load_text):
    tokenizer = AutoTokenizer.from_pretrained(random_lm)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    AutoModelForCausalLM.from_pretrained(random_lm).save_pretrained(tmp_path)
    with pytest.raises(PrefdataError, match="no chat template"):
        load_text(tmp_path)


def test_a_model_with_a_recurrent_state_is_refused(make_checkpoint, load_text):
    folder = make_checkpoint(MambaForCausalLM, MambaConfig)
    with pytest.raises(PrefdataError, match="recurrent state"):
        load_text(folder, max_model_len=64)


def test_a_head_that_was_never_trained_is_refused(random_lm, load_text, load_reward):
    with pytest.raises(PrefdataError, match=r"no weights for score\.weight"):
        load_reward(random_lm)
    with pytest.raises(PrefdataError, match=r"no weights for lm_head\.weight"):
        load_text(MODELS / "rm")


ANSWERS = [
    chat(question, answer)
    for question in QUESTIONS
    for answer in ("42", "That is 5.", "I do not know that number, so let me think about it.")
]


def scores_one_by_one(folder, requests):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    chats = [tokenizer.apply_chat_template(list(r.messages), return_dict=False) for r in requests]
    with torch.inference_mode():
        return [tuple(model(torch.tensor([ids])).logits[0].tolist()) for ids in chats]


@pytest.mark.parametrize("max_batch_tokens", [1, 100, 8192])
def test_scores_are_the_raw_logits_in_any_batch(max_batch_tokens, load_reward):
    engine = load_reward(MODELS / "rm", max_batch_tokens=max_batch_tokens)
    calls = [ANSWERS[i : i + 3] for i in range(0, len(ANSWERS), 3)]
    scores = [logits for call in score(engine, *calls) for logits in call]
    expected = scores_one_by_one(MODELS / "rm", ANSWERS)
    assert torch.allclose(torch.tensor(scores), torch.tensor(expected), rtol=0, atol=1e-5)


def test_a_score_is_the_same_to_the_last_bit_whatever_is_scored_with_it(load_reward):
    engine = load_reward(MODELS / "rm")
    alone = [score(engine, [request])[0][0] for request in ANSWERS]
    together = [logits for call in score(engine, ANSWERS[::-1]) for logits in call][::-1]
    by_threes = score(engine, *(ANSWERS[i : i + 3] for i in range(0, len(ANSWERS), 3)))
    assert together == alone
    assert [logits for call in by_threes for logits in call] == alone


def test_all_labels_are_scored_by_a_model_without_pad_token(make_checkpoint, load_reward):
    folder = make_checkpoint(
        LlamaForSequenceClassification, LlamaConfig, num_labels=3, pad_token_id=None
    )
    scores = score(load_reward(folder), ANSWERS)[0]
    expected = scores_one_by_one(folder, ANSWERS)
    assert len(scores[0]) == 3
    assert torch.allclose(torch.tensor(scores), torch.tensor(expected), rtol=0, atol=1e-5)


def test_a_template_that_doubles_bos_is_corrected(make_checkpoint, tokenizer, load_reward):
    folder = make_checkpoint(LlamaForSequenceClassification, LlamaConfig, pad_token_id=None)
    right = score(load_reward(folder), ANSWERS[:2])
    doubled = AutoTokenizer.from_pretrained(folder)
    doubled.chat_template = "{{ bos_token }}" + TEMPLATE
    doubled.save_pretrained(folder)
    assert score(load_reward(folder), ANSWERS[:2]) == right


def test_a_chat_beyond_the_reward_model_costs_its_own_score(load_reward):
    engine = load_reward(MODELS / "rm", max_model_len=30)
    chats = [chat("What is 1 plus 1?", "two " * 40), chat("What is 1 plus 1?", "two")]
    [[failed, logits]] = score(engine, chats)
    assert failed.reason == "too_long_to_score"
    assert "the reward model has room for 30" in failed.detail
    assert len(logits) == 1


def test_a_chat_the_template_refuses_is_a_failure(random_lm, tmp_path, load_text):
    tokenizer = AutoTokenizer.from_pretrained(random_lm)
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    AutoModelForCausalLM.from_pretrained(random_lm).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    [[failed]] = complete(load_text(tmp_path), [request("list")])
    assert failed.reason == "chat_template_refused"
    assert "roles must alternate" in failed.detail


@pytest.mark.parametrize(
    ("lengths", "limits", "picked"),
    [
        ([5, 100, 6, 90, 4], {"max_items": 3, "max_tokens": 999}, {0, 2, 4}),
        ([100, 5, 6, 90, 4], {"max_items": 2, "max_tokens": 999}, {0, 3}),
        ([5, 6, 7, 8], {"max_items": 9, "max_tokens": 18}, {0, 1}),
        ([50, 6, 7, 8], {"max_items": 9, "max_tokens": 18}, {0}),
        ([10, 5, 30, 9], {"max_items": 9, "max_tokens": 30}, {0, 1, 3}),
    ],
)
def test_a_batch_holds_the_oldest_and_its_neighbours_in_length(lengths, limits, picked):
    assert set(pick_batch(lengths, **limits)) == picked


def test_weights_that_are_cut_short_are_one_message(tmp_path):
    folder = tmp_path / "cut"
    shutil.copytree(MODELS / "rm", folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(
        PrefdataError, match=r"cut': its weights could not be loaded: .*download it again"
    ):
        load_model(AutoModelForSequenceClassification, Checkpoint(str(folder), None, False), {})
    with pytest.raises(PrefdataError, match=r"model.safetensors: damaged or truncated"):
        count_parameters(str(folder))
