"""`rubric_judge`: each text rated separately, by every criterion, on a scale of integers."""

import math
from collections.abc import Mapping

import pyarrow as pa

from prefdata.errors import RowError
from prefdata.inference import Completion
from prefdata.recipe.chats import Chat
from prefdata.recipe.judges import RubricJudge
from prefdata.recipe.questions import ASKED, question_of
from prefdata.recipe.values import META_SUFFIX
from prefdata.rows import ID, Row
from prefdata.stages.asked import Asked
from prefdata.stages.asking import Asker, Tools, ask_until
from prefdata.stages.blind import blinded
from prefdata.stages.scores import as_column, readable_texts, scorable, score_fields
from prefdata.stages.stage import Stage

TOP_LOGPROBS = 20
"""The number of first tokens that engines return; a scale has at most ten values."""

LEAST_MASS = 0.5
"""Probability that the scale must have; with less, the model was about to say something else."""


def rubric_fields(column: RubricJudge) -> list[pa.Field]:
    """The scores, and the ratings that they are means of, by criterion."""
    ratings = pa.struct({name: pa.float64() for name in column.criteria})
    kind = (
        pa.struct(dict.fromkeys(column.responses, ratings))
        if column.responses
        else pa.list_(ratings)
    )
    return [*score_fields(column), pa.field(column.name + META_SUFFIX, kind)]


def rubric_judge(column: RubricJudge, tools: Tools) -> Stage:
    """One request for every text and criterion, all of a row in one call."""
    question = question_of(column)
    asked = Asked(column, tools) if ASKED in question.columns else None
    lowest, highest = column.scale
    schema = {"type": "integer", "enum": list(range(lowest, highest + 1))}
    asker = Asker(tools, column.model_alias, column.name, schema, top_logprobs=TOP_LOGPROBS)
    names = (question.columns | asker.columns).difference(column.inserted)

    def read(completion: Completion) -> float:
        return read_rating(completion, lowest, highest)

    async def stage(row: Row) -> Row:
        texts, shown, rated = (
            readable_texts(column, row),
            blinded(row, names),
            scorable(column, row),
        )
        shown |= {"lowest": lowest, "highest": highest}
        known = asked.chats(row) if asked else [None for _ in texts]
        chats = [
            asker.chat(question, shown | _rated(texts[n], known[n], name, description))
            for n in rated
            for name, description in column.criteria.items()
        ]
        said = iter(await ask_until(asker, row[ID], chats, read, column.max_retries))
        ratings: list[dict[str, float] | None] = [None] * len(texts)
        for n in rated:
            ratings[n] = {name: next(said).value for name in column.criteria}
        scores = [one and _weigh(one, column.weights) for one in ratings]
        return {
            column.name: as_column(column, scores),
            column.name + META_SUFFIX: as_column(column, ratings),
        }

    return stage


def _rated(text: str, chat: Chat | None, criterion: str, description: str) -> Row:
    told = {"response": text, "criterion": criterion, "description": description}
    return told if chat is None else told | {ASKED: [*chat]}


def read_rating(completion: Completion, lowest: int, highest: int) -> float:
    """The mean of the scale under the first token's probabilities, or the number written.

    Where an engine tells probabilities, tokens that are no rating do not count (G-Eval, arXiv
    2303.16634, equation 1).

    Raises:
        RowError: `no_rating`.
    """
    chances: dict[int, float] = {}
    for token, logprob in (completion.first_logprobs or {}).items():
        rating = _rating(token, lowest, highest)
        if rating is not None:
            chances[rating] = chances.get(rating, 0.0) + math.exp(logprob)
    total = math.fsum(chances.values())
    if total >= LEAST_MASS:
        return math.fsum(rating * chance for rating, chance in chances.items()) / total
    written = _rating(completion.text, lowest, highest)
    if written is None:
        raise RowError(
            "no_rating",
            f"the answer is not a number from {lowest} to {highest}: {completion.text!r}",
        )
    return float(written)


def _rating(text: str, lowest: int, highest: int) -> int | None:
    text = text.strip()
    is_digit = len(text) == 1 and text.isascii() and text.isdigit()
    return int(text) if is_digit and lowest <= int(text) <= highest else None


def _weigh(ratings: Mapping[str, float], weights: Mapping[str, float] | None) -> float:
    parts = weights or dict.fromkeys(ratings, 1.0)
    total = math.fsum(parts.values())
    return math.fsum(ratings[name] * weight for name, weight in parts.items()) / total
