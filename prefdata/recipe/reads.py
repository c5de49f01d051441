"""What a whole recipe reads, makes and scores. Judges nothing."""

from collections.abc import Iterator
from typing import Any

from prefdata.recipe.columns import given_columns
from prefdata.recipe.contract import Column, Holds, Named, Scored
from prefdata.recipe.mix import SOURCE, Mix, OutputProjection
from prefdata.recipe.projection import DpoPreference, PreferencePairs
from prefdata.recipe.prompts import compile_prompt
from prefdata.recipe.questions import ASKED
from prefdata.recipe.schema import Recipe

PROJECTED: dict[str, Holds] = {
    "prompt_field": "any", "response_a_field": "text", "response_b_field": "text",
    "judge_field": "any", "candidates": "candidates", "responses": "text", "score": "score",
    "otherwise": "score", "margin": "any", "calibrate_length": "score", "chosen.score": "score",
    "rejected.score": "score", "rejected.largest_gap": "score", "group_by": "any",
    "order_group": "any", "select_group": "any", "keep": "any",
}  # fmt: skip
"""Keys of `output_projection` that name a column, and what it must hold."""


ANSWERS = frozenset(("response_a_field", "response_b_field", "candidates", "responses"))
"""Those of them that hold the texts to be paired."""


def all_columns(recipe: Recipe) -> tuple[Column, ...]:
    """The recipe's columns, behind those that seeds of scored candidates bring along."""
    layout = recipe.seed_dataset.candidates
    given = () if layout is None else given_columns(layout.score_columns)
    return (*given, *recipe.columns)


def columns_made(recipe: Recipe) -> dict[str, str]:
    """Columns that the recipe adds to the seeds', each with its YAML path."""
    numbered = enumerate(recipe.columns)
    return {name: f"columns.{n}" for n, column in numbered for name in column.makes}


def columns_needed(recipe: Recipe) -> dict[str, str]:
    """The seed columns that the recipe needs, each with the YAML path of its first use."""
    layout = recipe.seed_dataset.candidates
    made = {"id", *columns_made(recipe), *recipe.inputs, *(layout.makes if layout else ())}
    needed: dict[str, str] = {}
    for number, column in enumerate(recipe.columns):
        for key, name in column.references:
            needed.setdefault(name, f"columns.{number}.{key}")
    asking = {alias for column in recipe.columns for alias in column.aliases}
    for number, model in enumerate(recipe.models):
        names = model.system.columns if model.alias in asking else ()
        needed = dict.fromkeys(sorted(names), f"models.{number}.system_prompt") | needed
    for key, name, _ in projected(recipe.output_projection):
        needed.setdefault(name, f"output_projection.{key}")
    return {name: at for name, at in needed.items() if name not in made}


def projected(projection: OutputProjection) -> Iterator[Named]:
    """The columns that it names."""
    parts = (
        [(f"of.{name}.", part) for name, part in projection.of.items()]
        if isinstance(projection, Mix)
        else []
    )
    for prefix, part in [*parts, ("", projection)]:
        for key, holds in PROJECTED.items():
            value: Any = part
            for step in key.split("."):
                value = getattr(value, step, None)
            names = [value] if isinstance(value, str) else value or ()
            if (key, value) not in (("prompt_field", ASKED), ("select_group", SOURCE)):
                yield from (Named(prefix + key, name, holds) for name in names)


def chats_read(recipe: Recipe) -> frozenset[str]:
    """Columns that are sent as chats, should their values be chats."""
    names = {recipe.output_projection.prompt_field}
    for column in recipe.columns:
        bare = compile_prompt(column.templates.get("prompt", "")).bare
        names |= {bare} if bare is not None else set()
        names |= {one.column for one in column.named if one.key.endswith(".chat")}
    return frozenset(names)


def texts_of_rule(projection: OutputProjection) -> tuple[str, ...]:
    """The columns whose texts are paired."""
    if isinstance(projection, Mix):
        parts = (texts_of_rule(part) for part in projection.of.values())
        return tuple(dict.fromkeys(name for names in parts for name in names))
    if isinstance(projection, DpoPreference):
        return projection.response_a_field, projection.response_b_field
    return (projection.candidates,) if projection.candidates else projection.responses or ()


def score_columns(recipe: Recipe, projection: OutputProjection | None = None) -> list[str]:
    """Columns with a score for each side of a pair, of the recipe's projection by default."""
    rule = projection or recipe.output_projection
    if isinstance(rule, Mix):
        found = (score_columns(recipe, part) for part in rule.of.values())
        return list(dict.fromkeys(name for names in found for name in names))
    scored = [column for column in all_columns(recipe) if isinstance(column, Scored)]
    if isinstance(rule, PreferencePairs) and rule.candidates:
        return [column.name for column in scored if column.candidates == rule.candidates]
    sides = set(texts_of_rule(rule))
    return [column.name for column in scored if sides <= set(column.responses or ())]


def answering_aliases(recipe: Recipe) -> frozenset[str]:
    """The models that wrote the texts of which pairs are made."""
    texts = {
        one.column
        for one in projected(recipe.output_projection)
        if one.key.split(".")[-1] in ANSWERS
    }
    found: set[str] = set()
    for column in reversed(recipe.columns):
        if texts.intersection(column.makes):
            found.update(column.writers)
            texts.update((column.source,) if column.source else ())
    return frozenset(found)
