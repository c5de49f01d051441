"""How a row becomes requests: messages, sampling, seeds, and what is recorded of an answer.

Shared by every stage that samples a text model; knows no engine but the protocol.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefdata.engines.protocols import RewardEngine, TextEngine
from prefdata.fingerprint import sampling_seed
from prefdata.inference import Completion, Message, Sampling, TextRequest
from prefdata.recipe import Model
from prefdata.rows import Row


@dataclass(frozen=True)
class Tools:
    """What a stage is given besides its column.

    Attributes:
        seed: the recipe's.
        models: by alias, as in the recipe.
        text: engine of each alias that a text column names.
        reward: engine of each alias that a reward column names.
        folder: where Python functions named by the recipe are sought.
    """

    seed: int
    models: Mapping[str, Model]
    text: Mapping[str, TextEngine]
    reward: Mapping[str, RewardEngine]
    folder: Path = Path()


class Asker:
    """Requests of one alias on behalf of one column."""

    def __init__(
        self, tools: Tools, alias: str, column: str, schema: Mapping[str, Any] | None = None
    ) -> None:
        self.model = tools.models[alias]
        self.engine = tools.text[alias]
        self._seed, self._column, self._schema = tools.seed, column, schema
        self._sampling = _sampling(self.model)
        system = self.model.system_prompt
        self._opening: tuple[Message, ...] = (
            ({"role": "system", "content": system},) if system else ()
        )

    def request(self, row_id: str, prompt: str, sample: int = 0) -> TextRequest:
        """The request for one sample; its seed comes from row, column, alias and sample."""
        messages = (*self._opening, Message(role="user", content=prompt))
        return self.request_for(row_id, messages, sample)

    def requests(self, row_id: str, prompt: str, samples: int) -> list[TextRequest]:
        """One request a sample; the messages are built once."""
        messages = (*self._opening, Message(role="user", content=prompt))
        return [self.request_for(row_id, messages, sample) for sample in range(samples)]

    def request_for(self, row_id: str, messages: tuple[Message, ...], sample: int) -> TextRequest:
        """As `request`, for a chat that is already built."""
        own = self.model.inference_parameters.seed
        seed = sampling_seed(self._seed, row_id, self._column, self.model.alias, sample, own)
        return TextRequest(
            messages, self._sampling, seed, self._schema, self.model.chat_template_kwargs
        )

    def meta(self, request: TextRequest, completion: Completion) -> Row:
        """A value of type `rows.TEXT_META`."""
        return {
            "alias": self.model.alias,
            "model": self.model.model,
            "temperature": request.sampling.temperature,
            "seed": request.seed,
            "finish_reason": completion.finish_reason,
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
        }


async def answers(engine: TextEngine, requests: Sequence[TextRequest]) -> list[Completion]:
    """All completions of one call, in the order of the requests."""
    found: dict[int, Completion] = {}
    async for index, completion in engine.generate(requests):
        found[index] = completion
    return [found[index] for index in range(len(requests))]


def _sampling(model: Model) -> Sampling:
    parameters = model.inference_parameters
    if parameters.temperature is None or parameters.max_tokens is None:
        raise AssertionError("recipe_checks lets no text column use an alias without these")
    return Sampling(**parameters.model_dump(exclude={"seed"}))
