"""What must hold between the parts of a recipe: aliases, and columns in the order of the file.

Knows no file and no line.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prefdata.errors import PrefdataError, suggest
from prefdata.recipe.columns import given_columns
from prefdata.recipe.contract import (
    At,
    Column,
    Named,
    Problem,
    Scope,
    Scored,
    path_of,
)
from prefdata.recipe.environment import leaves
from prefdata.recipe.filters import Filter
from prefdata.recipe.judges import verdicts
from prefdata.recipe.mix import OutputProjection, projections_of
from prefdata.recipe.origins import origin_of
from prefdata.recipe.projection import DpoPreference, PreferencePairs
from prefdata.recipe.prompts import compile_prompt
from prefdata.recipe.providers import LOCAL_PROVIDERS
from prefdata.recipe.questions import ASKED
from prefdata.recipe.reads import projected, score_columns, texts_of_rule
from prefdata.recipe.schema import Model, Recipe
from prefdata.recipe.values import ReasoningParser, Retry


def find_unwritable(raw: Any) -> Problem | None:
    """The first value that no file, no key and no engine can hold, wherever it stands."""
    for at, value in leaves(raw):
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return Problem(at, f"{value} needs more than 64 bits; give a smaller number")
        if isinstance(value, str) and "\0" in value:
            return Problem(at, "the text contains a NUL character; remove it")
    return None


def check_recipe(
    recipe: Recipe, seed_fields: frozenset[str] | None, chats: frozenset[str] | None = None
) -> list[Problem]:
    """Everything wrong between the parts, in the order of the file; empty if all is well.

    `seed_fields`: names of the seed columns, or None if they are not known yet. `chats`: those that
    hold chats, likewise.
    """
    problems = [
        *_check_names([model.alias for model in recipe.models], ("models", "alias")),
        *_check_names([one.name for one in recipe.providers], ("providers", "name")),
        *_check_providers(recipe),
    ]
    layout = recipe.seed_dataset.candidates
    given = given_columns(layout.score_columns) if layout else ()
    scope = Scope(seed_fields, {column.name: column for column in given}, chats)
    for number, column in enumerate(recipe.columns):
        at: At = ("columns", number)
        scope.later = frozenset(n for c in recipe.columns[number:] for n in c.makes)
        scope.own = frozenset(column.makes)
        for name in column.makes:
            if name in scope.made or name in (seed_fields or recipe.inputs):
                message = f"there are two columns {name!r}; rename one"
                problems.append(Problem((*at, column.named_by), message))
        problems += _check_column(column, at, scope, recipe)
        scope.made |= dict.fromkeys(column.makes, column)
    scope.later = scope.own = frozenset()
    problems += _check_projection(recipe, scope)
    return list(dict.fromkeys(problems))


def _check_names(names: Sequence[str], keys: tuple[str, str]) -> Iterator[Problem]:
    """Of a list in which each entry has a name of its own, under the second of the keys."""
    for number, name in enumerate(names):
        if name in names[:number]:
            message = f"{keys[0]}.{names.index(name)} is called {name!r}, too; rename one"
            yield Problem((keys[0], number, keys[1]), message)


def _check_providers(recipe: Recipe) -> Iterator[Problem]:
    known = (*LOCAL_PROVIDERS, *(one.name for one in recipe.providers))
    for number, model in enumerate(recipe.models):
        at: At = ("models", number)
        if model.provider not in known:
            yield Problem(
                (*at, "provider"),
                f"there is no provider {model.provider!r}; {suggest(model.provider, known)}. "
                "Add it to 'providers', or set the environment variable "
                f"{environment_name(model.provider, 'BASE_URL')}; to run the checkpoint on "
                f"this machine, set models.{number}.provider=auto",
            )
        elif recipe.endpoint(model) is not None:
            for key in ("engine", "revision", "trust_remote_code", "adapter", "chat_template"):
                if getattr(model, key):
                    message = (
                        f"provider {model.provider!r} is a server, so {key!r} has no effect; "
                        "remove it"
                    )
                    yield Problem((*at, key), message)
            yield from _check_thoughts(model, at)


def _check_thoughts(model: Model, at: At) -> Iterator[Problem]:
    """What only this machine's engines can do about the thoughts of a model."""
    if model.inference_parameters.max_reasoning_tokens is not None:
        yield Problem(
            (*at, "inference_parameters", "max_reasoning_tokens"),
            f"provider {model.provider!r} is a server, and servers bound thoughts in different "
            "ways; remove it, and say it in extra_body as this server wants it",
        )
    if isinstance(model.reasoning, ReasoningParser):
        yield Problem(
            (*at, "reasoning"),
            f"provider {model.provider!r} is a server, which has its own reasoning parser or none; "
            "remove it, or give the marks: {begin: …, end: …}",
        )


def environment_name(provider: str, what: str) -> str:
    """The environment variable with a setting of a provider: `NVIDIA_BASE_URL`."""
    return re.sub(r"[^A-Z0-9]", "_", provider.upper()) + "_" + what


