"""Decides over the whole set which pairs stay, and where. Picks no pair and moves no row.

One pass over light facts; of every text only hashes are kept (at the peak about 150 bytes a pair;
with `minhash` about 40 more for each word of the prompts). Every decision but one is a function of
the set, not of its order: a prompt's place is the rank of its hash under the seed. Of exact
duplicates, the first in order stays. Responses are compared in NFC and without blanks at their
ends, as prompts are.
"""

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prefdata.pairs.split import (
    Keys,
    Numbers,
    as_keys,
    hash_prompt,
    hash_text,
    is_held_out,
    number_keys,
)
from prefdata.recipe.mix import Mix
from prefdata.recipe.pair_rules import SetRules
from prefdata.seeds.identity import bare
from prefdata.stages.near import Shingles

Verdict = Literal[
    "train", "test", "contradiction", "duplicate", "near_duplicate",
    "over_keep_fraction", "over_weight", "over_max_pairs",
]  # fmt: skip

VERDICTS: dict[Verdict, str] = {
    "train": "kept, for training",
    "test": "kept, for evaluation; no other pair of this prompt is in train",
    "contradiction": "another row of the same prompt prefers the other text; both are dropped",
    "duplicate": "an earlier row has the same prompt, chosen and rejected",
    "near_duplicate": "another prompt, which is kept, has nearly the same words",
    "over_keep_fraction": "not in the share of the pairs that keep_fraction keeps",
    "over_weight": "more pairs of its source than the weights of the mix allow",
    "over_max_pairs": "more pairs than max_pairs; not among those that stay",
}
"""What can become of a pair, with its meaning, in the order in which the rules are asked."""

_NAMES: tuple[Verdict, ...] = tuple(VERDICTS)
_CODES = {verdict: code for code, verdict in enumerate(_NAMES)}

_Codes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PairFacts:
    """What the decisions need of one pair.

    Attributes:
        prompt: its identity (`prompt_identity`).
        margin: the larger ones stay; None goes last.
        words: what `minhash` reads; of a chat, its turns; the prompt itself where left out.
        group: value of the column `select_group`; of a mix without one, the source.
        root: what prompts of one conversation share, which then are in one split; the prompt itself
            where left out.
        is_tie: whether chosen is no better: its direction is a draw, and contradicts nothing.
    """

    prompt: str
    chosen: str
    rejected: str
    margin: float | None = None
    words: str | None = None
    group: str = ""
    root: str | None = None
    is_tie: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """One verdict per pair, in the order in which the facts came."""

    codes: _Codes

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.codes)

    def __getitem__(self, position: int) -> Verdict:
        """Verdict of the pair at this position."""
        return _NAMES[int(self.codes[position])]

    def __iter__(self) -> Iterator[Verdict]:
        """Verdicts in order."""
        return (_NAMES[code] for code in self.codes.tolist())

    @property
    def counts(self) -> dict[Verdict, int]:
        """Pairs per verdict, zeros included."""
        numbers = np.bincount(self.codes, minlength=len(_NAMES)).tolist()
        return dict(zip(_NAMES, numbers, strict=True))

    @property
    def drops(self) -> Counter[str]:
        """Pairs that stay nowhere, by reason."""
        counts = self.counts.items()
        return Counter({name: n for name, n in counts if n and name not in ("train", "test")})


