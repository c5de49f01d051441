"""What must hold between the parts of a recipe: aliases, and columns in the order of the file.

Knows no file and no line.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from prefdata.errors import PrefdataError, suggest
from prefdata.recipe.prompts import compile_prompt
from prefdata.recipe.reads import (
    aliases_of,
    compared_columns,
    given_columns,
    names_a_winner,
    names_made,
    projected,
    references,
    verdicts,
)
from prefdata.recipe.schema import (
    LOCAL_PROVIDERS,
    META_SUFFIX,
    AnyColumn,
    Candidates,
    Category,
    DpoPreference,
    Expand,
    Expression,
    Extract,
    LlmJudge,
    LlmStructured,
    LlmText,
    Model,
    PreferencePairs,
    Recipe,
    RewardModel,
    RubricJudge,
    Scored,
)

At = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that the user must fix, and its YAML path."""

    at: At
    message: str


@dataclass
class _Scope:
    """The columns that exist before a given point of the recipe.

    Attributes:
        made: by every name that a column makes, its meta column's too.
    """

    seed_fields: frozenset[str] | None
    made: dict[str, AnyColumn] = field(default_factory=dict)
    later: frozenset[str] = frozenset()

    def has(self, name: str) -> bool:
        if name == "id" or name in self.made:
            return True
        if name.removesuffix(META_SUFFIX) in self.made:  # a kind of column without one
            return False
        if self.seed_fields is None:  # seen only when the seeds are loaded
            return name not in self.later
        return name in self.seed_fields

    def may_be_text(self, name: str) -> bool:
        """Whether the column holds texts; for seed columns only the rows can show it."""
        column = self.made.get(name.removesuffix(META_SUFFIX))
        if column and name.endswith(META_SUFFIX):
            return False
        if isinstance(column, Expression):
            return column.dtype == "str"
        return column is None or isinstance(column, LlmText | Category | Expand | Extract)

    def missing(self, name: str) -> str:
        known = [*sorted(self.seed_fields or ()), *self.made]
        if name in self.later:
            before = ", ".join(known) or "none"
            return (
                f"column {name!r} is made further down; move it above this one. Known here: "
                f"{before}"
            )
        return f"there is no column {name!r} before this point; {suggest(name, known)}"


def check_recipe(recipe: Recipe, seed_fields: frozenset[str] | None) -> list[Problem]:
    """Everything wrong between the parts, in the order of the file; empty if all is well.

    Args:
        recipe: a recipe that pydantic has accepted.
        seed_fields: names of the seed columns, or None if they are not known yet.
    """
    problems = [*_check_aliases(recipe), *_check_providers(recipe)]
    scope = _Scope(seed_fields, {column.name: column for column in given_columns(recipe)})
    for number, column in enumerate(recipe.columns):
        at: At = ("columns", number)
        scope.later = frozenset(n for c in recipe.columns[number:] for n in names_made(c))
        for name in names_made(column):
            if name in scope.made or name in (seed_fields or recipe.inputs):
                key = "pattern" if isinstance(column, Extract) else "name"
                message = f"there are two columns {name!r}; rename one"
                problems.append(Problem((*at, key), message))
        problems += _check_column(column, at, scope, recipe)
        scope.made |= dict.fromkeys(names_made(column), column)
    scope.later = frozenset()
    problems += _check_projection(recipe, scope)
    return list(dict.fromkeys(problems))


def _check_aliases(recipe: Recipe) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for number, model in enumerate(recipe.models):
        if model.alias in seen:
            message = (
                f"alias {model.alias!r} is already used by models.{seen[model.alias]}; rename one"
            )
            yield Problem(("models", number, "alias"), message)
        seen[model.alias] = number


def _check_providers(recipe: Recipe) -> Iterator[Problem]:
    names = [one.name for one in recipe.providers]
    for number, name in enumerate(names):
        if name in names[:number]:
            message = f"there are two providers {name!r}; rename one"
            yield Problem(("providers", number, "name"), message)
    known = (*LOCAL_PROVIDERS, *names)
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
            for key in ("engine", "revision", "trust_remote_code"):
                if getattr(model, key):
                    message = (
                        f"provider {model.provider!r} is a server, so {key!r} has no effect; "
                        "remove it"
                    )
                    yield Problem((*at, key), message)


def environment_name(provider: str, what: str) -> str:
    """The environment variable with a setting of a provider: `NVIDIA_BASE_URL`."""
    return re.sub(r"[^A-Z0-9]", "_", provider.upper()) + "_" + what


