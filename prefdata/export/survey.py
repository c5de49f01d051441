"""The first look at a run's pairs: which ones leave, to which split, in which shape."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefdata.errors import PrefdataError, RowError
from prefdata.export.conversation import (
    Conversation,
    check_tokens,
    read_conversation,
)
from prefdata.export.formats import Format, Shape
from prefdata.pairs.files import pairs_in_order
from prefdata.pairs.pair import SIDES, Side
from prefdata.pairs.selection import VERDICTS, PairFacts, select
from prefdata.pairs.split import as_keys, hash_prompt, hash_text, is_held_out, number_keys
from prefdata.recipe.pair_rules import PairRules
from prefdata.recipe.tools import readable
from prefdata.rows import Row
from prefdata.seeds.identity import bare, prompt_identity, root_identity

CHOSEN, REJECTED = 1, 2
Measure = Callable[[Conversation], tuple[int, int]]
"""Tokens of the prompt, and of the prompt with its longer answer."""


class Fault(NamedTuple):
    """Why a pair is left out."""

    reason: str
    detail: str


@dataclass
class Lengths:
    """How pairs compare with the length that the trainer cuts at.

    Attributes:
        max_tokens: of prompt and answer together, the template's tokens among them.
        cut: pairs of which an answer would lose its end.
        emptied: those of them whose prompt leaves no token of an answer: they teach nothing.
    """

    max_tokens: int
    longest: int = 0
    cut: int = 0
    emptied: int = 0


@dataclass(frozen=True)
class Survey:
    """What the first look has found.

    Attributes:
        is_test: per pair, in the order in which they are read.
        disputed: answers that one pair prefers and another refuses, where the format asks.
    """

    is_test: NDArray[np.bool_]
    left_out: dict[int, Fault]
    shape: Shape
    disputed: frozenset[bytes]
    lengths: Lengths | None


@dataclass(frozen=True)
class Wanted:
    """What is asked of an export; everything that can change its lines.

    Attributes:
        test_size: None keeps the run's own split, or takes the format's share where it has none.
        shape: its `last_message_only` and `render`.
        special: tokens of the chat template of the model to be trained.
        measure: None where lengths do not matter.
        is_turn: whether several pairs may be of one conversation, which then are in one split.
        check: raises RowError for a pair whose rendering would not be what was asked.
    """

    test_size: int | float | None
    seed: int
    shape: Shape
    is_turn: bool = False
    special: re.Pattern[str] | None = None
    measure: Measure | None = None
    check: Callable[[Conversation], None] | None = None
    max_tokens: int | None = None
    drop_too_long: bool = False


def survey(pairs: Path, form: Format, wanted: Wanted) -> Survey:
    """Look at every pair once.

    Raises:
        PrefdataError: nothing would be left, or nothing for a split that the trainer needs.
    """
    lengths = Lengths(wanted.max_tokens) if wanted.max_tokens else None
    look = _Look(form, wanted, lengths, _clashes(pairs, wanted))
    for split, row in pairs_in_order(pairs):
        look.add(split, row)
    if not look.places:
        first = next(iter(look.left_out.values()), None)
        why = f"; the first: {first.reason}: {first.detail}" if first else ""
        raise PrefdataError(
            f"{pairs}: none of the {len(look.left_out)} pairs can be exported{why}; fix that and "
            "build again"
        )
    disputed = frozenset(key for key, side in look.sides.items() if side == CHOSEN | REJECTED)
    return Survey(look.split(), look.left_out, look.shape(), disputed, look.lengths)


@dataclass
class _Look:
    """What is gathered pair by pair: a hash of each prompt, and what they have in common."""

    form: Format
    wanted: Wanted
    lengths: Lengths | None
    left_out: dict[int, Fault] = field(default_factory=dict)
    places: list[int] = field(default_factory=list)
    sides: dict[bytes, int] = field(default_factory=dict)
    _was_test: list[bool] = field(default_factory=list)
    _prompts: bytearray = field(default_factory=bytearray)
    _keys: dict[str, None] = field(default_factory=lambda: dict.fromkeys(("role", "content")))
    _is_single_turn: bool = True
    _is_scored: bool = True
    _has_tools: bool = False
    _has_margin: bool = True

    def add(self, split: str, row: Row) -> None:
        """The next pair in order."""
        place = len(self._was_test)
        self._was_test.append(split == "test")
        if place in self.left_out:
            return
        try:
            pair = read_conversation(row)
            check_tokens(pair, self.wanted.special)
            if self.wanted.check is not None:
                self.wanted.check(pair)
            pair = self.wanted.shape.prepare(pair)
            self.form.make(pair, self.wanted.shape)
            _measure(pair, self.wanted, self.lengths)
        except RowError as err:
            self.left_out[place] = Fault(err.reason, err.detail)
            return
        self.places.append(place)
        prompt = _written_prompt(pair, self.wanted.shape)
        if self.wanted.is_turn and not self.wanted.shape.last_message_only:
            prompt = root_identity([*pair.prompt])
        self._prompts += hash_prompt(prompt, self.wanted.seed)
        self._keys |= dict.fromkeys(key for message in pair.turns for key in message)
        self._keys |= dict.fromkeys(key for one in pair.sides.values() for key in one.keys)
        self._is_single_turn &= pair.is_single_turn
        self._has_tools |= pair.has_tools
        self._has_margin &= pair.margin is not None
        self._is_scored &= None not in (pair.chosen_score, pair.rejected_score)
        if self.form.is_once:
            for bit, side in zip((CHOSEN, REJECTED), SIDES, strict=True):
                key = answer_key(pair, side)
                self.sides[key] = self.sides.get(key, 0) | bit

    def shape(self) -> Shape:
        """What holds for all that leave."""
        return replace(
            self.wanted.shape,
            keys=tuple(self._keys),
            is_single_turn=self._is_single_turn,
            is_scored=self._is_scored,
            has_tools=self._has_tools,
            has_margin=self._has_margin,
        )

    def split(self) -> NDArray[np.bool_]:
        """Whether each pair goes to test: the run's own split, or a new one by prompt.

        Where prompts that are cut stand on both sides of the run's own split, the new one is as
        large.
        """
        is_test, wanted = np.array(self._was_test), self.wanted.test_size
        numbers = number_keys(as_keys(self._prompts))
        mine = is_test[self.places]
        is_mixed = bool(np.intersect1d(numbers[mine], numbers[~mine]).size)
        if wanted is not None or is_mixed or not is_test.any():
            share = float(mine.mean()) if is_mixed else self.form.test_size
            is_test = np.zeros(len(is_test), dtype=np.bool_)
            is_test[self.places] = is_held_out(numbers, share if wanted is None else wanted)
        if self.form.needs_test and not is_test[self.places].any():
            raise PrefdataError(
                f"this format needs a test set, and none of the {len(np.unique(numbers))} prompts "
                "with pairs is in it; give a larger --test-size, or build more than one prompt"
            )
        if is_test[self.places].all():
            raise PrefdataError(
                "all pairs that can be exported are in the test set; give a smaller --test-size"
            )
        return is_test


def answer_key(pair: Conversation, side: Side) -> bytes:
    """16 bytes that stand for an answer to this prompt, compared as answers of pairs are."""
    one = pair.sides[side]
    key = f"{prompt_identity([*pair.prompt, *one.turns])}\0{bare(one.text)}"
    return hash_text(f"{key}\0{readable(one.calls)}" if one.calls else key)


def _written_prompt(pair: Conversation, shape: Shape) -> str:
    """The identity of the prompt as a trainer will see it."""
    return prompt_identity([*(pair.prompt[-1:] if shape.last_message_only else pair.prompt)])


def _clashes(pairs: Path, wanted: Wanted) -> dict[int, Fault]:
    """Pairs that repeat or contradict each other once their prompts are cut, by place."""
    places: list[int] = []

    def facts() -> Iterator[PairFacts]:
        for place, (_, row) in enumerate(pairs_in_order(pairs)):
            with suppress(RowError):  # the look itself tells of it
                pair = read_conversation(row)
                prompt = _written_prompt(pair, wanted.shape)
                places.append(place)
                yield PairFacts(prompt, pair.chosen, pair.rejected, pair.margin, is_tie=pair.is_tie)

    if not wanted.shape.last_message_only:
        return {}
    found = zip(places, select(facts(), PairRules(), seed=wanted.seed), strict=True)
    return {n: Fault(what, VERDICTS[what]) for n, what in found if what != "train"}


def _measure(pair: Conversation, wanted: Wanted, lengths: Lengths | None) -> None:
    if wanted.measure is None or lengths is None:
        return
    prompt, whole = wanted.measure(pair)
    lengths.longest = max(lengths.longest, whole)
    if whole <= lengths.max_tokens:
        return
    lengths.cut += 1
    lengths.emptied += prompt >= lengths.max_tokens
    if wanted.drop_too_long:
        raise RowError("too_long", f"{whole} tokens, more than --max-tokens {lengths.max_tokens}")
