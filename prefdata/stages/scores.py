"""`reward_model` and `verifier`: one number per text, by a model or by a rule."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from prefdata.errors import PrefdataError, RowError
from prefdata.inference import Failure, Message, ScoreRequest
from prefdata.recipe.contract import Scored
from prefdata.recipe.judges import RewardModel, Verifier
from prefdata.recipe.questions import ASKED, own_question
from prefdata.recipe.tools import calls_of, with_calls
from prefdata.recipe.values import FAILURES_SUFFIX, META_SUFFIX
from prefdata.rows import Row, is_answer
from prefdata.stages.asked import Asked
from prefdata.stages.asking import Stage, Tools
from prefdata.stages.function_pool import FunctionPool
from prefdata.stages.numbers import last_number, read_number
from prefdata.stages.patterns import Pattern

Check = Callable[[str, Row], float | None]


def score_fields(column: Scored) -> list[pa.Field]:
    """A number per text."""
    return [pa.field(column.name, per_text(column, pa.float64()))]


def per_text(column: Scored, kind: pa.DataType) -> pa.DataType:
    """A list parallel to the candidates, or a struct with a value per response."""
    return pa.struct(dict.fromkeys(column.responses, kind)) if column.responses else pa.list_(kind)


def reward_fields(column: RewardModel) -> list[pa.Field]:
    """The scores, where they are weighted sums the attributes, and why texts have none.

    Attributes are in the model's order.
    """
    attributes = pa.field(column.name + META_SUFFIX, per_text(column, pa.list_(pa.float64())))
    failures = pa.field(column.name + FAILURES_SUFFIX, per_text(column, pa.string()))
    return [*score_fields(column), *([attributes] if column.weights else []), failures]


def reward_model(column: RewardModel, tools: Tools) -> Stage:
    """The raw logit per text, or the weighted sum of several; what is not finite becomes null.

    Each text is read as the answer to what it was asked, unless the column asks by itself.
    """
    engine, asked = tools.reward[column.model_alias], Asked(column, tools, own_question(column))
    under_system = tools.under_system(column.model_alias)

    async def stage(row: Row) -> Row:
        texts, metas = texts_of(column, row), metas_of(column, row)
        chats = [under_system(chat or (), row) for chat in asked.chats(row)]
        scored, offered = scorable(column, row), asked.tools(row)
        requests = [
            ScoreRequest((*chats[n], _answer(texts[n], metas[n])), offered[n]) for n in scored
        ]
        attributes: list[list[float]] = [[] for _ in texts]
        failures: list[str | None] = [None for _ in texts]
        async for index, found in engine.ask(requests):
            if isinstance(found, Failure):
                failures[scored[index]] = f"{found.reason}: {found.detail}"
            else:
                attributes[scored[index]] = list(found)
        scores = [_total(column, each) if each else None for each in attributes]
        made = {column.name: as_column(column, scores)}
        told = as_column(column, failures) if any(failures) else None
        made[column.name + FAILURES_SUFFIX] = told
        if column.weights is not None:
            made[column.name + META_SUFFIX] = as_column(column, attributes)
        return made

    return stage


def _answer(text: str, meta: Mapping[str, Any]) -> Message:
    """An answer as a turn, its calls beside the text."""
    calls = calls_of(meta)
    message = Message(role="assistant", content=text)
    return Message(**message, tool_calls=list(calls)) if calls else message


def _total(column: RewardModel, attributes: Sequence[float]) -> float | None:
    """The score of one text; null where it is not finite."""
    weights = column.weights or (1.0,)
    if len(weights) != len(attributes):
        what = f"{len(weights)} weights" if column.weights else "no 'weights'"
        remedy = f"give {len(attributes)}" if len(attributes) > 1 else "remove them"
        raise PrefdataError(
            f"column {column.name!r}: model {column.model_alias!r} returns {len(attributes)} "
            f"numbers per text, but the column has {what}; {remedy}"
        )
    total = math.fsum(w * a for w, a in zip(weights, attributes, strict=True))
    return total if math.isfinite(total) else None


def verifier(column: Verifier, tools: Tools) -> Stage:
    """1 or 0 per text, or what the recipe's function says."""
    if column.method == "function":
        return _called(column, tools)
    check = _check(column)

    async def stage(row: Row) -> Row:
        found, texts = set(scorable(column, row)), readable_texts(column, row)
        scores = [check(text, row) if n in found else None for n, text in enumerate(texts)]
        return {column.name: as_column(column, scores)}

    return stage


