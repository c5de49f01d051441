"""Where the lines of a file have prompts, texts, scores and labels. Reads no line.

One mapping for `seed_dataset.candidates`, the options of `prefdata pairs FILE` and the presets in
`recipes/layouts`.
"""

import math
import re
from collections.abc import Iterator
from functools import cache, cached_property
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, field_validator, model_validator

from prefdata.errors import PrefdataError, suggest
from prefdata.recipe.pair_rules import Better
from prefdata.recipe.shipped import shipped
from prefdata.recipe.values import ColumnName, Filled, Frozen, OneOrMore, as_list

Kind = Literal["candidates", "labelled", "pairs"]
Role = Literal["system", "user", "assistant"]
_KINDS: dict[Kind, tuple[str, ...]] = {
    "candidates": ("text",),
    "labelled": ("a", "b", "label", "winner"),
    "pairs": ("chosen", "rejected"),
}
"""The keys that each kind of layout must have."""
_MORE: dict[Kind, frozenset[str]] = {
    "candidates": frozenset(("each", "score", "weights", "better", "alias", "index")),
    "labelled": frozenset(("a_alias", "b_alias", "margin")),
    "pairs": frozenset(
        ("chosen_alias", "rejected_alias", "chosen_score", "rejected_score", "better", "margin")
    ),
}
"""The keys that only some kinds read."""
COMPARISON = re.compile(r"\s*([<>]=?)\s*([-+]?\d+(?:\.\d+)?)\s*")
_LIKE_ONE = re.compile(r"\s*[<>=!~\u2264\u2265]+\s*[-+.]*\d")


Meaning = bool | int | float | str
Meanings = Annotated[
    tuple[Meaning, ...],
    BeforeValidator(as_list, json_schema_input_type=Meaning | list[Meaning]),
]


class Winner(Frozen):
    """What the values of a label mean; a text such as `< 0` stands for all numbers below.

    So do those with `>`, `<=` and `>=`. No value may have two meanings.
    """

    A: Meanings
    """Values by which `a` is better."""
    B: Meanings
    """Values by which `b` is better."""
    tie: Meanings = ()
    """Values by which neither is."""

    @model_validator(mode="after")
    def _one_meaning_each(self) -> "Winner":
        told = [(word, one) for word in ("A", "B", "tie") for one in getattr(self, word)]
        for _, one in told:
            if isinstance(one, str) and _LIKE_ONE.match(one) and not bounds_of(one):
                raise ValueError(
                    f"{one!r} is no comparison with a number; write '< 0', '> 0', '<= 0' or "
                    "'>= 0', and a number that is equal as it is"
                )
        for (word, one), (other, two) in combinations(told, 2):
            if word != other and _overlap(one, two):
                raise ValueError(
                    f"{word}: {one!r} and {other}: {two!r} have values in common; write them so "
                    "that each value has one meaning"
                )
        return self


Bounds = tuple[float, float, bool]
"""Of the numbers that a meaning stands for: the lowest, the highest, and whether the ends count."""


def bounds_of(meaning: Meaning) -> Bounds | None:
    """The numbers that a comparison such as `< 0` stands for; None for another meaning."""
    found = COMPARISON.fullmatch(meaning) if isinstance(meaning, str) else None
    if found is None:
        return None
    bound = float(found[2])
    ends = (-math.inf, bound) if found[1][0] == "<" else (bound, math.inf)
    return (*ends, found[1].endswith("="))


def _overlap(one: Meaning, two: Meaning) -> bool:
    """Whether some value of a label has both meanings."""
    if _is_text(one) and _is_text(two):
        return str(one).strip() == str(two).strip()
    if any(_is_text(x) and isinstance(y, bool) for x, y in ((one, two), (two, one))):
        return False
    a, b = _numbers(one), _numbers(two)
    if a is None or b is None:
        return False
    low, high = max(a[0], b[0]), min(a[1], b[1])
    touch = low == high and all(ends or least < low < most for least, most, ends in (a, b))
    return low < high or touch


def _is_text(meaning: Meaning) -> bool:
    return isinstance(meaning, str) and bounds_of(meaning) is None


def _numbers(meaning: Meaning) -> Bounds | None:
    """The numbers that a meaning stands for, in CSV as texts; None where it is no number."""
    if found := bounds_of(meaning):
        return found
    try:
        return (float(meaning), float(meaning), True)
    except ValueError:
        return None


