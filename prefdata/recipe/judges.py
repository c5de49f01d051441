"""The column types that judge, as the YAML states them: verdicts, scores, ratings, rules."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from prefdata.errors import PrefdataError
from prefdata.recipe.contract import (
    Aliases,
    Asking,
    Column,
    Named,
    Problem,
    Prompted,
    Role,
    Scope,
    Scored,
    path_of,
    with_meta,
)
from prefdata.recipe.questions import ASKED, own_question, question_of
from prefdata.recipe.sources import Gold
from prefdata.recipe.swaps import swap_of
from prefdata.recipe.tournament import (
    MOST_LISTED,
    Panel,
    Tournament,
    ranking_schema,
    read_judge,
    winner_schema,
)
from prefdata.recipe.values import (
    FAILURES_SUFFIX,
    META_SUFFIX,
    ColumnName,
    Filled,
    JsonObject,
    Positive,
    Retries,
    compile_pattern,
)


def _check_weight(value: float) -> float:
    if value == 0:
        raise ValueError("a weight of 0 has no effect; remove its key")
    return value


_SHOWN = (frozenset((ASKED, "response_a", "response_b")), frozenset((ASKED, "replies")))
"""What prompts of tournaments are given: of two texts, or of a list."""
LISTED = ranking_schema(MOST_LISTED)
"""The format of a ranking of the longest list; a row's has its own number of letters."""
Digit = Annotated[int, Field(ge=0, le=9)]
Weight = Annotated[float, AfterValidator(_check_weight)]


def _with_shipped_prompt(value: Any, kinds: tuple[str, ...]) -> Any:
    """The mapping of a judge with the prompt that its `judge` names, or the first of its kind."""
    name, own = value.get("judge"), value.get("prompt")
    if value.get("messages") is not None:
        own = ""
    if name is None and own is None:
        name = f"{kinds[0]}-v1"
    if not isinstance(name, str):
        return value
    try:
        prompt = read_judge(name, kinds)
    except PrefdataError as err:
        raise ValueError(str(err)) from err
    if own not in (None, prompt):
        raise ValueError(f"'judge: {name}' is a prompt, and there is another one; keep one of them")
    return {**value, "judge": name, "prompt": prompt}


class Judge(Prompted):
    """What all have that judge by a prompt."""

    judge: Filled | None = None
    """The name of a prompt that ships, such as `pairwise-v1`, in the place of one of its own; may
    be left out where the column has no prompt.
    """
    gold: Gold | None = None
    """Preferences that are known: how often the judge finds them, its bias and its calibration are
    measured before anything else is asked.
    """

    @property
    def known(self) -> Gold | None:
        return self.gold

    def problems(self, scope: Scope) -> Iterator[Problem]:
        """It must not see which model wrote what."""
        for key, name in self.references:
            if name.endswith(META_SUFFIX) and key not in self.conditions:
                message = (
                    f"a judge must not see which model wrote a text, and {name!r} contains that; "
                    "remove it from the prompt"
                )
                yield Problem(path_of(key), message)


