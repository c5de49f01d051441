"""The column types of the YAML, one model each. Reads no template.

What a column does is in `stages/`; what it reads and makes in `recipe_columns`.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from prefdata.recipe.values import (
    META_SUFFIX,
    NAME,
    ColumnName,
    Filled,
    Frozen,
    JsonSchema,
    Positive,
)


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _check_aliases(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) < len(value) or not value:
        raise ValueError("name at least one alias, and each only once")
    return value


def _check_weight(value: float) -> float:
    if value == 0:
        raise ValueError("a weight of 0 has no effect; remove its key")
    return value


Aliases = Annotated[tuple[Filled, ...], BeforeValidator(_as_list), AfterValidator(_check_aliases)]
"""One alias or a list of them."""
Digit = Annotated[int, Field(ge=0, le=9)]
Retries = Annotated[int, Field(ge=0)]
Weight = Annotated[float, AfterValidator(_check_weight)]


class Column(Frozen):
    """What every column has."""

    name: ColumnName

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, value: str) -> str:
        if value == "id" or value.endswith(META_SUFFIX):
            raise ValueError(
                f"the name {value!r} is reserved: 'id' is the row's key, and "
                f"'…{META_SUFFIX}' columns record how a text was made; choose another name"
            )
        return value


class LlmText(Column):
    """One completion, a string."""

    type: Literal["llm_text"]
    model_alias: Aliases
    """One alias, or a list of them: then each row is answered by one of them, drawn by row id and
    seed.
    """
    prompt: str


class LlmStructured(Column):
    """One completion that satisfies a JSON schema, a dict."""

    type: Literal["llm_structured"]
    model_alias: Filled
    prompt: str
    output_format: JsonSchema
    max_retries: Retries = 2
    """Retries, with fresh seeds, of an answer that does not match the schema, before the row is
    rejected.
    """


class LlmJudge(Column):
    """A verdict as a dict that satisfies a JSON schema.

    Where it compares two responses it asks in both orders; verdicts that disagree are a tie.
    """

    type: Literal["llm_judge"]
    model_alias: Filled
    prompt: str
    output_format: JsonSchema
    compare: tuple[str, str] | None = None
    """The two text columns compared; if left out, the two `llm_text` columns that the prompt
    names.
    """
    winner_field: str = "winner"
    """The key of the verdict, whose values are "A" (the first of the two) and "B"."""
    both_orders: bool = True
    max_retries: Retries = 2
    """Retries, with fresh seeds, of a verdict that does not match the schema, before the row is
    rejected.
    """

    @field_validator("compare")
    @classmethod
    def _two_columns(cls, value: tuple[str, str] | None) -> tuple[str, str] | None:
        if value and value[0] == value[1]:
            raise ValueError("a column cannot be compared with itself; name two different columns")
        return value


class Candidates(Column):
    """`samples` completions from every alias, as a list of structs."""

    type: Literal["candidates"]
    model_alias: Aliases
    prompt: str
    samples: Positive


class Scored(Column):
    """The texts to score: those of a `candidates` column, or of named response columns."""

    candidates: str | None = None
    responses: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _one_target(self) -> "Scored":
        if (self.candidates is None) == (not self.responses):
            raise ValueError(
                "it is not clear what is scored; give either 'candidates: <column>' or "
                "'responses: [<column>, …]'"
            )
        if len(set(self.responses or ())) < len(self.responses or ()):
            raise ValueError("'responses' names a column twice; name each once")
        return self


class RewardModel(Scored):
    """One raw score (no sigmoid) per text, by a reward model."""

    type: Literal["reward_model"]
    model_alias: Filled
    prompt: str
    """The user's turn as the reward model reads it."""
    weights: Annotated[tuple[float, ...], Field(min_length=2)] | None = None
    """Weights of the model's attributes, in its order: the score is their weighted sum."""