def _check_column(column: AnyColumn, at: At, scope: _Scope, recipe: Recipe) -> Iterator[Problem]:
    yield from _check_models_of(column, at, recipe)
    try:
        named = list(references(column))
    except PrefdataError as err:
        key = "expression" if isinstance(column, Expression) else "prompt"
        yield Problem((*at, key), str(err))
        return
    for key, name in named:
        if not scope.has(name):
            yield Problem((*at, key), scope.missing(name))
    if isinstance(column, Scored):
        yield from _check_targets(column, at, scope)
    if isinstance(column, Expand | Extract) and not scope.may_be_text(column.column):
        yield Problem((*at, "column"), _no_text(column.column))
    if (
        isinstance(column, LlmStructured | LlmJudge)
        and column.output_format.get("type") != "object"
    ):
        message = (
            "the answer is read as a dict, so the schema needs 'type: object' at its top level"
        )
        yield Problem((*at, "output_format"), message)
    if isinstance(column, LlmJudge | RubricJudge):
        yield from _check_blindness(column, at)
    if isinstance(column, RubricJudge) and "response" not in compile_prompt(column.prompt).columns:
        message = "the prompt does not contain the text to be rated; add {{ response }} to it"
        yield Problem((*at, "prompt"), message)
    if isinstance(column, LlmJudge):
        yield from _check_judge(column, at, scope)


def _check_models_of(column: AnyColumn, at: At, recipe: Recipe) -> Iterator[Problem]:
    known = {model.alias: number for number, model in enumerate(recipe.models)}
    for alias in aliases_of(column):
        if alias not in known:
            yield Problem(
                (*at, "model_alias"), f"there is no model {alias!r}; {suggest(alias, known)}"
            )
        elif not isinstance(column, RewardModel):
            yield from _check_sampling(recipe.models[known[alias]], known[alias])


def _check_sampling(model: Model, number: int) -> Iterator[Problem]:
    for key in ("temperature", "max_tokens"):
        if getattr(model.inference_parameters, key) is None:
            yield Problem(
                ("models", number, "inference_parameters", key),
                f"texts are sampled from {model.alias!r}, and this parameter has no default; "
                f"set {key}",
            )


def _no_candidates(name: str) -> str:
    return f"column {name!r} has no candidates; name a column of type 'candidates'"


def _check_targets(column: Scored, at: At, scope: _Scope) -> Iterator[Problem]:
    target = column.candidates
    if target and scope.has(target) and not isinstance(scope.made.get(target), Candidates):
        yield Problem((*at, "candidates"), _no_candidates(target))
    for number, name in enumerate(column.responses or ()):
        if isinstance(scope.made.get(name), Candidates):
            message = f"column {name!r} contains candidates; score it with 'candidates: {name}'"
            yield Problem((*at, "responses", number), message)
        elif not scope.may_be_text(name):
            yield Problem((*at, "responses", number), _no_text(name))


def _check_blindness(judge: LlmJudge | RubricJudge, at: At) -> Iterator[Problem]:
    for name in sorted(compile_prompt(judge.prompt).columns):
        if name.endswith(META_SUFFIX):
            message = (
                f"a judge must not see which model wrote a text, and {name!r} contains that; "
                "remove it from the prompt"
            )
            yield Problem((*at, "prompt"), message)


def _no_text(name: str) -> str:
    return f"column {name!r} contains no text; name a column of type 'llm_text'"


def _check_judge(judge: LlmJudge, at: At, scope: _Scope) -> Iterator[Problem]:
    read = compile_prompt(judge.prompt).columns
    for number, name in enumerate(judge.compare or ()):
        if scope.has(name) and not scope.may_be_text(name):
            yield Problem((*at, "compare", number), _no_text(name))
        elif name not in read:
            message = (
                f"the prompt does not contain column {name!r}, so it cannot be compared; add it"
            )
            yield Problem((*at, "compare", number), message)
    if not judge.both_orders:
        return
    if not names_a_winner(judge):
        if judge.compare or judge.winner_field != LlmJudge.model_fields["winner_field"].default:
            message = (
                f"the schema does not allow A and B as values of {judge.winner_field!r}, so "
                "the verdicts of the two orders cannot be compared; add 'enum: [A, B]' to "
                "that key, or set 'both_orders: false'"
            )
            yield Problem((*at, "output_format"), message)
    elif compared_columns(judge, scope.made.values()) is None:
        yield Problem(
            at,
            "both_orders is true, but the prompt does not name exactly two llm_text "
            "columns; add 'compare: [first, second]', or set 'both_orders: false' to ask "
            "once",
        )


def _check_projection(recipe: Recipe, scope: _Scope) -> Iterator[Problem]:
    at: At = ("output_projection",)
    projection = recipe.output_projection
    for key, name in projected(projection):
        if not scope.has(name):
            yield Problem((*at, key), scope.missing(name))
    if isinstance(projection, DpoPreference):
        yield from _check_verdict(projection, at, scope)
    if isinstance(projection, PreferencePairs):
        yield from _check_pairs(projection, at, scope)