class LlmJudge(Scored, Judge):
    """A verdict as a dict that satisfies a JSON schema, or a score of each of many texts.

    Where it compares two responses it asks in both orders; verdicts that disagree are a tie. With
    `tournament` it compares the texts of `candidates` or `responses`, two at a time or as a list.
    """

    type: Literal["llm_judge"]
    model_alias: Filled | Aliases
    """Who judges: an alias, or a list of them, a panel."""
    panel: Panel | None = None
    """What the verdicts of several judges make: the `majority` (default), their `mean`, or the
    `minimum`, so that a text wins as far as the judge says so who says it least.
    """
    tournament: Tournament | None = None
    """How many texts are compared; the column is then a score of each of them, like a reward."""
    output_format: JsonObject
    """The JSON schema of the verdict, an object; A, B or tie in a tournament that has none."""
    compare: tuple[str, str] | None = None
    """The two text columns compared; if left out, the two `llm_text` columns that the prompt
    names.
    """
    winner_field: str = "winner"
    """The key of the verdict, whose values are "A" (the first of the two) and "B"."""
    both_orders: bool = True
    """Ask a second time with the two responses exchanged; otherwise a tournament draws which is
    shown first.
    """
    max_retries: Retries = 2
    """Retries, with fresh seeds, of a verdict that does not match the schema, before the row is
    rejected.
    """

    has_meta = True
    meaning = "verdict by {aliases}"

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_a_tournament(cls, value: Any) -> Any:
        how = value.get("tournament") if isinstance(value, dict) else None
        if how is None:
            return value
        kind = how.get("type") if isinstance(how, dict) else getattr(how, "type", None)
        is_list = kind == "listwise"
        filled = _with_shipped_prompt(value, ("listwise" if is_list else "pairwise",))
        if is_list and value.get("output_format", LISTED) != LISTED:
            raise ValueError("a list is ranked in a format of its own; remove 'output_format'")
        return {"output_format": LISTED if is_list else winner_schema()} | filled

    @model_validator(mode="after")
    def _one_target(self) -> "LlmJudge":  # of `Scored`, where it may not be left out
        targets = (self.candidates is not None) + bool(self.responses)
        if targets != (self.tournament is not None):
            raise ValueError(
                "a tournament compares the texts of a column; give 'tournament' and one of "
                "'candidates' and 'responses', or none of the three"
            )
        if self.tournament is not None and self.compare is not None:
            raise ValueError("a tournament says what is compared; remove 'compare'")
        if self.tournament is None and self.judge is not None:
            raise ValueError(
                f"'judge: {self.judge}' compares candidates; add a tournament, or a prompt"
            )
        if self.panel is not None and len(self.aliases) < 2:
            raise ValueError("a panel has several judges; name them: model_alias: [a, b, c]")
        return self

    @field_validator("compare")
    @classmethod
    def _two_columns(cls, value: tuple[str, str] | None) -> tuple[str, str] | None:
        if value and value[0] == value[1]:
            raise ValueError("a column cannot be compared with itself; name two different columns")
        return value

    @property
    def named(self) -> Sequence[Named]:
        texts = {f"compare.{n}": name for n, name in enumerate(self.compare or ())}
        if self.tournament is not None and self.tournament.reference:
            texts["tournament.reference"] = self.tournament.reference
        return (*super().named, *(Named(key, name, "text") for key, name in texts.items()))

    @property
    def inserted(self) -> frozenset[str]:
        return _SHOWN[self.tournament.type == "listwise"] if self.tournament else frozenset()

    @property
    def reads_asked(self) -> bool:
        return self.tournament is not None and ASKED in question_of(self).columns

    @property
    def cell(self) -> str:
        if self.tournament is None:
            return self.meaning
        how = f"{self.tournament.type}, {self.tournament.score}"
        told = f"scores from comparisons by {{aliases}} ({how}), in the order of the texts"
        return _with_prompt(told, self.judge)

    @property
    def says(self) -> Panel:
        """What the verdicts of its judges make together."""
        return self.panel or "majority"

    @property
    def answer_schema(self) -> Mapping[str, Any] | None:
        return None if self.tournament else self.output_format

    @property
    def winner_key(self) -> str:
        return self.winner_field

    @property
    def wants_both_orders(self) -> bool:
        return self.both_orders and (self.tournament is None or self.tournament.type != "listwise")

    @property
    def compares_many(self) -> bool:
        return self.tournament is not None

    @property
    def asks_in_turns(self) -> bool:
        is_staged = self.tournament is not None and self.tournament.type in ("swiss", "knockout")
        return is_staged and len(self.aliases) > 1

    @property
    def may_ask_less(self) -> bool:
        return self.tournament is not None

    def requests(self, columns: Sequence[Column]) -> int:
        if self.tournament is None:
            return (2 if self.swapped(columns) else 1) * len(self.aliases)
        compared = self.tournament.comparisons(self.texts_scored(columns))
        return compared * len(self.aliases) * (2 if self.wants_both_orders else 1)

    def compared(self, columns: Sequence[Column]) -> tuple[str, str] | None:
        """The two responses that it compares, or None if it looks at one row as a whole.

        Without `compare` these are the only two generated texts that its prompt names, in the
        order in which it names them, provided its schema lets `winner_field` be "A" or "B".
        """
        if self.compare or self.tournament:
            return self.compare
        answers = {name for column in columns for name in column.answers}
        texts = [name for name in question_of(self).mentions if name in answers]
        return (texts[0], texts[1]) if len(texts) == 2 and self._names_a_winner else None

    @property
    def _names_a_winner(self) -> bool:
        return {"A", "B"} <= verdicts(self.output_format, self.winner_field)

    def problems(self, scope: Scope) -> Iterator[Problem]:
        yield from super().problems(scope)
        read = question_of(self).columns
        if self.tournament is not None:
            yield from self._problems_of_a_tournament(self.tournament, read, scope)
            return
        if self.gold is not None and self.compared(scope.columns) is None:
            message = "this judge compares nothing, so known preferences cannot measure it"
            yield Problem(("gold",), f"{message}; add 'compare' or 'tournament', or remove it")
        if len(self.aliases) > 1 and not self._names_a_winner:
            message = (
                "a panel needs verdicts that can be put together; add 'enum: [A, B]' to "
                f"{self.winner_field!r} in output_format, or name one alias"
            )
            yield Problem(("output_format",), message)
        for number, name in enumerate(self.compare or ()):
            if name not in read:
                message = (
                    f"the prompt does not contain column {name!r}, so it cannot be compared; add it"
                )
                yield Problem(("compare", number), message)
        if self.both_orders:
            yield from self._problems_of_both_orders(scope)

    def _problems_of_a_tournament(
        self, tournament: Tournament, read: frozenset[str], scope: Scope
    ) -> Iterator[Problem]:
        at = ("prompt" if self.messages is None else "messages",)
        is_list = tournament.type == "listwise"
        for name in sorted(_SHOWN[is_list] - {ASKED} - read):
            message = f"the prompt does not show what is compared; add {name!r} to it"
            yield Problem(at, message)
        if not is_list and not self._names_a_winner:
            message = f"the schema does not allow A and B as values of {self.winner_field!r}"
            yield Problem(("output_format",), f"{message}; add 'enum: [A, B, tie]' to that key")
        known = all(map(scope.has, self.targets))
        if is_list and known and (count := self.texts_scored(scope.columns)) > MOST_LISTED:
            yield Problem(
                ("tournament", "type"),
                f"a list of {count} texts is too long to be ranked in one answer, since models "
                f"overlook its middle; rank {MOST_LISTED} at most, or write type: swiss",
            )

    def _problems_of_both_orders(self, scope: Scope) -> Iterator[Problem]:
        if not self._names_a_winner:
            if self.compare or self.winner_field != LlmJudge.model_fields["winner_field"].default:
                message = (
                    f"the schema does not allow A and B as values of {self.winner_field!r}, so "
                    "the verdicts of the two orders cannot be compared; add 'enum: [A, B]' to "
                    "that key, or set 'both_orders: false'"
                )
                yield Problem(("output_format",), message)
        elif compared := self.compared(scope.columns):
            yield from self._problems_of_swapping(compared, scope)
        else:
            yield Problem(
                (),
                "both_orders is true, but the prompt does not name exactly two llm_text "
                "columns; add 'compare: [first, second]', or set 'both_orders: false' to ask "
                "once",
            )

    def _problems_of_swapping(self, compared: tuple[str, str], scope: Scope) -> Iterator[Problem]:
        """Columns made of one response that would tell in the second order which it is."""
        read = question_of(self).columns
        with suppress(PrefdataError):  # a template that cannot be compiled is told where it stands
            for name, responses in swap_of(read, compared, scope.columns).stuck.items():
                yield Problem(
                    ("prompt",),
                    f"in the second order {compared[0]!r} and {compared[1]!r} change places, but "
                    f"column {name!r}, made from {' and '.join(map(repr, responses))}, has no "
                    "counterpart in the prompt; show the same column of the other response too, "
                    f"remove {name!r}, or set 'both_orders: false'",
                )


