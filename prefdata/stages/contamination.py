"""Items of benchmarks in other texts: runs of words in common, or nearly the same text."""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from prefdata.stages.near import SHINGLE_WORDS, UNSPACED

SHORTEST = 5
"""Words of an item that is looked for inside of longer texts; a shorter one must be all of it."""
_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
_INSIDE = re.compile(r"(?<=\w)['\u2019`](?=\w)|(?<=\d),(?=\d{3})")
"""What stands within a word or a number, and may be left out."""


@dataclass(frozen=True, slots=True)
class Match:
    """An item that a text contains.

    Attributes:
        source: where the item stands.
        item: its text.
        overlap: the share of the item's words that runs in common cover, or the similarity.
        is_near: whether it is the latter.
    """

    source: str
    item: str
    overlap: float
    is_near: bool = False


def words_of(text: str) -> list[str]:
    """Words without case, punctuation and apostrophes; of scripts without spaces, characters."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return _WORD.findall(_INSIDE.sub("", plain))


class Items:
    """Items of benchmarks, found by their runs of words.

    A run has 8 words in Tulu 3 (arXiv 2411.15124, section 3.2, with half of the item's words
    covered; open-instruct's decontamination/search.py) and 13 in GPT-3 (arXiv 2005.14165, appendix
    C). An item with fewer words must occur as a whole. Near duplicates have sets of three-word runs
    with a high Jaccard similarity: exact, and not estimated by MinHash, as for `dedupe`.
    """

    def __init__(
        self, items: Iterable[tuple[str, str]], *, ngram: int, overlap: float, near: float | None
    ) -> None:
        """Index the items.

        Args:
            items: (source, text) of each; those without a word are left out.
            ngram: words of a run.
            overlap: least share of an item's words that runs cover.
            near: least similarity of near duplicates; None looks for none.
        """
        self._overlap, self._near = overlap, near
        self._items: list[tuple[str, str, list[str]]] = []
        self._runs: dict[int, dict[tuple[str, ...], list[int]]] = defaultdict(dict)
        self._whole: dict[tuple[str, ...], int] = {}
        self._rare: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._shingles: list[set[tuple[str, ...]]] = []
        for source, text in items:
            if words := words_of(text):
                self._add(len(self._items), words, ngram)
                self._items.append((source, text, words))
        if near is not None:
            self._index_shingles(near)

    def __len__(self) -> int:
        return len(self._items)

    def _add(self, number: int, words: list[str], ngram: int) -> None:
        self._whole.setdefault(tuple(words), number)
        if len(words) < SHORTEST:
            return
        size = min(ngram, len(words))
        for run in set(_runs(words, size)):
            self._runs[size].setdefault(run, []).append(number)

    def _index_shingles(self, near: float) -> None:
        """Each under its rarest shingles, of which a near duplicate must have one."""
        self._shingles = [_shingles(words) for _, _, words in self._items]
        counts = Counter(one for own in self._shingles for one in own)
        for number, own in enumerate(self._shingles):
            beyond = len(own) - math.ceil(near * len(own) - 1e-9) + 1
            for one in sorted(own, key=lambda one: (counts[one], one))[:beyond]:
                self._rare[one].append(number)

    def find(self, text: str) -> Match | None:
        """The item of which a text has most."""
        found = max(self._matches(text), key=lambda match: match.overlap, default=None)
        return found or self._find_near(text)

    def _matches(self, text: str) -> Iterator[Match]:
        words = words_of(text)
        if (number := self._whole.get(tuple(words))) is not None:
            yield self._match(number, 1.0)
        for size, known in self._runs.items():
            shared = known.keys() & set(_runs(words, size))
            for number in {number for run in shared for number in known[run]}:
                share = _covered(self._items[number][2], shared, size)
                if share >= self._overlap:
                    yield self._match(number, share)

    def _find_near(self, text: str) -> Match | None:
        if self._near is None:
            return None
        own = _shingles(words_of(text))
        numbers = {number for one in own & self._rare.keys() for number in self._rare[one]}
        best = max(((self._alike(own, n), n) for n in numbers), default=(0.0, 0))
        return self._match(best[1], best[0], is_near=True) if best[0] >= self._near else None

    def _alike(self, own: set[tuple[str, ...]], number: int) -> float:
        other = self._shingles[number]
        both = len(own & other)
        return both / (len(own) + len(other) - both)

    def _match(self, number: int, overlap: float, *, is_near: bool = False) -> Match:
        source, item, _ = self._items[number]
        return Match(source, item, overlap, is_near)


def _runs(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(size)), strict=False)


def _shingles(words: Sequence[str]) -> set[tuple[str, ...]]:
    return set(_runs(words, SHINGLE_WORDS)) or {tuple(words)}


def _covered(words: Sequence[str], shared: set[tuple[str, ...]], size: int) -> float:
    """The share of the words that lie in shared runs."""
    covered: set[int] = set()
    for start, run in enumerate(_runs(words, size)):
        if run in shared:
            covered.update(range(start, start + size))
    return len(covered) / len(words)