def _check_verdict(projection: DpoPreference, at: At, scope: _Scope) -> Iterator[Problem]:
    wanted = (projection.response_a_field, projection.response_b_field)
    for key, name in zip(("response_a_field", "response_b_field"), wanted, strict=True):
        if not scope.may_be_text(name):
            yield Problem((*at, key), _no_text(name))
    if wanted[0] == wanted[1]:
        message = (
            f"both responses are column {wanted[0]!r}, but a pair needs two different ones; name "
            "another"
        )
        yield Problem((*at, "response_b_field"), message)
    judge = scope.made.get(projection.judge_field)
    if judge is None:
        return
    if not isinstance(judge, LlmJudge | LlmStructured):
        message = f"column {judge.name!r} is not a judge; name an llm_judge column"
        yield Problem((*at, "judge_field"), message)
        return
    yield from _check_winner(projection, judge, at)
    scores = {c.name for c in scope.made.values() if isinstance(c, Scored) and set(wanted) <= set(c.responses or ())}  # fmt: skip  # noqa: E501
    if projection.score is not None and projection.score not in scores:
        message = f"column {projection.score!r} does not score {list(wanted)}; "
        yield Problem((*at, "score"), message + suggest(projection.score, scores))
    compared = compared_columns(judge, scope.made.values()) if isinstance(judge, LlmJudge) else None
    if compared and compared != wanted:
        yield Problem(
            (*at, "response_a_field"),
            f"the judge {judge.name!r} compares {list(compared)}, but the pairs are made of "
            f"{list(wanted)}; name the same columns in the same order (the first is A)",
        )


def _check_winner(
    projection: DpoPreference, judge: LlmJudge | LlmStructured, at: At
) -> Iterator[Problem]:
    at, key = (*at, "winner_field"), projection.winner_field
    keys, words = judge.output_format.get("properties", {}), verdicts(judge, key)
    if key not in keys:
        message = f"the verdict of {judge.name!r} has no key {key!r}; {suggest(key, keys)}"
        yield Problem(at, message)
    elif isinstance(judge, LlmJudge) and judge.winner_field != key:
        message = (
            f"the judge {judge.name!r} names the winner in {judge.winner_field!r}, but the "
            f"pairs read {key!r}; use the same key"
        )
        yield Problem(at, message)
    elif words and not {"A", "B"} <= words <= {"A", "B", "TIE"}:
        message = (
            f"the verdict of {judge.name!r} is one of {sorted(words)}, but pairs need the values "
            "A, B or tie"
        )
        yield Problem(at, message)
    elif not words and isinstance(judge, LlmJudge) and judge.both_orders:
        message = (
            f"the verdict of {judge.name!r} is free text, so its two orders cannot be "
            f"compared; give {key!r} 'enum: [A, B]' in its output_format, or set "
            "'both_orders: false'"
        )
        yield Problem(at, message)


def _check_pairs(projection: PreferencePairs, at: At, scope: _Scope) -> Iterator[Problem]:
    for number, name in enumerate(projection.responses or ()):
        if isinstance(scope.made.get(name), Candidates):
            message = f"column {name!r} contains candidates; write 'candidates: {name}'"
            yield Problem((*at, "responses", number), message)
        elif not scope.may_be_text(name):
            yield Problem((*at, "responses", number), _no_text(name))
    candidates = scope.made.get(projection.candidates or "")
    if projection.candidates and not isinstance(candidates, Candidates):
        if scope.has(projection.candidates):
            yield Problem((*at, "candidates"), _no_candidates(projection.candidates))
        return
    for score in projection.scores:
        if scope.has(score):
            yield from _check_score(score, projection, (*at, "score"), scope)
    if not isinstance(candidates, Candidates):
        return
    for key in ("strong", "weak") if candidates.model_alias else ():
        alias = getattr(projection, key)
        if alias is not None and alias not in candidates.model_alias:
            message = f"{alias!r} is not an alias of column {candidates.name!r}; "
            yield Problem((*at, key), message + suggest(alias, candidates.model_alias))


def _check_score(
    score: str, projection: PreferencePairs, at: At, scope: _Scope
) -> Iterator[Problem]:
    columns = (c for c in scope.made.values() if isinstance(c, Scored))
    known = dict.fromkeys(c.name for c in columns if _scores(c, projection))
    if score not in known:
        target = projection.candidates or list(projection.responses or ())
        message = f"column {score!r} does not score {target!r}; "
        yield Problem(at, message + suggest(score, known))


def _scores(column: Scored, projection: PreferencePairs) -> bool:
    if projection.candidates:
        return column.candidates == projection.candidates
    return set(projection.responses or ()) <= set(column.responses or ())
