"""Loading a checkpoint with transformers and rendering chats with its template. Runs no model."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from prefdata.errors import PrefdataError, RowError
from prefdata.inference import Message

DTYPES = ("auto", "float32", "float64", "bfloat16", "float16")


@dataclass(frozen=True)
class Checkpoint:
    """Where weights come from: the arguments every `from_pretrained` shares."""

    model: str
    revision: str | None
    trust_remote_code: bool

    @property
    def source(self) -> dict[str, Any]:
        """Keyword arguments for any `from_pretrained`."""
        return {
            "pretrained_model_name_or_path": self.model,
            "revision": self.revision,
            "trust_remote_code": self.trust_remote_code,
        }


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode on its device, with its tokenizer and limits.

    Attributes:
        max_model_len: tokens of one sequence, prompt and completion together.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_model_len: int

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device


def load_model(
    auto_class: Any, checkpoint: Checkpoint, options: Mapping[str, Any], *, counts: tuple[str, ...]
) -> LoadedModel:
    """Load weights and tokenizer; `auto_class` is the transformers Auto class for the task.

    Args:
        options: the recipe's `engine:` keys.
        counts: the engine's further options, whole numbers of at least 1.

    Raises:
        PrefdataError: no such checkpoint, an unknown option, weights that lack a part, or no chat template.
    """
    _check_options(options, known=("dtype", "max_model_len", *counts))
    config = _load_config(checkpoint)
    tokenizer = _load_tokenizer(checkpoint)
    max_model_len = _choose_length(checkpoint.model, config, options)
    is_cuda = torch.cuda.is_available()
    dtype = options.get("dtype", "auto" if is_cuda else "float32")
    try:
        model, report = auto_class.from_pretrained(
            **checkpoint.source, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError) as err:
        raise PrefdataError(f"model {checkpoint.model!r}: its weights do not load: {err}") from err
    _refuse_missing(checkpoint.model, report["missing_keys"], type(model).__name__)
    model.eval().to("cuda" if is_cuda else "cpu")
    return LoadedModel(checkpoint.model, model, tokenizer, max_model_len)


def render_ids(
    loaded: LoadedModel, messages: Iterable[Message], template_kwargs: Mapping[str, Any]
) -> list[int]:
    """Token ids of a chat by the model's own template, with one BOS at most.

    Raises:
        RowError: the template refuses the chat.
    """
    chat = [dict(message) for message in messages]
    try:
        # text first and encoding after would add a second BOS
        ids = loaded.tokenizer.apply_chat_template(
            chat, **template_kwargs, tokenize=True, return_dict=False
        )
    except jinja2.TemplateError as err:
        raise RowError(
            "chat_template_refused", f"the chat template of {loaded.name} says: {err}"
        ) from err
    bos = loaded.tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        del ids[0]
    return list(ids)


def _check_options(options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name, value in options.items():
        if name not in known:
            raise PrefdataError(
                f"engine option {name!r} means nothing to the transformers engine; it knows {', '.join(known)}"
            )
        if name == "dtype" and value not in DTYPES:
            raise PrefdataError(
                f"engine option dtype is {value!r}; give one of {', '.join(DTYPES)}"
            )
        if name != "dtype" and not (type(value) is int and value > 0):
            raise PrefdataError(
                f"engine option {name} is {value!r}; give a whole number of at least 1"
            )


def _load_config(checkpoint: Checkpoint) -> Any:
    name = checkpoint.model
    looks_local = name.startswith((os.sep, ".", "~")) or name.count("/") > 1
    if (
        looks_local and not Path(name).is_dir()
    ):  # the Hub would answer with a riddle about repository names
        raise PrefdataError(
            f"model {name!r}: there is no such folder; give an existing checkpoint or a Hub id"
        )
    try:
        return AutoConfig.from_pretrained(**checkpoint.source)
    except (OSError, ValueError) as err:
        raise PrefdataError(
            f"model {name!r} cannot be loaded from a folder or the Hub: {err}"
        ) from err


def _load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**checkpoint.source)
    except (OSError, ValueError) as err:
        raise PrefdataError(
            f"model {checkpoint.model!r}: its tokenizer does not load: {err}"
        ) from err
    if not tokenizer.chat_template:
        raise PrefdataError(
            f"model {checkpoint.model!r}: its tokenizer has no chat template, so a chat cannot be put into tokens; "
            "use an instruction-tuned checkpoint or add a chat_template to its tokenizer"
        )
    return tokenizer


def _choose_length(name: str, config: Any, options: Mapping[str, Any]) -> int:
    trained: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    wanted: int | None = options.get("max_model_len", trained)
    if wanted is None:
        raise PrefdataError(
            f"model {name!r}: its config has no max_position_embeddings; set engine max_model_len"
        )
    if trained is not None and wanted > trained:
        raise PrefdataError(
            f"engine option max_model_len is {wanted}, but {name!r} has positions for {trained} only"
        )
    return wanted


def _refuse_missing(name: str, missing: Iterable[str], task: str) -> None:
    if parts := sorted(missing):
        raise PrefdataError(
            f"model {name!r} has no weights for {', '.join(parts[:3])}, so {task} would run with random ones; "
            "give a checkpoint that was trained for this task"
        )
