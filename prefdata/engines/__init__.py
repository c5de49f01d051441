"""Engines: what runs the models. The only package that imports torch, transformers or vllm.

Which there are says the table in `recipe/providers.py`.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from prefdata.engines.options import check_options
from prefdata.engines.protocols import Connection, Engine, Hosted, RewardEngine, TextEngine
from prefdata.engines.reward_families import find_family
from prefdata.errors import PrefdataError, install_command
from prefdata.recipe.contract import Role
from prefdata.recipe.providers import CLIENTS, ENGINES
from prefdata.recipe.schema import Endpoint, Model

if TYPE_CHECKING:
    from prefdata.engines.chat_template import ChatTemplate

__all__ = [
    "Connection", "Engine", "Hosted", "Role", "RewardEngine", "TextEngine", "choose_engine",
    "connect", "count_gpus", "look_at_model", "open_chat_template", "open_engine", "prepare_engine",
]  # fmt: skip


def choose_engine(role: Role, model: Model, path: str, *, on_gpu: bool) -> str:
    """The engine that runs a model: the recipe's, or for `auto` the one that suits the machine.

    Returns:
        A key of ENGINES.

    Raises:
        PrefdataError: the engine that is wanted is not installed, or no engine can read the
            reward model.
    """
    served = find_family(model, path).providers if role == "reward" else tuple(ENGINES)
    if role == "reward" and model.adapter is not None:
        if model.provider == "vllm":
            raise PrefdataError(
                f"model {model.alias!r}: vLLM runs no reward model with an adapter on top; set "
                "provider: transformers, or merge the adapter into its base"
            )
        served = ("transformers",)
    wanted = served if model.provider == "auto" else (model.provider,)
    usable = [name for name in wanted if _is_installed(ENGINES[name].package)]
    if not usable:
        found = ENGINES[wanted[0]]
        raise PrefdataError(
            f"model {model.alias!r} needs {found.package}, which is not installed; run "
            f"{install_command(found.extra)}"
            + (", or set provider: auto" if len(served) > len(wanted) else "")
        )
    return max(usable, key=lambda name: ENGINES[name].for_gpus == on_gpu)


def count_gpus() -> int:
    """GPUs that torch sees; none is touched."""
    import torch

    return torch.cuda.device_count()


def prepare_engine(engine: str) -> None:
    """Import what an engine needs, which takes seconds; no device is touched."""
    import_module(ENGINES[engine].module)


def look_at_model(role: Role, model: Model, path: str, engine: str) -> None:
    """What is slow about a load for all processes of this machine and needs no device."""
    if ENGINES[engine].looks:
        import_module(ENGINES[engine].module).look_at(role, model, path)


def open_engine(
    role: Role, model: Model, path: str, engine: str, adapters: tuple[str, ...] = ()
) -> Hosted[Any, Any]:
    """Load a checkpoint to complete chats, or to score them.

    `engine`: the one that is to run it, a key of ENGINES. `adapters`: folders that requests for
    texts may name.

    Raises:
        PrefdataError: it is not there, or of another kind, an option is unknown, or an adapter
            does not fit.
    """
    check_options(model, role, (engine,))
    module = import_module(ENGINES[engine].module)
    opened: Hosted[Any, Any]
    if role == "text":
        opened = module.open_text(model, path, adapters)
    else:
        opened = module.open_reward(model, path, find_family(model, path))
    return opened


def open_chat_template(model: Model) -> "ChatTemplate":
    """The chat template of a model whose `model` is a folder or a Hub id; no weights are loaded.

    Raises:
        PrefdataError: there is none.
    """
    from prefdata.engines.chat_template import ChatTemplate  # torch, only when needed
    from prefdata.engines.transformers.model import Checkpoint

    return ChatTemplate(Checkpoint.of(model, model.model), model.chat_template_kwargs)


def connect(endpoint: Endpoint) -> Connection:
    """The way to a server; nothing is asked yet.

    Raises:
        PrefdataError: the client is not installed, or the key's variable is not set.
    """
    client = CLIENTS[endpoint.provider_type]
    if not _is_installed(client.package):
        raise PrefdataError(
            f"provider {endpoint.name!r} is a server, and the package {client.package}, which "
            "asks it, is not installed; run "
            f"{install_command(client.extra)}"
        )
    connection: Connection = import_module(client.module).connect(endpoint)
    return connection


def _is_installed(package: str | None) -> bool:
    return package is None or find_spec(package) is not None
