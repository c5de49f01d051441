"""Engines: what runs the models. The only package that imports torch, transformers or vllm."""

import asyncio
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from prefdata.engines.protocols import (
    Connection,
    HostedReward,
    HostedText,
    Provider,
    RewardEngine,
    TextEngine,
)
from prefdata.engines.reward_families import find_family
from prefdata.errors import PrefdataError
from prefdata.recipe.schema import Endpoint, Model

if TYPE_CHECKING:
    from prefdata.engines.chat_template import ChatTemplate

Role = Literal["text", "reward"]

__all__ = [
    "Connection", "Provider", "Role", "RewardEngine", "TextEngine", "check_server",
    "choose_provider", "connect", "count_gpus", "open_chat_template", "open_remote_reward",
    "open_remote_text", "open_reward_engine", "open_text_engine",
]  # fmt: skip


def choose_provider(role: Role, model: Model, path: str, *, on_gpu: bool) -> Provider:
    """The program that runs a model: as the recipe says; for `auto` vLLM on GPUs, if it can.

    Args:
        role: what the model is for.
        model: as in the recipe.
        path: its checkpoint.
        on_gpu: whether it will have one.

    Raises:
        PrefdataError: the recipe wants vLLM, which is not installed, or a reward model that
            nothing here can read.
    """
    has_vllm = find_spec("vllm") is not None
    served: tuple[Provider, ...] = ("vllm", "transformers")
    if role == "reward":
        served = find_family(model, path).providers
    if (model.provider == "vllm" or served == ("vllm",)) and not has_vllm:
        raise PrefdataError(
            f"model {model.alias!r} needs vLLM, which is not installed; pip install "
            "'prefdata[vllm]'" + (", or set provider: auto" if len(served) > 1 else "")
        )
    if model.provider == "vllm":
        return "vllm"
    if model.provider == "transformers":
        return "transformers"
    if len(served) == 1:
        return served[0]
    return "vllm" if on_gpu and has_vllm else "transformers"


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
        from prefdata.engines.transformers.model import Checkpoint
        from prefdata.engines.vllm import VllmTextEngine

        checkpoint = Checkpoint(path, model.revision, model.trust_remote_code)
        return VllmTextEngine(checkpoint, model.engine)
    from prefdata.engines.transformers.text import TransformersTextEngine  # torch, only when needed

    return TransformersTextEngine.load(
        path,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        options=model.engine,
    )


def open_chat_template(model: Model) -> "ChatTemplate":
    """The chat template of a model whose `model` is a folder or a Hub id; no weights are loaded.

    Raises:
        PrefdataError: there is none.
    """
    from prefdata.engines.chat_template import ChatTemplate  # torch, only when needed
    from prefdata.engines.transformers.model import Checkpoint

    return ChatTemplate(Checkpoint(model.model, model.revision, model.trust_remote_code))


def connect(endpoint: Endpoint) -> Connection:
    """The way to a server; nothing is asked yet.

    Raises:
        PrefdataError: the client is not installed, or the key's variable is not set.
    """
    if find_spec("openai") is None:
        raise PrefdataError(
            f"provider {endpoint.name!r} is a server, and the package openai, which asks it, is "
            "not installed; run pip install 'prefdata[remote]'"
        )
    from prefdata.engines.remote import OpenAIConnection

    return OpenAIConnection(endpoint)


def open_remote_text(model: Model, connection: Connection) -> TextEngine:
    """An engine that completes chats on a server."""
    from prefdata.engines.remote import RemoteText

    return RemoteText(model, connection)


def open_remote_reward(model: Model, connection: Connection) -> RewardEngine:
    """An engine that scores chats on a server."""
    from prefdata.engines.remote import RemoteReward

    return RemoteReward(model, connection)


def check_server(model: Model, connection: Connection, role: Role) -> None:
    """Ask a server for one short answer, or one score, with this alias's parameters.

    Raises:
        PrefdataError: the server, the key, the model or a parameter is refused.
    """
    from prefdata.engines import remote

    check = remote.check_text if role == "text" else remote.check_reward
    asyncio.run(check(model, connection))


def open_reward_engine(model: Model, path: str, provider: Provider) -> HostedReward:
    """Load a checkpoint to score chats; arguments and errors as for `open_text_engine`.

    vLLM's first scores are compared with those of transformers, unless the recipe says
    `skip_health_check`.
    """
    from prefdata.engines.transformers.model import Checkpoint

    family = find_family(model, path)
    checkpoint = Checkpoint(path, model.revision, model.trust_remote_code)
    if provider == "vllm":
        from prefdata.engines.vllm import open_examined

        return open_examined(model, checkpoint, family)
    from prefdata.engines.transformers.reward import TransformersRewardEngine

    return TransformersRewardEngine.load(checkpoint, model.engine, reading=family.reading)
