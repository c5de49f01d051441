"""`rubric_judge`: each text rated separately, by every criterion or item of a checklist."""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeGuard

import pyarrow as pa

from prefdata.errors import RowError
from prefdata.inference import Completion
from prefdata.recipe.chats import Chat
from prefdata.recipe.judges import RubricJudge
from prefdata.recipe.questions import ASKED, question_of
from prefdata.recipe.values import META_SUFFIX
from prefdata.rows import ID, Row
from prefdata.stages.asked import Asked, blinded
from prefdata.stages.asking import Asker, Stage, Tools, ask_until
from prefdata.stages.scores import as_column, per_text, readable_texts, scorable, score_fields

TOP_LOGPROBS = 20
"""The number of first tokens that engines return; a scale has at most ten values."""

LEAST_MASS = 0.5
"""Probability that the scale must have; with less, the model was about to say something else."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that an answer must do.

    Attributes:
        weight: above 0; RLCF's are from 0 to 100.
        check: the column that rates it, in the place of a model.
        description: what the recipe says of a criterion that it names.
    """

    text: str
    weight: float = 1.0
    check: str | None = None
    description: str = ""


def rubric_fields(column: RubricJudge) -> list[pa.Field]:
    """The scores, and the ratings that they are means of, by criterion or item."""
    ratings: pa.DataType = pa.list_(pa.float64())
    if not isinstance(column.criteria, str):
        ratings = pa.struct({name: pa.float64() for name in column.criteria})
    kind = per_text(column, ratings)
    return [*score_fields(column), pa.field(column.name + META_SUFFIX, kind)]


def rubric_judge(column: RubricJudge, tools: Tools) -> Stage:
    """One request for every text and criterion that is not checked, all of a row in one call."""
    question = question_of(column)
    asked = Asked(column, tools) if ASKED in question.columns else None
    lowest, highest = column.scale
    schema = {"type": "integer", "enum": list(range(lowest, highest + 1))}
    asker = Asker(tools, column.model_alias, column.name, schema, top_logprobs=TOP_LOGPROBS)
    names = (question.columns | asker.columns).difference(column.inserted)

    def read(completion: Completion) -> float:
        return read_rating(completion, lowest, highest)

    async def stage(row: Row) -> Row:
        texts, rated = readable_texts(column, row), scorable(column, row)
        shown = blinded(row, names) | {"lowest": lowest, "highest": highest}
        known = asked.chats(row) if asked else [None for _ in texts]
        items = _items(column, row)
        places = [(n, item) for n in rated for item in items]
        chats = [
            asker.chat(question, shown | _rated(texts[n], known[n], item))
            for n, item in places
            if item.check is None
        ]
        said = iter(await ask_until(asker, row[ID], chats, read, column.max_retries))
        ratings: list[list[float | None] | None] = [None] * len(texts)
        for n in rated:
            ratings[n] = [
                next(said).value if item.check is None else _checked(column, row, item.check, n)
                for item in items
            ]
        scores = [one and _weigh(one, [item.weight for item in items]) for one in ratings]
        told: Sequence[Any] = ratings
        if not isinstance(column.criteria, str):
            told = [one and dict(zip(column.criteria, one, strict=True)) for one in ratings]
        return {
            column.name: as_column(column, scores),
            column.name + META_SUFFIX: as_column(column, told),
        }

    return stage


def _items(column: RubricJudge, row: Row) -> Sequence[Item]:
    if isinstance(column.criteria, str):
        return read_checklist(row[column.criteria], column.checks, column.max_items)
    weights = column.weights or dict.fromkeys(column.criteria, 1.0)
    return [
        Item(name, weights[name], description=description)
        for name, description in column.criteria.items()
    ]


def _checked(column: RubricJudge, row: Row, check: str, place: int) -> float | None:
    """What a verifier says of a text, on the scale."""
    found: Any = row[check]
    score = found[column.responses[place] if column.responses else place]
    lowest, highest = column.scale
    return None if score is None else lowest + min(max(score, 0.0), 1.0) * (highest - lowest)


def _rated(text: str, chat: Chat | None, item: Item) -> Row:
    told = {"response": text, "criterion": item.text, "description": item.description}
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


def _weigh(ratings: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """The weighted mean; None where a check has no score."""
    known = [rating for rating in ratings if rating is not None]
    if len(known) < len(ratings):
        return None
    total = math.fsum(weights)
    return math.fsum(r * w for r, w in zip(known, weights, strict=True)) / total


def read_checklist(value: Any, checks: Sequence[str], most: int) -> list[Item]:
    """The first `most` items of a cell; items whose weight is 0 do not count.

    The cell is a list, or an object with one list in it, or either as JSON: of texts, or of objects
    with `item`, and perhaps `weight` and `check`, the name of a column that the recipe allows: no
    code of a model's is ever run.

    Raises:
        RowError: `checklist`; it is something else, or has no item.
    """
    if isinstance(value, str):
        with suppress(json.JSONDecodeError):
            value = json.loads(value)
    if isinstance(value, dict):
        lists = [part for part in value.values() if isinstance(part, list)]
        value = lists[0] if len(lists) == 1 else value
    if not isinstance(value, list):
        raise RowError("checklist", f"it is no list of items: {value!r}")
    items = [item for item in (_read_item(one, checks) for one in value) if item.weight > 0]
    if not items:
        raise RowError("checklist", "it has no item that counts")
    return items[:most]


def _read_item(value: Any, checks: Sequence[str]) -> Item:
    told = {"item": value} if isinstance(value, str) else value
    text = told.get("item") if isinstance(told, dict) else None
    if not isinstance(told, dict) or not isinstance(text, str) or not text.strip():
        raise RowError("checklist", f"an item is no text and no object with 'item': {value!r}")
    weight, check = told.get("weight"), told.get("check") or None
    weight = 1.0 if weight is None else weight
    if not _is_weight(weight):
        raise RowError("checklist", f"the weight {weight!r} of {text!r} is no number from 0 up")
    if check is not None and check not in checks:
        known = ", ".join(checks) or "none"
        raise RowError("checklist", f"{text!r} names the check {check!r}; 'checks' has: {known}")
    return Item(text, float(weight), check)


def _is_weight(value: Any) -> TypeGuard[float]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0
