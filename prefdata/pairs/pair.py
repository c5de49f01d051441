"""A pair and its two texts, as the rules see them. Knows no rule and no row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeGuard

import orjson

from prefdata.seeds.identity import bare

Side = Literal["chosen", "rejected"]
SIDES: tuple[Side, Side] = ("chosen", "rejected")
SKIPPED = "skipped"
"""How a text or a verdict that was not asked for has ended, and the reason of the reject."""
# Squares and differences of larger scores overflow, so they count as infinite.
_LARGEST_SCORE = 1e100


@dataclass(frozen=True, slots=True)
class Candidate:
    """One completion of the prompt, its score and where it came from.

    Attributes:
        text: verbatim, as it will be trained on.
        score: the higher the better; None, NaN and infinity mean that there is none.
        alias: of the model in the recipe; `delta` reads it.
        model: its checkpoint.
        sample: index among the alias's samples of this prompt; `delta` reads it.
        finish_reason: `length` means that `max_tokens` cut the text off; None is unknown. What is
            no end, such as `content_filter`, takes part in no pair.
        scores: by column, where `score` is made of several or a side has one of its own.
        tool_calls: the calls behind the text, as JSON.
        tokens: of the text, without its thought; None where unknown.
        turns: the messages between the prompt and the text, as JSON.
        ratings: by item, where a rule looks at single items.
    """

    text: str
    score: float | None = None
    alias: str | None = None
    model: str | None = None
    sample: int = 0
    finish_reason: str | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)
    tool_calls: str | None = None
    tokens: int | None = None
    turns: str | None = None
    ratings: Sequence[float | None] = ()

    @property
    def said(self) -> str:
        """What tells it apart from others: turns before it, the bare text, and its calls."""
        return said(self.text, self.tool_calls, self.turns)


class Pair(NamedTuple):  # millions are made, and most are dropped again
    """Chosen is better than rejected, or as good where `is_tie`.

    Attributes:
        margin: raw score difference; None where no score was used.
        z_margin: margin over the prompt's standard deviation; None unless `margin_unit` asks.
        is_tie: equally good, kept because of `ties: keep`; the direction is a seeded draw.
    """

    chosen: Candidate
    rejected: Candidate
    margin: float | None = None
    z_margin: float | None = None
    is_tie: bool = False


def said(text: str, tool_calls: str | None, turns: str | None = None) -> str:
    """What an answer says: the bare text, and names and arguments of its calls as written.

    `tool_calls`: as JSON, in OpenAI's form; their ids tell nothing. `turns`: the messages before it
    that only this side has, as JSON.
    """
    if turns:
        answer = said(text, tool_calls)
        return f"{turns}\n{answer}" if answer else ""
    if not tool_calls:
        return bare(text)
    made = [one["function"] for one in orjson.loads(tool_calls)]
    return bare("\n".join((text, *(f"{one['name']}({one['arguments']})" for one in made))))


def tokens_of(made: Mapping[str, Any]) -> int | None:
    """Tokens of a text without its thought; None where they were not counted.

    `made`: how it came to be, as `rows.TEXT_META`.
    """
    count: int | None = made.get("completion_tokens")
    return None if count is None else count - (made.get("reasoning_tokens") or 0)


def is_score(score: float | None) -> TypeGuard[float]:
    """Whether there is a score that can be compared."""
    # The comparison is false for NaN too.
    return score is not None and -_LARGEST_SCORE <= score <= _LARGEST_SCORE