class RewardModel(Scored, Prompted):
    """One raw score (no sigmoid) per text, by a reward model.

    It reads each text as the answer to what the text was asked, unless it has `prompt` or
    `messages` of its own.
    """

    type: Literal["reward_model"]
    model_alias: Filled
    """The reward model."""
    weights: Annotated[tuple[float, ...], Field(min_length=2)] | None = None
    """Weights of the model's attributes, in its order: the score is their weighted sum."""

    role: ClassVar[Role] = "reward"
    may_inherit = True
    meaning = "raw scores by {aliases}, in the order of the texts, the higher the better"

    @property
    def makes(self) -> tuple[str, ...]:
        made = with_meta(self.name) if self.weights else (self.name,)
        return (*made, self.name + FAILURES_SUFFIX)

    @property
    def reads_asked(self) -> bool:
        return own_question(self) is None

    def requests(self, columns: Sequence[Column]) -> int:
        return self.texts_scored(columns)


class RubricJudge(Scored, Judge):
    """A text model rates each text separately, by every criterion on a scale of integers.

    Its prompt can use `response`, `criterion`, `description`, `lowest`, `highest`, `asked` (the
    chat that the text answers) and the row's columns; there is a default. The score is the mean
    over the scale under the model's own probabilities (G-Eval, arXiv 2303.16634), averaged over the
    criteria with `weights`. With a column of `criteria` every row has a checklist of its own, as in
    RLCF (arXiv 2507.18624), which averages what a judge and a program say of an item; here an item
    with a check is rated by that alone.
    """

    type: Literal["rubric_judge"]
    model_alias: Filled
    """The text model that rates."""
    criteria: Filled | Annotated[dict[ColumnName, str], Field(min_length=1)]
    """The criteria, each with a description for the prompt; or a column with the checklist of each
    row: a list of texts or of `{item, weight, check}`.
    """
    checks: tuple[Filled, ...] = ()
    """Verifier columns over the same texts that items of a checklist may name as their `check`:
    what they say, from 0 to 1, takes the place of the model's rating.
    """
    max_items: Positive = 10
    """Items of a checklist that are rated, at most, from its first."""
    scale: tuple[Digit, Digit]
    """Lowest and highest rating; every rating between them must be one token of the model."""
    weights: dict[str, Weight] | None = None
    """Weights of the criteria; equal if left out."""
    max_retries: Retries = 2
    """Retries of a rating that is no digit of the scale, before the row is rejected."""

    has_meta = True
    rates_items = True
    meaning = "scores by {aliases} on the rubric's scale, in the order of the texts"

    @model_validator(mode="before")
    @classmethod
    def _default_prompt(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "panel" in value or isinstance(value.get("model_alias"), list | tuple):
            raise ValueError(
                "several models do not rate as one column; write a column for each of them, and "
                "let the pairs weigh them: score: {a: 0.5, b: 0.5}"
            )
        kinds = ("checklist",) if isinstance(value.get("criteria"), str) else ()
        return _with_shipped_prompt(value, (*kinds, "pointwise"))

    @property
    def inserted(self) -> frozenset[str]:
        return frozenset((ASKED, "response", "criterion", "description", "lowest", "highest"))

    @property
    def reads_asked(self) -> bool:
        return ASKED in question_of(self).columns

    @field_validator("scale")
    @classmethod
    def _rising(cls, value: tuple[int, int]) -> tuple[int, int]:
        if value[0] >= value[1]:
            raise ValueError("the scale must be the lowest and the highest rating, as in [1, 5]")
        return value

    @model_validator(mode="after")
    def _weights_of_the_criteria(self) -> "RubricJudge":
        if isinstance(self.criteria, str):
            if self.weights is not None:
                raise ValueError("items of a checklist have weights of their own; remove 'weights'")
            return self
        if self.checks or "max_items" in self.model_fields_set:
            raise ValueError("only a checklist reads 'checks' and 'max_items'; remove them")
        if self.weights is not None and self.weights.keys() != self.criteria.keys():
            raise ValueError(
                f"'weights' has the keys {sorted(self.weights)}, but the criteria are "
                f"{sorted(self.criteria)}; give each criterion one weight"
            )
        if self.weights is not None and sum(self.weights.values()) <= 0:
            raise ValueError("the weights sum to 0 or less; their sum must be positive")
        return self

    @property
    def cell(self) -> str:
        return _with_prompt(self.meaning, self.judge)

    @property
    def named(self) -> Sequence[Named]:
        checklist = [Named("criteria", self.criteria)] if isinstance(self.criteria, str) else []
        checks = (Named(f"checks.{n}", name) for n, name in enumerate(self.checks))
        return (*super().named, *checklist, *checks)

    @property
    def may_ask_less(self) -> bool:
        return isinstance(self.criteria, str)

    def requests(self, columns: Sequence[Column]) -> int:
        items = self.max_items if isinstance(self.criteria, str) else len(self.criteria)
        return self.texts_scored(columns) * items

    def problems(self, scope: Scope) -> Iterator[Problem]:
        yield from super().problems(scope)
        if self.gold is not None and self.checks:
            message = "nothing checks the texts of known preferences; remove 'gold', or 'checks'"
            yield Problem(("gold",), message)
        for number, name in enumerate(self.checks):
            made = scope.made.get(name)
            rule = made if isinstance(made, Scored) and not made.aliases else None
            if scope.has(name) and (rule is None or rule.targets != self.targets):
                message = f"column {name!r} is no verifier of the same texts; name one that is"
                yield Problem(("checks", number), message)
        if "response" not in question_of(self).columns:
            message = "the prompt does not contain the text to be rated; add {{ response }} to it"
            yield Problem(("prompt" if self.messages is None else "messages",), message)


class Verifier(Scored, Asking):
    """One rule-based score per text: 1 right, 0 wrong, or what a function returns.

    A function finds in the row, as `asked`, the chat that the text answers, or the column's own
    `prompt` or `messages`.
    """

    type: Literal["verifier"]
    method: Literal["exact_match", "regex", "number", "function"]
    """`exact_match` compares the whole text, `number` its last number with `reference`; `regex`
    searches `pattern`; `function` calls one."""
    reference: Filled | None = None
    """The column with the right answer (`exact_match`, `number`)."""
    pattern: Filled | None = None
    """The regular expression searched in the text (`regex`)."""
    function: Filled | None = None
    """`package.module:name`, called with (text, row) and returning a number (`function`)."""
    per: Literal["text", "row"] = "text"
    """`row` calls the function once for all texts of a row, with (texts, row), and it returns a
    list of numbers; `asked` in the row is then a list, too.
    """
    timeout: Annotated[float, Field(gt=0)] = 30.0
    """Seconds that one call of the function may take; the row is then a reject."""

    may_inherit = True
    needs_asked: ClassVar[bool] = False
    meaning = "scores by a rule, in the order of the texts: 1 right, 0 wrong"

    @model_validator(mode="after")
    def _parameter_of_the_method(self) -> "Verifier":
        needed = {"regex": "pattern", "function": "function"}.get(self.method, "reference")
        for field in ("reference", "pattern", "function"):
            if (getattr(self, field) is not None) != (field == needed):
                verb = "needs" if field == needed else "does not read"
                raise ValueError(f"method {self.method!r} {verb} '{field}'")
        for field in ("timeout", "per"):
            if self.function is None and field in self.model_fields_set:
                raise ValueError(f"method {self.method!r} does not read {field!r}; remove it")
        if self.function is None and own_question(self) is not None:
            raise ValueError(f"method {self.method!r} reads no prompt and no messages; remove them")
        compile_pattern(self.pattern or "")
        return self

    @property
    def named(self) -> Sequence[Named]:
        reference = [Named("reference", self.reference)] if self.reference else []
        return (*super().named, *reference)

    @property
    def calls(self) -> str | None:
        return self.function

    @property
    def reads_asked(self) -> bool:
        return self.function is not None and own_question(self) is None


def _with_prompt(cell: str, name: str | None) -> str:
    """A cell in words, with the name of the prompt where that ships."""
    return cell if name is None else f"{cell}, asked with the prompt `{name}`"


def verdicts(schema: Mapping[str, Any], key: str) -> set[str]:
    """The values that a schema allows for a key of the verdict, in capitals; empty if any."""
    words = schema.get("properties", {}).get(key, {}).get("enum", ())
    return {str(word).upper() for word in words}
