"""How a row becomes requests: messages, sampling, seeds, and what is recorded of an answer.

Shared by every stage that samples a text model; knows no engine but the protocol.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import orjson

from prefdata.engines.protocols import RewardEngine, TextEngine
from prefdata.errors import RowError
from prefdata.fingerprint import sampling_seed
from prefdata.inference import Completion, Failure, Message, Sampling, TextRequest
from prefdata.recipe.contract import Column
from prefdata.recipe.schema import Model
from prefdata.rows import Row, is_blank

Value = TypeVar("Value")


@dataclass(frozen=True)
class Tools:
    """What a stage is given besides its column.

    Attributes:
        seed: the recipe's.
        models: by alias, as in the recipe.
        text: engine of each alias that a text column names.
        reward: engine of each alias that a reward column names.
        folder: where Python functions named by the recipe are sought.
        columns: all columns of the recipe; a judge finds the two that it compares among them.
        prompt: the column that becomes the pairs' prompt; a stage may not make it blank.
    """

    seed: int
    models: Mapping[str, Model]
    text: Mapping[str, TextEngine]
    reward: Mapping[str, RewardEngine]
    folder: Path = Path()
    columns: Sequence[Column] = ()
    prompt: str = ""


class Asker:
    """Requests of one alias on behalf of one column."""

    def __init__(
        self,
        tools: Tools,
        alias: str,
        column: str,
        schema: Mapping[str, Any] | None = None,
        *,
        top_logprobs: int = 0,
    ) -> None:
        self._top_logprobs = top_logprobs
        self.model = tools.models[alias]
        self.engine = tools.text[alias]
        self._seed, self._column, self._schema = tools.seed, column, schema
        self._sampling = _sampling(self.model)
        system = self.model.system_prompt
        self._opening: tuple[Message, ...] = (
            ({"role": "system", "content": system},) if system else ()
        )

    def request(self, row_id: str, prompt: str, sample: int = 0, retry: int = 0) -> TextRequest:
        """The request for one sample; its seed comes from row, column, alias, sample and retry."""
        return self.request_for(row_id, self._messages(prompt), sample, retry)

    def requests(self, row_id: str, prompt: str, samples: int) -> list[TextRequest]:
        """One request a sample; the messages are built once."""
        messages = self._messages(prompt)
        return [self.request_for(row_id, messages, sample) for sample in range(samples)]

    def _messages(self, prompt: str) -> tuple[Message, ...]:
        if is_blank(prompt):
            raise RowError("empty_prompt", f"the prompt of column {self._column!r} is blank")
        return (*self._opening, Message(role="user", content=prompt))

    def request_for(
        self, row_id: str, messages: tuple[Message, ...], sample: int, retry: int = 0
    ) -> TextRequest:
        """As `request`, for a chat that is already built."""
        own = self.model.inference_parameters.seed
        retries = ("retry", retry) if retry else ()
        seed = sampling_seed(
            self._seed, row_id, self._column, self.model.alias, sample, own, *retries
        )
        return TextRequest(
            messages,
            self._sampling,
            seed,
            self._schema,
            self.model.chat_template_kwargs,
            self._top_logprobs,
        )

    def meta(self, request: TextRequest, outcome: Completion | Failure) -> Row:
        """A value of type `rows.TEXT_META`."""
        if isinstance(outcome, Failure):
            outcome = Completion("", outcome.reason, 0, 0)
        calls = outcome.tool_calls
        return {
            "alias": self.model.alias,
            "model": self.model.model,
            "temperature": request.sampling.temperature,
            "seed": request.seed,
            "finish_reason": outcome.finish_reason,
            "prompt_tokens": outcome.prompt_tokens,
            "completion_tokens": outcome.completion_tokens,
            "reasoning": outcome.reasoning,
            "reasoning_tokens": outcome.reasoning_tokens,
            "reasoning_marks": outcome.reasoning_marks,
            "tool_calls": orjson.dumps(calls).decode() if calls else None,
        }


@dataclass(slots=True)
class Said(Generic[Value]):
    """What an answer says, the request that got it, and the tokens of all tries."""

    value: Value
    request: TextRequest
    completion: Completion
    prompt_tokens: int
    completion_tokens: int


async def ask_until(
    asker: Asker,
    row_id: str,
    prompts: Sequence[str],
    read: Callable[[Completion], Value],
    retries: int,
) -> list[Said[Value]]:
    """Ask every prompt; what `read` refuses is asked again with a fresh seed, `retries` times.

    Raises:
        RowError: from `read`, of the last try.
    """
    found: dict[int, Said[Value]] = {}
    spent = {number: (0, 0) for number in range(len(prompts))}
    for retry in range(retries + 1):
        left = [number for number in spent if number not in found]
        requests = [asker.request(row_id, prompts[n], n, retry) for n in left]
        completions = await answers(asker.engine, requests)
        for number, request, completion in zip(left, requests, completions, strict=True):
            before = spent[number]
            spent[number] = (
                before[0] + completion.prompt_tokens,
                before[1] + completion.completion_tokens,
            )
            try:
                found[number] = Said(read(completion), request, completion, *spent[number])
            except RowError:
                if retry == retries:
                    raise
        if len(found) == len(prompts):
            break
    return [found[number] for number in spent]


async def outcomes(
    engine: TextEngine, requests: Sequence[TextRequest]
) -> list[Completion | Failure]:
    """What became of every request of one call, in their order."""
    found: dict[int, Completion | Failure] = {}
    async for index, outcome in engine.generate(requests):
        found[index] = outcome
    return [found[index] for index in range(len(requests))]


async def answers(engine: TextEngine, requests: Sequence[TextRequest]) -> list[Completion]:
    """The completions of requests that are all needed, in their order.

    Raises:
        RowError: one of them failed.
    """
    found = await outcomes(engine, requests)
    for outcome in found:
        if isinstance(outcome, Failure):
            raise RowError(outcome.reason, outcome.detail)
    return [one for one in found if isinstance(one, Completion)]


def _sampling(model: Model) -> Sampling:
    parameters = model.inference_parameters
    if parameters.temperature is None or parameters.max_tokens is None:
        raise AssertionError("recipe_checks lets no text column use an alias without these")
    return Sampling(**parameters.model_dump(exclude={"seed"}))
