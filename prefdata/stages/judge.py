"""`llm_judge`: a verdict by models, asked in both orders if it compares two responses."""

import orjson
import pyarrow as pa

from prefdata.recipe.judges import LlmJudge
from prefdata.recipe.questions import question_of
from prefdata.recipe.swaps import swap_of
from prefdata.recipe.values import META_SUFFIX
from prefdata.rows import ID, JUDGE_META, PANEL_META, Row, field_of_schema
from prefdata.stages.asked import blinded
from prefdata.stages.asking import Asker, Stage, Tools, ask_until, tokens_of
from prefdata.stages.strength import WON, panel_says, word_of
from prefdata.stages.text import reader, spelled
from prefdata.stages.tournament import tournament, tournament_fields

TIE = "tie"
_SWAPPED = {"A": "B", "B": "A"}


def judge_fields(column: LlmJudge) -> list[pa.Field]:
    """The verdict, or the scores of a tournament, and how they were made."""
    if column.tournament is not None:
        return tournament_fields(column)
    kind = PANEL_META if len(column.aliases) > 1 else JUDGE_META
    return [
        field_of_schema(column.name, column.output_format),
        pa.field(column.name + META_SUFFIX, kind),
    ]


def llm_judge(column: LlmJudge, tools: Tools) -> Stage:
    """One verdict a row, of one judge or of a panel; tokens are summed over all that was asked."""
    if column.tournament is not None:
        return tournament(column, tools)
    question = question_of(column)
    askers = [Asker(tools, alias, column.name, column.output_format) for alias in column.aliases]
    compared = column.swapped(tools.columns)
    swap = swap_of(question.columns, compared, tools.columns) if compared else None
    read = reader(column.output_format)

    async def ask(asker: Asker, row: Row) -> tuple[Row, Row]:
        blind = blinded(row, question.columns | asker.columns)
        orders = [blind, swap.apply(blind)] if swap else [blind]
        chats = [asker.chat(question, order) for order in orders]
        said = await ask_until(asker, row[ID], chats, read, column.max_retries)
        verdicts = [one.value for one in said]
        meta = asker.meta(said[0].request, said[0].completion)
        meta |= tokens_of(said)
        told = [spelled(one.completion, one.value, column.output_format) for one in said]
        meta["verdicts"] = [orjson.dumps(verdict).decode() for verdict in told]
        verdict, meta["agreed"] = _settle(verdicts, column.winner_field)
        return verdict, meta

    async def stage(row: Row) -> Row:
        made = [await ask(asker, row) for asker in askers]
        verdict, meta = made[0] if len(made) == 1 else _panel(column, made)
        return {column.name: verdict, column.name + META_SUFFIX: meta}

    return stage


def _panel(column: LlmJudge, made: list[tuple[Row, Row]]) -> tuple[Row, Row]:
    """What several judges say together: the verdict of the first who says it, or a tie."""
    key, verdicts, metas = column.winner_field, [v for v, _ in made], [m for _, m in made]
    words = [word_of(verdict, key) for verdict in verdicts]
    won = panel_says([WON.get(word, 0.5) for word in words], column.says)
    winner = "A" if won > 0.5 else "B" if won < 0.5 else TIE.upper()
    agreeing = [v for v, word in zip(verdicts, words, strict=True) if word == winner]
    meta = metas[0] | {"panel": words, "alias": None, "model": None}
    meta["verdicts"] = [text for one in metas for text in one["verdicts"]]
    if metas[0]["agreed"] is not None:
        meta["agreed"] = all(one["agreed"] for one in metas)
    for tokens in ("prompt_tokens", "completion_tokens"):
        meta[tokens] = sum(one[tokens] for one in metas)
    return (agreeing[0] if agreeing else {**verdicts[0], key: TIE}), meta


def _settle(verdicts: list[Row], key: str) -> tuple[Row, bool | None]:
    """One verdict in terms of the first order, and whether both orders say the same."""
    if len(verdicts) == 1:
        return verdicts[0], None
    first, second = (word_of(verdict, key) for verdict in verdicts)
    if first == _SWAPPED.get(second, second):
        return verdicts[0], True
    return {**verdicts[0], key: TIE}, False
