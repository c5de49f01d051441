"""Engines: what runs the models. The only package that imports torch, transformers or vllm."""

from typing import Literal

from prefdata.engines.protocols import RewardEngine, TextEngine
from prefdata.recipe import Model

Role = Literal["text", "reward"]

__all__ = ["Role", "RewardEngine", "TextEngine", "open_reward_engine", "open_text_engine"]


def open_text_engine(model: Model, path: str) -> TextEngine:
    """Load a checkpoint to complete chats.

    Args:
        model: whose provider, revision and engine options count.
        path: local folder or Hub id of the checkpoint.

    Raises:
        PrefdataError: it is not there, or not a chat model, or an option is unknown.
    """
    from prefdata.engines.transformers_text import TransformersTextEngine  # torch, only when needed

    return TransformersTextEngine.load(
        path,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        options=model.engine,
    )


def open_reward_engine(model: Model, path: str) -> RewardEngine:
    """Load a checkpoint to score chats; arguments and errors as for `open_text_engine`."""
    from prefdata.engines.transformers_reward import TransformersRewardEngine

    return TransformersRewardEngine.load(
        path,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        options=model.engine,
    )
