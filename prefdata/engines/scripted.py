"""Engines without a model, for tests and `--rehearse`: the same request gets the same answer."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from random import Random
from typing import Any
from zlib import crc32

import orjson

from prefdata.inference import Completion, Failure, Logits, ScoreRequest, TextRequest

Reply = Callable[[TextRequest], str | Completion | Failure]
Rate = Callable[[ScoreRequest], float | Logits | Failure]


CAPACITY = 64


class ScriptedText:
    """A TextEngine that answers by a function of the request."""

    capacity = CAPACITY

    def __init__(self, reply: Reply | None = None, *, seconds: float = 0.0) -> None:
        """Answer with `reply`, by default a short text drawn from the seed.

        `reply`: text or outcome for a request; an exception it raises reaches the stage.
        """
        self._reply, self._seconds = reply or _default_reply, seconds

    async def generate(
        self, requests: Sequence[TextRequest]
    ) -> AsyncIterator[tuple[int, Completion | Failure]]:
        """As `TextEngine.generate`; a word counts as a token."""
        if self._seconds:
            await asyncio.sleep(self._seconds)
        for index, request in enumerate(requests):
            answer = self._reply(request)
            yield index, _completion(request, answer) if isinstance(answer, str) else answer

    def close(self) -> None:
        """There is nothing to free."""


class ScriptedReward:
    """A RewardEngine that scores by a function of the request."""

    capacity = CAPACITY

    def __init__(self, rate: Rate | None = None, *, seconds: float = 0.0) -> None:
        """Score with `rate`, by default a number from -8 to 8 that depends on the chat alone."""
        self._rate, self._seconds = rate or _default_rate, seconds

    async def score(
        self, requests: Sequence[ScoreRequest]
    ) -> AsyncIterator[tuple[int, Logits | Failure]]:
        """As `RewardEngine.score`."""
        if self._seconds:
            await asyncio.sleep(self._seconds)
        for index, request in enumerate(requests):
            score = self._rate(request)
            yield index, (score,) if isinstance(score, int | float) else score

    def close(self) -> None:
        """There is nothing to free."""


def _completion(request: TextRequest, text: str) -> Completion:
    prompt_tokens = sum(len(message["content"].split()) for message in request.messages)
    return Completion(text, "stop", prompt_tokens, len(text.split()))


def _default_reply(request: TextRequest) -> str:
    if request.schema is not None:
        return orjson.dumps(_instance(request.schema, Random(request.seed))).decode()
    return f"rehearsed answer {request.seed % 100_000} of {1 + request.seed % 7} words"


def _default_rate(request: ScoreRequest) -> float:
    return crc32(orjson.dumps(request.messages)) / 2**28 - 8.0


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
