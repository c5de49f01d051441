"""`llm_judge`: a verdict by a model, asked in both orders if it compares two responses."""

from collections.abc import Iterable
from typing import Any

import orjson
import pyarrow as pa

from prefdata.recipe.judges import LlmJudge
from prefdata.recipe.questions import question_of
from prefdata.recipe.swaps import swap_of
from prefdata.recipe.tools import with_calls
from prefdata.recipe.values import META_SUFFIX
from prefdata.rows import ID, JUDGE_META, Row, field_of_schema
from prefdata.stages.asking import Asker, Tools, ask_until
from prefdata.stages.stage import Stage
from prefdata.stages.text import reader, spelled

TIE = "tie"
_SWAPPED = {"A": "B", "B": "A"}


def judge_fields(column: LlmJudge) -> list[pa.Field]:
    """The verdict, and how it was made."""
    return [
        field_of_schema(column.name, column.output_format),
        pa.field(column.name + META_SUFFIX, JUDGE_META),
    ]


def llm_judge(column: LlmJudge, tools: Tools) -> Stage:
    """One verdict a row; tokens are summed over the orders asked."""
    question = question_of(column)
    asker = Asker(tools, column.model_alias, column.name, column.output_format)
    compared = column.swapped(tools.columns)
    swap = swap_of(question.columns, compared, tools.columns) if compared else None
    read = reader(column.output_format)

    async def stage(row: Row) -> Row:
        blind = blinded(row, question.columns | asker.columns)
        orders = [blind, swap.apply(blind)] if swap else [blind]
        chats = [asker.chat(question, order) for order in orders]
        said = await ask_until(asker, row[ID], chats, read, column.max_retries)
        verdicts = [one.value for one in said]
        meta = asker.meta(said[0].request, said[0].completion)
        meta["prompt_tokens"] = sum(one.prompt_tokens for one in said)
        meta["completion_tokens"] = sum(one.completion_tokens for one in said)
        told = [spelled(one.completion, one.value, column.output_format) for one in said]
        meta["verdicts"] = [orjson.dumps(verdict).decode() for verdict in told]
        verdict, meta["agreed"] = _settle(verdicts, column.winner_field)
        return {column.name: verdict, column.name + META_SUFFIX: meta}

    return stage


def blinded(row: Row, names: Iterable[str]) -> Row:
    """The columns named, of candidates only the texts: a judge must not know who wrote what."""
    return {name: _text_alone(row[name], row.get(name + META_SUFFIX)) for name in names}


def _text_alone(value: Any, meta: Any) -> Any:
    """A value without what tells who wrote it; calls are printed behind their text."""
    if isinstance(value, list) and value and isinstance(value[0], dict) and "text" in value[0]:
        return [{"text": with_calls(one["text"], one)} for one in value]
    return with_calls(value, meta) if isinstance(value, str) and meta else value


def _settle(verdicts: list[Row], key: str) -> tuple[Row, bool | None]:
    """One verdict in terms of the first order, and whether both orders say the same."""
    if len(verdicts) == 1:
        return verdicts[0], None
    first, second = (str(verdict.get(key)).strip().upper() for verdict in verdicts)
    if first == _SWAPPED.get(second, second):
        return verdicts[0], True
    return {**verdicts[0], key: TIE}, False
