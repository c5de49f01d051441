"""What has become of the pairs of one run in another: kept, changed, gone or new, and why.

Of every text only a hash is held: about 100 bytes a pair, 20 a reject. Reads folders, writes none.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from prefdata.pairs.files import SPLITS, THOUGHTS
from prefdata.pairs.pair import said
from prefdata.pairs.split import Keys, Numbers, as_keys, hash_text, number_keys
from prefdata.rows import Row, rows_of
from prefdata.seeds.identity import bare, prompt_identity
from prefdata.storage.disk import Damaged
from prefdata.storage.folders import read_schema, read_tables
from prefdata.storage.record import CUT_SHORT, Record, is_table, lost_files, read_record

SIDES = ("chosen", "rejected")
HASHED = ("row_id", "prompt", *SIDES)
READ = (
    *HASHED, "margin", *THOUGHTS,
    *(f"{side}_{more}" for side in SIDES for more in ("tool_calls", "turns")),
)  # fmt: skip
REJECTED = ("id", "stage", "reason", "row")
CHANGES = {
    "swapped": "the other of the same two texts is preferred",
    "rejected": "another text is rejected",
    "chosen": "another text is chosen",
    "both": "two other texts",
    "prompt": "the row is asked something else",
}
"""How a pair of a prompt that has one in both runs may differ, in the order in which pairs of a
prompt find each other."""
MORE, FEWER, UNKNOWN, STRANGE = (
    "its prompt has more pairs", "its prompt has fewer pairs", "unknown", "not among the rows",
)  # fmt: skip
"""Reasons beside those of the rejects; UNKNOWN where a run was published without its rejects."""


@dataclass(frozen=True, slots=True)
class Diff:
    """The pairs of one run, and what they are in another.

    Attributes:
        pairs: of the one and of the other.
        kept: with the same prompt, chosen and rejected.
        moved: those of them in another split: `train to test`, `test to train`.
        rescored: those of them with another margin.
        changed: by what differs, a key of CHANGES.
        gone: by reason, `stage: reason` of the reject that the row is in the other run.
        new: by reason, what the row was in the one run.
    """

    pairs: tuple[int, int]
    kept: int
    moved: dict[str, int]
    rescored: int
    changed: dict[str, int]
    gone: dict[str, int]
    new: dict[str, int]

    def told(self) -> Record:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PairsOfRun:
    """Hashes of the pairs and rejects of a run.

    Attributes:
        keys: of row ids, prompts, chosen and rejected, of all pairs.
        is_test: whether each pair is held out.
        margins: NaN where there is none.
        rejects: hashes of the rejects' row ids.
        prompts: of their prompts.
        reasons: of each reject, its place in `names`.
        names: `stage: reason`.
        has_rejects: whether the run tells them.
    """

    keys: dict[str, Keys]
    is_test: NDArray[np.bool_]
    margins: NDArray[np.float64]
    rejects: Keys
    prompts: Keys
    reasons: Numbers
    names: list[str]
    has_rejects: bool

    def __len__(self) -> int:
        return len(self.margins)


def read_pairs_of(run: Path, record: Record) -> PairsOfRun:
    """Read the pairs and rejects of a run folder.

    Args:
        run: the folder.
        record: its `run.json`.

    Raises:
        Damaged: a file is cut short or missing.
    """
    pairs, known = run / "pairs", set(read_schema(run / "pairs").names)
    columns = [name for name in READ if name in known]
    hashes = {name: bytearray() for name in HASHED}
    splits, margins = list[NDArray[np.bool_]](), list[NDArray[np.float64]]()
    for split in SPLITS:
        for table in read_tables(pairs, columns=columns, stem=split):
            splits.append(np.full(table.num_rows, split == "test"))
            margins.append(table["margin"].to_numpy().astype(float))
            for row in rows_of(table):
                hashes["row_id"] += hash_text(row["row_id"])
                hashes["prompt"] += hash_text(prompt_identity(row["prompt"]))
                for side in SIDES:
                    hashes[side] += hash_text(_said(row, side))
    rejects, names = run / "rejects", dict[str, int]()
    ids, prompts, reasons = bytearray(), bytearray(), list[int]()
    name = record.get("prompt_field", "prompt")
    for table in read_tables(rejects, columns=REJECTED) if rejects.is_dir() else ():
        for row, stage, reason, content in zip(*map(pa.ChunkedArray.to_pylist, table), strict=True):
            ids += hash_text(row)
            prompts += hash_text(prompt_identity(orjson.loads(content).get(name)))
            reasons.append(names.setdefault(f"{stage}: {reason}", len(names)))
    return PairsOfRun(
        {name: as_keys(found) for name, found in hashes.items()},
        np.concatenate([np.zeros(0, bool), *splits]),
        np.concatenate([np.zeros(0), *margins]),
        as_keys(ids),
        as_keys(prompts),
        np.array(reasons, np.int64),
        list(names),
        rejects.is_dir(),
    )


def read_before(run: Path) -> PairsOfRun | None:
    """The pairs that a run folder has before they are chosen anew; None where it has none whole."""
    try:
        record = read_record(run) or read_record(run, CUT_SHORT)
        is_whole = record is not None and not any(map(is_table, lost_files(run, record)))
        return read_pairs_of(run, record) if record is not None and is_whole else None
    except Damaged:
        return None


def changes_since(before: PairsOfRun | None, run: Path, prompt_field: str) -> Record:
    """What a record says of the difference, under `changes`."""
    if before is None:
        return {"changes": None}
    after = read_pairs_of(run, {"prompt_field": prompt_field})
    return {"changes": compare_pairs(before, after).told()}


def tell_changes(told: Record) -> Iterator[tuple[str, str]]:
    """A `Diff` as it was told, in lines of a name and a count; indented ones are part of others."""
    yield "pairs", " -> ".join(f"{count:,}" for count in told["pairs"])
    yield "kept", f"{told['kept']:,}"
    more = told["moved"] | {"with another margin": told["rescored"]}
    yield from ((f"  {name}", f"{count:,}") for name, count in more.items() if count)
    for name in ("changed", "gone", "new"):
        yield name, f"{sum(told[name].values()):,}"
        for reason, count in told[name].items():
            yield f"  {CHANGES.get(reason, reason)}", f"{count:,}"


def _said(row: Row, side: str) -> str:
    """What makes two texts two: the answer, its calls and turns, and its thought."""
    text = said(bare(row[side]), row.get(f"{side}_tool_calls"), row.get(f"{side}_turns"))
    thought = row.get(f"{side}_reasoning")
    return text if thought is None else f"{text}\0{bare(thought)}"


def compare_pairs(one: PairsOfRun, other: PairsOfRun) -> Diff:
    """Find every pair of one run in another: by its prompt first, then by its row."""
    rows, prompts = (_number(one.keys[name], other.keys[name]) for name in ("row_id", "prompt"))
    chosen, rejected = _number_sides(one, other)
    rules = {
        "kept": _key(prompts, chosen, rejected),
        "swapped": _key(prompts, (chosen[0], rejected[1]), (rejected[0], chosen[1])),
        "rejected": _key(prompts, chosen),
        "chosen": _key(prompts, rejected),
        "both": prompts,
        "prompt": rows,
    }
    left, there = np.arange(len(one)), np.arange(len(other))
    changed, kept = dict[str, int](), (left[:0], there[:0])
    for name, (a, b) in rules.items():
        found = _matched(a[left], b[there])
        if name == "kept":
            kept = left[found[0]], there[found[1]]
        elif len(found[0]):
            changed[name] = len(found[0])
        left, there = np.delete(left, found[0]), np.delete(there, found[1])
    before, after = one.is_test[kept[0]], other.is_test[kept[1]]
    margins = one.margins[kept[0]], other.margins[kept[1]]
    moved = {"train to test": ~before & after, "test to train": before & ~after}
    return Diff(
        (len(one), len(other)),
        len(kept[0]),
        {name: count for name, those in moved.items() if (count := int(those.sum()))},
        int((~np.isclose(*margins, rtol=1e-9, atol=0, equal_nan=True)).sum()),
        changed,
        _reasons(one, left, other, np.isin(prompts[0][left], prompts[1]), FEWER),
        _reasons(other, there, one, np.isin(prompts[1][there], prompts[0]), MORE),
    )


Two = tuple[Numbers, Numbers]
"""Of the pairs of one run, and of the other's."""


