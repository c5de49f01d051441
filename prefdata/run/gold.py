"""Known preferences as rows that a judge is asked about, and what its answers say of it.

Asks nothing itself: `steps` sends the rows through the judge's own column.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from prefdata.errors import PrefdataError, RowError, suggest
from prefdata.fingerprint import sampling_seed
from prefdata.pairs.verdicts import single_verdicts
from prefdata.recipe.chats import read_chat
from prefdata.recipe.columns import given_columns
from prefdata.recipe.contract import Column, Scored
from prefdata.recipe.gold import Gold
from prefdata.recipe.loader import LoadedRecipe
from prefdata.recipe.origins import columns_read
from prefdata.recipe.plan import Pass, checkpoints_of
from prefdata.recipe.schema import SeedDataset
from prefdata.recipe.tournament import Tournament
from prefdata.recipe.values import META_SUFFIX
from prefdata.rows import ID, Row, rows_of
from prefdata.seeds.seeds import load_seeds
from prefdata.storage.folders import RowsWriter, read_rows

SIDES = ("chosen", "rejected")
TEXTS = "candidates"
FIRST_IS_CHOSEN = "first_is_chosen"
BINS = 5
"""Of confidence, from one half to one."""


@dataclass(frozen=True, slots=True)
class Test:
    """A judge with rows that it is asked about.

    Attributes:
        loaded: the recipe with this judge alone.
        step: the pass of the judge.
        compared: the two columns with the texts; None where they are candidates.
    """

    loaded: LoadedRecipe
    step: Pass
    compared: tuple[str, str] | None

    @property
    def judge(self) -> Column:
        """The column that judges."""
        return self.step.columns[0]


@dataclass(frozen=True, slots=True)
class Found:
    """What a judge says of one known preference.

    Attributes:
        won: 1 if it prefers chosen, 0 if rejected, a half for a tie.
        chance: of chosen, as the judge's answers put it: the share of verdicts, of all orders and
            judges, or one half and half the difference of the ratings in the width of their scale.
        longer: whether chosen is longer in characters; None if both are as long.
        firsts: verdicts that name what was shown first, and those that name the second.
    """

    won: float
    chance: float
    longer: bool | None
    firsts: tuple[int, int]


def write_known(column: Column, gold: Gold, loaded: LoadedRecipe, target: Path) -> Test:
    """Write the rows to the folder `target`: which text stands first is drawn by row.

    Raises:
        PrefdataError: the files cannot be read, or lack what the judge reads.
    """
    compared = column.compared(loaded.recipe.columns)
    changes: dict[str, Any] = {"gold": None, "skip_when": None}
    if isinstance(column, Scored) and (column.candidates or column.responses):
        changes |= {"candidates": TEXTS, "responses": None}
        how: Tournament | None = getattr(column, "tournament", None)
        if how is not None and how.type != "listwise":
            changes["tournament"] = Tournament(type="round_robin", score=how.score)
    else:
        changes["compare"] = compared
    judge = column.model_copy(update=changes)
    only = loaded.changed(columns=(*given_columns(()), judge))
    config = SeedDataset(path=gold.path, split=gold.split, limit=gold.limit)
    places = [loaded.locate(path) for path in gold.path]
    needed = dict.fromkeys(("prompt", *SIDES), f"column {column.name!r}: gold")
    seeds = load_seeds(config, places, needed=needed, num_records=None, seed=loaded.recipe.seed)
    here = [*seeds.table.column_names, TEXTS, *(compared or ())]
    wanted = {n for n in columns_read(judge, only.recipe) if not n.endswith(META_SUFFIX)}
    if lacking := sorted(wanted.difference(here)):
        raise PrefdataError(
            f"column {column.name!r}: the judge reads {lacking[0]!r}, which the known preferences "
            f"in {', '.join(gold.path)} lack; add it to each line ({suggest(lacking[0], here)})"
        )
    rows = [_row(row, compared, loaded.recipe.seed) for row in rows_of(seeds.table)]
    table = seeds.table.drop_columns(list(SIDES))
    for name in (*(compared or (TEXTS,)), FIRST_IS_CHOSEN):
        table = table.append_column(name, pa.array([row[name] for row in rows]))
    with RowsWriter(target, table.schema) as writer:
        writer.write(table)
    return Test(only, Pass(((judge,),), checkpoints_of(judge, only.recipe)), compared)


def _row(row: Row, compared: tuple[str, str] | None, seed: int) -> Row:
    is_first = sampling_seed(seed, row[ID], "gold") % 2 == 0
    texts = [_text(row[side]) for side in (SIDES if is_first else SIDES[::-1])]
    told = dict(zip(compared, texts, strict=True)) if compared else {TEXTS: [{"text": t} for t in texts]}  # fmt: skip  # noqa: E501
    return {**told, FIRST_IS_CHOSEN: is_first}


def _text(side: Any) -> str:
    """The text of a side, which may be a list of messages that it ends."""
    if isinstance(side, str):
        return side
    try:
        return read_chat(side)[-1]["content"]
    except (RowError, IndexError) as err:
        told = "a side of a known preference is neither a text nor a list of messages"
        raise PrefdataError(f"{told}: {side!r}; correct it") from err


def measure(test: Test, judged: Path, failed: int) -> dict[str, Any]:
    """How a judge does on known preferences: the numbers of `run.json`.

    - `rows` judged, `failed`, `ties`, and `accuracy`, a tie counting half;
    - `first`, `second`: verdicts by the place that they name;
    - `longer`, `shorter`: rows whose chosen is so, and the accuracy on them;
    - `calibration`: for each bin of confidence its mean, its rows, and the accuracy; their mean
      distance is `calibration_error` (ECE, Guo and others, arXiv 1706.04599).
    """
    found = [_found(row, test) for row in read_rows(judged)]
    bins = [[one for one in found if _bin(one) == number] for number in range(BINS)]
    calibration = [
        {
            "confidence": sum(max(one.chance, 1 - one.chance) for one in part) / len(part),
            "rows": len(part),
            "accuracy": sum(_is_right(one) for one in part) / len(part),
        }
        for part in bins
        if part
    ]
    apart = sum(part["rows"] * abs(part["confidence"] - part["accuracy"]) for part in calibration)
    return {
        **asdict(_Share.of(found)),
        "failed": failed,
        "ties": sum(one.won == 0.5 for one in found),
        "first": sum(one.firsts[0] for one in found),
        "second": sum(one.firsts[1] for one in found),
        "longer": asdict(_Share.of([one for one in found if one.longer is True])),
        "shorter": asdict(_Share.of([one for one in found if one.longer is False])),
        "calibration": calibration,
        "calibration_error": apart / len(found) if found else None,
    }


@dataclass(frozen=True, slots=True)
class _Share:
    rows: int
    accuracy: float | None

    @classmethod
    def of(cls, found: list[Found]) -> "_Share":
        right = sum(one.won for one in found)
        return cls(len(found), right / len(found) if found else None)


def _bin(one: Found) -> int:
    return min(int((max(one.chance, 1 - one.chance) - 0.5) * 2 * BINS), BINS - 1)


def _is_right(one: Found) -> float:
    """Whether what the judge is more confident of is chosen."""
    return 0.5 if one.chance == 0.5 else float(one.chance > 0.5)


def _found(row: Row, test: Test) -> Found:
    judge, is_first = test.judge, row[FIRST_IS_CHOSEN]
    texts = [row[n] for n in test.compared] if test.compared else [c["text"] for c in row[TEXTS]]
    chosen, rejected = texts if is_first else texts[::-1]
    longer = None if len(chosen) == len(rejected) else len(chosen) > len(rejected)
    meta = row[judge.name + META_SUFFIX]  # of a rubric it is a list of ratings
    said = [*single_verdicts(meta, judge.winner_key or "")] if isinstance(meta, Mapping) else []
    if test.compared:
        word = str(row[judge.name].get(judge.winner_key)).strip().upper()
        margin = {"A": 1.0, "B": -1.0}.get(word, 0.0)
    else:
        first, second = (score or 0.0 for score in row[judge.name])
        margin = first - second
    if said:
        chance = sum(won for won, _ in said) / len(said)
    else:
        chance = 0.5 + margin / (2 * _width(judge)) if margin else 0.5
    won = 0.5 if abs(margin) < 1e-9 else float(margin > 0)
    places = [word for _, word in said]
    return Found(
        won if is_first else 1 - won,
        chance if is_first else 1 - chance,
        longer,
        (places.count("A"), places.count("B")),
    )


def _width(judge: Column) -> float:
    lowest, highest = getattr(judge, "scale", (0, 1))
    return float(highest - lowest)


def refuse_poor(column: str, gold: Gold, told: Mapping[str, Any]) -> None:
    """Stop a run whose judge does not find enough of what is known.

    Raises:
        PrefdataError: it does not.
    """
    if (told["accuracy"] or 0.0) < gold.min_accuracy:
        raise PrefdataError(
            f"column {column!r}: the judge finds {told['accuracy'] or 0.0:.1%} of "
            f"{told['rows']:,} known preferences, and min_accuracy is {gold.min_accuracy:.1%}, so "
            "the run stops before anything else is asked; change the judge's prompt or model, or "
            "lower min_accuracy"
        )


def tell(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The measures of a judge in words: (what, how much)."""
    if not told["rows"]:
        yield "known preferences", f"none of {told['failed']:,} judged"
        return
    failed = f", {told['failed']:,} without a verdict" if told["failed"] else ""
    yield (
        "known preferences",
        f"{told['accuracy']:.1%} of {told['rows']:,} found, {told['ties']:,} ties{failed}",
    )
    by_length = [
        f"{told[name]['accuracy']:.1%} where chosen is {name} ({told[name]['rows']:,})"
        for name in ("longer", "shorter")
        if told[name]["rows"]
    ]
    if by_length:
        yield "… by length", ", ".join(by_length)
    if named := told["first"] + told["second"]:
        yield "… by place", f"{told['first'] / named:.1%} of its verdicts name the one shown first"
    yield "… calibration", f"confidence and accuracy are {told['calibration_error']:.3f} apart"