class RubricJudge(Scored):
    """A text model rates each text separately, by every criterion on a scale of integers.

    The score is the mean over the scale under the model's own probabilities (G-Eval, arXiv
    2303.16634), averaged over the criteria with `weights`.
    """

    type: Literal["rubric_judge"]
    model_alias: Filled
    prompt: str
    """A template that can use `response`, `criterion`, `description`, `lowest`, `highest` and the
    row's columns.
    """
    criteria: Annotated[dict[ColumnName, str], Field(min_length=1)]
    """The criteria, each with a description for the prompt."""
    scale: tuple[Digit, Digit]
    """Lowest and highest rating; every rating between them must be one token of the model."""
    weights: dict[str, Weight] | None = None
    """Weights of the criteria; equal if left out."""
    max_retries: Retries = 2

    @field_validator("scale")
    @classmethod
    def _rising(cls, value: tuple[int, int]) -> tuple[int, int]:
        if value[0] >= value[1]:
            raise ValueError("the scale must be the lowest and the highest rating, as in [1, 5]")
        return value

    @model_validator(mode="after")
    def _weights_of_the_criteria(self) -> "RubricJudge":
        if self.weights is not None and self.weights.keys() != self.criteria.keys():
            raise ValueError(
                f"'weights' has the keys {sorted(self.weights)}, but the criteria are "
                f"{sorted(self.criteria)}; give each criterion one weight"
            )
        if self.weights is not None and sum(self.weights.values()) <= 0:
            raise ValueError("the weights sum to 0 or less; their sum must be positive")
        return self


class Verifier(Scored):
    """One rule-based score per text: 1 right, 0 wrong, or what a function returns."""

    type: Literal["verifier"]
    method: Literal["exact_match", "regex", "number", "function"]
    reference: str | None = None
    """The column with the right answer (`exact_match`, `number`)."""
    pattern: str | None = None
    """The regular expression searched in the text (`regex`)."""
    function: str | None = None
    """`package.module:name`, called with (text, row) and returning a number (`function`)."""

    @model_validator(mode="after")
    def _parameter_of_the_method(self) -> "Verifier":
        needed = {"regex": "pattern", "function": "function"}.get(self.method, "reference")
        for field in ("reference", "pattern", "function"):
            if (getattr(self, field) is not None) != (field == needed):
                verb = "needs" if field == needed else "does not read"
                raise ValueError(f"method {self.method!r} {verb} '{field}'")
        _compile(self.pattern or "")
        return self


class Expression(Column):
    """A Jinja template rendered from the row, cast to `dtype`."""

    type: Literal["expression"]
    expression: str
    dtype: Literal["str", "int", "float", "bool"] = "str"


class Category(Column):
    """A seeded draw from `values`."""

    type: Literal["category"]
    values: Annotated[tuple[str, ...], Field(min_length=1)]


class Expand(Column):
    """One row becomes one row per item of a list in a text; column `name` holds the item.

    Numbers, bullets and quotes around items are stripped; empty and repeated items are left out.
    """

    type: Literal["expand"]
    column: str
    """The text column with the list."""
    separator: Filled | None = None
    """Items are separated by this text and by line ends."""
    regex: Filled | None = None
    """Items are the matches of this regular expression: its first group, or the whole match if it
    has none.
    """
    lines: Literal[True] | None = None
    """Items are lines; a first line that ends with a colon is skipped."""
    json_list: Literal[True] | None = None
    """The text is a JSON list of texts or numbers."""
    max_items: Positive | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "Expand":
        ways = ("separator", "regex", "lines", "json_list")
        given = [way for way in ways if getattr(self, way) is not None]
        if len(given) != 1:
            raise ValueError(
                f"it must say in exactly one way where items end, but has {len(given)}: give "
                "one of 'separator: \",\"', 'regex: …', 'lines: true', 'json_list: true'"
            )
        _compile(self.regex or "")
        return self


class Extract(Column):
    """Named groups of a regular expression, searched in a text, become text columns.

    `.` matches line ends too. Groups are stripped; a row that lacks one is a reject.
    """

    type: Literal["extract"]
    column: str
    """The text column that is searched."""
    pattern: Filled

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the columns made, in the order of the pattern."""
        return tuple(_compile(self.pattern).groupindex)

    @field_validator("pattern")
    @classmethod
    def _named_groups(cls, value: str) -> str:
        groups = _compile(value).groupindex
        if not groups:
            raise ValueError(
                "the pattern has no named group, so nothing is extracted; write (?P<name>…)"
            )
        for name in groups:
            if not re.fullmatch(NAME, name) or name == "id" or name.endswith(META_SUFFIX):
                raise ValueError(f"the group {name!r} cannot be a column name; choose another name")
        return value


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as err:
        raise ValueError(f"the pattern is not a valid regular expression: {err}") from err


AnyColumn = Annotated[
    LlmText
    | LlmStructured
    | LlmJudge
    | Candidates
    | RewardModel
    | RubricJudge
    | Verifier
    | Expand
    | Extract
    | Expression
    | Category,
    Field(discriminator="type"),
]
TextColumn = LlmText | LlmStructured | LlmJudge | Candidates | RubricJudge
"""The columns that sample a text model."""