class Layout(Frozen):
    """Where a line has what; every value is a path.

    A path is the name of a field, or several joined by dots (`annotations.helpfulness.Rating`,
    `choices.0.text`); of `a | b` the first that is there, and not null, counts. The row has the
    columns of `group_by`, and those of `makes`. A field of `group_by` that is called like one of
    these, or `id`, gets the prefix `source_`; that of the prompt does not.
    """

    group_by: Annotated[tuple[Filled, ...], Field(min_length=1), OneOrMore] | None = None
    """Lines with equal values of these fields belong to one row; the prompt's may be among them. If
    left out, single candidates are grouped by their prompt, and any other line is a row of its own.
    """
    prompt: Filled | None = None
    """A text or a list of messages. May be left out where texts are whole transcripts: what they
    begin with is the prompt then."""
    markers: dict[Role, Filled] = {}
    """Marks before the turns of a transcript that is one text, by role: the text becomes a chat."""
    each: Filled | None = None
    """A list of objects with a candidate each; the paths below are looked up in the object, then in
    the line."""
    text: Filled | None = None
    """The candidate: a text, a message, or a whole transcript that it ends. A list of these is
    several candidates; their scores and aliases are lists of the same length."""
    score: Filled | dict[ColumnName, Filled] | None = None
    """Its score; or several, each with the column that gets it. A list is read as paths that are
    column names, too."""
    weights: dict[ColumnName, float] | None = None
    """Of several scores: the column `score` is the sum of each times its weight. Without them, the
    rules of pairs may combine the columns by rank."""
    better: Better = "higher"
    """`lower` for ranks: handed on to the rules of pairs where these say nothing."""
    alias: Filled | None = None
    """Who wrote it."""
    index: Filled | None = None
    """Its number within the row; candidates are counted where left out."""
    a: Filled | None = None
    """One of two labelled texts."""
    b: Filled | None = None
    """The other."""
    a_alias: Filled | None = None
    """Who wrote `a`."""
    b_alias: Filled | None = None
    """Who wrote `b`."""
    label: Filled | None = None
    """Which of the two is better."""
    winner: Winner | None = None
    """What the label's values mean. Where it is a number that is compared, its distance from the
    bound is the margin."""
    chosen: Filled | None = None
    """The better text of a pair that is already made."""
    rejected: Filled | None = None
    """The other."""
    chosen_alias: Filled | None = None
    """Who wrote `chosen`."""
    rejected_alias: Filled | None = None
    """Who wrote `rejected`."""
    chosen_score: Filled | None = None
    """The score of `chosen`; both count if both are named."""
    rejected_score: Filled | None = None
    """The score of `rejected`."""
    margin: Filled | None = None
    """How much better the one text is; 0 is a tie."""

    @field_validator(
        "score", mode="before", json_schema_input_type=str | list[str] | dict[str, str] | None
    )
    @classmethod
    def _names_are_paths(cls, value: Any) -> Any:
        return {one: one for one in value} if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _one_kind(self) -> "Layout":
        given = {name for name in type(self).model_fields if getattr(self, name) is not None}
        kinds = [kind for kind, keys in _KINDS.items() if given.intersection(keys)]
        if len(kinds) != 1:
            found = f"found: {', '.join(sorted(given)) or 'none'}"
            raise ValueError(
                "give 'text' for candidates, 'a', 'b', 'label' and 'winner' for labelled texts, or "
                f"'chosen' and 'rejected' for pairs, and only one of the three ({found})"
            )
        if missing := [key for key in _KINDS[kinds[0]] if key not in given]:
            raise ValueError(f"{missing[0]!r} is missing; a layout of this kind needs it")
        read = _MORE[kinds[0]]
        others = frozenset().union(*_MORE.values()) - read
        if unread := sorted(others & self.model_fields_set & given):
            raise ValueError(f"{unread[0]!r} is not read where there is {_KINDS[kinds[0]][0]!r}")
        return self

    @model_validator(mode="after")
    def _prompt_is_told(self) -> "Layout":
        if self.prompt is None and self.kind == "candidates" and not self.markers and not self.each:
            raise ValueError("'prompt' is missing; name the field with the prompt")
        return self

    @model_validator(mode="after")
    def _weights_of_scores(self) -> "Layout":
        names = set(self.score) if isinstance(self.score, dict) else set()
        if self.weights is not None and (names != self.weights.keys() or "score" in names):
            raise ValueError(
                f"'weights' names {sorted(self.weights)}, and 'score' {sorted(names)}; give each "
                "of several scores its weight, and call none of them 'score'"
            )
        if any(not math.isfinite(weight) for weight in (self.weights or {}).values()):
            raise ValueError("a weight is not a finite number")
        if taken := names & {"id", "prompt", "candidates", "margin"}:
            raise ValueError(f"'score' has the column {min(taken)!r}, which rows already have")
        return self

    @model_validator(mode="after")
    def _one_name_a_column(self) -> "Layout":
        names = list(self.columns.values())
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"'group_by' gives two fields the column name {twice[0]!r}; name each field once, "
                "and rename one of them in the file if they differ"
            )
        return self

    @cached_property
    def kind(self) -> Kind:
        """What a line holds."""
        return next(k for k, keys in _KINDS.items() if getattr(self, keys[0]) is not None)

    @cached_property
    def scores(self) -> dict[str, str]:
        """Paths of the scores of one candidate, by column."""
        if isinstance(self.score, dict):
            return self.score
        return {"score": self.score} if self.score else {}

    @cached_property
    def score_columns(self) -> tuple[str, ...]:
        """The columns with a score for each candidate."""
        if self.kind == "pairs" and self.chosen_score and self.rejected_score:
            return ("score",)
        return (*self.scores, *(("score",) if self.weights else ()))

    @cached_property
    def has_margin(self) -> bool:
        """Whether rows have a column `margin`."""
        return self.kind == "labelled" or self.margin is not None

    @cached_property
    def makes(self) -> tuple[str, ...]:
        """The columns of a row, besides `id` and those of `group_by`."""
        margin = ("margin",) if self.has_margin else ()
        return ("prompt", "candidates", *self.score_columns, *margin)

    @cached_property
    def columns(self) -> dict[str, str]:
        """The row's columns of `group_by`, by field."""
        own = {"id", "score", *self.makes}
        fields = [one for one in self.group_by or () if (one, self.prompt) != ("prompt", "prompt")]
        return {one: f"source_{one}" if one in own else one for one in fields}

    @property
    def paths(self) -> Iterator[tuple[str, str]]:
        """(key, path) of all that a line must have."""
        for key in ("prompt", "each", "text", "a", "b", "label", "chosen", "rejected", "index",
                    "a_alias", "b_alias", "alias", "chosen_alias", "rejected_alias",
                    "chosen_score", "rejected_score", "margin"):  # fmt: skip
            if path := getattr(self, key):
                yield key, path
        yield from (("group_by", path) for path in self.group_by or ())
        yield from (("score", path) for path in self.scores.values())

    @property
    def rules(self) -> dict[str, Any]:
        """The rules of pairs that go with it, where nobody gives any."""
        told: dict[str, Any] = {"type": "preference_pairs", "candidates": "candidates"}
        sign = -1.0 if self.better == "lower" else 1.0
        if self.kind != "candidates":
            told |= {"strategy": "given", "margin": "margin" if self.has_margin else None}
            told |= {"score": "score" if self.score_columns else None, "better": self.better}
        elif isinstance(self.score, dict) and not self.weights:
            told |= {"strategy": "best_vs_worst", "score": dict.fromkeys(self.score, sign)}
        else:
            score = "score" if self.score else None
            told |= {"strategy": "best_vs_worst", "score": score, "better": self.better}
        return {key: value for key, value in told.items() if value not in (None, "higher")}


