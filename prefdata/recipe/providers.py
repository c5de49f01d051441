"""What a model's `provider` may name: engines on this machine, and clients of servers.

The table of engines. It lies here, below the engines themselves, so that a recipe is checked
without importing any: a new one is a module in `engines/` and a line here.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """An engine that runs checkpoints on this machine.

    Attributes:
        module: imported when a model is loaded. It has `open_text(model, path, adapters)`, which
            returns a `Hosted` engine of texts, and `open_reward(model, path, family)`, of scores.
        package: what must be installed for it besides what prefdata always needs.
        extra: the extra of prefdata that installs the package.
        for_gpus: whether `auto` prefers it where there are GPUs, or where there are none.
        is_embeddable: whether it may share the process of the run on a machine without GPUs.
        looks: whether the module has `look_at(role, model, path)`, too: what is slow about a load
            for all processes and needs no device, done while another model is on it.
    """

    module: str
    package: str | None = None
    extra: str | None = None
    for_gpus: bool = False
    is_embeddable: bool = False
    looks: bool = False


@dataclass(frozen=True, slots=True)
class Client:
    """What asks servers that speak a protocol.

    Attributes:
        module: imported when a server is asked. It has `connect(endpoint)`, which returns a
            `Connection`.
        extra: the extra of prefdata that installs the package.
    """

    module: str
    package: str
    extra: str


ENGINES = {
    "transformers": LocalEngine("prefdata.engines.transformers", is_embeddable=True),
    "vllm": LocalEngine(
        "prefdata.engines.vllm", package="vllm", extra="vllm", for_gpus=True, looks=True
    ),
}
"""By the word that recipes use."""

CLIENTS = {"openai": Client("prefdata.engines.remote", package="openai", extra="remote")}
"""By `provider_type`."""

LOCAL_PROVIDERS = ("auto", *ENGINES)
"""Words for this machine, which no entry of `providers` may take."""
