"""The columns of the published configs in words: type, unit, meaning."""

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

from prefdata.recipe.mix import SOURCE, Mix
from prefdata.recipe.schema import Recipe
from prefdata.recipe.values import FAILURES_SUFFIX, META_SUFFIX, SKIPPED_SUFFIX
from prefdata.rows import is_json

_SIDES = {
    "alias": "alias of the model that wrote {side}",
    "model": "its checkpoint",
    "temperature": "its sampling temperature",
    "sample": "number of the sample, from 0 for each alias",
    "finish_reason": "`stop`, or `length` where `max_tokens` cut it",
    "reasoning": "the thought before {side}; null without one",
    "reasoning_tokens": "its tokens, among `{side}_completion_tokens`",
    "reasoning_marks": "what stands before the thought and after it, as it was written",
    "completion_tokens": "length of {side} in tokens of that model's tokenizer",
    "tool_calls": "tool calls in {side}, as JSON; null where there are none",
    "turns": "messages between the prompt and {side}, as JSON; null where there are none",
    "scores": "every score of {side}, raw",
}
_PAIRS = {
    "id": "the pair's key: `row_id` and a number",
    "row_id": "key of its row in `candidates`",
    "prompt": "what was asked",
    "tools": "what the model might call, as JSON",
    "chosen": "the preferred answer",
    "rejected": "the other answer",
    "chosen_score": "score of chosen, as pairs were chosen by it, the higher the better",
    "rejected_score": "score of rejected, likewise",
    "margin": "`chosen_score` - `rejected_score`, or what the label says; null where unknown",
    "z_margin": "`margin` in standard deviations of the prompt's scores; null unless asked for",
    "is_tie": "whether both were judged equally good",
    "reward": "what a trainer may weigh the pair with",
} | {
    f"{side}_{name}": text.format(side=side)
    for side in ("chosen", "rejected")
    for name, text in _SIDES.items()
}
NESTED = {
    "text": "the text, verbatim; empty where it failed",
    "sample": "its number, from 0 for each alias",
    "alias": "of the model in the recipe",
    "model": "its checkpoint",
    "temperature": "its sampling temperature",
    "seed": "the sampling seed, derived from the recipe's",
    "finish_reason": "`stop`, `length` where `max_tokens` cut it, `tool_calls`, or a failure",
    "prompt_tokens": "tokens of what was asked, by the model's own tokenizer",
    "completion_tokens": "tokens that the model wrote, those of a thought among them",
    "reasoning": "the thought before the text; null without one",
    "reasoning_tokens": "its tokens",
    "reasoning_marks": "what stands before the thought and after it, as it was written",
    "tool_calls": "calls in the text, as JSON; null where there are none",
    "turns": "messages between the prompt and the text, as JSON, in transcripts from elsewhere",
    "answer": "`llm_structured`: the whole answer as JSON, where it has keys beyond the schema's",
    "verdicts": "`llm_judge`: the raw answers as JSON, first order first",
    "agreed": "`llm_judge`: whether both orders say the same; null if asked once",
    "panel": "`llm_judge`: what each judge of a panel says",
    "errors": "`llm_judge`: standard errors of the scores",
    "comparisons": "`llm_judge`: each two texts by place, what the first has `won`, for every one "
    "of the `judges` too, and their raw answers",
    "parent": "`expand`: key of the row with the list",
    "item": "`expand`: place in the list, from 0",
    "items": "`expand`: length of the list",
    "reason": "`filter`: a short word for why a candidate is left out",
    "detail": "`filter`: the reason in a sentence",
}
"""What the parts of candidates and of `…__meta` mean."""
_REJECTS = {
    "id": "the row's key",
    "stage": "where the row was refused: `seeds`, a column, or `pairs`",
    "reason": "a short word, counted in the summary",
    "detail": "the reason in a sentence",
    "source": "file and line of a seed",
    "row": "everything the row had, as a JSON text",
}


class Described(NamedTuple):
    """One line of the table."""

    name: str
    type: str
    meaning: str


def describe_columns(config: str, schema: pa.Schema, recipe: Recipe | None) -> Iterator[Described]:
    """A line for every column of a config."""
    made = _made_columns(recipe) if recipe else {}
    for field in schema:
        if config == "candidates":
            known = {"id": "the row's key: a hash of the seed"} | made
            meaning = known.get(field.name, "of the seeds")
        elif config == "rejects":
            meaning = _REJECTS[field.name]
        else:
            meaning = _PAIRS.get(field.name, "kept from the row")
            if field.name == SOURCE and recipe and isinstance(recipe.output_projection, Mix):
                meaning = "the projection that chose the pair"
        yield Described(field.name, _kind(field), meaning)


def _made_columns(recipe: Recipe) -> dict[str, str]:
    told: dict[str, str] = {}
    for column in recipe.columns:
        aliases = ", ".join(f"`{alias}`" for alias in column.aliases)
        meaning = column.cell.format(aliases=aliases, source=f"`{column.source}`")
        if column.skip_when is not None:
            skipped = column.name + SKIPPED_SUFFIX
            told[skipped] = f"why `{column.name}` asked nothing; null where it did"
        for name in column.makes:
            told[name] = meaning
            if name.endswith(META_SUFFIX):
                told[name] = f"how `{name.removesuffix(META_SUFFIX)}` came to be"
            elif name.endswith(FAILURES_SUFFIX):
                told[name] = f"why a text has no `{name.removesuffix(FAILURES_SUFFIX)}`"
    return told


def _kind(field: pa.Field) -> str:
    return "JSON text" if is_json(field) else _kind_of(field.type)


def _kind_of(kind: pa.DataType) -> str:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list of {_kind_of(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "{" + ", ".join(part.name for part in kind.fields) + "}"
    return {"double": "float64", "large_string": "string"}.get(str(kind), str(kind))
