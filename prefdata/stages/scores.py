"""`reward_model` and `verifier`: one number per text, by a model or by a rule."""

import math
import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from prefdata.errors import RowError
from prefdata.inference import Message, ScoreRequest
from prefdata.prompts import compile_prompt
from prefdata.recipe import RewardModel, Scored, Verifier
from prefdata.rows import Row
from prefdata.stages.asking import Tools
from prefdata.stages.functions import Function, load_function
from prefdata.stages.stage import Stage

Check = Callable[[str, Row], float | None]
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


def score_fields(column: Scored) -> list[pa.Field]:
    """A list parallel to the candidates, or a struct with one number per response."""
    if column.responses:
        return [pa.field(column.name, pa.struct({name: pa.float64() for name in column.responses}))]
    return [pa.field(column.name, pa.list_(pa.float64()))]


def reward_model(column: RewardModel, tools: Tools) -> Stage:
    """The first raw logit per text; one that is not finite becomes null."""
    prompt, engine = compile_prompt(column.prompt), tools.reward[column.model_alias]

    async def stage(row: Row) -> Row:
        asked: Message = {"role": "user", "content": prompt.render(row)}
        texts = _texts(column, row)
        requests = [ScoreRequest((asked, {"role": "assistant", "content": text})) for text in texts]
        scores: list[float | None] = [None] * len(texts)
        async for index, logits in engine.score(requests):
            scores[index] = logits[0] if math.isfinite(logits[0]) else None
        return {column.name: _as_column(column, scores)}

    return stage


def verifier(column: Verifier, tools: Tools) -> Stage:
    """1 or 0 per text, or what the recipe's function says."""
    check = _check(column, tools)

    async def stage(row: Row) -> Row:
        return {column.name: _as_column(column, [check(text, row) for text in _texts(column, row)])}

    return stage


def _texts(column: Scored, row: Row) -> list[str]:
    if column.candidates:
        return [candidate["text"] for candidate in row[column.candidates]]
    return [row[name] for name in column.responses or ()]


def _as_column(column: Scored, scores: list[float | None]) -> Any:
    return dict(zip(column.responses, scores, strict=True)) if column.responses else scores


def _check(column: Verifier, tools: Tools) -> Check:
    if column.method == "regex":
        pattern = re.compile(column.pattern or "")
        return lambda text, row: float(bool(pattern.search(text)))
    if column.method == "function":
        return _guarded(load_function(column, tools.folder), column)
    reference = column.reference or ""
    if column.method == "number":
        return lambda text, row: float(_same_number(text, row[reference]))
    return lambda text, row: float(text.strip() == str(row[reference]).strip())


def _same_number(text: str, reference: Any) -> bool:
    """Whether the last number in the text is the reference, within 1e-9 of its size."""
    try:
        wanted = float(str(reference).replace(",", ""))
    except ValueError as err:
        raise RowError("reference", f"the reference {reference!r} is no number") from err
    found = _NUMBER.findall(text)
    return bool(found) and math.isclose(float(found[-1].replace(",", "")), wanted, abs_tol=1e-12)


def _guarded(function: Function, column: Verifier) -> Check:
    def check(text: str, row: Row) -> float | None:
        try:
            score = float(function(text, row))
        except Exception as err:  # somebody else's code: whatever it raises is this row's fate
            raise RowError(
                "verifier", f"{column.function} raised {type(err).__name__}: {err}"
            ) from err
        return score if math.isfinite(score) else None

    return check
