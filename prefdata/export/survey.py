"""The first look at a run's pairs: which ones leave, to which split, in which shape."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from prefdata.errors import PrefdataError, RowError
from prefdata.export.conversation import Conversation, check_tokens, read_conversation
from prefdata.export.formats import Format, Shape
from prefdata.rows import Row
from prefdata.runtime.folders import read_rows
from prefdata.split import as_keys, hash_prompt, hash_text, is_held_out, number_keys

SPLITS = ("train", "test")
Measure = Callable[[Conversation], tuple[int, int]]
"""Tokens of the prompt, and of the prompt with its longer answer."""


class Fault(NamedTuple):
    """Why a pair stays behind."""

    reason: str
    detail: str


@dataclass
class Lengths:
    """How pairs compare with the length that the trainer cuts at.

    Attributes:
        max_tokens: of prompt and answer together, the template's tokens among them.
        longest: tokens of the longest pair.
        cut: pairs of which an answer would lose its end.
        emptied: those of them whose prompt leaves no token of an answer: they teach nothing.
    """

    max_tokens: int
    longest: int = 0
    cut: int = 0
    emptied: int = 0


@dataclass
class Survey:
    """What the first look has found.

    Attributes:
        is_test: per pair, in the order in which they are read.
        left_out: by place in that order.
        shape: of all that leave.
        disputed: answers that one pair prefers and another refuses, where the format asks.
    """

    is_test: NDArray[np.bool_]
    left_out: dict[int, Fault]
    shape: Shape
    disputed: frozenset[bytes] = frozenset()
    lengths: Lengths | None = None
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Wanted:
    """What is asked of an export; everything that can change its lines.

    Attributes:
        test_size: None keeps the run's own split, or takes the format's share where it has none.
        seed: of the split.
        shape: its `last_message_only` and `render`.
        special: tokens of the chat template of the model to be trained.
        measure: None where lengths do not matter.
    """

    test_size: int | float | None
    seed: int
    shape: Shape
    special: re.Pattern[str] | None = None
    measure: Measure | None = None
    max_tokens: int | None = None
    drop_too_long: bool = False


def pairs_in_order(pairs: Path) -> Iterator[tuple[str, Row]]:
    """(split, row) of every pair of a run, train first."""
    for split in SPLITS:
        for row in read_rows(pairs, stem=split):
            yield split, row


def survey(pairs: Path, form: Format, wanted: Wanted) -> Survey:
    """Look at every pair once.

    Args:
        pairs: the run's folder.
        form: what they are to become.
        wanted: what the user wants.

    Raises:
        PrefdataError: nothing would be left, or nothing for a split that the trainer needs.
    """
    left_out: dict[int, Fault] = {}
    was_test: list[bool] = []
    hashes, places = bytearray(), []
    keys: dict[str, None] = {"role": None, "content": None}
    is_single_turn = is_scored = True
    lengths = Lengths(wanted.max_tokens) if wanted.max_tokens else None
    sides: dict[bytes, int] = {}
    for place, (split, row) in enumerate(pairs_in_order(pairs)):
        was_test.append(split == "test")
        try:
            pair = read_conversation(row)
            check_tokens(pair, wanted.special)
            form.records(pair, wanted.shape)
            _measure(pair, wanted, lengths)
        except RowError as err:
            left_out[place] = Fault(err.reason, err.detail)
            continue
        keys |= dict.fromkeys(key for message in pair.prompt for key in message)
        is_single_turn = is_single_turn and pair.is_single_turn
        is_scored = is_scored and pair.chosen_score is not None and pair.rejected_score is not None
        hashes += hash_prompt(_as_text(pair), wanted.seed)
        places.append(place)
        if form.is_once:
            for side, text in ((1, pair.chosen), (2, pair.rejected)):
                key = answer_key(pair, text)
                sides[key] = sides.get(key, 0) | side
    _refuse_nothing(pairs, left_out, places)
    is_test = _split(form, wanted, np.array(was_test), hashes, places)
    shape = replace(
        wanted.shape, keys=tuple(keys), is_single_turn=is_single_turn, is_scored=is_scored
    )
    reasons = Counter(fault.reason for fault in left_out.values())
    disputed = frozenset(key for key, side in sides.items() if side == 3)
    return Survey(is_test, left_out, shape, disputed, lengths, reasons)


def answer_key(pair: Conversation, text: str) -> bytes:
    """16 bytes that stand for an answer to this prompt."""
    return hash_text(f"{_as_text(pair)}\0{text}")


def _as_text(pair: Conversation) -> str:
    """The prompt as one canonical text."""
    return orjson.dumps(pair.prompt, option=orjson.OPT_SORT_KEYS).decode()


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
        raise RowError("too_long", f"{whole} tokens, and the trainer cuts at {lengths.max_tokens}")


def _refuse_nothing(pairs: Path, left_out: dict[int, Fault], places: list[int]) -> None:
    if places:
        return
    why = next((f"; the first: {f.reason}: {f.detail}" for f in left_out.values()), "")
    raise PrefdataError(
        f"{pairs}: of {len(left_out)} pairs none can be exported{why}; mend that, or build again"
    )


def _split(
    form: Format,
    wanted: Wanted,
    was_test: NDArray[np.bool_],
    hashes: bytearray,
    places: list[int],
) -> NDArray[np.bool_]:
    """The run's own split, or a new one by prompt."""
    numbers = number_keys(as_keys(hashes))
    if wanted.test_size is None and was_test.any():
        is_test = was_test
    else:
        size = form.test_size if wanted.test_size is None else wanted.test_size
        is_test = np.zeros(len(was_test), dtype=np.bool_)
        is_test[places] = is_held_out(numbers, size)
    if form.needs_test and not is_test[places].any():
        raise PrefdataError(
            f"this format needs a test set, and of {len(np.unique(numbers))} prompts with pairs "
            "none is in it; give a larger --test-size, or more than one prompt"
        )
    if is_test[places].all():
        raise PrefdataError(
            "every pair that can be exported is in the test set; give a smaller --test-size"
        )
    return is_test
