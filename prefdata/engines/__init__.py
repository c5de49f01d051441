"""Engines: what runs the models. The only package that imports torch, transformers or vllm."""

from importlib.util import find_spec
from typing import Literal

from prefdata.engines.protocols import HostedReward, HostedText, RewardEngine, TextEngine
from prefdata.errors import PrefdataError
from prefdata.recipe import Model

Role = Literal["text", "reward"]
Provider = Literal["transformers", "vllm"]

__all__ = [
    "Provider", "Role", "RewardEngine", "TextEngine", "choose_provider", "count_gpus",
    "open_reward_engine", "open_text_engine",
]  # fmt: skip


def choose_provider(model: Model, *, on_gpu: bool) -> Provider:
    """The program that runs a model: as the recipe says; for `auto` vLLM on GPUs, if installed.

    Raises:
        PrefdataError: the recipe wants vLLM, which is not installed.
    """
    has_vllm = find_spec("vllm") is not None
    if model.provider == "vllm" and not has_vllm:
        raise PrefdataError(
            f"model {model.alias!r} wants provider: vllm, which is not installed; pip install "
            "'prefdata[vllm]', or set provider: auto"
        )
    if model.provider == "auto":
        return "vllm" if on_gpu and has_vllm else "transformers"
    return model.provider


def count_gpus() -> int:
    """GPUs that torch sees; none is touched."""
    import torch

    return torch.cuda.device_count()


def open_text_engine(model: Model, path: str, provider: Provider) -> HostedText:
    """Load a checkpoint to complete chats.

    Args:
        model: whose revision and engine options count.
        path: local folder or Hub id of the checkpoint.
        provider: the program that is to run it.

    Raises:
        PrefdataError: it is not there, or not a chat model, or an option is unknown.
    """
    if provider == "vllm":
        from prefdata.engines.transformers_model import Checkpoint
        from prefdata.engines.vllm import VllmTextEngine

        checkpoint = Checkpoint(path, model.revision, model.trust_remote_code)
        return VllmTextEngine(checkpoint, model.engine)
    from prefdata.engines.transformers_text import TransformersTextEngine  # torch, only when needed

    return TransformersTextEngine.load(
        path,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        options=model.engine,
    )


def open_reward_engine(model: Model, path: str, provider: Provider) -> HostedReward:
    """Load a checkpoint to score chats; arguments and errors as for `open_text_engine`."""
    if provider == "vllm":
        from prefdata.engines.transformers_model import Checkpoint
        from prefdata.engines.vllm import VllmRewardEngine

        checkpoint = Checkpoint(path, model.revision, model.trust_remote_code)
        return VllmRewardEngine(checkpoint, model.engine)
    from prefdata.engines.transformers_reward import TransformersRewardEngine

    return TransformersRewardEngine.load(
        path,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        options=model.engine,
    )
