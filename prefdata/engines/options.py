"""Names that a model's `engine` may hold, known without importing an engine or loading a model."""

import ast
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from prefdata.errors import PrefdataError, suggest
from prefdata.recipe.contract import Role
from prefdata.recipe.schema import Model

TRANSFORMERS: dict[Role, tuple[str, ...]] = {
    "text": ("dtype", "max_model_len", "max_num_seqs"),
    "reward": ("dtype", "max_model_len", "max_batch_tokens"),
}
"""Options of the transformers engine."""
OWNED = {
    "model": "it is the recipe's 'model'",
    "tokenizer": "it follows from the model",
    "revision": "it is the recipe's 'revision'",
    "trust_remote_code": "it is a key of the model, not of 'engine'",
    "runner": "it follows from the column",
    "convert": "it follows from the column",
    "data_parallel_size": "use --gpus instead, or --replicas on a CPU",
    "disable_log_stats": "it is always on",
    "enable_lora": "name the adapter's folder as 'model' or 'adapter' instead",
}
"""Arguments of vLLM that a recipe does not set under `engine`, each with the reason."""


def check_options(model: Model, role: Role, engines: Sequence[str]) -> None:
    """See that one of the engines knows every option; what vLLM knows is asked where it is here.

    Raises:
        PrefdataError: an option is unknown to all of them, or not the recipe's to set.
    """
    known: set[str] = set()
    for engine in engines:
        names = vllm_options() if engine == "vllm" else TRANSFORMERS[role]
        if names is None:
            return
        known.update(names)
    for name in model.engine:
        if "vllm" in engines and name in OWNED:
            raise PrefdataError(
                f"model {model.alias!r}: engine option {name!r} cannot be set here: {OWNED[name]}"
            )
        if name not in known:
            elsewhere = "; remove it or set provider: vllm" if "vllm" not in engines else ""
            raise PrefdataError(
                f"model {model.alias!r}: unknown engine option {name!r} of "
                f"{' or '.join(engines)}; {suggest(name, sorted(known))}{elsewhere}"
            )


@cache
def vllm_options() -> frozenset[str] | None:
    """Fields of vLLM's `EngineArgs`, from its source: the import takes 10 s. None without vLLM."""
    found = find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        return None
    file = Path(next(iter(found.submodule_search_locations))) / "engine" / "arg_utils.py"
    for one in ast.parse(file.read_text()).body:
        if isinstance(one, ast.ClassDef) and one.name == "EngineArgs":
            fields = (field.target for field in one.body if isinstance(field, ast.AnnAssign))
            return frozenset(field.id for field in fields if isinstance(field, ast.Name))
    return None