def select(facts: Iterable[PairFacts], rule: SetRules, *, seed: int) -> Selection:
    """Drop contradictions, duplicates and what is too much; split the rest by prompt.

    1. Contradictions: two rows of one prompt that prefer opposite texts say nothing. All rows
       about these two texts are dropped, whatever `dedupe` says.
    2. Duplicates (`exact`, `minhash`): of equal (prompt, chosen, rejected) the first stays.
    3. Near duplicates (`minhash`): of prompts that share 0.8 of their shingles of three words
       (exact Jaccard similarity) the shortest stays, with all its pairs. So no two prompts that
       stay are near duplicates, and none is near one in the other split.
    4. `keep_fraction`, the weights of a mix, then `max_pairs`, in each group of its own: the
       largest margins (equal ones in the order of their prompts' rank), or whole prompts in the
       order of their rank, of which the last one may be cut.
    5. `test_size`: prompts (or roots) in the order of their rank, so raising `max_pairs` keeps the
       test set.

    `facts`: every pair of the set, once; consumed in one pass. `seed`: of the recipe; another seed
    gives another sample and split.

    Raises:
        PrefdataError: `test_size` is a count that would leave no prompt for training.
    """
    table = _read(facts, seed, with_words=rule.dedupe == "minhash")
    codes = np.full(len(table), _CODES["train"], dtype=np.uint8)
    prompts, claims = number_keys(table.prompts), number_keys(table.claims)
    codes[_contradicted(claims, table.forward, ~table.ties)] = _CODES["contradiction"]
    if rule.dedupe != "none":
        repeats = np.setdiff1d(_kept(codes), _first_of_each(claims, _kept(codes)))
        codes[repeats] = _CODES["duplicate"]
    if rule.dedupe == "minhash":
        codes[_near_duplicates(table, prompts, _kept(codes))] = _CODES["near_duplicate"]
    # Sources have a share each by their weights alone, or where `select_group` names them.
    groups = table.groups if rule.select_group is not None else np.zeros_like(table.groups)
    if rule.keep_fraction is not None:
        kept = _in_order(table, prompts, claims, codes, rule)
        sizes = np.bincount(groups[kept], minlength=len(table.names))
        parts = np.ceil(rule.keep_fraction * sizes - 1e-9)  # 0.1 of 30 is 3.0000000000000004
        codes[_beyond(groups[kept], kept, parts)] = _CODES["over_keep_fraction"]
    if isinstance(rule, Mix) and rule.weights is not None:
        kept = _in_order(table, prompts, claims, codes, rule)
        shares = _shares(table, kept, rule.weights, rule.max_pairs)
        codes[_beyond(table.groups[kept], kept, shares)] = _CODES["over_weight"]
    if rule.max_pairs is not None:
        most = rule.max_pairs
        limits = [
            most.get(name, math.inf) if isinstance(most, dict) else most for name in table.names
        ]
        kept = _in_order(table, prompts, claims, codes, rule)
        codes[_beyond(groups[kept], kept, np.array(limits, float))] = _CODES["over_max_pairs"]
    kept = _kept(codes)
    roots = number_keys(table.roots)
    codes[kept[is_held_out(roots[kept], rule.test_size)]] = _CODES["test"]
    return Selection(codes)


@dataclass(frozen=True, slots=True)
class _Table:
    """The facts as hashes: `prompts` and `claims` are 128 bits each, as two words.

    Attributes:
        prompts: hash of the prompt under the seed; its order is the prompt's rank.
        roots: likewise of what its conversation shares.
        claims: hash of (prompt, the two responses in either order).
        forward: whether chosen has the smaller hash: tells the two directions of a claim apart.
        ties: whether neither response is better.
        groups: place in `names` per pair.
        names: values of the column `select_group`, or sources.
        texts: shingles of the prompts, an entry for each run of equal ones; none without `minhash`.
        text_at: entry of `texts` per pair.
    """

    prompts: Keys
    roots: Keys
    claims: Keys
    forward: NDArray[np.bool_]
    ties: NDArray[np.bool_]
    margins: NDArray[np.float64]
    groups: Numbers
    names: Sequence[str]
    texts: Shingles
    text_at: Numbers

    def __len__(self) -> int:
        return len(self.forward)


