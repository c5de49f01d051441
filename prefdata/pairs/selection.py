"""Decides over the whole set which pairs stay, and where. Picks no pair and moves no row.

One pass over light facts; of every text only hashes are kept (at the peak about 150 bytes a pair,
450 with `minhash`). Every decision but one is a function of the set, not of its order: a
prompt's place is the rank of its hash under the seed. Of exact duplicates, the first in order
stays. Responses are compared in NFC and without blanks at their ends, as prompts are.
"""

import math
import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib.util import find_spec
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prefdata.errors import PrefdataError
from prefdata.pairs.split import (
    Keys,
    Numbers,
    as_keys,
    hash_prompt,
    hash_text,
    is_held_out,
    number_keys,
)
from prefdata.recipe.projection import PairRules
from prefdata.seeds.identity import bare

Verdict = Literal["train", "test", "contradiction", "duplicate", "near_duplicate", "over_max_pairs"]

VERDICTS: dict[Verdict, str] = {
    "train": "kept, for training",
    "test": "kept, for evaluation; no other pair of this prompt is in train",
    "contradiction": "another row of the same prompt prefers the other text; both are dropped",
    "duplicate": "an earlier row has the same prompt, chosen and rejected",
    "near_duplicate": "a prompt that stays has nearly the same words",
    "over_max_pairs": "the seeded sample of max_pairs is full",
}
"""What can become of a pair, with its meaning, in the order in which the rules are asked."""

_NAMES: tuple[Verdict, ...] = tuple(VERDICTS)
_CODES = {verdict: code for code, verdict in enumerate(_NAMES)}

NEAR_DUPLICATE_JACCARD = 0.8
SHINGLE_WORDS = 3
_PERMUTATIONS = 128
_CHUNK = 2048

# Scripts that put no space between words: there, one character counts as a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")

_Codes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PairFacts:
    """What the decisions need of one pair.

    Attributes:
        prompt: its identity (`prompt_identity`).
        margin: where `max_pairs` cuts through a prompt, its larger margins stay; None goes last.
        words: what `minhash` reads; of a chat, its turns; the prompt itself where left out.
    """

    prompt: str
    chosen: str
    rejected: str
    margin: float | None = None
    words: str | None = None


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


