"""Loading a checkpoint with transformers, and its chats as tokens. Runs no model."""

import gc
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jinja2
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from prefdata.engines.model_thread import Call
from prefdata.engines.template_file import cut_at_mark, mark_end
from prefdata.errors import PrefdataError, RowError
from prefdata.inference import Failure, Message, ScoreRequest, TextRequest
from prefdata.recipe.schema import Model

Request = TypeVar("Request", TextRequest, ScoreRequest)
DTYPES = ("auto", "float32", "float64", "bfloat16", "float16")
_PRINTED = re.compile(r"arguments\s*\|\s*tojson")
_TEXTS = re.compile(r"arguments\s+is\s+(not\s+)?(string|mapping)")
TINY_PARAMETERS = 20_000_000


@dataclass(frozen=True)
class Checkpoint:
    """Where weights come from: the arguments every `from_pretrained` shares.

    Attributes:
        chat_template: in the place of the tokenizer's own.
        adapters: folders with LoRA weights that requests may name.
    """

    model: str
    revision: str | None
    trust_remote_code: bool
    chat_template: str | None = None
    adapters: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Model, path: str, adapters: tuple[str, ...] = ()) -> "Checkpoint":
        """The checkpoint of a recipe's model, at a path."""
        return cls(path, model.revision, model.trust_remote_code, model.chat_template, adapters)

    @property
    def source(self) -> dict[str, Any]:
        """Keyword arguments for any `from_pretrained`."""
        return {
            "pretrained_model_name_or_path": self.model,
            "revision": self.revision,
            "trust_remote_code": self.trust_remote_code,
        }


@dataclass(frozen=True)
class ChatTokenizer:
    """Chats to token ids, ids to text; safe in several threads.

    Attributes:
        max_model_len: tokens of one sequence, prompt and completion together.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    max_model_len: int

    def encode(self, messages: Iterable[Message], template_kwargs: Mapping[str, Any]) -> list[int]:
        """Token ids of a chat by the model's own template, with one BOS at most.

        Raises:
            RowError: the template refuses the chat.
        """
        chat = [*messages]
        if template_kwargs.get("continue_final_message") and chat[-1]["role"] == "user":
            return self._encode_opened(chat, template_kwargs)
        # never as text that is encoded afterwards: that would add a second BOS
        ids = apply_template(self.name, self.tokenizer, chat, **template_kwargs, tokenize=True)
        bos = self.tokenizer.bos_token_id
        return list(ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids)

    def _encode_opened(self, chat: list[Message], options: Mapping[str, Any]) -> list[int]:
        """The same of a chat whose last turn, the user's, is only begun.

        The library would take the line break away that many templates have before a text.
        """
        told = {key: value for key, value in options.items() if key != "continue_final_message"}
        marked = mark_end(chat)
        text = apply_template(self.name, self.tokenizer, marked, **told, tokenize=False)
        ids = self.tokenizer(cut_at_mark(text, self.name), add_special_tokens=False)["input_ids"]
        return list(ids)

    def decode(self, ids: list[int]) -> str:
        """Text without special tokens, spaces as the model wrote them."""
        return str(
            self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )


def encode_each(
    chats: ChatTokenizer,
    requests: Sequence[Request],
    call: Call[Any],
    ending: Sequence[int] = (),
) -> Iterator[tuple[int, Request, list[int]]]:
    """(index, request, token ids) of those that the model has room for; others are delivered.

    Equal chats that follow one another are encoded once. `ending`: tokens that every chat must end
    with.
    """
    before: tuple[Any, ...] = ()
    ids: list[int] | Failure = []
    for index, request in enumerate(requests):
        asked = request.messages, template_arguments(request)
        if asked != before:
            ids, before = encode_request(chats, request, ending), asked
        if isinstance(ids, Failure):
            call.deliver(index, ids)
        else:
            yield index, request, ids


def encode_request(
    chats: ChatTokenizer, request: TextRequest | ScoreRequest, ending: Sequence[int] = ()
) -> list[int] | Failure:
    """Token ids of a prompt, if there is room for an answer, or of a finished chat.

    A Failure is `prompt_too_long`, `too_long_to_score` or `chat_template_refused`.
    """
    try:
        ids = [*chats.encode(request.messages, template_arguments(request)), *ending]
    except RowError as err:
        return Failure(err.reason, err.detail)
    room, length = chats.max_model_len, len(ids)
    if isinstance(request, TextRequest) and length >= room:
        detail = f"the prompt has {length} tokens, but the context has room for {room}"
        return Failure("prompt_too_long", detail)
    if length > room:
        detail = f"the chat has {length} tokens, but the reward model has room for {room}"
        return Failure("too_long_to_score", detail)
    return ids


def template_arguments(request: TextRequest | ScoreRequest) -> dict[str, Any]:
    """What the chat template is told of a request, besides its messages."""
    tools = {"tools": [dict(tool) for tool in request.tools]} if request.tools else {}
    if isinstance(request, ScoreRequest):
        return {"add_generation_prompt": False, **tools}
    begin = {"add_generation_prompt": not request.continues}
    go_on = {"continue_final_message": True} if request.continues else {}
    return {**begin, **go_on, **tools, **request.chat_template_kwargs}


def apply_template(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    messages: Iterable[Mapping[str, Any]],
    **options: Any,
) -> Any:
    """A chat as token ids or as text, by the model's own template.

    Raises:
        RowError: the template refuses the chat.
    """
    chat: Any = [dict(message) for message in messages]
    if any(message.get("tool_calls") for message in chat) and wants_objects(tokenizer):
        chat = [_with_objects(message) for message in chat]
    try:
        return tokenizer.apply_chat_template(chat, return_dict=False, **options)
    except Exception as err:  # code of the checkpoint, given a chat and arguments of the user's
        why = str(err) if isinstance(err, jinja2.TemplateError) else f"{type(err).__name__}: {err}"
        raise RowError(
            "chat_template_refused", f"the chat template of {name} raised an error: {why}"
        ) from err


def wants_objects(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a chat template prints the arguments of calls as JSON, and would quote a text."""
    template = tokenizer.chat_template
    text = template if isinstance(template, str) else " ".join((template or {}).values())
    return bool(_PRINTED.search(text)) and not _TEXTS.search(text)