def _check_column(column: Column, at: At, scope: Scope, recipe: Recipe) -> Iterator[Problem]:
    yield from _check_models_of(column, at, scope, recipe)
    for key, template in {**column.templates, **column.conditions}.items():
        try:
            prompt = compile_prompt(template)
        except PrefdataError as err:
            yield Problem((*at, *path_of(key)), str(err))
            return
        if key != "prompt" or prompt.bare is None:  # a bare chat is sent as one
            yield from scope.check_printed(prompt, (*at, *path_of(key)))
        if (column.filters or key in column.conditions) and not prompt.columns:
            message = f"{template!r} names no column, so it is the same for all rows; write it as in '{{{{ score > 3 }}}}'"  # fmt: skip  # noqa: E501
            yield Problem((*at, key), message)
    if column.skip_when is not None and column.expands:
        message = "a column that makes rows cannot be skipped; put a filter before it"
        yield Problem((*at, "skip_when"), message)
    named = {one.key for one in column.named}
    read = (Named(key, name, "any") for key, name in column.references if key not in named)
    for problem in (found for one in (*read, *column.named) for found in scope.check(one)):
        yield Problem((*at, *problem.at), problem.message)
    if isinstance(column, Scored) and column.needs_asked:
        yield from _check_asked(column, at, scope, recipe)
    for problem in column.problems(scope):
        yield Problem((*at, *problem.at), problem.message)


def _check_asked(column: Scored, at: At, scope: Scope, recipe: Recipe) -> Iterator[Problem]:
    """It must be known what the texts that a column scores were asked."""
    key = "candidates" if column.candidates else "responses"
    for _, why in _not_asked(column.targets, scope, recipe):
        message = f"{why}, so its question is not known; give it with 'prompt' or 'messages'"
        yield Problem((*at, key), message)