def select(facts: Iterable[PairFacts], rule: PairRules, *, seed: int) -> Selection:
    """Drop contradictions, duplicates and what exceeds `max_pairs`; split the rest by prompt.

    1. Contradictions: two rows of one prompt that prefer opposite texts say nothing. All rows
       about these two texts are dropped, whatever `dedupe` says.
    2. Duplicates (`exact`, `minhash`): of equal (prompt, chosen, rejected) the first stays.
    3. Near duplicates (`minhash`): of prompts that share 0.8 of their shingles of three words
       one stays, with all its pairs (by estimate: at 0.8, one such pair in twenty is missed).
    4. `max_pairs`: whole prompts in the order of their rank; the last one may be cut.
    5. `test_size`: prompts in the order of their rank, so raising `max_pairs` keeps the test set.

    Args:
        facts: every pair of the set, once; consumed in one pass.
        rule: the recipe's projection.
        seed: of the recipe; another seed gives another sample and split.

    Raises:
        PrefdataError: `test_size` is a count that would leave no prompt for training, or `minhash`
            is asked for and its package is missing.
    """
    check_dedupe(rule)
    table = _read(facts, seed, with_signatures=rule.dedupe == "minhash")
    codes = np.full(len(table), _CODES["train"], dtype=np.uint8)
    prompts, claims = number_keys(table.prompts), number_keys(table.claims)
    codes[_contradicted(claims, table.forward)] = _CODES["contradiction"]
    if rule.dedupe != "none":
        repeats = np.setdiff1d(_kept(codes), _first_of_each(claims, _kept(codes)))
        codes[repeats] = _CODES["duplicate"]
    if rule.dedupe == "minhash":
        codes[_near_duplicates(table, prompts, _kept(codes))] = _CODES["near_duplicate"]
    if rule.max_pairs is not None:
        kept = _kept(codes)
        best_first = np.lexsort((claims[kept], -table.margins[kept], prompts[kept]))
        codes[kept[best_first[rule.max_pairs :]]] = _CODES["over_max_pairs"]
    kept = _kept(codes)
    codes[kept[is_held_out(prompts[kept], rule.test_size)]] = _CODES["test"]
    return Selection(codes)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Grows by one entry per pair; `signatures` only when the prompt changes."""

    prompts: bytearray = field(default_factory=bytearray)
    claims: bytearray = field(default_factory=bytearray)
    forward: bytearray = field(default_factory=bytearray)
    margins: "array[float]" = field(default_factory=lambda: array("d"))
    signatures: bytearray = field(default_factory=bytearray)
    signature_at: "array[int]" = field(default_factory=lambda: array("q"))


@dataclass(frozen=True, slots=True)
class _Table:
    """The facts as hashes: `prompts` and `claims` are 128 bits each, as two words.

    Attributes:
        prompts: hash of the prompt under the seed; its order is the prompt's rank.
        claims: hash of (prompt, the two responses in either order).
        forward: whether chosen has the smaller hash: tells the two directions of a claim apart.
        margins: NaN where there is none.
        signatures: MinHash, one byte per permutation, a row per run of equal prompts.
        signature_at: row of `signatures` per pair.
    """

    prompts: Keys
    claims: Keys
    forward: NDArray[np.bool_]
    margins: NDArray[np.float64]
    signatures: _Codes
    signature_at: Numbers

    def __len__(self) -> int:
        return len(self.forward)


def _read(facts: Iterable[PairFacts], seed: int, *, with_signatures: bool) -> _Table:
    columns = _Columns()
    stream = iter(facts)
    while chunk := list(islice(stream, _CHUNK)):
        for fact in chunk:
            _append(columns, fact, seed)
        if with_signatures:
            _append_signatures(columns, [fact.words or fact.prompt for fact in chunk])
    return _Table(
        as_keys(columns.prompts),
        as_keys(columns.claims),
        np.frombuffer(columns.forward, dtype=np.bool_),
        np.frombuffer(columns.margins, dtype=np.float64),
        np.frombuffer(columns.signatures, dtype=np.uint8).reshape(-1, _PERMUTATIONS),
        np.frombuffer(columns.signature_at, dtype=np.int64),
    )


def _append(columns: _Columns, fact: PairFacts, seed: int) -> None:
    prompt = hash_prompt(fact.prompt, seed)
    chosen, rejected = hash_text(bare(fact.chosen)), hash_text(bare(fact.rejected))
    low, high = sorted((chosen, rejected))
    columns.prompts.extend(prompt)
    columns.claims.extend(blake2b(prompt + low + high, digest_size=16).digest())
    columns.forward.append(chosen <= rejected)
    columns.margins.append(math.nan if fact.margin is None else fact.margin)


def _append_signatures(columns: _Columns, prompts: Sequence[str]) -> None:
    """MinHash of each run of equal prompts, reduced to the low byte of every permutation.

    A byte agrees by chance once in 256, which shifts the estimated similarity by less than 0.002
    near the threshold, and makes a signature four times smaller (Li and König, b-bit minwise
    hashing, WWW 2010).
    """
    runs: list[str] = []
    first_row = len(columns.signatures) // _PERMUTATIONS
    for prompt in prompts:
        if not runs or prompt != runs[-1]:
            runs.append(prompt)
        columns.signature_at.append(first_row + len(runs) - 1)
    columns.signatures.extend(_signatures(runs).tobytes())


def check_dedupe(rule: PairRules) -> None:
    """Make sure that what `dedupe` needs is installed, before there is anything to lose.

    Raises:
        PrefdataError: it is not.
    """
    if rule.dedupe == "minhash" and find_spec("rensa") is None:
        raise PrefdataError(
            "dedupe is minhash, which needs the package rensa, but it is not installed; "
            "run pip install 'prefdata[minhash]', or set dedupe: exact"
        )


def _signatures(prompts: Sequence[str]) -> _Codes:
    from rensa import RMinHash  # only `minhash` needs it

    shingles = [_shingles(prompt) for prompt in prompts]
    digests: Any = RMinHash.digests_from_token_sets(shingles, _PERMUTATIONS, 0)
    return np.array(digests, dtype=np.uint32).astype(np.uint8)


def _shingles(prompt: str) -> list[str]:
    """Runs of three words in lower case; symbols count as words, or 3 + 4 would equal 3 - 4."""
    # Half a surrogate pair, which JSON may hold, is refused by the library.
    clean = prompt.lower().encode("utf-8", "replace").decode()
    words: list[str] = _WORD.findall(clean)
    last = max(1, len(words) - SHINGLE_WORDS + 1)
    return [" ".join(words[start : start + SHINGLE_WORDS]) for start in range(last)]


def _kept(codes: _Codes) -> Numbers:
    return np.flatnonzero(codes == _CODES["train"])


def _contradicted(claims: Numbers, forward: NDArray[np.bool_]) -> NDArray[np.bool_]:
    total, agreeing = np.bincount(claims), np.bincount(claims, weights=forward)
    is_disputed: NDArray[np.bool_] = (agreeing > 0) & (agreeing < total)
    return is_disputed[claims]


def _first_of_each(numbers: Numbers, among: Numbers) -> Numbers:
    return among[np.unique(numbers[among], return_index=True)[1]]


def _near_duplicates(table: _Table, prompts: Numbers, kept: Numbers) -> Numbers:
    """Those of `kept` whose prompt is near a prompt of lower rank that stays."""
    leaders = _first_of_each(prompts, kept)  # one pair per prompt, lowest rank first
    is_near = _near_an_earlier(table.signatures, table.signature_at[leaders])
    return kept[np.isin(prompts[kept], prompts[leaders[is_near]])]


def _near_an_earlier(signatures: _Codes, rows: Numbers) -> NDArray[np.bool_]:
    """Whether the signature in a row is near that of an earlier row that stays.

    Signatures that agree on all 8 bytes of one of 16 bands are compared in full: at a similarity
    of 0.8 the bands find 95 % of the pairs, at 0.85 99 %, and at 0.5 the comparison clears the
    6 % that they find wrongly. A row that is near is not compared with later ones, so a chain of
    small edits loses only its inner links.
    """
    is_near = np.zeros(len(rows), dtype=np.bool_)
    buckets_of = _shared_buckets(signatures, rows)
    stay_in_bucket: dict[int, list[int]] = defaultdict(list)
    for at in np.flatnonzero((buckets_of >= 0).any(axis=1)).tolist():
        row = int(rows[at])
        buckets = [bucket for bucket in buckets_of[at].tolist() if bucket >= 0]
        met = (stay_in_bucket[bucket] for bucket in buckets if bucket in stay_in_bucket)
        if any(_agreement(signatures, row, others) >= NEAR_DUPLICATE_JACCARD for others in met):
            is_near[at] = True
        else:
            for bucket in buckets:
                stay_in_bucket[bucket].append(row)
    return is_near


def _agreement(signatures: _Codes, row: int, others: list[int]) -> float:
    """Highest estimated Jaccard similarity of the row and any other."""
    agreeing = np.count_nonzero(signatures[others] == signatures[row], axis=1)
    return int(agreeing.max()) / _PERMUTATIONS


def _shared_buckets(signatures: _Codes, rows: Numbers) -> NDArray[np.int32]:
    """Per row and band a number that rows with the same band share; -1 where no other row does."""
    bands = signatures.view(np.uint64)
    buckets = np.full((len(rows), bands.shape[1]), -1, dtype=np.int32)
    used = 0
    for column in range(bands.shape[1]):
        _, value, size = np.unique(bands[rows, column], return_inverse=True, return_counts=True)
        is_shared = size > 1
        number = np.cumsum(is_shared) - 1 + used
        buckets[:, column] = np.where(is_shared, number, -1)[value]
        used += int(is_shared.sum())
    return buckets