ABOUT = ("dataset", "columns_beside")
"""What a preset says of itself and a mapping does not."""


class Preset(Layout):
    """A layout that ships, with what it is known by."""

    dataset: Filled
    """Its id on the Hub, or what else it is called."""
    columns_beside: tuple[Filled, ...] = ()
    """Columns by which it is told from others, besides those that it reads."""
    file: str = ""
    """The name of the preset."""

    @property
    def called(self) -> str:
        """The dataset's name without its owner."""
        return self.dataset.rpartition("/")[2]


def layout_names() -> list[str]:
    """The presets, in the order of the alphabet."""
    return sorted(file.stem for file in shipped("layouts").glob("*.yaml"))


@cache
def load_preset(name: str) -> Preset:
    """A preset by its name, or by the dataset's on the Hub, upper or lower case.

    Raises:
        PrefdataError: there is none.
    """
    wanted = _bare(name)
    for known in layout_names():
        if _bare(known) == wanted:
            told = yaml.safe_load(shipped(f"layouts/{known}.yaml").read_text(encoding="utf-8"))
            return Preset.model_validate(told | {"file": known})
    raise PrefdataError(f"there is no layout {name!r}; {suggest(wanted, layout_names())}")


def is_optional(layout: Layout, key: str) -> bool:
    """Whether no line need have what this key names: who wrote a text, where a preset says so.

    It is one where it names the same texts; somebody's own path that leads nowhere is a mistake.
    """
    texts = {"candidates": ("text",), "labelled": ("a", "b"), "pairs": ("chosen", "rejected")}
    return key.endswith("alias") and any(
        all(getattr(preset, one) == getattr(layout, one) for one in (key, *texts[layout.kind]))
        for preset in map(load_preset, layout_names())
    )


def expand_layout(given: Any) -> Any:
    """A mapping as a recipe or the command line has it, with its preset in the place of its name.

    `given`: the name of a preset, or a mapping that may name one as `layout`; its other keys
    replace those of the preset.

    Raises:
        PrefdataError: there is no such preset.
    """
    told = {"layout": given} if isinstance(given, str) else given
    if not isinstance(told, dict) or "layout" not in told:
        return given
    if not isinstance(told["layout"], str):
        raise PrefdataError(
            f"layout is {told['layout']!r}; name one of: {', '.join(layout_names())}"
        )
    more = {key: value for key, value in told.items() if key != "layout"}
    return plain(load_preset(told["layout"])) | more


def plain(layout: Layout) -> dict[str, Any]:
    """What a layout says, as plain values."""
    return layout.model_dump(
        mode="json",
        exclude_unset=True,
        exclude_none=True,
        exclude={"dataset", "columns_beside", "file"},
    )


def _bare(name: str) -> str:
    return Path(name).name.removesuffix(".yaml").casefold().replace("_", "-")
