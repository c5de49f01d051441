"""`stage`: a Python function of the user, behind the journal and the engines."""

import asyncio
import inspect
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import orjson
import pyarrow as pa
from pydantic import ValidationError

from prefdata.errors import PrefdataError, RowError, suggest
from prefdata.inference import Completion, Failure, Message, Sampling, ScoreRequest, TextRequest
from prefdata.recipe.chats import Chat, read_chat
from prefdata.recipe.own_code import Returned, Stage
from prefdata.recipe.schema import InferenceParameters
from prefdata.recipe.values import META_SUFFIX
from prefdata.rows import (
    CANDIDATE,
    ID,
    JSON_FIELD,
    TEXT_META,
    Row,
    is_answer,
    is_blank,
)
from prefdata.stages.asking import Asker, Tools, answers, whole_text
from prefdata.stages.asking import Stage as RowStage
from prefdata.stages.function_process import raised
from prefdata.storage.journaled import NotNow

_TYPES: dict[Returned, pa.DataType] = {
    "str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(),
    "candidates": pa.list_(CANDIDATE),
}  # fmt: skip
Value = TypeVar("Value")
REASON = "stage"
"""Of a row whose function raises."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model has answered.

    Attributes:
        reasoning: the thought before it; None where there is none.
        finish_reason: `stop`, `length` or `tool_calls`.
        meta: how it was made, a value of type `rows.TEXT_META`.
    """

    text: str
    reasoning: str | None
    tool_calls: tuple[Any, ...]
    finish_reason: str
    meta: Mapping[str, Any]

    def __str__(self) -> str:
        return self.text


class Ask:
    """Asks the models of a stage on behalf of one row; each question is asked once and for all.

    What a model has answered is in the journal: after a kill, or an edit of the function, the same
    question gets the same answer. A question that a row asks twice is another draw.
    """

    def __init__(self, column: Stage, tools: Tools, row: Row) -> None:
        self._column, self._tools, self._row = column, tools, row
        self._asked: Counter[bytes] = Counter()
        self._open: set[asyncio.Future[Any]] = set()

    async def __call__(
        self,
        alias: str,
        question: str | Sequence[Message],
        *,
        schema: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        **sampling: Any,
    ) -> Answer:
        """What a text model answers.

        `alias`: one of the stage's `model_alias`. `question`: a prompt, or messages; a last turn of
        the assistant is an answer begun. `**sampling`: in the place of the alias's own:
        `temperature`, `max_tokens`, `stop` …

        Raises:
            RowError: the model gives no answer; where the function does not catch it, the row is a
                reject.
            PrefdataError: another alias, or a parameter that does not exist.
        """
        self._check(alias, self._column.model_alias, "model_alias")
        asker = Asker(self._tools, alias, self._column.name, schema)
        chat = asker.under_system(_chat(question), self._row)
        drawn = self._sampling(alias, sampling)
        key = orjson.dumps([alias, chat, str(drawn), schema, [*tools]])
        sample, self._asked[key] = self._asked[key], self._asked[key] + 1
        request = replace(asker.request(self._row[ID], chat, sample, tools=tools), sampling=drawn)
        [completion] = await self._kept(answers(asker.engine, [request]))
        if not is_answer(completion.finish_reason):
            raise RowError(completion.finish_reason, f"the model {alias!r} has given no answer")
        return _answer(asker, request, completion)

    async def score(self, alias: str, messages: Sequence[Message]) -> float | tuple[float, ...]:
        """The raw score of a chat that ends with an answer; several where the model gives several.

        `alias`: one of the stage's `reward_alias`.

        Raises:
            RowError: it cannot be scored.
            PrefdataError: another alias.
        """
        self._check(alias, self._column.reward_alias, "reward_alias")
        chat = read_chat([*messages])
        if chat[-1]["role"] != "assistant":
            raise RowError("chat", "what is scored must end with a turn of the assistant")
        whole = (*self._tools.under_system(alias)(chat[:-1], self._row), chat[-1])
        return await self._kept(self._score(alias, ScoreRequest(whole)))

    async def _score(self, alias: str, request: ScoreRequest) -> float | tuple[float, ...]:
        [found] = [one async for _, one in self._tools.reward[alias].ask([request])]
        if isinstance(found, Failure):
            raise RowError(found.reason, found.detail)
        return float(found[0]) if len(found) == 1 else tuple(found)

    async def settle(self) -> None:
        """Wait for what is still being asked, so that it is in the journal."""
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _kept(self, work: Coroutine[Any, Any, Value]) -> Value:
        """What the work gives; it comes to its end whatever becomes of its caller."""
        task = asyncio.ensure_future(work)
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        return await asyncio.shield(task)

    def _check(self, alias: str, known: Sequence[str] | None, key: str) -> None:
        if alias not in (known or ()):
            raise PrefdataError(
                f"column {self._column.name!r}: its function asks {alias!r}, which is not in "
                f"{key!r}; {suggest(alias, known or ())}"
            )

    def _sampling(self, alias: str, given: Mapping[str, Any]) -> Sampling:
        own = self._tools.models[alias].inference_parameters.model_dump()
        try:
            merged = InferenceParameters.model_validate(own | dict(given))
        except ValidationError as err:
            told = err.errors()[0]
            raise PrefdataError(
                f"column {self._column.name!r}: ask({alias!r}, …): "
                f"{'.'.join(map(str, told['loc']))}: {told['msg']}"
            ) from err
        return Sampling(**merged.model_dump(exclude={"seed"}))


