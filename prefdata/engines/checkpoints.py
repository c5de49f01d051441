"""Which weights a name stands for, without loading them."""

import os
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import Any

import orjson

from prefdata.engines.cache import hash_files
from prefdata.errors import PrefdataError
from prefdata.recipe.chats import Chat
from prefdata.recipe.schema import Model

CONFIG = "config.json"
WHOLE_FILE = 64 * 2**20
"""The hash of a file above this many bytes is remembered on this machine."""
READ_AHEAD = 16 * 2**20
"""Bytes of a file that are read at once."""
_TEXT = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
_COUNTED = (".json", ".jinja", ".safetensors", ".bin", ".model", ".txt", ".py", ".tiktoken")
_OTHER_WEIGHTS = (".pt", ".pth", ".gguf")
"""Weights where a folder has no others; beside others, what a trainer has left for itself."""


def identify(model: Model, path: str) -> str:
    """The content of a checkpoint: a hash of a local folder, or the commit of a Hub repository.

    A local folder keeps its identity when it is moved and changes it when it is trained further.

    Raises:
        PrefdataError: there is no such checkpoint.
    """
    read_config(model, path)
    folder = Path(path)
    if not folder.is_dir():
        return _commit(model, path)
    has_weights = any(f.suffix in (".safetensors", ".bin") for f in folder.iterdir())
    counted = _COUNTED if has_weights else (*_COUNTED, *_OTHER_WEIGHTS)
    files = sorted(f for f in folder.iterdir() if f.suffix in counted)
    files += sorted(folder.glob("additional_chat_templates/*.jinja"))
    return hash_content(files)


def hash_content(files: Sequence[Path]) -> str:
    """One hash of the names and contents of files."""
    large = [file for file in files if file.stat().st_size > WHOLE_FILE]
    hashes = dict(zip(large, hash_files(large), strict=True))
    hasher = blake2b(digest_size=16)
    for file in files:
        hasher.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        hasher.update(hashes[file].encode() if file in hashes else file.read_bytes())
    return hasher.hexdigest()


def _commit(model: Model, path: str) -> str:
    """The commit that a Hub id and revision stand for; the local cache answers when offline."""
    from transformers.utils.hub import extract_commit_hash  # slow; local models never need it

    commit = extract_commit_hash(str(find_file(model, path, CONFIG, model.revision)), None)
    if commit is None:
        raise PrefdataError(
            f"model {model.alias!r}: the Hub cache of {path!r} does not record a commit; set "
            "'revision'"
        )
    return str(commit)


def find_file(
    model: Model, path: str, name: str, revision: str | None = None, *, fetch: bool = True
) -> Path:
    """A file, there or not, of a local folder, or of a Hub repository as cached or fetched.

    `fetch`: whether the Hub may be asked for it; else only files on this machine count.

    Raises:
        PrefdataError: there is neither folder nor repository.
    """
    if Path(path).is_dir():
        return Path(path) / name
    if path.startswith((os.sep, ".", "~")) or path.count("/") > 1:
        raise PrefdataError(
            f"model {model.alias!r}: there is no folder {path!r}; give an existing one or a Hub id"
        )
    from transformers.utils.hub import cached_file  # slow; local models never need it

    try:
        found = cached_file(
            path, name, revision=revision, local_files_only=not fetch,
            _raise_exceptions_for_missing_entries=False,
        )  # fmt: skip
    except (OSError, ValueError) as err:
        raise PrefdataError(
            f"model {model.alias!r}: {path!r} was not found locally or on the Hub: {err}"
        ) from err
    return Path(found or f"{path}/{name}")