def _called(column: Verifier, tools: Tools) -> Stage:
    """A function finds what the text was asked in the row, as `asked`."""
    wanted = "a number" if column.per == "text" else "a list of numbers"
    pool = FunctionPool(column, tools.functions, wanted)
    asked = Asked(column, tools, own_question(column))

    async def stage(row: Row) -> Row:
        texts, chats, places = readable_texts(column, row), asked.chats(row), scorable(column, row)
        if column.per == "row":
            known = [None if chat is None else [*chat] for chat in chats]
            found = await score_all([texts[n] for n in places], row | {ASKED: known})
            return in_places(dict(zip(places, found, strict=True)), len(texts))

        async def score(place: int) -> float | None:
            chat = chats[place]
            asked_row = row | {ASKED: None if chat is None else [*chat]}
            return _finite(await pool.call(row, texts[place], asked_row))

        found = await asyncio.gather(*map(score, places))
        return in_places(dict(zip(places, found, strict=True)), len(texts))

    async def score_all(texts: list[str], row: Row) -> list[float | None]:
        scores = await pool.call(row, texts, row) if texts else []
        if len(scores) != len(texts):
            told = f"returned {len(scores)} numbers for {len(texts)} texts"
            raise RowError(column.type, f"{column.function} {told}; give one for each")
        return [_finite(score) for score in scores]

    def in_places(found: Mapping[int, float | None], count: int) -> Row:
        return {column.name: as_column(column, [found.get(n) for n in range(count)])}

    return stage


def _finite(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) else None


def texts_of(column: Scored, row: Row) -> list[str]:
    """What a column scores, in order."""
    if column.candidates:
        return [candidate["text"] for candidate in row[column.candidates]]
    return [row[name] for name in column.responses or ()]


def scorable(column: Scored, row: Row) -> list[int]:
    """Places of the texts that are there: what failed has no score, and is shown to no judge."""
    made = zip(texts_of(column, row), metas_of(column, row), strict=True)
    return [
        n
        for n, (text, meta) in enumerate(made)
        if text is not None and is_answer(meta.get("finish_reason"))
    ]


def metas_of(column: Scored, row: Row) -> list[Row]:
    """How each text came to be, in order."""
    if column.candidates:
        return [*row[column.candidates]]
    return [row.get(name + META_SUFFIX) or {} for name in column.responses or ()]


def readable_texts(column: Scored, row: Row) -> list[str]:
    """What a column scores, the calls of each text printed behind it."""
    made = zip(texts_of(column, row), metas_of(column, row), strict=True)
    return [with_calls(text or "", meta) for text, meta in made]


def as_column(column: Scored, scores: Sequence[Any]) -> Any:
    """A value per text as the column holds them: a list, or a dict by response."""
    return dict(zip(column.responses, scores, strict=True)) if column.responses else [*scores]


def _check(column: Verifier) -> Check:
    if column.method == "regex":
        pattern = Pattern(column.name, column.pattern or "", dotall=False)
        return lambda text, row: float(bool(pattern.search(text)))
    reference = column.reference or ""
    if column.method == "number":
        return lambda text, row: float(_same_number(text, row[reference]))
    return lambda text, row: float(text.strip() == str(row[reference]).strip())


def _same_number(text: str, reference: Any) -> bool:
    """Whether the last number in the text is the reference, within 1e-9 of its size."""
    wanted = read_number(str(reference))
    if wanted is None:
        raise RowError("reference", f"the reference {reference!r} is not a number")
    found = last_number(text)
    return found is not None and math.isclose(found, wanted, abs_tol=1e-12)
