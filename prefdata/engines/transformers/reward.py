"""Scores by a transformers classifier in this process. Knows no row and no file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from prefdata.engines.model_thread import Call, ModelThread
from prefdata.engines.reward_families import Reading
from prefdata.engines.transformers.batching import pick_batch
from prefdata.engines.transformers.model import (
    Checkpoint,
    LoadedModel,
    encode_each,
    free_memory,
    load_model,
)
from prefdata.inference import Failure, Logits, ScoreRequest

_AUTO_CLASSES: dict[Reading, Any] = {
    "labels": AutoModelForSequenceClassification,
    "score_and_rewards": AutoModelForSequenceClassification,
    "first_logit": AutoModelForCausalLM,
}
MAX_BATCH_TOKENS = 8192
LOOKAHEAD = 1024
"""Pending chats, oldest first, among which a batch looks for similar lengths."""
FIXED_ROWS, FIXED_STEP = 16, 32
"""In float32 on a CPU every batch has this many rows and a width that is a multiple of this, since
a matrix product rounds by its shape: a chat's score is then the same to the last bit in any run."""


def load_reward_engine(
    checkpoint: Checkpoint, options: Mapping[str, Any], reading: Reading = "labels"
) -> "ModelThread[_Chat, Logits | Failure]":
    """Load a checkpoint, onto the GPU if there is one, to score chats: all labels, no sigmoid.

    In float32 on a CPU a score depends on its chat alone, bit for bit.

    `checkpoint`: a folder or a Hub id, its revision, whether its own code may run. `options`:
    `dtype` (default float32 on a CPU, the checkpoint's own on a GPU), `max_model_len` (default
    all positions the model has), `max_batch_tokens` (default 8192, padding included).
    `reading`: where the numbers are; see `reward_families`.

    Raises:
        PrefdataError: no such checkpoint, no trained head, no chat template, or an option
            that is not known.
    """
    loaded = load_model(_AUTO_CLASSES[reading], checkpoint, options)
    if loaded.adapters:  # one at most, for good
        whole: Any = loaded.model
        loaded = replace(loaded, model=whole.merge_and_unload(), adapters={})
    scorer = _Scorer(loaded, options.get("max_batch_tokens", MAX_BATCH_TOKENS), reading)
    return ModelThread("prefdata-reward", scorer, free=free_memory)


@dataclass(frozen=True, slots=True)
class _Chat:
    index: int
    ids: list[int]
    call: Call[Logits | Failure]


def _width(chat: _Chat) -> int:
    """Tokens of a chat, rounded up to the next step."""
    return -(-len(chat.ids) // FIXED_STEP) * FIXED_STEP


class _Scorer:
    """Scores pending chats batch by batch."""

    capacity = LOOKAHEAD

    def __init__(self, loaded: LoadedModel, max_batch_tokens: int, reading: Reading) -> None:
        self._reading = reading
        self._loaded, self._model, self._device = loaded, loaded.model, loaded.device
        self._max_batch_tokens = max_batch_tokens
        self._is_fixed = loaded.model.dtype == torch.float32 and loaded.device.type == "cpu"
        self._pad_id: int | None = loaded.model.config.get_text_config().pad_token_id
        self._waiting: list[_Chat] = []

    def prepare(
        self, requests: Sequence[ScoreRequest], call: Call[Logits | Failure]
    ) -> list[_Chat]:
        """One job per chat; a Failure is `too_long_to_score` or `chat_template_refused`."""
        encoded = encode_each(self._loaded.chats, requests, call)
        return [_Chat(index, ids, call) for index, _, ids in encoded]

    def start(self) -> None:
        """Set up the thread that is going to call `step`."""
        self._loaded.set_threads()

    @torch.inference_mode()
    def step(self, arrivals: Sequence[_Chat]) -> bool:
        """Queue chats, score one batch; True while any is left."""
        self._waiting = [chat for chat in (*self._waiting, *arrivals) if not chat.call.is_abandoned]
        if self._waiting:
            picks = self._pick_fixed() if self._is_fixed else self._pick()
            self._score([self._waiting[i] for i in picks])
            taken = set(picks)
            self._waiting = [chat for i, chat in enumerate(self._waiting) if i not in taken]
        return bool(self._waiting)

    def _pick(self) -> list[int]:
        lengths = [len(chat.ids) for chat in self._waiting[:LOOKAHEAD]]
        return pick_batch(lengths, max_items=len(lengths), max_tokens=self._max_batch_tokens)

    def _pick_fixed(self) -> list[int]:
        """The oldest chat and the next ones of its width."""
        width = _width(self._waiting[0])
        same = (i for i, chat in enumerate(self._waiting) if _width(chat) == width)
        return list(islice(same, self._rows(width)))

    def _rows(self, width: int) -> int:
        return max(1, min(FIXED_ROWS, self._max_batch_tokens // width))

    def _score(self, chats: Sequence[_Chat]) -> None:
        width, pad = max(len(chat.ids) for chat in chats), self._choose_pad(chats)
        rows = [chat.ids for chat in chats]
        if self._is_fixed:
            width = _width(chats[0])
            rows += [rows[0]] * (self._rows(width) - len(rows))
        padded = [ids + [pad] * (width - len(ids)) for ids in rows]
        ids = torch.tensor(padded, device=self._device)
        lengths = torch.tensor([len(ids) for ids in rows], device=self._device)
        mask = torch.arange(width, device=self._device) < lengths[:, None]
        logits = self._read(ids, mask, lengths).float()
        for chat, row in zip(chats, logits.tolist(), strict=False):  # copies that fill it up: last
            chat.call.deliver(chat.index, tuple(row))

    def _read(self, ids: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        """Float tensor [chats, numbers a chat]."""
        inputs = {"input_ids": ids, "attention_mask": mask.long(), "use_cache": False}
        if self._reading == "first_logit":  # of one vocabulary entry, at one token a chat
            states = self._model.base_model(**inputs).last_hidden_state
            last = states[torch.arange(len(ids), device=self._device), lengths - 1]
            head: Any = self._model.get_output_embeddings()
            return torch.nn.functional.linear(last, head.weight[:1])
        output = self._model(**inputs)
        if self._reading == "score_and_rewards":
            return torch.cat([output.score.reshape(len(ids), 1), output.rewards], dim=1)
        logits: Tensor = output.logits
        return logits

    def _choose_pad(self, chats: Sequence[_Chat]) -> int:
        """The model's own padding token, or one that ends none of these chats.

        transformers scores at the last token that is not padding, so a chat must not end with it.
        """
        if self._pad_id is not None:
            return self._pad_id
        last = {chat.ids[-1] for chat in chats}
        pad = next(i for i in count() if i not in last)
        self._model.config.get_text_config().pad_token_id = pad
        return pad
