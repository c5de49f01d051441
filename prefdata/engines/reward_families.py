"""Kinds of reward models: how each is recognised, loaded, templated and read. Loads none."""

import re
from dataclasses import dataclass
from typing import Literal

from prefdata.engines.checkpoints import read_config
from prefdata.errors import PrefdataError
from prefdata.recipe.providers import ENGINES
from prefdata.recipe.schema import Model

Reading = Literal["labels", "score_and_rewards", "first_logit", "last_token"]
"""Where the numbers are.

`labels`: the outputs of a classification head at the last token, raw.
`score_and_rewards`: `output.score`, then the attributes of `output.rewards`, from the checkpoint's
own code. `first_logit`: the logit of vocabulary entry 0 for the token after the chat.
`last_token`: a head on every token, read at the last.
"""


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of reward model.

    Attributes:
        architectures: what config.json calls it; a pattern over the whole name.
        checkpoints: a pattern over the checkpoint's own name, where the architecture does not tell.
        providers: engines that serve it, the preferred one first.
        needs_code: whether the checkpoint brings its own code, so `trust_remote_code` is needed.
        appends: key of config.json with a token that the chat must end with.
        remedy: what to do instead, for a kind that cannot be served.
    """

    name: str
    architectures: str
    providers: tuple[str, ...] = ("vllm", "transformers")
    reading: Reading = "labels"
    checkpoints: str = ""
    needs_code: bool = False
    appends: str | None = None
    remedy: str | None = None
    source: str = ""


FAMILIES = (
    Family(
        "ArmoRM and QRM (gated attributes)",
        architectures=r"LlamaForRewardModelWithGating\d*",
        providers=("transformers",),
        reading="score_and_rewards",
        needs_code=True,
        source="huggingface.co/RLHFlow/ArmoRM-Llama3-8B-v0.1, modeling_custom.py",
    ),
    Family(
        "InternLM2-Reward",
        architectures=r"InternLM2ForRewardModel",
        providers=("vllm",),
        reading="last_token",
        appends="reward_token_id",
        source="huggingface.co/internlm/internlm2-7b-reward, modeling_internlm2.py: get_score",
    ),
    Family(
        "Qwen2 reward heads (Qwen2.5-Math-RM, WorldPM)",
        architectures=r"Qwen2ForRewardModel",
        providers=("vllm",),
        reading="last_token",
        source="docs.vllm.ai, supported models: reward models",
    ),
    Family(
        "Nemotron logit-as-reward (Llama-3.1-Nemotron-70B-Reward, Qwen-3-Nemotron-32B-Reward)",
        architectures=r".*ForCausalLM",
        checkpoints=r"nemotron[^/]*-reward",
        providers=("transformers",),
        reading="first_logit",
        source="huggingface.co/nvidia/Llama-3.1-Nemotron-70B-Reward-HF, model card: Usage",
    ),
    Family(
        "PairRM",
        architectures=r"(DebertaV2.*|.*PairRM.*)",
        providers=(),
        remedy=(
            "it compares two answers and does not score one; judge pairs with an llm_judge column"
        ),
        source="huggingface.co/llm-blender/PairRM, model card",
    ),
    Family(
        "a head of several layers (INF-ORM)",
        architectures=r"INFORMForSequenceClassification",
        providers=(),
        remedy="its class is only in its model card; use a checkpoint with a single-layer head",
        source="huggingface.co/infly/INF-ORM-Llama3.1-70B, model card: Usage",
    ),
    Family(
        "classifiers (Skywork-Reward V1 and V2, FsfairX, Tulu-3-RM, AceMath-RM; HelpSteer2-style "
        "heads with several labels)",
        architectures=r".*ForSequenceClassification",
        source="huggingface.co/Skywork/Skywork-Reward-V2-Llama-3.1-8B, model card: Usage",
    ),
    Family(
        "value heads on a language model (GRM-sftreg)",
        architectures=r".*ForCausalLMWithValueHead",
        providers=(),
        remedy="no engine can load its v_head; use the -rewardmodel-ft variant of the same model",
        source="huggingface.co/Ray2333/GRM-llama3-8B-sftreg, model card",
    ),
    Family(
        "generative judges and other language models",
        architectures=r".*(ForCausalLM|ForConditionalGeneration|LMHeadModel)",
        providers=(),
        remedy="it has no head for scores and answers in text; use it in an llm_judge column",
        source="huggingface.co/docs/transformers, AutoModelForCausalLM",
    ),
)
"""In the order in which they are tried."""


def find_family(model: Model, path: str) -> Family:
    """The kind of a reward checkpoint, from its config alone.

    Raises:
        PrefdataError: it cannot be served; the message says what to do.
    """
    architectures = read_config(model, path).get("architectures") or ["of unknown type"]
    family = next((f for f in FAMILIES if _matches(f, architectures, path)), None)
    name = ", ".join(architectures)
    if family is None and model.trust_remote_code:
        return Family("custom code", name, ("transformers",), needs_code=True)
    if family is None or not family.providers:
        why = family.remedy if family else "name a model with a classification head"
        kind = f" ({family.name})" if family else ""
        raise PrefdataError(
            f"model {model.alias!r}: {path} is {name}{kind}, which cannot score texts: {why}"
        )
    if family.needs_code and not model.trust_remote_code:
        raise PrefdataError(
            f"model {model.alias!r}: {path} is {name} ({family.name}), whose head is Python "
            "code in the checkpoint; review that code, then set trust_remote_code: true"
        )
    if model.provider in ENGINES and model.provider not in family.providers:
        raise PrefdataError(
            f"model {model.alias!r}: {path} is {name} ({family.name}), which provider "
            f"{model.provider} does not support; set provider: {family.providers[0]}"
        )
    return family


def _matches(family: Family, architectures: list[str], path: str) -> bool:
    is_kind = any(re.fullmatch(family.architectures, name) for name in architectures)
    return is_kind and bool(re.search(family.checkpoints, path, re.IGNORECASE))
