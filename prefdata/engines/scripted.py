"""Engines without a model, for tests and `--rehearse`: the same request gets the same answer."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from random import Random
from typing import Any
from zlib import crc32

import orjson

from prefdata.inference import Completion, Failure, Logits, ScoreRequest, TextRequest

Answer = Callable[[Any], str | float | Completion | Logits | Failure]


class Scripted:
    """An engine of both kinds that answers by a function of the request."""

    capacity = 64

    def __init__(self, answer: Answer | None = None) -> None:
        """Answer with `answer`, by default a short text drawn from the seed, or a number.

        `answer`: a text, a number or an outcome for a request; an exception that it raises reaches
        the stage.
        """
        self._answer = answer or _rehearse

    async def ask(self, requests: Sequence[Any]) -> AsyncIterator[tuple[int, Any]]:
        """As `Engine.ask`; a word counts as a token."""
        for index, request in enumerate(requests):
            answer = self._answer(request)
            if isinstance(answer, str):
                answer = _completion(request, answer)
            yield index, (answer,) if isinstance(answer, int | float) else answer

    def close(self) -> None:
        """There is nothing to free."""


def _completion(request: TextRequest, text: str) -> Completion:
    prompt_tokens = sum(len(message["content"].split()) for message in request.messages)
    return Completion(text, "stop", prompt_tokens, len(text.split()))


def _rehearse(request: TextRequest | ScoreRequest) -> str | float:
    """A text drawn from the seed, or a score from -8 to 8 that depends on the chat alone."""
    if isinstance(request, ScoreRequest):
        return crc32(orjson.dumps(request.messages)) / 2**28 - 8.0
    if request.schema is not None:
        return orjson.dumps(_instance(request.schema, Random(request.seed))).decode()
    return f"rehearsed answer {request.seed % 100_000} of {1 + request.seed % 7} words"


def _instance(schema: Mapping[str, Any], random: Random) -> Any:
    """Some value that a plain JSON schema allows."""
    if "enum" in schema:
        return random.choice(schema["enum"])
    match schema.get("type"):
        case "object":
            return {
                name: _instance(part, random) for name, part in schema.get("properties", {}).items()
            }
        case "array":
            return [
                _instance(schema.get("items", {}), random) for _ in range(schema.get("minItems", 1))
            ]
        case "integer":
            return random.randint(schema.get("minimum", 0), schema.get("maximum", 10))
        case "number":
            return random.uniform(schema.get("minimum", 0), schema.get("maximum", 1))
        case "boolean":
            return random.random() < 0.5
        case _:
            return f"word{random.randrange(1000)}"