def read_config(model: Model, path: str) -> dict[str, Any]:
    """What the config.json of a checkpoint says.

    Raises:
        PrefdataError: there is none, or it is damaged.
    """
    file = find_file(model, path, CONFIG, model.revision)
    if not file.is_file():
        raise PrefdataError(
            f"model {model.alias!r}: {file.parent} contains no config.json, so it is not a "
            "checkpoint; give the folder that save_pretrained wrote, or a Hub id"
        )
    config = read_json(file)
    if not isinstance(config.get("architectures") or [], list):
        raise _damaged(file, "its 'architectures' are no list")
    return config


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint.

    Raises:
        PrefdataError: it is damaged.
    """
    try:
        told = orjson.loads(file.read_bytes())
    except (OSError, orjson.JSONDecodeError) as err:
        raise _damaged(file, str(err)) from err
    if not isinstance(told, dict):
        raise _damaged(file, "it holds no JSON object")
    return told


def _damaged(file: Path, why: str) -> PrefdataError:
    return PrefdataError(
        f"{file} cannot be used ({why}); fetch the checkpoint again, or save it anew with "
        "save_pretrained"
    )


def read_ahead(path: str, is_over: Callable[[], bool]) -> None:
    """Read a local checkpoint, so that the system has it in memory when it is loaded.

    A Hub id is not looked up. One that takes more than half of the memory that is free is left out.

    `is_over`: asked between blocks; it ends the reading.
    """
    folder = Path(path)
    files = [file for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if sum(file.stat().st_size for file in files) > free / 2:
        return
    for file in files:
        with file.open("rb", buffering=0) as content:
            while not is_over() and content.read(READ_AHEAD):
                pass


def check_text_model(model: Model, path: str) -> None:
    """Make sure, from its config alone, that a checkpoint writes texts.

    Raises:
        PrefdataError: it has no language-model head.
    """
    architectures = read_config(model, path).get("architectures") or []
    if model.trust_remote_code or any(name.endswith(_TEXT) for name in architectures):
        return
    raise PrefdataError(
        f"model {model.alias!r}: {path} is {', '.join(architectures) or 'of unknown type'}, "
        f"but the recipe uses it as a text model, one of *{', *'.join(_TEXT)}; name another "
        "model, or set skip_health_check: true if this one can generate text"
    )


def count_parameters(path: str) -> int | None:
    """Parameters of a local checkpoint, from its safetensors headers; None where it has none."""
    from safetensors import SafetensorError, safe_open

    total = 0
    for file in Path(path).glob("*.safetensors") if Path(path).is_dir() else ():
        try:
            with safe_open(file, framework="numpy") as tensors:
                total += sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        except SafetensorError as err:
            raise PrefdataError(
                f"{file}: damaged or truncated ({err}); copy or download the checkpoint again"
            ) from err
    return total or None


def active_parameters(config: Mapping[str, Any]) -> int | None:
    """Parameters that a token passes through, from a config.json alone; None for unusual shapes.

    Attention with grouped heads, gated feed-forward layers, experts of which some are chosen: the
    shapes of Llama, Qwen, Mistral, Gemma and their kin. Norms and biases are left out.
    """
    config = config.get("text_config") or config
    try:
        hidden, layers = config["hidden_size"], config["num_hidden_layers"]
        heads, vocabulary = config["num_attention_heads"], config["vocab_size"]
        grouped = config.get("num_key_value_heads") or heads
        size = config.get("head_dim") or hidden // heads
        wide = config["intermediate_size"]
        if chosen := config.get("num_experts_per_tok"):
            one = config.get("moe_intermediate_size") or wide
            # always on beside the chosen: Qwen2 names their size, DeepSeek and GLM their number
            shared = config.get("shared_expert_intermediate_size")
            wide = chosen * one + (shared or (config.get("n_shared_experts") or 0) * one)
            wide = max(wide, config.get("intermediate_size_mlp") or 0)  # Llama 4
    except KeyError:
        return None
    attention = hidden * size * (2 * heads + 2 * grouped)
    tables = 1 if config.get("tie_word_embeddings") else 2
    return int(layers * (attention + 3 * hidden * wide) + tables * vocabulary * hidden)


def count_tokens(path: str, chats: Sequence[Chat]) -> list[int]:
    """Tokens of each chat, template included."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    plain: Any = [[dict(message) for message in chat] for chat in chats]
    rendered: Any = tokenizer.apply_chat_template(plain, add_generation_prompt=True, tokenize=True)
    return [len(ids) for ids in rendered["input_ids"]]


class TokenCounter:
    """The tokenizer of a checkpoint, for texts that are no chats.

    Attributes:
        special: its special tokens.
    """

    def __init__(self, path: str) -> None:
        """Load it from a folder or the Hub."""
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as err:
            raise PrefdataError(
                f"model {path!r} has no tokenizer that can be loaded: {err}"
            ) from err
        self.special: tuple[str, ...] = tuple(map(str, self._tokenizer.all_special_tokens))

    @staticmethod
    def is_there(path: str) -> bool:
        """Whether a folder on this machine has one."""
        return (Path(path) / "tokenizer_config.json").is_file()

    def count(self, text: str) -> int:
        """Tokens of a text, none of them added."""
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])