def _number(one: Keys, other: Keys) -> Two:
    """Equal numbers for equal keys."""
    numbers = number_keys(np.concatenate([one, other]))
    return numbers[: len(one)], numbers[len(one) :]


def _number_sides(one: PairsOfRun, other: PairsOfRun) -> tuple[Two, Two]:
    """Chosen and rejected in one numbering: a text has one number on whichever side it stands."""
    keys = [run.keys[side] for side in SIDES for run in (one, other)]
    ends = np.cumsum([*map(len, keys)])[:-1]
    a, b, c, d = np.split(number_keys(np.concatenate(keys)), ends)
    return (a, b), (c, d)


def _both(a: Two, b: Two) -> Two:
    """Equal numbers where both are equal."""
    return _number(*(np.stack(told, axis=1).astype(np.uint64) for told in zip(a, b, strict=True)))


def _key(first: Two, *rest: Two) -> Two:
    for more in rest:
        first = _both(first, more)
    return first


def _matched(one: Numbers, other: Numbers) -> Two:
    """Places of equal keys, the n-th of a key with the n-th."""
    size = max(len(one), len(other)) + 1
    _, mine, theirs = np.intersect1d(
        one * size + _turns(one), other * size + _turns(other),
        assume_unique=True, return_indices=True,
    )  # fmt: skip
    return mine, theirs


def _turns(keys: Numbers) -> Numbers:
    """How many equal ones stand before each."""
    order = np.argsort(keys, kind="stable")
    _, counts = np.unique(keys, return_counts=True)
    turns = np.empty(len(keys), np.int64)
    turns[order] = np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts)
    return turns


def _reasons(
    run: PairsOfRun, left: Numbers, other: PairsOfRun, has_prompt: NDArray[np.bool_], fewer: str
) -> dict[str, int]:
    """Why pairs of a run, those that are left, are not in the other, the commonest reason first.

    A row's own reject counts, else one of the same prompt: with another field a seed is another
    row.
    """
    counts: Counter[str] = Counter()
    codes = _rejected(run.keys["row_id"][left], other.rejects, other.reasons)
    is_open = (codes < 0) & ~has_prompt
    codes[is_open] = _rejected(run.keys["prompt"][left][is_open], other.prompts, other.reasons)
    counts[fewer] = int(((codes < 0) & has_prompt).sum())
    counts[STRANGE if other.has_rejects else UNKNOWN] = int(((codes < 0) & ~has_prompt).sum())
    for code, count in zip(*np.unique(codes[codes >= 0], return_counts=True), strict=True):
        counts[other.names[code]] += int(count)
    return {name: count for name, count in counts.most_common() if count}


def _rejected(keys: Keys, rejects: Keys, reasons: Numbers) -> Numbers:
    """The reason of the first reject with each key, -1 where there is none."""
    mine, theirs = _number(keys, rejects)
    known, first = np.unique(theirs, return_index=True)
    places = np.searchsorted(known, mine)
    is_known = np.isin(mine, known)
    codes = np.full(len(keys), -1, np.int64)
    codes[is_known] = reasons[first[places[is_known]]]
    return codes