def stage_fields(column: Stage) -> list[pa.Field]:
    """What the function returns; beside every text how it was made, where a model made it."""
    return [field for name, kind in column.columns.items() for field in _fields(name, kind)]


def stage(column: Stage, tools: Tools) -> RowStage:
    """The columns that the function returns; a row for which it raises is a reject."""
    where = f"column {column.name!r}"
    function = tools.functions.find_stage(column.function, where)
    has_score = len(inspect.signature(function).parameters) > 2

    async def run(row: Row) -> Row:
        ask = Ask(column, tools, row)
        try:
            made = await function(dict(row), ask, *([ask.score] if has_score else []))
            return _columns(column, made)
        except (RowError, PrefdataError):
            raise
        except NotNow:
            await ask.settle()
            raise
        except BaseExceptionGroup as err:  # of a task group
            if err.subgroup(NotNow) is None:
                raise RowError(REASON, f"{column.function} raised {raised(err)}") from err
            await ask.settle()
            raise NotNow from err
        except (Exception, SystemExit) as err:  # somebody else's code
            raise RowError(REASON, f"{column.function} raised {raised(err)}") from err

    return run


def _chat(question: str | Sequence[Message]) -> Chat:
    if isinstance(question, Answer):
        question = question.text
    if not isinstance(question, str):
        return read_chat([*question])
    if is_blank(question):
        raise RowError("empty_prompt", "the function asks nothing: its prompt is blank")
    return (Message(role="user", content=question),)


def _answer(asker: Asker, request: TextRequest, completion: Completion) -> Answer:
    return Answer(
        whole_text(request, completion),
        completion.reasoning,
        completion.tool_calls,
        completion.finish_reason,
        asker.meta(request, completion),
    )


def _fields(name: str, kind: Returned) -> list[pa.Field]:
    if kind == "json":
        return [pa.field(name, pa.string(), metadata=JSON_FIELD)]
    text = [pa.field(name + META_SUFFIX, TEXT_META)] if kind == "str" else []
    return [pa.field(name, _TYPES[kind]), *text]


def _columns(column: Stage, made: Any) -> Row:
    """What the function has returned, as its columns hold it."""
    wanted = column.columns
    if not isinstance(made, Mapping) or made.keys() != wanted.keys():
        told = f"a dict with {', '.join(map(str, made))}" if isinstance(made, Mapping) else made
        raise RowError(
            REASON, f"{column.function} must return a dict with {', '.join(wanted)}, not {told!r}"
        )
    row: Row = {}
    for name, kind in wanted.items():
        value = made[name]
        row[name] = _value(value, kind, f"{column.function}: {name!r}")
        if kind == "str":
            row[name + META_SUFFIX] = value.meta if isinstance(value, Answer) else None
    return row


def _value(value: Any, kind: Returned, where: str) -> Any:
    if kind == "candidates":
        parts = value if isinstance(value, list | tuple) else [value]
        return [_candidate(part, number, where) for number, part in enumerate(parts)]
    value = value.text if isinstance(value, Answer) else value
    try:
        if kind == "json":
            orjson.dumps(value)
        else:
            is_wrong = isinstance(value, bool) and kind in ("int", "float")
            pa.array([str(value) if is_wrong else value], _TYPES[kind])
    except (TypeError, pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as err:
        raise RowError(REASON, f"{where} is {value!r}, which is no {kind}") from err
    return value


def _candidate(value: Any, number: int, where: str) -> Row:
    empty = dict.fromkeys(field.name for field in CANDIDATE)
    if isinstance(value, Answer):
        return empty | dict(value.meta) | {"text": value.text, "sample": number}
    told = {"text": value} if isinstance(value, str) else value
    if not isinstance(told, Mapping) or not isinstance(told.get("text"), str):
        wanted = "a text, an answer of ask, or a dict with 'text'"
        raise RowError(REASON, f"{where}: a candidate is {wanted}, not {value!r}")
    if unknown := sorted(told.keys() - empty.keys()):
        told_of = suggest(unknown[0], empty)
        raise RowError(REASON, f"{where}: a candidate has no {unknown[0]!r}; {told_of}")
    return empty | {"sample": number} | dict(told)