def _not_asked(names: Iterable[str], scope: Scope, recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(column, why) for those whose texts are no whole answers to a known question."""
    models = {model.alias: model for model in recipe.models}
    if any(alias not in models for one in scope.columns for alias in one.aliases):
        return  # told elsewhere
    for name in filter(scope.has, names):
        origin = origin_of(name, scope.columns, models)
        if origin is None:
            yield name, f"no model was asked for column {name!r}"
        elif origin.is_part:
            yield name, f"column {name!r} is part of an answer to another prompt"


def _check_models_of(column: Column, at: At, scope: Scope, recipe: Recipe) -> Iterator[Problem]:
    known = {model.alias: number for number, model in enumerate(recipe.models)}
    for alias in column.tokenizers if isinstance(column, Filter) else ():
        if alias not in known:
            message = f"there is no model {alias!r}; {suggest(alias, known)}"
            yield Problem((*at, "tokens", "model_alias"), message)
        elif recipe.endpoint(recipe.model(alias)) is not None:
            message = f"{alias!r} is on a server, which lends no tokenizer; name a checkpoint"
            yield Problem((*at, "tokens", "model_alias"), message)
    for alias in column.aliases:
        if alias not in known:
            yield Problem(
                (*at, "model_alias"), f"there is no model {alias!r}; {suggest(alias, known)}"
            )
            continue
        model, number = recipe.models[known[alias]], known[alias]
        if getattr(column, "writes", "") == "user" and recipe.endpoint(model) is not None:
            message = f"{alias!r} is on a server, which does not begin a user's turn; name a checkpoint that runs here"  # fmt: skip  # noqa: E501
            yield Problem((*at, "writes"), message)
        yield from _check_system_prompt(model, number, scope)
        if column.role_of(alias) == "text":
            yield from _check_sampling(model, number)
            own, retry = model.inference_parameters.max_tokens, getattr(column, "retry", None)
            if isinstance(retry, Retry) and own is not None and retry.max_tokens <= own:
                yield Problem(
                    (*at, "retry", "max_tokens"),
                    f"{retry.max_tokens} tokens end what {alias!r} writes no later than its own "
                    f"max_tokens, {own}; raise it",
                )


def _check_system_prompt(model: Model, number: int, scope: Scope) -> Iterator[Problem]:
    at: At = ("models", number, "system_prompt")
    try:
        template = model.system.template
    except PrefdataError as err:
        yield Problem(at, str(err))
        return
    if template is not None:
        yield from scope.check_printed(template, at)
        yield from (
            Problem(at, scope.missing(n)) for n in sorted(template.columns) if not scope.has(n)
        )


def _check_sampling(model: Model, number: int) -> Iterator[Problem]:
    for key in ("temperature", "max_tokens"):
        if getattr(model.inference_parameters, key) is None:
            yield Problem(
                ("models", number, "inference_parameters", key),
                f"texts are sampled from {model.alias!r}, and this parameter has no default; "
                f"set {key}",
            )


def _check_projection(recipe: Recipe, scope: Scope) -> Iterator[Problem]:
    root: At = ("output_projection",)
    for problem in (p for one in projected(recipe.output_projection) for p in scope.check(one)):
        yield Problem((*root, *problem.at), problem.message)
    for name, part in projections_of(recipe.output_projection).items():
        at: At = (*root, *(("of", name) if name else ()))
        if part.prompt_field == ASKED:
            yield from _check_prompt_asked(part, (*at, "prompt_field"), scope, recipe)
        yield from _check_scores(part, at, scope, recipe)
        if isinstance(part, DpoPreference):
            yield from _check_verdict(part, at, scope)
        else:
            yield from _check_writers(part, at, scope)


def _check_prompt_asked(
    projection: OutputProjection, at: At, scope: Scope, recipe: Recipe
) -> Iterator[Problem]:
    if ASKED in scope.made or ASKED in (scope.seed_fields or ()):
        message = f"it stands for what was asked, but there is a column {ASKED!r}; rename the column"  # fmt: skip  # noqa: E501
        yield Problem(at, message)
    texts = texts_of_rule(projection)
    given = [name for name in texts if name in scope.made and not scope.made[name].aliases]
    told = {name: f"column {name!r} comes from the seeds" for name in given}
    for why in (told | dict(_not_asked(texts, scope, recipe))).values():
        yield Problem(at, f"{why}; name the column with its prompt instead")


def _check_verdict(projection: DpoPreference, at: At, scope: Scope) -> Iterator[Problem]:
    wanted = (projection.response_a_field, projection.response_b_field)
    if wanted[0] == wanted[1]:
        message = (
            f"both responses are column {wanted[0]!r}, but a pair needs two different ones; name "
            "another"
        )
        yield Problem((*at, "response_b_field"), message)
    judge = scope.made.get(projection.judge_field)
    if judge is None:
        return
    if judge.answer_schema is None:
        message = f"column {judge.name!r} is not a judge; name an llm_judge column"
        yield Problem((*at, "judge_field"), message)
        return
    yield from _check_winner(projection, judge, judge.answer_schema, at)
    if (compared := judge.compared(scope.columns)) and compared != wanted:
        yield Problem(
            (*at, "response_a_field"),
            f"the judge {judge.name!r} compares {list(compared)}, but the pairs are made of "
            f"{list(wanted)}; name the same columns in the same order (the first is A)",
        )


def _check_winner(
    projection: DpoPreference, judge: Column, schema: Mapping[str, Any], at: At
) -> Iterator[Problem]:
    at, key = (*at, "winner_field"), projection.winner_field
    keys, words = schema.get("properties", {}), verdicts(schema, key)
    if key not in keys:
        message = f"the verdict of {judge.name!r} has no key {key!r}; {suggest(key, keys)}"
        yield Problem(at, message)
    elif judge.winner_key not in (None, key):
        message = (
            f"the judge {judge.name!r} names the winner in {judge.winner_key!r}, but the "
            f"pairs read {key!r}; use the same key"
        )
        yield Problem(at, message)
    elif words and not {"A", "B"} <= words <= {"A", "B", "TIE"}:
        message = (
            f"the verdict of {judge.name!r} is one of {sorted(words)}, but pairs need the values "
            "A, B or tie"
        )
        yield Problem(at, message)
    elif not words and judge.wants_both_orders:
        message = (
            f"the verdict of {judge.name!r} is free text, so its two orders cannot be "
            f"compared; give {key!r} 'enum: [A, B]' in its output_format, or set "
            "'both_orders: false'"
        )
        yield Problem(at, message)


def _check_scores(
    rule: DpoPreference | PreferencePairs, at: At, scope: Scope, recipe: Recipe
) -> Iterator[Problem]:
    """Score columns must score the texts that are paired."""
    target = getattr(rule, "candidates", None)
    texts, known = texts_of_rule(rule), score_columns(recipe, rule)
    if target is not None and not (target in scope.made and scope.made[target].holds_candidates):
        return  # told already
    for key, name, holds in projected(rule):
        where = (*at, *path_of(key))
        if holds == "score" and scope.has(name) and name not in known:
            message = f"column {name!r} does not score {target or list(texts)!r}; "
            yield Problem(where, message + suggest(name, known))
        is_made = key == "rejected.largest_gap" and name in scope.made
        if is_made and not scope.made[name].rates_items:
            message = f"column {name!r} has no criteria; name a column of type 'rubric_judge'"
            yield Problem(where, message)


def _check_writers(projection: PreferencePairs, at: At, scope: Scope) -> Iterator[Problem]:
    """Aliases that the rule names must be among the writers of the texts, where these are known."""
    names = texts_of_rule(projection)
    by_text = [scope.made[name].writers if name in scope.made else () for name in names]
    writers = list(dict.fromkeys(alias for aliases in by_text for alias in aliases))
    named: dict[At, Sequence[str | None]] = {
        ("strong",): [projection.strong],
        ("weak",): [projection.weak],
        ("chosen", "model_alias"): projection.chosen.model_alias or (),
        ("rejected", "model_alias"): projection.rejected.model_alias or (),
        ("one_side",): projection.one_side or (),
    }
    for key, aliases in named.items() if all(by_text) else ():
        for alias in aliases:
            if alias is not None and alias not in writers:
                what = f"column {names[0]!r}" if len(names) == 1 else f"columns {list(names)}"
                message = f"{alias!r} is not an alias of {what}; {suggest(alias, writers)}"
                yield Problem((*at, *key), message)
