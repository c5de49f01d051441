"""Requests to a model and their results. Knows no engine and no row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Required, TypedDict


class Function(TypedDict):
    """What a call calls; `arguments` is the JSON text exactly as the model wrote it."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """One call of a tool, in OpenAI's form."""

    id: str
    type: Literal["function"]
    function: Function


class Message(TypedDict, total=False):
    """One turn of a chat, in OpenAI's form; an assistant's turn of calls alone has content ""."""

    role: Required[str]
    content: Required[str]
    name: str
    tool_calls: list[ToolCall]
    tool_call_id: str
    reasoning_content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one completion is drawn; names and meanings are vLLM's `SamplingParams`.

    Attributes:
        temperature: 0 means greedy.
        top_k: 0 means all tokens.
        stop: strings that end the completion and are not part of it.
        max_reasoning_tokens: of these, tokens of the thought, at most.
    """

    temperature: float
    max_tokens: int
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    max_reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class TextRequest:
    """One completion of one chat.

    Attributes:
        messages: the chat so far; the engine renders it with the model's own chat template.
        seed: names the draw: the same request gives the same text in any batch, where the engine
            computes a row alike in any batch.
        schema: a JSON schema that the text must satisfy, or None for free text.
        top_logprobs: how many of the most likely first tokens to return with their
            log-probabilities, at most 20.
        tools: what the model may call, as JSON schemas in OpenAI's form.
        adapter: folder of the LoRA weights that answer, on top of the engine's model; which they
            are is part of the engine's identity, and so no part of a request's key.
        continues: the last message is the beginning of the answer, to be gone on from.
        is_seeded: the recipe sets a seed, so that it is the source of randomness on any engine.
    """

    messages: tuple[Message, ...]
    sampling: Sampling
    seed: int
    schema: Mapping[str, Any] | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    top_logprobs: int = 0
    tools: tuple[Mapping[str, Any], ...] = ()
    continues: bool = False
    adapter: str | None = None
    is_seeded: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer to one request, without special tokens, and what it cost in tokens.

    Attributes:
        text: the answer alone, without the thought before it.
        finish_reason: `stop`; `tool_calls`; `length` when `max_tokens` or the context ended the
            answer; `truncated` where the thought was not closed; `empty` where no answer follows
            it; or what a server calls it.
        first_logprobs: natural log-probabilities of the likeliest first tokens by their text,
            after a schema has forbidden what it forbids; None where they were not asked for or
            the engine does not tell.
        reasoning: the thought before the answer; None where there is none.
        reasoning_tokens: of the thought and its marks, among `completion_tokens`.
        reasoning_marks: what stands before the thought and between it and the answer, so that
            marks[0] + reasoning + marks[1] + text is what the model wrote; None where unknown.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    first_logprobs: Mapping[str, float] | None = None
    reasoning: str | None = None
    reasoning_tokens: int = 0
    reasoning_marks: tuple[str, str] | None = None
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one request has no answer; the others of its row have theirs.

    Attributes:
        reason: a short stable word such as `prompt_too_long`; counted in every summary.
    """

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One finished chat, last turn by the assistant, to be scored as a whole.

    Attributes:
        tools: what the assistant might call, as JSON schemas in OpenAI's form.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


Logits = tuple[float, ...]
"""Raw outputs of a reward head, one per label, no activation applied."""
