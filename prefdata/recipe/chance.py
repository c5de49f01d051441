"""Whether the sides of a pair are told apart by chance alone. Knows no text."""

from collections.abc import Iterator, Sequence
from typing import Any

from prefdata.recipe.contract import Column
from prefdata.recipe.mix import projections_of
from prefdata.recipe.projection import PreferencePairs
from prefdata.recipe.reads import texts_of_rule
from prefdata.recipe.schema import Model, Recipe


def tell_of_chance(recipe: Recipe) -> Iterator[str]:
    """A sentence for every projection whose two sides are asked alike, and compared by nothing."""
    columns = {column.name: column for column in recipe.columns}
    for name, rule in projections_of(recipe.output_projection).items():
        if not isinstance(rule, PreferencePairs) or rule.has_margins:
            continue
        made = [columns[text] for text in texts_of_rule(rule) if text in columns]
        if any(_alike(recipe, *sides) for sides in _sides(rule, made)):
            at = f"output_projection{f'.of.{name}' if name else ''}"
            yield (
                f"{at}: strategy {rule.strategy} compares nothing, and both sides are asked alike: "
                "the same model, prompt and settings. So chance says which text is chosen, and "
                "nothing can be learned from the pairs; the run goes on, since a trial may want "
                "that. Give one side another model, prompt or sampling, or name a score"
            )


_Side = tuple[Column, str]
"""A column, and the alias that writes it."""


def _sides(rule: PreferencePairs, made: Sequence[Column]) -> Iterator[tuple[_Side, _Side]]:
    """Every way in which a text of one side and one of the other can come to be."""
    is_given = rule.strategy == "given"
    for first in made[:1] if is_given else made:
        for second in made[1:2] if is_given else made:
            for one in first.writers:
                for other in second.writers:
                    if is_given or (one, other) == (rule.strong, rule.weak):
                        yield (first, one), (second, other)


def _alike(recipe: Recipe, one: _Side, other: _Side) -> bool:
    asked = [column.model_dump(exclude={"name", "model_alias"}) for column, _ in (one, other)]
    models: list[Model] = [recipe.model(alias) for _, alias in (one, other)]
    return asked[0] == asked[1] and _settings(models[0]) == _settings(models[1])


def _settings(model: Model) -> object:
    """What of a model can change the distribution of its texts."""
    exclude: dict[str, Any] = {"inference_parameters": {"seed"}}
    return model.model_dump(exclude={"alias": True, "skip_health_check": True} | exclude)
