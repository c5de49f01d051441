"""The column types of the YAML, one class each: texts, parts of texts, values.

What a column does is in `stages/`; those that judge are in `judges.py`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from prefdata.recipe.contract import (
    Aliases,
    Column,
    Named,
    Prompted,
    with_meta,
)
from prefdata.recipe.converse import Converse
from prefdata.recipe.filters import Filter
from prefdata.recipe.judges import LlmJudge, RewardModel, RubricJudge, Verifier
from prefdata.recipe.own_code import Stage
from prefdata.recipe.tools import Tools
from prefdata.recipe.values import (
    META_SUFFIX,
    NAME,
    Filled,
    JsonObject,
    Positive,
    Retries,
    Retry,
    compile_pattern,
)


class Calling(Prompted):
    """A column whose model may call tools."""

    tools: Tools | None = None
    """What it may call: a column with the tools of each row, or a list of them."""

    @property
    def named(self) -> Sequence[Named]:
        """The column with the tools, too."""
        own = [Named("tools", self.tools)] if isinstance(self.tools, str) else []
        return (*super().named, *own)


class LlmText(Calling):
    """One completion, a string."""

    type: Literal["llm_text"]
    model_alias: Aliases
    """One alias, or a list of them: then each row is answered by one of them, drawn by row id and
    seed.
    """
    writes: Literal["assistant", "user"] = "assistant"
    """`user`: the model is given its chat template up to where the user's turn begins, and writes
    what a user would say (Magpie, arXiv 2406.08464). `messages` may say what stands before it, a
    system prompt for example.
    """
    retry: Retry | None = None
    """Asks again what was cut off, and nothing else: `{when: truncated, max_tokens: 4096}`."""

    has_meta = True
    meaning = "text by {aliases}"

    @property
    def needs_question(self) -> bool:
        return self.writes == "assistant"

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def answers(self) -> tuple[str, ...]:
        return () if self.writes == "user" else (self.name,)


class LlmStructured(Calling):
    """One completion that satisfies a JSON schema, a dict."""

    type: Literal["llm_structured"]
    model_alias: Filled
    """Who answers."""
    output_format: JsonObject
    """The JSON schema of the answer, an object."""
    max_retries: Retries = 2
    """Retries, with fresh seeds, of an answer that does not match the schema, before the row is
    rejected.
    """

    has_meta = True
    meaning = "answer by {aliases}, bound to a JSON schema"

    @property
    def answer_schema(self) -> Mapping[str, Any]:
        return self.output_format


class Candidates(Calling):
    """`samples` completions from every alias, or from some drawn ones, as a list of structs."""

    type: Literal["candidates"]
    model_alias: Aliases
    """One alias or a list of them; each writes `samples` texts for every row."""
    samples: Annotated[Positive, Field(le=65_536)]
    """Texts of each alias."""
    max_samples: Annotated[Positive, Field(le=65_536)] | None = None
    """Rows that have no pair by the rules of `output_projection` (all candidates equally good, none
    better by `min_margin` …) are given twice the samples, and twice again, up to so many. So
    sampling of a row ends as soon as its pair is clear.
    """
    retry: Retry | None = None
    """Asks again what was cut off, as for `llm_text`."""
    models_per_row: Positive | None = None
    """So many different aliases answer each row, drawn by row id and seed; all of them if left out.
    UltraFeedback has 4 of 17 (arXiv 2310.01377). A larger number keeps those that were drawn.
    """
    always: Aliases | None = None
    """Aliases that are among the `models_per_row` of every row: the policy, where pairs are to tell
    it from others (see `one_side`).
    """

    holds_candidates: ClassVar[bool] = True
    meaning = "sampled answers of {aliases}: text, model, sampling, tokens"

    @property
    def size(self) -> int:
        return self.samples * max(1, self.models_of_a_row)

    @property
    def most_times(self) -> float:
        return max(1.0, (self.max_samples or self.samples) / self.samples)

    @property
    def models_of_a_row(self) -> int:
        """How many aliases answer a row."""
        return self.models_per_row or len(self.model_alias)

    def requests(self, columns: Sequence[Column]) -> int:
        return self.samples * self.models_of_a_row

    @model_validator(mode="after")
    def _as_many_models_as_there_are(self) -> "Candidates":
        if self.max_samples is not None and self.max_samples < self.samples:
            raise ValueError(
                f"max_samples is {self.max_samples}, but every row begins with {self.samples} "
                "samples; raise it, or lower samples"
            )
        named, always = len(self.model_alias), self.always or ()
        if (self.models_per_row or 0) > named:
            raise ValueError(
                f"models_per_row is {self.models_per_row}, but model_alias names {named}; name "
                "more of them, or lower it"
            )
        if missing := [alias for alias in always if alias not in self.model_alias]:
            raise ValueError(f"always names {missing[0]!r}, which is not in model_alias; add it")
        if always and len(always) > (self.models_per_row or 0):
            raise ValueError(
                f"always names {len(always)}, but models_per_row is {self.models_per_row}, so none "
                "is drawn; raise models_per_row, or remove always"
            )
        return self


class Expression(Column):
    """A Jinja template rendered from the row, cast to `dtype`."""

    type: Literal["expression"]
    expression: str
    """A template over the row's columns."""
    dtype: Literal["str", "int", "float", "bool"] = "str"
    """The type of the value."""

    meaning = "an expression of other columns"

    @property
    def templates(self) -> Mapping[str, str]:
        return {"expression": self.expression}

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.name,) if self.dtype == "str" else ()