def _with_objects(message: dict[str, Any]) -> dict[str, Any]:
    """The message with arguments as objects, where they are JSON."""
    calls = []
    for call in message.get("tool_calls") or ():
        function = dict(call.get("function") or call)
        if isinstance(function.get("arguments"), str):
            with suppress(json.JSONDecodeError):
                function["arguments"] = json.loads(function["arguments"])
        calls.append({**call, "function": function} if "function" in call else function)
    return {**message, "tool_calls": calls} if calls else message


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode on its device, and how its chats become tokens.

    Attributes:
        adapters: names that the model knows LoRA weights by, by their folder.
    """

    model: PreTrainedModel
    chats: ChatTokenizer
    threads: int
    adapters: Mapping[str, str] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    def set_threads(self) -> None:
        """Choose how many threads torch uses for the calling thread, which is to run this model.

        A tiny model gains nothing from a second thread, and where cores are shared each of its many
        small operations would wait until that thread gets one.
        """
        is_tiny = self.model.num_parameters() < TINY_PARAMETERS
        torch.set_num_threads(1 if is_tiny else self.threads)


def load_model(auto_class: Any, checkpoint: Checkpoint, options: Mapping[str, Any]) -> LoadedModel:
    """Load weights and tokenizer, onto the GPU if there is one.

    `options`: the recipe's `engine:` keys, whose names are known; but for `dtype` whole numbers
    from 1.

    Raises:
        PrefdataError: no such checkpoint, a wrong value of an option, weights that lack a part, no
            chat template, or no room on the GPU.
    """
    _check_options(options)
    try:
        config = AutoConfig.from_pretrained(**checkpoint.source)
    except (OSError, ValueError) as err:
        raise PrefdataError(
            f"model {checkpoint.model!r} was not found locally or on the Hub: {err}"
        ) from err
    tokenizer = load_tokenizer(checkpoint)
    max_model_len = _choose_length(checkpoint.model, config, options)
    is_cuda = torch.cuda.is_available()
    dtype = options.get("dtype", "auto" if is_cuda else "float32")
    # its bar of tensors would tear the line of progress
    logging.disable_progress_bar()
    try:
        model, report = auto_class.from_pretrained(
            **checkpoint.source, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, SafetensorError) as err:
        raise PrefdataError(
            f"model {checkpoint.model!r}: its weights could not be loaded: {err}; check that "
            "the files of the checkpoint are complete, or download it again"
        ) from err
    kind = type(model).__name__
    model, adapters = _adapt(model, checkpoint)
    _refuse_missing(checkpoint.model, _not_in_adapters(model, report["missing_keys"]), kind)
    try:
        model.eval().to("cuda" if is_cuda else "cpu")
    except torch.OutOfMemoryError as err:
        raise PrefdataError(
            f"model {checkpoint.model!r}: transformers needs room for all of it on one GPU: {err}; "
            "where vLLM runs it, set skip_health_check: true, which leaves the comparison out; "
            "else set provider: vllm, or take a GPU with more memory"
        ) from err
    chats = ChatTokenizer(checkpoint.model, tokenizer, max_model_len)
    return LoadedModel(model, chats, threads=torch.get_num_threads(), adapters=adapters)


def free_memory() -> None:
    """Give back what a model that is gone had on the GPU."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def _adapt(model: Any, checkpoint: Checkpoint) -> tuple[Any, dict[str, str]]:
    """The model with its adapters on top, and their names by folder."""
    if not checkpoint.adapters:
        return model, {}
    from peft import PeftModel

    names = {folder: f"adapter_{number}" for number, folder in enumerate(checkpoint.adapters)}
    for folder, name in names.items():
        try:
            with warnings.catch_warnings():
                # such an adapter would run with random weights, or as if it were none
                warnings.filterwarnings("error", message="Found missing adapter keys")
                if isinstance(model, PeftModel):
                    model.load_adapter(folder, adapter_name=name)
                else:
                    model = PeftModel.from_pretrained(model, folder, adapter_name=name)
        except (OSError, ValueError, RuntimeError, SafetensorError, UserWarning) as err:
            raise PrefdataError(
                f"adapter {folder!r} does not fit {checkpoint.model!r}: {err}; give the base that "
                "it was trained on as 'model'"
            ) from err
    return model, names


