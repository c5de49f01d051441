"""`filter`: which rows, or which candidates of a column, go on, and by which checks."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from prefdata.recipe.contract import At, Column, Holds, Named, Problem, Scope
from prefdata.recipe.sources import Benchmark, Source
from prefdata.recipe.values import Filled, Frozen, OneOrMore, Positive, compile_pattern

Share = Annotated[float, Field(gt=0, le=1)]
TEXT, CANDIDATE = "text", "candidate"
"""What a condition over candidates finds in the row besides: the text, and how it was made."""


class Refusals(Frozen):
    """Texts that begin by refusing to answer, in English."""

    patterns: tuple[Filled, ...] = ()
    """Regular expressions besides those that ship, searched in lower or upper case."""
    within: Positive = 200
    """Characters at the text's beginning that are searched."""

    @model_validator(mode="after")
    def _patterns_that_compile(self) -> "Refusals":
        for pattern in self.patterns:
            compile_pattern(pattern)
        return self


class Tokens(Frozen):
    """How long a text may be."""

    min: Annotated[int, Field(ge=0)] = 0
    """Fewest tokens."""
    max: Positive | None = None
    """Most tokens."""
    model_alias: Filled | None = None
    """Whose tokenizer counts. Without it, a candidate has the tokens that were counted when it was
    made, its thought left out.
    """

    @model_validator(mode="after")
    def _some_bound(self) -> "Tokens":
        if self.max is not None and self.min > self.max:
            raise ValueError(f"no text has {self.min} tokens or more and {self.max} or fewer")
        if not self.min and self.max is None:
            raise ValueError("every length passes; give 'min', 'max' or both")
        return self


class Decontamination(Frozen):
    """Texts that have much in common with an item of a benchmark."""

    against: Annotated[tuple[Benchmark, ...], Field(min_length=1)]
    """The benchmarks."""
    ngram: Annotated[int, Field(ge=3, le=50)] = 8
    """Words that must follow each other alike: 8 in Tulu 3, 13 in GPT-3."""
    overlap: Share = 0.5
    """Share of an item's words that such runs must cover."""
    near: Share | None = 0.8
    """Jaccard similarity of the runs of three words that makes two texts near duplicates."""


class Filter(Column):
    """Rejects rows, or leaves out candidates of a column, that fail one of its checks.

    Without `candidates` a row that fails is a reject, and nothing more is asked for it. With it,
    the column holds for each candidate null, or why it is left out: no later column scores or shows
    it, and no pair has it; a row that none is left of is a reject.
    """

    type: Literal["filter"]
    candidates: Filled | None = None
    """The column whose candidates are looked at, each by itself."""
    column: Filled | None = None
    """Without `candidates`: the column whose text, or chat, the checks of texts look at."""
    expression: Filled | None = None
    """A template that comes out true for what is kept. Over candidates it finds `text`, `candidate`
    (its alias, finish_reason, completion_tokens …) and, by the names of earlier columns that score
    them, the candidate's own scores.
    """
    verifier: Filled | None = None
    """An earlier column that scores these candidates; those with a score above 0 are kept. Without
    `candidates`, rows in which it has given any text one."""
    function: Filled | None = None
    """`package.module:name`, or the name of a package's entry point, called with `(row)`, over
    candidates with `(text, row)`. A text that it returns is the reason, in the rejects' `detail`.
    """
    timeout: Annotated[float, Field(gt=0)] = 30.0
    """Seconds that one call of the function may take; the row is then a reject."""
    refusals: Literal[True] | Refusals | None = None
    """Leave out texts that refuse to answer."""
    languages: Annotated[tuple[Filled, ...], Field(min_length=1), OneOrMore] | None = None
    """ISO 639-1 codes; texts in other languages are left out. Needs `prefdata[language]`."""
    repetition: Literal[True] | None = None
    """Leave out texts that repeat themselves, by Gopher's limits (arXiv 2112.11446, table A1)."""
    special_tokens: Literal[True] | Annotated[tuple[Filled, ...], OneOrMore] | None = None
    """Leave out texts with tokens of chat templates in them: those of known templates and of the
    tokenizers that wrote the candidates, and strings given here."""
    tokens: Tokens | None = None
    """Leave out texts that are too short or too long."""
    decontaminate: Decontamination | None = None
    """Leave out texts that contain items of benchmarks, or nearly equal them."""

    filters: ClassVar[bool] = True
    meaning = "for each candidate why it is left out, null where it is kept"

    @model_validator(mode="after")
    def _something_to_check(self) -> "Filter":
        reading = [name for name in CHECKS_OF_TEXTS if getattr(self, name) is not None]
        if not reading and not (self.expression or self.verifier or self.function):
            names = ", ".join(("expression", "verifier", "function", *CHECKS_OF_TEXTS))
            raise ValueError(f"everything passes; give at least one of: {names}")
        if self.candidates and self.column:
            raise ValueError("'candidates' and 'column' both say what is looked at; keep one")
        if reading and not self.candidates and not self.column:
            raise ValueError(
                f"it is not clear which text {reading[0]!r} looks at; give 'candidates' or 'column'"
            )
        if self.column and not reading:
            raise ValueError("'column' is for the checks of texts, and there is none; remove it")
        if self.tokens and not self.candidates and not self.tokens.model_alias:
            raise ValueError("'tokens' needs 'model_alias': whose tokenizer counts the text")
        return self

    @property
    def templates(self) -> Mapping[str, str]:
        return {} if self.expression is None else {"expression": self.expression}

    @property
    def named(self) -> Sequence[Named]:
        kinds: dict[str, Holds] = {"candidates": "candidates", "column": "any", "verifier": "any"}
        told = ((key, getattr(self, key), holds) for key, holds in kinds.items())
        return [Named(key, name, holds) for key, name, holds in told if name is not None]

    @property
    def inserted(self) -> frozenset[str]:
        return frozenset((TEXT, CANDIDATE) if self.candidates else ())

    @property
    def calls(self) -> str | None:
        return self.function

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """Aliases whose tokenizers it counts with; their models are not asked."""
        alias = self.tokens.model_alias if self.tokens else None
        return () if alias is None else (alias,)

    @property
    def makes(self) -> tuple[str, ...]:
        return (self.name,) if self.candidates else ()

    @property
    def sources(self) -> Sequence[tuple[At, Source]]:
        against = self.decontaminate.against if self.decontaminate else ()
        return [(("decontaminate", "against", n), one) for n, one in enumerate(against)]

    def problems(self, scope: Scope) -> Iterator[Problem]:
        target, scoring = self.candidates, scope.made.get(self.verifier or "")
        scored: Any = getattr(scoring, "candidates", None)
        if scoring is not None and (scored is None or target not in (None, scored)):
            what = f"candidates {target!r}" if target else "candidates"
            message = f"column {self.verifier!r} does not score {what}; name one that does"
            yield Problem(("verifier",), message)


CHECKS_OF_TEXTS = (
    "refusals", "languages", "repetition", "special_tokens", "tokens", "decontaminate",
)  # fmt: skip
"""Keys of a filter that look at a text."""


def filters_before(
    column: Column | None, columns: Sequence[Column], names: Collection[str] | None = None
) -> list[tuple[str, str]]:
    """(candidates, filter) for every filter of candidates that stands before a column.

    Args:
        column: None for the end of the recipe.
        columns: all of the recipe, in order.
        names: of the candidates; all where left out.
    """
    found = []
    for one in columns:
        if one is column:
            break
        target = one.candidates if isinstance(one, Filter) else None
        if target is not None and (names is None or target in names):
            found.append((target, one.name))
    return found