class Category(Column):
    """A seeded draw from `values`."""

    type: Literal["category"]
    values: Annotated[tuple[str, ...], Field(min_length=1)]
    """What is drawn from, each with equal chance; a value given twice is twice as likely."""

    meaning = "a seeded draw"

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.name,)


class _Part(Column):
    """Parts of the texts of another column."""

    column: str
    """The text column that is searched."""

    @property
    def named(self) -> Sequence[Named]:
        return [Named("column", self.column, "text")]

    @property
    def source(self) -> str:
        return self.column


class Expand(_Part):
    """One row becomes one row per item of a list in a text; column `name` holds the item.

    Numbers, bullets and quotes around items are stripped; empty and repeated items are left out.
    """

    type: Literal["expand"]
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
    turns: Literal[True] | None = None
    """The column holds chats, and an item is a chat up to one of the user's turns: all of them."""
    max_items: Positive | None = None
    """Items of a list that become rows, at most."""

    expands = True
    has_meta = True
    meaning = "one item of a list of {source}"

    @model_validator(mode="after")
    def _one_way(self) -> "Expand":
        ways = ("separator", "regex", "lines", "json_list", "turns")
        given = [way for way in ways if getattr(self, way) is not None]
        if len(given) != 1:
            raise ValueError(
                f"it must say in exactly one way where items end, but has {len(given)}: give "
                "one of 'separator: \",\"', 'regex: …', 'lines: true', 'json_list: true', "
                "'turns: true'"
            )
        compile_pattern(self.regex or "")
        return self

    @property
    def texts(self) -> tuple[str, ...]:
        return () if self.turns else (self.name,)

    @property
    def holds_chat(self) -> bool:
        return bool(self.turns)

    @property
    def named(self) -> Sequence[Named]:
        return [Named("column", self.column, "chat" if self.turns else "text")]

    @property
    def most_rows(self) -> int | None:
        return self.max_items


class Extract(_Part):
    """Named groups of a regular expression, searched in a text, become text columns.

    `.` matches line ends too. Groups are stripped; a row that lacks one is a reject.
    """

    type: Literal["extract"]
    pattern: Filled
    """A regular expression with named groups, `(?P<name>…)`; each is a column."""

    named_by = "pattern"
    meaning = "a part of {source}"

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the columns made, in the order of the pattern."""
        return tuple(compile_pattern(self.pattern).groupindex)

    @field_validator("pattern")
    @classmethod
    def _named_groups(cls, value: str) -> str:
        groups = compile_pattern(value).groupindex
        if not groups:
            raise ValueError(
                "the pattern has no named group, so nothing is extracted; write (?P<name>…)"
            )
        for name in groups:
            if not re.fullmatch(NAME, name) or name == "id" or name.endswith(META_SUFFIX):
                raise ValueError(f"the group {name!r} cannot be a column name; choose another name")
        return value

    @property
    def makes(self) -> tuple[str, ...]:
        return with_meta(*self.groups)

    @property
    def texts(self) -> tuple[str, ...]:
        return self.groups

    @property
    def answers(self) -> tuple[str, ...]:
        return self.groups


AnyColumn = Annotated[
    LlmText
    | LlmStructured
    | LlmJudge
    | Candidates
    | Converse
    | RewardModel
    | RubricJudge
    | Verifier
    | Expand
    | Extract
    | Expression
    | Category
    | Stage
    | Filter,
    Field(discriminator="type"),
]


def given_columns(scores: Sequence[str]) -> tuple[Column, ...]:
    """The columns that seeds of scored texts bring along, as if the recipe had made them."""
    texts = Candidates.model_construct(
        name="candidates", type="candidates", model_alias=(), prompt="{{ prompt }}", messages=None,
        samples=1, models_per_row=None, always=None,
    )  # fmt: skip
    rated = [
        Verifier.model_construct(
            name=name, type="verifier", candidates="candidates", responses=None, function=None,
            reference=None, prompt=None, messages=None,
        )
        for name in scores
    ]  # fmt: skip
    return (texts, *rated)
