"""How a row becomes requests: messages, sampling, seeds, and what is recorded of an answer.

Shared by every stage that samples a text model; knows no engine but the protocol.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import orjson

from prefdata.engines.protocols import RewardEngine, TextEngine
from prefdata.errors import RowError
from prefdata.fingerprint import sampling_seed
from prefdata.inference import Completion, Failure, Message, Sampling, TextRequest
from prefdata.recipe.chats import ALL_ROLES, LEADING, Chat, Roles, fit_roles
from prefdata.recipe.contract import Column
from prefdata.recipe.questions import Question
from prefdata.recipe.schema import Model
from prefdata.recipe.sources import Benchmark
from prefdata.recipe.tools import ToolList
from prefdata.recipe.values import Retry
from prefdata.rows import Row, is_blank
from prefdata.stages.functions import Functions

Stage = Callable[[Row], Awaitable[Row]]
"""A coroutine function for `.map`: reads a row, returns the columns it adds.

Raises RowError for a row that cannot go on; anything else it raises stops the run.
"""
Value = TypeVar("Value")
PASSING = frozenset(("no_content", "content_filter", "refusal"))
"""Failures that another draw may not meet."""
RETRY_TEMPERATURE = 0.5
"""Of a greedy request that is asked again."""


@dataclass(frozen=True)
class Tools:
    """What a stage gets in addition to its column.

    Attributes:
        text: engine of each alias that a text column names.
        reward: engine of each alias that a reward column names.
        folder: where Python functions named by the recipe are looked up.
        columns: all columns of the recipe, those of given candidates among them: a judge finds the
            two that it compares among them, a scorer what the texts were asked.
        prompt: the column that becomes the pairs' prompt; a stage may not make it blank.
        roles: leading roles that each alias's chat template knows; all of them where left out.
        locate: finds a path of the recipe, which may be relative to its file.
        read_items: (place, text) of every item of a benchmark.
        times: how many times a column's samples some rows have, by id.
    """

    seed: int
    models: Mapping[str, Model]
    text: Mapping[str, TextEngine]
    reward: Mapping[str, RewardEngine]
    folder: Path = Path()
    columns: Sequence[Column] = ()
    prompt: str = ""
    roles: Mapping[str, Roles] = field(default_factory=dict)
    given: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    locate: Callable[[str], str] = str
    read_items: Callable[[Benchmark], Iterable[tuple[str, str]]] = lambda benchmark: ()
    times: Mapping[str, int] = field(default_factory=dict)

    @property
    def functions(self) -> Functions:
        """Where functions are found."""
        return Functions(self.folder, self.given)

    def under_system(self, alias: str) -> Callable[[Chat, Row], Chat]:
        """A function that puts a chat under a model's system prompt, in roles of its template."""
        system, roles = self.models[alias].system, self.roles.get(alias, ALL_ROLES)
        return lambda chat, row: fit_roles(system.over(chat, row), roles)


