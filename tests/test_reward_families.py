"""Reward models: recognised by their config, read where their numbers are, examined."""

import asyncio
import math
import shutil

import orjson
import pytest
import torch
from conftest import QUICKSTART
from transformers import AutoModelForCausalLM

from prefdata.engines import choose_engine, open_engine
from prefdata.engines.doctor import PROBES, check_begin, compare
from prefdata.engines.reward_families import FAMILIES, find_family
from prefdata.engines.transformers.model import Checkpoint
from prefdata.engines.transformers.reward import load_reward_engine
from prefdata.errors import PrefdataError
from prefdata.recipe.schema import Model

MODELS = QUICKSTART / "models"
GATED = """
from transformers import LlamaForSequenceClassification

class LlamaForRewardModelWithGating(LlamaForSequenceClassification):
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output["score"] = output.logits[:, 0]
        output["rewards"] = output.logits.repeat(1, 3) * 2
        output.logits = None
        return output
"""


def checkpoint_called(folder, architecture, name="model"):
    path = folder / name
    path.mkdir()
    (path / "config.json").write_bytes(orjson.dumps({"architectures": [architecture]}))
    return str(path)


def model(**more):
    return Model(alias="grader", model="x", **more)


@pytest.mark.parametrize(
    ("architecture", "providers", "reading"),
    [
        ("LlamaForSequenceClassification", ("vllm", "transformers"), "labels"),
        ("Qwen3ForSequenceClassification", ("vllm", "transformers"), "labels"),
        ("InternLM2ForRewardModel", ("vllm",), "last_token"),
        ("Qwen2ForRewardModel", ("vllm",), "last_token"),
    ],
)
def test_a_family_is_known_by_its_architecture(tmp_path, architecture, providers, reading):
    family = find_family(model(), checkpoint_called(tmp_path, architecture))
    assert (family.providers, family.reading) == (providers, reading)


def test_a_language_model_named_as_a_reward_model_is_read_at_its_first_logit(tmp_path):
    path = checkpoint_called(tmp_path, "LlamaForCausalLM", "Llama-3.1-Nemotron-70B-Reward-HF")
    family = find_family(model(), path)
    assert (family.providers, family.reading) == (("transformers",), "first_logit")


@pytest.mark.parametrize(
    ("architecture", "more", "message"),
    [
        ("LlamaForCausalLM", {}, "use it in an llm_judge column"),
        ("DebertaV2ForSequenceClassification", {}, "judge pairs with an llm_judge column"),
        ("INFORMForSequenceClassification", {}, "single-layer head"),
        ("LlamaForRewardModelWithGating", {}, "set trust_remote_code: true"),
        (
            "LlamaForRewardModelWithGating",
            {"trust_remote_code": True, "provider": "vllm"},
            "set provider: transformers",
        ),
        ("InternLM2ForRewardModel", {"provider": "transformers"}, "set provider: vllm"),
        ("BertModel", {}, "name a model with a classification head"),
    ],
)
def test_what_cannot_be_served_says_what_to_do(tmp_path, architecture, more, message):
    with pytest.raises(PrefdataError, match=message):
        find_family(model(**more), checkpoint_called(tmp_path, architecture))


def test_every_family_names_its_source_and_what_to_do():
    for family in FAMILIES:
        assert "." in family.source
        assert family.providers or family.remedy


def test_on_a_gpu_a_head_that_vllm_cannot_read_goes_to_transformers(tmp_path):
    path = checkpoint_called(tmp_path, "LlamaForRewardModelWithGating")
    trusted = model(trust_remote_code=True)
    assert choose_engine("reward", trusted, path, on_gpu=True) == "transformers"


async def scores(engine):
    found = {index: logits async for index, logits in engine.ask(PROBES)}
    engine.close()
    return [found[index] for index in range(len(PROBES))]


@pytest.fixture(scope="module")
def plain():
    return asyncio.run(scores(load_reward_engine(Checkpoint(str(MODELS / "rm"), None, False), {})))


def test_a_gated_head_gives_its_score_and_then_its_attributes(tmp_path, plain):
    path = tmp_path / "gated"
    shutil.copytree(MODELS / "rm", path)
    config = orjson.loads((path / "config.json").read_bytes())
    config["architectures"] = ["LlamaForRewardModelWithGating"]
    config["auto_map"] = {
        "AutoModelForSequenceClassification": "modeling_custom.LlamaForRewardModelWithGating"
    }
    (path / "config.json").write_bytes(orjson.dumps(config))
    (path / "modeling_custom.py").write_text(GATED)
    engine = open_engine("reward", model(trust_remote_code=True), str(path), "transformers")
    for mine, reference in zip(asyncio.run(scores(engine)), plain, strict=True):
        assert mine == pytest.approx((reference[0], *[2 * reference[0]] * 3), abs=1e-5)


def test_the_first_logit_is_that_of_the_token_after_the_chat(tmp_path):
    path = tmp_path / "tiny-nemotron-reward"
    shutil.copytree(MODELS / "lm", path)
    engine = open_engine("reward", model(), str(path), "transformers")
    chats = engine._work._loaded.chats
    found = asyncio.run(scores(engine))
    lm = AutoModelForCausalLM.from_pretrained(path)
    for request, (reward,) in zip(PROBES, found, strict=True):
        ids = chats.encode(request.messages, {"add_generation_prompt": False})
        with torch.inference_mode():
            logit = lm(torch.tensor([ids])).logits[0, -1, 0]
        assert reward == pytest.approx(float(logit), abs=1e-4)


ALIKE = [(float(n),) for n in range(len(PROBES))]


def test_scores_that_agree_pass():
    compare("m", ALIKE, [(x + 5e-4,) for (x,) in ALIKE], "float32")


@pytest.mark.parametrize(
    ("mine", "message"),
    [
        ([(x + 0.01,) for (x,) in ALIKE], "differ by more than 0.001 in float32"),
        ([(1 / (1 + math.exp(-x)),) for (x,) in ALIKE], "differ by more than .* in float32"),
        ([(float(n > 2),) for n in range(len(PROBES))], "a saturated sigmoid"),
        ([(0.5,)] * len(PROBES), "six different answers the same score 0.5"),
        ([(math.nan,)] * len(PROBES), "not numbers"),
    ],
    ids=["differ", "sigmoid", "saturated", "constant", "nan"],
)
def test_scores_that_are_read_wrongly_do_not(mine, message):
    with pytest.raises(PrefdataError, match=message):
        compare("m", mine, ALIKE, "float32")


def test_sixteen_bit_is_given_its_rounding():
    compare("m", ALIKE, [(x + 0.2,) for (x,) in ALIKE], "bfloat16")
    with pytest.raises(PrefdataError, match="differ by more than 0.25 in bfloat16"):
        compare("m", ALIKE, [(x + 0.3,) for (x,) in ALIKE], "bfloat16")


def test_a_chat_with_two_begin_tokens_is_refused():
    check_begin("m", [1, 5, 6], 1)
    check_begin("m", [5, 6], None)
    with pytest.raises(PrefdataError, match="two begin-of-text tokens"):
        check_begin("m", [1, 1, 6], 1)