def _not_in_adapters(model: Any, missing: Iterable[str]) -> list[str]:
    """Those weights that the base lacks and no adapter brings along."""
    configs = getattr(model, "peft_config", {}).values()
    brought = {name for config in configs for name in config.modules_to_save or ()}
    return [name for name in missing if brought.isdisjoint(name.split("."))]


def _check_options(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if name == "dtype" and value not in DTYPES:
            raise PrefdataError(f"engine dtype is {value!r}; give one of {', '.join(DTYPES)}")
        if name != "dtype" and not (type(value) is int and value > 0):
            raise PrefdataError(f"engine {name} is {value!r}; give a whole number of at least 1")


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """The tokenizer of a chat model.

    Raises:
        PrefdataError: there is none, or it has no chat template.
    """
    name = checkpoint.model
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**checkpoint.source)
    except Exception as err:  # whatever a damaged file makes the library raise
        raise PrefdataError(
            f"model {name!r}: its tokenizer could not be loaded ({type(err).__name__}: {err}); "
            "check that its files are complete, or fetch the checkpoint again"
        ) from err
    if checkpoint.chat_template is not None:
        tokenizer.chat_template = checkpoint.chat_template
    if not tokenizer.chat_template:
        raise PrefdataError(
            f"model {name!r}: its tokenizer has no chat template, as that of a base model, so a "
            "chat cannot become tokens; give the model a chat_template (Jinja text or a file), or "
            "name an instruction-tuned checkpoint"
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
            f"engine max_model_len is {wanted}, but {name!r} has only {trained} positions; lower it"
        )
    return wanted


def _refuse_missing(name: str, missing: Iterable[str], task: str) -> None:
    if parts := sorted(missing):
        raise PrefdataError(
            f"model {name!r} has no weights for {', '.join(parts[:3])}, so {task} would use "
            "random ones; give a checkpoint that was trained for this task"
        )
