"""`filter`: rows that are rejected, candidates that are left out, and why."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pyarrow as pa

from prefdata.engines.checkpoints import TokenCounter
from prefdata.errors import RowError
from prefdata.recipe.chats import is_chat, read_chat
from prefdata.recipe.contract import Column, Scored
from prefdata.recipe.filters import CANDIDATE, TEXT, Decontamination, Filter, Refusals, Tokens
from prefdata.rows import CONTAMINATED, LEFT_OUT, Row, is_answer
from prefdata.stages import text_checks
from prefdata.stages.asking import Stage, Tools, commonest
from prefdata.stages.conditions import is_true
from prefdata.stages.contamination import Items
from prefdata.stages.function_pool import FunctionPool

Verdict = tuple[str, str] | None
"""Reason and detail of what is left out; None of what is kept."""
Judge = Callable[[str, Row, Row], Awaitable[Verdict]]
"""Of a text, the candidate it belongs to, and its row."""
SHOWN_ITEM = 200
"""Characters of a benchmark's item that a reject repeats."""
FILTERED = "filtered"
"""The reason where an expression, a verifier or a function says so."""


def filter_fields(column: Filter) -> list[pa.Field]:
    """For each candidate why it is left out; nothing where rows are rejected."""
    return [pa.field(column.name, pa.list_(LEFT_OUT))] if column.candidates else []


def check_filter(column: Column) -> None:
    """See, before anything is asked, that a filter can look at texts.

    Raises:
        PrefdataError: it is to know languages that nothing here knows.
    """
    if isinstance(column, Filter) and column.languages is not None:
        text_checks.language(column.languages)


def keep(column: Filter, tools: Tools) -> Stage:
    """Nothing, or the reject of the row; over candidates, the verdict on each."""
    judges = [*_judges(column, tools)]

    async def judge(text: str, candidate: Row, row: Row) -> Verdict:
        for one in judges:
            if (verdict := await one(text, candidate, row)) is not None:
                return verdict
        return None

    async def run(row: Row) -> Row:
        if column.candidates is None:
            text = _text(row[column.column], column.column) if column.column else ""
            if (verdict := await judge(text, {}, row)) is not None:
                raise RowError(*verdict)
            return {}
        candidates = row[column.candidates] or []
        seen = [_beside(row, number, column, tools) for number in range(len(candidates))]
        places = [n for n, one in enumerate(candidates) if is_answer(one["finish_reason"])]
        verdicts = await asyncio.gather(
            *(judge(candidates[n]["text"], candidates[n], seen[n]) for n in places)
        )
        if verdicts and None not in verdicts:
            raise commonest([*filter(None, verdicts)])
        told: list[Row | None] = [None] * len(candidates)
        for place, verdict in zip(places, verdicts, strict=True):
            told[place] = verdict and {"reason": verdict[0], "detail": verdict[1]}
        return {column.name: told}

    return run


def _beside(row: Row, number: int, column: Filter, tools: Tools) -> Row:
    """The row as a condition on one candidate sees it: with its own scores alone."""
    one = row[column.candidates or ""][number]
    scores = {
        other.name: row[other.name][number]
        for other in tools.columns
        if isinstance(other, Scored) and other.candidates == column.candidates
        if row.get(other.name) is not None
    }
    return row | scores | {TEXT: one["text"], CANDIDATE: one}


def _text(value: Any, name: str) -> str:
    """A text, or the turns of a chat."""
    if is_chat(value):
        return "\n\n".join(message["content"] for message in read_chat(value))
    if not isinstance(value, str):
        raise RowError(FILTERED, f"column {name!r} contains no text: {value!r}")
    return value


def _judges(column: Filter, tools: Tools) -> Iterator[Judge]:
    """One for each key that is given; the cheapest first, functions last."""
    if column.expression is not None:
        yield _condition(column.expression)
    if column.verifier is not None:
        yield _verified(column.verifier, column)
    if column.refusals is not None:
        own = column.refusals if isinstance(column.refusals, Refusals) else Refusals()
        yield _checked("refusal", text_checks.refusal(column.name, own.patterns, own.within))
    if column.special_tokens is not None:
        yield _checked("special_token", text_checks.special_token(_special_tokens(column, tools)))
    if column.repetition:
        yield _checked("repetition", text_checks.repetition)
    if column.languages is not None:
        yield _checked("language", text_checks.language(column.languages))
    if column.decontaminate is not None:
        yield _checked(CONTAMINATED, _contaminated(column.decontaminate, tools))
    if column.tokens is not None:
        yield _measured(column.tokens, tools)
    if column.function is not None:
        yield _called(column, tools)


def _condition(expression: str) -> Judge:
    async def judge(text: str, candidate: Row, row: Row) -> Verdict:
        return None if is_true(expression, row) else (FILTERED, f"not {expression}")

    return judge


def _verified(name: str, column: Filter) -> Judge:
    async def judge(text: str, candidate: Row, row: Row) -> Verdict:
        scores = [row[name]] if column.candidates else row[name] or []
        if any(score is not None and score > 0 for score in scores):
            return None
        return FILTERED, f"{name} is {row[name]!r}"

    return judge


def _checked(reason: str, check: text_checks.Check) -> Judge:
    async def judge(text: str, candidate: Row, row: Row) -> Verdict:
        detail = check(text)
        return None if detail is None else (reason, detail)

    return judge


def _special_tokens(column: Filter, tools: Tools) -> set[str]:
    """Those given, and those of the tokenizers that are on this machine."""
    given = column.special_tokens if isinstance(column.special_tokens, tuple) else ()
    writers = [a for one in tools.columns if one.name == column.candidates for a in one.aliases]
    places = [tools.locate(tools.models[alias].model) for alias in writers]
    known = [TokenCounter(place).special for place in places if TokenCounter.is_there(place)]
    return {*given}.union(*known)


def _contaminated(rule: Decontamination, tools: Tools) -> text_checks.Check:
    items = (item for one in rule.against for item in tools.read_items(one))
    known = Items(items, ngram=rule.ngram, overlap=rule.overlap, near=rule.near)

    def check(text: str) -> str | None:
        match = known.find(text)
        if match is None:
            return None
        what = "similarity" if match.is_near else "of its words"
        return f"{match.source}, {match.overlap:.2f} {what}: {match.item[:SHOWN_ITEM]!r}"

    return check


def _measured(bounds: Tokens, tools: Tools) -> Judge:
    alias = bounds.model_alias
    counter = TokenCounter(tools.locate(tools.models[alias].model)) if alias else None

    async def judge(text: str, candidate: Row, row: Row) -> Verdict:
        if counter is not None:
            count = counter.count(text)
        elif candidate.get("completion_tokens") is None:
            detail = "its tokens were not counted; give the filter 'tokens.model_alias'"
            raise RowError(FILTERED, detail)
        else:
            count = candidate["completion_tokens"] - (candidate.get("reasoning_tokens") or 0)
        if count < bounds.min:
            return "too_short", f"{count} tokens, fewer than {bounds.min}"
        if bounds.max is not None and count > bounds.max:
            return "too_long", f"{count} tokens, more than {bounds.max}"
        return None

    return judge


def _called(column: Filter, tools: Tools) -> Judge:
    pool = FunctionPool(column, tools.functions, "true, false or a reason")

    async def judge(text: str, candidate: Row, row: Row) -> Verdict:
        verdict = await pool.call(row, *([text] if column.candidates else []), row)
        if verdict is True:
            return None
        return FILTERED, verdict or f"{column.function} returned False"

    return judge
