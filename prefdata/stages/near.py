"""Near-duplicate texts, found exactly: sets of shingles that share so much. Knows no pair.

A set is compared only with those that share one of its rarest shingles: two sets whose Jaccard
similarity reaches the threshold must (prefix filtering: Bayardo, Ma and Srikant, "Scaling up all
pairs similarity search", WWW 2007; Xiao et al., "Efficient similarity joins for near duplicate
detection", WWW 2008). A preamble that all texts share costs nothing, as it is never rare.
"""

import math
import re
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

NEAR_DUPLICATE_JACCARD = 0.8
SHINGLE_WORDS = 3
_SLACK = 1e-9

# Scripts that put no space between words: there, one character counts as a word.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")


def shingles(text: str) -> set[tuple[str, ...]]:
    """Runs of three words in lower case; symbols count as words, or 3 + 4 would equal 3 - 4."""
    words: list[str] = _WORD.findall(text.lower())
    if len(words) < SHINGLE_WORDS:
        return {tuple(words)}
    return set(zip(words, words[1:], words[2:], strict=False))


class Shingles:
    """The shingles of many texts, as hashes of 64 bits: 8 bytes for each word of a text."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._ends = array("q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, text: str) -> None:
        """The next text."""
        self._hashes.extend(map(hash, shingles(text)))
        self._ends.append(len(self._hashes))

    def near_a_shorter(self, rows: Numbers) -> NDArray[np.bool_]:
        """Whether the text in a row is near one that stays and has no more shingles than it.

        Of equally long texts the first in `rows` stays. A text that is near is compared with no
        further one, so a chain of small edits loses only its inner links.
        """
        is_near = np.zeros(len(rows), dtype=np.bool_)
        ends = np.frombuffer(self._ends, dtype=np.int64)
        sizes = ends[rows + 1] - ends[rows]
        order = np.argsort(sizes, kind="stable")
        staying = _Staying(np.frombuffer(self._hashes, dtype=np.int64))
        for at in order.tolist():
            row = rows[at]
            is_near[at] = not staying.take_in(int(ends[row]), int(ends[row + 1]))
        return is_near


class _Staying:
    """Texts that stay, found by their rare shingles. Texts come in the order of their sizes."""

    def __init__(self, hashes: Numbers) -> None:
        self._hashes = hashes
        shared, counts = np.unique(hashes, return_counts=True)
        self._shared, self._counts = shared[counts > 1], counts[counts > 1]
        self._texts: list[Numbers] = []  # each sorted
        self._sizes: list[int] = []
        self._with: dict[int, list[int]] = defaultdict(list)

    def take_in(self, start: int, end: int) -> bool:
        """Whether the text is near none that stays; then it stays, too."""
        text = np.sort(self._hashes[start:end])
        rare = self._rarest_first(text)
        others = [self._texts[number] for number in self._like(text, rare)]
        if others and _most_alike(text, others) >= _NEAR - _SLACK:
            return False
        number = len(self._texts)
        self._texts.append(text)
        self._sizes.append(len(text))
        # what comes later is no shorter, so it must share more of this text than of its own
        for shingle in rare[: _beyond(len(text), 2 * _NEAR / (1 + _NEAR))]:
            if shingle is not None:
                self._with[shingle].append(number)
        return True

    def _rarest_first(self, text: Numbers) -> list[int | None]:
        """Shingles by rising frequency, as far as they matter; None for those of this text alone.

        All texts agree about the order, so the first that two of them share stands early in both.
        """
        if not len(self._shared):
            return []
        at = np.minimum(np.searchsorted(self._shared, text), len(self._shared) - 1)
        is_shared = self._shared[at] == text
        alone = len(text) - int(np.count_nonzero(is_shared))
        others, counts = text[is_shared], self._counts[at[is_shared]]
        count = max(0, _beyond(len(text), _NEAR) - alone)
        ordered = others[np.lexsort((others, counts))[:count]].tolist()
        return [*([None] * alone), *ordered]

    def _like(self, text: Numbers, rare: list[int | None]) -> set[int]:
        """Texts that share a rare shingle and are long enough."""
        first = bisect_left(self._sizes, _NEAR * len(text) - _SLACK)
        found: set[int] = set()
        for shingle in rare:
            if shingle is not None and shingle in self._with:
                others = self._with[shingle]
                found.update(others[bisect_left(others, first) :])
        return found


_NEAR = NEAR_DUPLICATE_JACCARD


def _beyond(size: int, share: float) -> int:
    """Shingles that do not all lie outside of what two such texts share."""
    return size - math.ceil(share * size - _SLACK) + 1


def _most_alike(text: Numbers, others: Sequence[Numbers]) -> float:
    """The highest Jaccard similarity of a text and any other, all of them sorted."""
    sizes = np.fromiter(map(len, others), dtype=np.int64)
    joined = np.concatenate(others)
    at = np.minimum(text.searchsorted(joined), len(text) - 1)
    both = np.add.reduceat(text[at] == joined, np.cumsum(sizes) - sizes, dtype=np.int64)
    return float((both / (len(text) + sizes - both)).max())
