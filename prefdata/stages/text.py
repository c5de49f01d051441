"""`llm_text`, `candidates`, `llm_structured`: texts by a model, free or under a JSON schema."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pyarrow as pa

from prefdata.errors import RowError
from prefdata.fingerprint import sampling_seed
from prefdata.inference import Completion, Failure, TextRequest
from prefdata.recipe.columns import Calling, Candidates, LlmStructured, LlmText
from prefdata.recipe.questions import own_question, question_of
from prefdata.recipe.tools import ToolList, read_tools
from prefdata.recipe.values import META_SUFFIX
from prefdata.rows import (
    CANDIDATE,
    ID,
    STRUCTURED_META,
    TEXT_META,
    Row,
    field_of_schema,
    is_answer,
    is_json,
)
from prefdata.stages.asking import (
    Asker,
    Stage,
    Tools,
    answers,
    ask_until,
    commonest,
    outcomes,
    tokens_of,
    whole_text,
)

_DECODER = json.JSONDecoder()


def text_fields(column: LlmText) -> list[pa.Field]:
    """The text, and how it was made."""
    return [pa.field(column.name, pa.string()), pa.field(column.name + META_SUFFIX, TEXT_META)]


def llm_text(column: LlmText, tools: Tools) -> Stage:
    """One completion a row, by a member of the pool that depends on the row and the seed alone."""
    question, writes_user = own_question(column), column.writes == "user"
    pool = [Asker(tools, alias, column.name) for alias in column.model_alias]

    async def stage(row: Row) -> Row:
        asker = pool[sampling_seed(tools.seed, row[ID], column.name, "pool") % len(pool)]
        if writes_user or question is None:
            chat = asker.before_user(question, row)
        else:
            chat = asker.chat(question, row)
        request = asker.request(row[ID], chat, tools=tools_of(column, row), writes_user=writes_user)
        [completion] = await answers(asker.engine, [request], column.retry)
        if not is_answer(completion.finish_reason):
            detail = f"the model {asker.model.alias!r} has given no answer: {_shown(completion)}"
            raise RowError(completion.finish_reason, detail)
        return {
            column.name: whole_text(request, completion),
            column.name + META_SUFFIX: asker.meta(request, completion),
        }

    return stage


def candidates_fields(column: Candidates) -> list[pa.Field]:
    """The list of candidates."""
    return [pa.field(column.name, pa.list_(CANDIDATE))]


def candidates(column: Candidates, tools: Tools) -> Stage:
    """`samples` completions of every alias, or of a row's own, ordered by alias and sample.

    All requests of a row that one engine serves go to it in one call, so that they stay adjacent. A
    row is a reject only where none of its candidates has an answer.
    """
    question = question_of(column)
    askers = [Asker(tools, alias, column.name) for alias in column.model_alias]

    async def stage(row: Row) -> Row:
        made, given = [], tools_of(column, row)
        samples = column.samples * tools.times.get(row[ID], 1)
        samples = min(samples, max(column.samples, column.max_samples or 0))
        for asker in _askers_of(row, column, askers, tools.seed):
            chat = asker.chat(question, row)
            made += [
                (asker, k, asker.request(row[ID], chat, k, tools=given)) for k in range(samples)
            ]
        found: dict[int, Completion | Failure] = {}
        for engine in dict.fromkeys(asker.engine for asker in askers):
            mine = [number for number, (asker, _, _) in enumerate(made) if asker.engine is engine]
            requests = [made[number][2] for number in mine]
            found |= dict(zip(mine, await outcomes(engine, requests, column.retry), strict=True))
        fates = [*filter(None, map(_fate, found.values()))]
        if len(fates) == len(made):
            raise commonest(fates)
        return {column.name: [_candidate(*made[n], found[n]) for n in range(len(made))]}

    return stage


def _askers_of(row: Row, column: Candidates, askers: list[Asker], seed: int) -> list[Asker]:
    """Who answers a row: those that always do, and of the others the first in a seeded order."""
    always = column.always or ()

    def place(asker: Asker) -> tuple[bool, int]:
        alias = asker.model.alias
        return alias not in always, sampling_seed(seed, row[ID], column.name, "pool", alias)

    drawn = sorted(askers, key=place)[: column.models_of_a_row]
    return [asker for asker in askers if asker in drawn]


def tools_of(column: Calling, row: Row) -> ToolList:
    """What the model may call for a row.

    Raises:
        RowError: `tools`; the row holds no list of them.
    """
    return read_tools(row[column.tools] if isinstance(column.tools, str) else column.tools)


def _fate(outcome: Completion | Failure) -> tuple[str, str] | None:
    """Reason and detail of what is no answer."""
    if isinstance(outcome, Failure):
        return outcome.reason, outcome.detail
    if is_answer(outcome.finish_reason):
        return None
    return outcome.finish_reason, f"the model has given no answer: {_shown(outcome)}"


def _candidate(
    asker: Asker, sample: int, request: TextRequest, outcome: Completion | Failure
) -> Row:
    text = whole_text(request, outcome) if isinstance(outcome, Completion) else ""
    return {"text": text, "sample": sample, **asker.meta(request, outcome)}


def structured_fields(column: LlmStructured) -> list[pa.Field]:
    """The dict, and how it was made."""
    return [
        field_of_schema(column.name, column.output_format),
        pa.field(column.name + META_SUFFIX, STRUCTURED_META),
    ]


def llm_structured(column: LlmStructured, tools: Tools) -> Stage:
    """One dict a row."""
    question = question_of(column)
    asker = Asker(tools, column.model_alias, column.name, column.output_format)
    read = reader(column.output_format)

    async def stage(row: Row) -> Row:
        [said] = await ask_until(
            asker,
            row[ID],
            [asker.chat(question, row)],
            read,
            column.max_retries,
            tools=tools_of(column, row),
        )
        meta = asker.meta(said.request, said.completion) | tokens_of([said])
        answer = spelled(said.completion, said.value, column.output_format)
        meta["answer"] = None if answer == said.value else orjson.dumps(answer).decode()
        return {column.name: said.value, column.name + META_SUFFIX: meta}

    return stage


def reader(schema: Mapping[str, Any]) -> Callable[[Completion], Row]:
    """A function that reads the dict which a completion spells, however it was constrained."""
    from jsonschema.exceptions import best_match  # a tenth of what a recipe's check takes
    from jsonschema.validators import validator_for

    validator, field = validator_for(schema)(schema), field_of_schema("answer", schema)

    def read(completion: Completion) -> Row:
        wholes = objects_in(completion.text)
        found = [_listed(whole, schema) for whole in wholes]
        for whole, value in zip(wholes, found, strict=True):
            if validator.is_valid(value) and _has_place(whole, value, field):
                return dict(value)
        if completion.finish_reason in ("length", "truncated"):
            cut = f"the JSON was cut after {completion.completion_tokens} tokens; raise max_tokens"
            raise RowError("truncated", f"{cut}: {_shown(completion)}")
        if not found:
            raise RowError("not_json", f"the answer has no JSON object in it: {_shown(completion)}")
        if (problem := best_match(validator.iter_errors(found[0]))) is None:
            detail = f"the answer has a number that no column can hold: {_shown(completion)}"
            raise RowError("breaks_schema", detail)
        where = "".join(f"[{part!r}]" for part in problem.absolute_path)
        detail = (
            f"the answer does not match the schema: {where} {problem.message}: {_shown(completion)}"
        )
        raise RowError("breaks_schema", detail)

    return read


def _listed(value: Any, schema: Any) -> Any:
    """What the schema lists of an answer that nothing has bound to it."""
    if not isinstance(schema, Mapping):
        return value
    if isinstance(value, list):
        return [_listed(part, schema.get("items")) for part in value]
    if not isinstance(value, dict):
        return value
    parts = schema.get("properties", {})
    is_closed = schema.get("additionalProperties") is False
    kept = {name: part for name, part in value.items() if name in parts or not is_closed}
    return {name: _listed(part, parts.get(name)) for name, part in kept.items()}


def _has_place(whole: Row, value: Row, field: pa.Field) -> bool:
    """Whether files can hold an answer: JSON's integers are of any size, theirs have 64 bits."""
    try:
        orjson.dumps(whole)
        if not is_json(field):
            pa.array([value], field.type)
    except (TypeError, OverflowError, pa.ArrowInvalid, pa.ArrowTypeError):
        return False
    return True


def spelled(completion: Completion, value: Row, schema: Mapping[str, Any]) -> Row:
    """The object that `value` was read from, with what the schema does not list."""
    found = objects_in(completion.text)
    return next(whole for whole in found if _listed(whole, schema) == value)


def objects_in(text: str) -> list[Row]:
    """The JSON objects of a text, in their order, those inside of others left out.

    A model that is not bound to its schema says it in prose, in a fenced block, behind a thought.
    """
    found: list[Row] = []
    at = text.find("{")
    while at >= 0:
        try:
            value, end = _DECODER.raw_decode(text, at)
            orjson.loads(text[at:end])  # json takes NaN and half of a surrogate pair, too
            found.append(value)
        except (json.JSONDecodeError, RecursionError):
            end = at + 1
        at = text.find("{", end)
    return found


def _shown(completion: Completion) -> str:
    """What a completion says, for a message."""
    if completion.text or completion.reasoning is None:
        return repr(completion.text)
    return f"nothing after a thought of {completion.reasoning_tokens} tokens"
