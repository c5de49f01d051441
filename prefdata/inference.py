"""What is asked of a model and what comes back. Knows no engine and no row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

FinishReason = Literal["stop", "length"]


class Message(TypedDict):
    """One turn of a chat, in the common role/content form."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one completion is drawn; names and meanings are vLLM's `SamplingParams`.

    Attributes:
        temperature: 0 means greedy.
        top_k: 0 means all tokens.
        max_tokens: tokens of the completion, at most.
        stop: strings that end the completion and are not part of it.
    """

    temperature: float
    max_tokens: int
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TextRequest:
    """One completion of one chat.

    Attributes:
        messages: the chat so far; the engine renders it with the model's own chat template.
        seed: decides the draw alone; the same request gives the same text in any batch.
        schema: a JSON schema that the text must satisfy, or None for free text.
        chat_template_kwargs: passed to the chat template.
        top_logprobs: how many of the likeliest first tokens are wanted with their
            log-probabilities, at most 20.
    """

    messages: tuple[Message, ...]
    sampling: Sampling
    seed: int
    schema: Mapping[str, Any] | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    top_logprobs: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """The text of one request, without special tokens, and what it cost in tokens.

    Attributes:
        finish_reason: `length` when `max_tokens` or the context ended the text.
        first_logprobs: natural log-probabilities of the likeliest first tokens by their text,
            after a schema has forbidden what it forbids; None where they were not asked for or
            the engine does not tell.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    first_logprobs: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One finished chat, last turn by the assistant, to be scored as a whole."""

    messages: tuple[Message, ...]


Logits = tuple[float, ...]
"""Raw outputs of a reward head, one per label, no activation applied."""