def _read(facts: Iterable[PairFacts], seed: int, *, with_words: bool) -> _Table:
    prompts, roots, claims, forward, ties = (bytearray() for _ in range(5))
    margins, groups, text_at = array("d"), array("q"), array("q")
    names, texts, last = dict[str, int](), Shingles(), ""
    for fact in facts:
        prompt = hash_prompt(fact.prompt, seed)
        chosen, rejected = hash_text(bare(fact.chosen)), hash_text(bare(fact.rejected))
        low, high = sorted((chosen, rejected))
        prompts += prompt
        if fact.root is not None:
            roots += hash_prompt(fact.root, seed)
        claims += blake2b(prompt + low + high, digest_size=16).digest()
        forward.append(chosen <= rejected)
        ties.append(fact.is_tie)
        margins.append(math.nan if fact.margin is None else fact.margin)
        groups.append(names.setdefault(fact.group, len(names)))
        if with_words:
            words = fact.words or fact.prompt
            if not texts or words != last:  # an entry for each run of equal ones
                texts.add(words)
                last = words
            text_at.append(len(texts) - 1)
    return _Table(
        as_keys(prompts),
        as_keys(roots or prompts),
        as_keys(claims),
        np.frombuffer(forward, dtype=np.bool_),
        np.frombuffer(ties, dtype=np.bool_),
        np.frombuffer(margins, dtype=np.float64),
        np.frombuffer(groups, dtype=np.int64),
        list(names),
        texts,
        np.frombuffer(text_at, dtype=np.int64),
    )


def _kept(codes: _Codes) -> Numbers:
    return np.flatnonzero(codes == _CODES["train"])


def _in_order(
    table: _Table, prompts: Numbers, claims: Numbers, codes: _Codes, rule: SetRules
) -> Numbers:
    """The pairs that are left, those that stay longest first."""
    kept = _kept(codes)
    margins, ranks = -table.margins[kept], prompts[kept]
    keys = (ranks, margins) if rule.is_selected_by_margin else (margins, ranks)
    return kept[np.lexsort((claims[kept], *keys))]


def _shares(
    table: _Table, kept: Numbers, weights: Mapping[str, float], most: int | dict[str, int] | None
) -> NDArray[np.float64]:
    """Pairs of each source: as many as the scarcest one, and `most`, leave in these proportions.

    A source without a pair has no share.
    """
    sizes = np.bincount(table.groups[kept], minlength=len(table.names))
    have = dict(zip(table.names, sizes.tolist(), strict=True))
    parts = [have[name] / weight for name, weight in weights.items() if have.get(name)]
    scale = min(parts, default=0.0)
    if isinstance(most, int):
        scale = min(scale, most / math.fsum(weights[name] for name in weights if have.get(name)))
    return np.array([math.floor(weights[name] * scale + 1e-9) for name in table.names], float)


def _beyond(groups: Numbers, ordered: Numbers, limits: NDArray[np.float64]) -> Numbers:
    """Those of `ordered` whose place within their group is beyond its limit."""
    by_group = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups, minlength=len(limits))
    places = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return ordered[by_group[places >= limits[groups[by_group]]]]


def _contradicted(
    claims: Numbers, forward: NDArray[np.bool_], is_decided: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    total = np.bincount(claims, weights=is_decided)
    agreeing = np.bincount(claims, weights=forward & is_decided)
    is_disputed: NDArray[np.bool_] = (agreeing > 0) & (agreeing < total)
    return is_disputed[claims]


def _first_of_each(numbers: Numbers, among: Numbers) -> Numbers:
    return among[np.unique(numbers[among], return_index=True)[1]]


def _near_duplicates(table: _Table, prompts: Numbers, kept: Numbers) -> Numbers:
    """Those of `kept` whose prompt is near a shorter prompt that stays, or one of lower rank."""
    leaders = _first_of_each(prompts, kept)  # one pair per prompt, lowest rank first
    is_near = table.texts.near_a_shorter(table.text_at[leaders])
    return kept[np.isin(prompts[kept], prompts[leaders[is_near]])]
