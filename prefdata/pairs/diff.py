"""What has become of the pairs of one run in another: kept, changed, gone or new, and why.

Of every text only a hash is held. Reads folders, writes none.
"""

import math
import sys
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from prefdata.pairs.files import SPLITS, THOUGHTS
from prefdata.pairs.pair import SIDES, said
from prefdata.pairs.split import hash_text
from prefdata.rows import Row, rows_of
from prefdata.seeds.identity import bare, prompt_identity
from prefdata.storage.disk import Damaged
from prefdata.storage.folders import read_schema, read_tables
from prefdata.storage.record import CUT_SHORT, Record, is_table, lost_files, read_record

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
"""How a pair of a prompt that has one in both runs may differ."""
_SAME = ("prompt", "chosen", "rejected")
RULES = {
    "kept": (_SAME, _SAME),
    "swapped": (_SAME, ("prompt", "rejected", "chosen")),
    "rejected": (("prompt", "chosen"),) * 2,
    "chosen": (("prompt", "rejected"),) * 2,
    "both": (("prompt",),) * 2,
    "prompt": (("row_id",),) * 2,
}
"""What of the one run's pairs equals what of the other's, in the order in which they are looked
for."""
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
    """The pairs and rejects of a run as tables (pandas') of hashes.

    Attributes:
        pairs: HASHED, `is_test`, and `margin`, NaN where there is none.
        rejects: `row_id`, `prompt`, and `reason`, as in `stage: reason`.
        has_rejects: whether the run tells them.
    """

    pairs: Any
    rejects: Any
    has_rejects: bool


def read_pairs_of(run: Path, record: Record) -> PairsOfRun:
    """Read the pairs and rejects of a run folder.

    Args:
        run: the folder.
        record: its `run.json`.

    Raises:
        Damaged: a file is cut short or missing.
    """
    import pandas as pd  # slow to import

    pairs, rejects = run / "pairs", run / "rejects"
    known = set(read_schema(pairs).names)
    columns = [name for name in READ if name in known]
    hashes = {name: array("q") for name in HASHED}
    is_test, margins = array("b"), array("d")
    for split in SPLITS:
        for table in read_tables(pairs, columns=columns, stem=split):
            for row in rows_of(table):
                hashes["row_id"].append(_hash(row["row_id"]))
                hashes["prompt"].append(_hash(prompt_identity(row["prompt"])))
                for side in SIDES:
                    hashes[side].append(_hash(_said(row, side)))
                is_test.append(split == "test")
                margins.append(math.nan if row["margin"] is None else row["margin"])
    ids, prompts, reasons = array("q"), array("q"), list[str]()
    name = record.get("prompt_field", "prompt")
    for table in read_tables(rejects, columns=REJECTED) if rejects.is_dir() else ():
        for row, stage, reason, content in zip(*map(pa.ChunkedArray.to_pylist, table), strict=True):
            ids.append(_hash(row))
            prompts.append(_hash(prompt_identity(orjson.loads(content).get(name))))
            reasons.append(sys.intern(f"{stage}: {reason}"))
    told = {name: np.asarray(found, np.int64) for name, found in hashes.items()}
    return PairsOfRun(
        pd.DataFrame(told | {"is_test": np.asarray(is_test, bool), "margin": np.asarray(margins)}),
        pd.DataFrame(
            {
                "row_id": np.asarray(ids, np.int64),
                "prompt": np.asarray(prompts, np.int64),
                "reason": pd.Series(reasons, dtype=object),
            }
        ),
        rejects.is_dir(),
    )


def _hash(text: str) -> int:
    return int.from_bytes(hash_text(text)[:8], signed=True)


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
    left, there = one.pairs, other.pairs
    found = {}
    for name, (mine, theirs) in RULES.items():
        found[name] = _matched(left, mine, there, theirs)
        left, there = left.drop(found[name].index_x), there.drop(found[name].index_y)
    kept = found.pop("kept")
    moved = {
        "train to test": ~kept.is_test_x & kept.is_test_y,
        "test to train": kept.is_test_x & ~kept.is_test_y,
    }
    same_margin = np.isclose(kept.margin_x, kept.margin_y, rtol=1e-9, atol=0, equal_nan=True)
    return Diff(
        pairs=(len(one.pairs), len(other.pairs)),
        kept=len(kept),
        moved={name: int(those.sum()) for name, those in moved.items() if those.any()},
        rescored=int((~same_margin).sum()),
        changed={name: len(those) for name, those in found.items() if len(those)},
        gone=_reasons(left, other, FEWER),
        new=_reasons(there, one, MORE),
    )


def _matched(left: Any, mine: tuple[str, ...], there: Any, theirs: tuple[str, ...]) -> Any:
    """Pairs that are equal in these columns, the n-th of a key with the n-th."""
    one, other = (
        side.assign(turn=side.groupby([*keys], sort=False).cumcount()).reset_index()
        for side, keys in ((left, mine), (there, theirs))
    )
    return one.merge(other, left_on=[*mine, "turn"], right_on=[*theirs, "turn"])


def _reasons(left: Any, other: PairsOfRun, fewer: str) -> dict[str, int]:
    """Why the pairs that are left are not in the other run, the commonest reason first.

    A row's own reject counts, else one of the same prompt: with another field a seed is another
    row.
    """
    by_row, by_prompt = (
        other.rejects.drop_duplicates(name).set_index(name).reason for name in ("row_id", "prompt")
    )
    has_prompt = left.prompt.isin(other.pairs.prompt)
    strange = STRANGE if other.has_rejects else UNKNOWN
    of_prompt = left.prompt.map(by_prompt).astype(object).fillna(strange).mask(has_prompt, fewer)
    told = left.row_id.map(by_row).astype(object).fillna(of_prompt)
    return dict(Counter(told.tolist()).most_common())
