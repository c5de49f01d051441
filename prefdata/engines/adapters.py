"""LoRA adapters: where their weights are, what they are, and whether an engine can run them."""

from importlib.util import find_spec
from pathlib import Path

from prefdata.engines.checkpoints import find_file, hash_content, read_json
from prefdata.errors import PrefdataError
from prefdata.fingerprint import digest
from prefdata.recipe.schema import Model
from prefdata.recipe.weights import ADAPTER_CONFIG

FILES = (ADAPTER_CONFIG, "adapter_model.safetensors", "adapter_model.bin")
_PLACES = ("base_model_name_or_path", "revision")
"""Keys of an adapter's config that say where its base lies, not what the adapter is."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's `max_lora_rank` may be."""


def find_adapter(model: Model, path: str) -> str:
    """The local folder of an adapter, fetched from the Hub if it is there.

    Raises:
        PrefdataError: there is none, or it is not a LoRA adapter.
    """
    folder = find_file(model, path, ADAPTER_CONFIG).parent
    for name in FILES[1:]:  # one of them is there
        find_file(model, path, name)
    if not (folder / ADAPTER_CONFIG).is_file():
        raise PrefdataError(
            f"model {model.alias!r}: {folder} contains no {ADAPTER_CONFIG}, so it is not an "
            "adapter; give the folder that peft's save_pretrained wrote"
        )
    kind = read_json(folder / ADAPTER_CONFIG).get("peft_type")
    if kind != "LORA":
        raise PrefdataError(
            f"model {model.alias!r}: {folder} is a {kind} adapter, and only LORA ones can be run "
            "on top of their base; merge it into the base and name the merged folder as 'model'"
        )
    return str(folder)


def identify_adapter(folder: str) -> str:
    """Content hash of an adapter's weights and configuration, wherever its base lies."""
    told = read_json(Path(folder) / ADAPTER_CONFIG)
    config = {k: v for k, v in told.items() if k not in _PLACES}
    weights = [Path(folder) / name for name in FILES[1:] if (Path(folder) / name).is_file()]
    return digest(config, hash_content(weights))


def check_peft(model: Model) -> None:
    """Make sure that transformers can run an adapter.

    Raises:
        PrefdataError: peft is not installed.
    """
    if find_spec("peft") is None:
        raise PrefdataError(
            f"model {model.alias!r}: transformers runs adapters with the package peft, which is "
            "not installed; run pip install peft, or set provider: vllm"
        )


def choose_rank(folders: tuple[str, ...]) -> int:
    """The smallest `max_lora_rank` of vLLM that all these adapters fit.

    Raises:
        PrefdataError: one is larger than vLLM can hold.
    """
    configs = {folder: read_json(Path(folder) / ADAPTER_CONFIG) for folder in folders}
    ranks = {f: max([c.get("r", 0), *(c.get("rank_pattern") or {}).values()])
             for f, c in configs.items()}  # fmt: skip
    largest = max(ranks, key=lambda folder: ranks[folder])
    fitting = [rank for rank in RANKS if rank >= ranks[largest]]
    if not fitting:
        raise PrefdataError(
            f"adapter {largest!r} has rank {ranks[largest]}, and vLLM holds {RANKS[-1]} at most; "
            "set provider: transformers, or merge it into its base"
        )
    return fitting[0]