class Asker:
    """Requests of one alias on behalf of one column.

    Attributes:
        under_system: puts a chat under the model's system prompt, in roles that its template has.
        columns: names of the columns that the system prompt reads.
    """

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
        self.under_system = tools.under_system(alias)
        self.columns = self.model.system.columns

    def chat(self, question: Question, row: Row) -> Chat:
        """The messages of a row under this model's system prompt, in roles that its template has.

        A last turn of the assistant is the beginning of the answer.

        Raises:
            RowError: a template cannot be rendered for this row, or a value is not a chat.
        """
        asked = question.chat(row)
        if question.may_be_chat and all(message["role"] in LEADING for message in asked):
            raise RowError("chat", "there is no turn to answer")
        if is_blank(asked[-1]["content"]) and "tool_calls" not in asked[-1]:
            raise RowError("empty_prompt", f"the prompt of column {self._column!r} is blank")
        chat = self.under_system(asked, row)
        begun = question.beginning(row)
        return (*chat, Message(role="assistant", content=begun)) if begun else chat

    def before_user(self, question: Question | None, row: Row) -> Chat:
        """What stands before a turn that the user is to write, and the beginning of that turn.

        Raises:
            RowError: as from `chat`.
        """
        asked = () if question is None else question.chat(row)
        return self.under_system((*asked, Message(role="user", content="")), row)

    def request(
        self,
        row_id: str,
        chat: Chat,
        sample: int = 0,
        retry: int = 0,
        tools: Sequence[Mapping[str, Any]] = (),
        turn: int = 0,
        writes_user: bool = False,
    ) -> TextRequest:
        """The request for one sample; its seed comes from row, column, alias, sample and retry.

        `turn`: how many turns models have written before it, in a conversation. `writes_user`: the
        last turn, the user's, is to be gone on from.
        """
        own = self.model.inference_parameters.seed
        retries = (*(("retry", retry) if retry else ()), *(("turn", turn) if turn else ()))
        seed = sampling_seed(
            self._seed, row_id, self._column, self.model.alias, sample, own, *retries
        )
        return TextRequest(
            chat,
            warmer(self._sampling) if retry else self._sampling,
            seed,
            self._schema,
            self.model.chat_template_kwargs,
            self._top_logprobs,
            tools=tuple(tools),
            continues=writes_user or chat[-1]["role"] == "assistant",
            is_seeded=own is not None,
        )

    def meta(self, request: TextRequest, outcome: Completion | Failure) -> Row:
        """A value of type `rows.TEXT_META`."""
        if isinstance(outcome, Failure):
            outcome = Completion("", outcome.reason, 0, 0)
        calls = outcome.tool_calls
        return {
            "alias": self.model.alias,
            "model": self.model.weights,
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
    """The parsed answer, its request, and the tokens of all attempts."""

    value: Value
    request: TextRequest
    completion: Completion
    prompt_tokens: int
    completion_tokens: int


def tokens_of(said: Iterable[Said[Any]]) -> Row:
    """The tokens of all that was asked for several answers."""
    told = [*said]
    return {
        "prompt_tokens": sum(one.prompt_tokens for one in told),
        "completion_tokens": sum(one.completion_tokens for one in told),
    }


async def ask_until(
    asker: Asker,
    row_id: str,
    chats: Sequence[Chat],
    read: Callable[[Completion], Value],
    retries: int,
    *,
    tools: ToolList = (),
    numbers: Sequence[int] | None = None,
) -> list[Said[Value]]:
    """Ask every chat; what `read` refuses is asked again with a fresh seed, `retries` times.

    The chats' seeds derive from `numbers`, which are 0, 1, 2 where left out.

    Raises:
        RowError: from `read` or of a failure, for the last attempt.
    """
    found: dict[int, Said[Value]] = {}
    spent = {number: (0, 0) for number in range(len(chats))}
    for retry in range(retries + 1):
        left = [number for number in spent if number not in found]
        requests = [
            asker.request(row_id, chats[n], numbers[n] if numbers else n, retry, tools=tools)
            for n in left
        ]
        made = await outcomes(asker.engine, requests)
        for number, request, outcome in zip(left, requests, made, strict=True):
            if isinstance(outcome, Failure):
                if retry == retries or outcome.reason not in PASSING:
                    raise RowError(outcome.reason, outcome.detail)
                continue
            before = spent[number]
            spent[number] = (
                before[0] + outcome.prompt_tokens,
                before[1] + outcome.completion_tokens,
            )
            try:
                found[number] = Said(read(outcome), request, outcome, *spent[number])
            except RowError:
                if retry == retries:
                    raise
        if len(found) == len(chats):
            break
    return [found[number] for number in spent]


def whole_text(request: TextRequest, completion: Completion) -> str:
    """The turn: what the request began of the assistant's, and what the model made of it."""
    if request.messages[-1]["role"] == "user":
        return completion.text.strip() if request.continues else completion.text
    begun = request.messages[-1]["content"] if request.continues else ""
    return begun + completion.text


def warmer(sampling: Sampling) -> Sampling:
    """For a request whose answer was refused: a greedy one would get the same answer again."""
    if sampling.temperature and sampling.top_k != 1:
        return sampling
    return replace(sampling, temperature=sampling.temperature or RETRY_TEMPERATURE, top_k=0)


async def outcomes(
    engine: TextEngine, requests: Sequence[TextRequest], retry: Retry | None = None
) -> list[Completion | Failure]:
    """What became of every request of one call, in their order; what was cut is asked again."""
    found: dict[int, Completion | Failure] = {}
    async for index, outcome in engine.ask(requests):
        found[index] = outcome
    if retry is not None:
        cut = [n for n, one in found.items() if isinstance(one, Completion) and is_cut(one)]
        longer = [
            replace(one, sampling=replace(one.sampling, max_tokens=retry.max_tokens))
            for one in map(requests.__getitem__, cut)
        ]
        for number, again in zip(cut, await outcomes(engine, longer) if cut else (), strict=True):
            if isinstance(again, Completion):
                found[number] = again
    return [found[index] for index in range(len(requests))]


def commonest(fates: Sequence[tuple[str, str]]) -> RowError:
    """The first of the commonest reason; each is a reason with a detail."""
    [(reason, _)] = Counter(reason for reason, _ in fates).most_common(1)
    return next(RowError(*fate) for fate in fates if fate[0] == reason)


def is_cut(completion: Completion) -> bool:
    """Whether the answer, or the thought before it, was ended by `max_tokens`."""
    return completion.finish_reason in ("length", "truncated")


async def answers(
    engine: TextEngine, requests: Sequence[TextRequest], retry: Retry | None = None
) -> list[Completion]:
    """The completions of requests that are all needed, in their order.

    Raises:
        RowError: one of them failed.
    """
    found = await outcomes(engine, requests, retry)
    for outcome in found:
        if isinstance(outcome, Failure):
            raise RowError(outcome.reason, outcome.detail)
    return [one for one in found if isinstance(one, Completion)]


def _sampling(model: Model) -> Sampling:
    parameters = model.inference_parameters
    if parameters.temperature is None or parameters.max_tokens is None:
        raise AssertionError("recipe.checks lets no text column use an alias without these")
    return Sampling(**parameters.model_dump(exclude={"seed"}))
