"""What the columns of a recipe read, make, ask and score. Judges nothing."""

from collections.abc import Iterable, Iterator

from prefdata.recipe.prompts import compile_prompt
from prefdata.recipe.schema import (
    GIVEN,
    META_SUFFIX,
    AnyColumn,
    Candidates,
    DpoPreference,
    Expand,
    Expression,
    Extract,
    LlmJudge,
    LlmStructured,
    LlmText,
    OutputProjection,
    Recipe,
    RewardModel,
    RubricJudge,
    Scored,
    Verifier,
)

PROJECTED = (
    "prompt_field", "response_a_field", "response_b_field", "judge_field",
    "candidates", "responses", "score", "group_by", "order_group", "keep",
)  # fmt: skip
"""Keys of `output_projection` that name a column."""


ANSWERS = frozenset(("response_a_field", "response_b_field", "candidates", "responses"))
"""Those of them that hold the texts to be paired."""

RATED = ("response", "criterion", "description", "lowest", "highest")
"""Variables that the prompt of a `rubric_judge` can use besides the row's columns."""


def names_made(column: AnyColumn) -> tuple[str, ...]:
    """Names of the columns that a stage adds."""
    if isinstance(column, Extract):
        return (*column.groups, *(group + META_SUFFIX for group in column.groups))
    if isinstance(column, LlmText | LlmStructured | LlmJudge | Expand | RubricJudge):
        return column.name, column.name + META_SUFFIX
    if isinstance(column, RewardModel) and column.weights:
        return column.name, column.name + META_SUFFIX
    return (column.name,)


def given_columns(recipe: Recipe) -> tuple[AnyColumn, ...]:
    """Columns that seeds of scored candidates bring along, as if the recipe had made them."""
    if recipe.seed_dataset.candidates is None:
        return ()
    texts = Candidates.model_construct(
        name="candidates", type="candidates", model_alias=(), prompt="", samples=1
    )
    score = Verifier.model_construct(
        name="score", type="verifier", candidates="candidates", responses=None, function=None,
        reference=None,
    )  # fmt: skip
    return texts, score


def columns_read(column: AnyColumn) -> frozenset[str]:
    """Names of the columns that this one needs; templates must have been checked before."""
    return frozenset(name for _, name in references(column))


def reads_any(column: AnyColumn) -> bool:
    """Whether the column may read whatever exists before it: a Python function is given the row."""
    return isinstance(column, Verifier) and column.function is not None


def columns_made(recipe: Recipe) -> dict[str, str]:
    """Columns that the recipe adds to the seeds', each with its YAML path."""
    numbered = enumerate(recipe.columns)
    return {name: f"columns.{n}" for n, column in numbered for name in names_made(column)}


def columns_needed(recipe: Recipe) -> dict[str, str]:
    """The seed columns that the recipe needs, each with the YAML path of its first use."""
    made = {
        "id",
        *columns_made(recipe),
        *recipe.inputs,
        *(GIVEN if recipe.seed_dataset.candidates else ()),
    }
    needed: dict[str, str] = {}
    for number, column in enumerate(recipe.columns):
        for key, name in references(column):
            needed.setdefault(name, f"columns.{number}.{key}")
    for key, name in projected(recipe.output_projection):
        needed.setdefault(name, f"output_projection.{key}")
    return {name: at for name, at in needed.items() if name not in made}


def projected(projection: OutputProjection) -> Iterator[tuple[str, str]]:
    """(key of the projection, column it names)."""
    for key in PROJECTED:
        value = getattr(projection, key, None)
        yield from ((key, name) for name in ([value] if isinstance(value, str) else value or ()))


def compared_columns(judge: LlmJudge, columns: Iterable[AnyColumn]) -> tuple[str, str] | None:
    """The two responses that a judge compares, or None if it looks at one row as a whole.

    Without `compare` these are the only two generated texts that its prompt names, in the
    order in which it names them, provided its schema lets `winner_field` be "A" or "B".
    """
    if judge.compare:
        return judge.compare
    answers = {name for column in columns for name in _texts_made(column)}
    texts = [name for name in compile_prompt(judge.prompt).mentions if name in answers]
    return (texts[0], texts[1]) if len(texts) == 2 and names_a_winner(judge) else None


def _texts_made(column: AnyColumn) -> tuple[str, ...]:
    if isinstance(column, Extract):
        return column.groups
    return (column.name,) if isinstance(column, LlmText) else ()


def names_a_winner(judge: LlmJudge) -> bool:
    """Whether the judge's schema lets `winner_field` be "A" or "B"."""
    return {"A", "B"} <= verdicts(judge, judge.winner_field)


def verdicts(judge: LlmJudge | LlmStructured, key: str) -> set[str]:
    """The values that the schema allows for a key of the verdict, in capitals; empty if any."""
    schema = judge.output_format.get("properties", {}).get(key, {})
    return {str(value).upper() for value in schema.get("enum", ())}


def score_columns(recipe: Recipe) -> list[str]:
    """Columns with a score for each side of a pair."""
    rule = recipe.output_projection
    columns = (*given_columns(recipe), *recipe.columns)
    scored = [column for column in columns if isinstance(column, Scored)]
    if isinstance(rule, DpoPreference):
        sides = {rule.response_a_field, rule.response_b_field}
        return [column.name for column in scored if sides <= set(column.responses or ())]
    if rule.responses:
        rated = set(rule.responses)
        return [column.name for column in scored if rated <= set(column.responses or ())]
    return [column.name for column in scored if column.candidates == rule.candidates]


def references(column: AnyColumn) -> Iterator[tuple[str, str]]:
    """(key of the column, name it refers to), in the order of the keys."""
    if isinstance(column, Expression):
        yield from (
            ("expression", name) for name in sorted(compile_prompt(column.expression).columns)
        )
    elif isinstance(column, LlmText | LlmStructured | LlmJudge | Candidates | RewardModel):
        yield from (("prompt", name) for name in sorted(compile_prompt(column.prompt).columns))
    elif isinstance(column, RubricJudge):
        names = compile_prompt(column.prompt).columns.difference(RATED)
        yield from (("prompt", name) for name in sorted(names))
    if isinstance(column, LlmJudge):
        yield from (("compare", name) for name in column.compare or ())
    if isinstance(column, Scored):
        if column.candidates:
            yield "candidates", column.candidates
        yield from (("responses", name) for name in column.responses or ())
    if isinstance(column, Expand | Extract):
        yield "column", column.column
    if isinstance(column, Verifier) and column.reference:
        yield "reference", column.reference


def aliases_of(column: AnyColumn) -> tuple[str, ...]:
    """The models a column asks, none for a column that is pure CPU work."""
    if isinstance(column, Candidates | LlmText):
        return column.model_alias
    if isinstance(column, LlmStructured | LlmJudge | RewardModel | RubricJudge):
        return (column.model_alias,)
    return ()


def answering_aliases(recipe: Recipe) -> frozenset[str]:
    """The models that wrote the texts of which pairs are made."""
    texts = {name for key, name in projected(recipe.output_projection) if key in ANSWERS}
    found: set[str] = set()
    for column in reversed(recipe.columns):
        if isinstance(column, Extract) and texts.intersection(column.groups):
            texts.add(column.column)
        elif column.name in texts:
            found.update(aliases_of(column))
    return frozenset(found)
