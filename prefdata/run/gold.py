"""Known preferences as rows that a judge is asked about, and what its answers say of it.

Asks nothing itself: `steps` sends the rows through the judge's own column.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from prefdata.errors import PrefdataError, RowError
from prefdata.fingerprint import sampling_seed
from prefdata.pairs.pair import SIDES
from prefdata.pairs.verdicts import single_verdicts
from prefdata.recipe.chats import is_chat, read_chat
from prefdata.recipe.columns import given_columns
from prefdata.recipe.contract import Column, Scored
from prefdata.recipe.loader import LoadedRecipe
from prefdata.recipe.origins import columns_read
from prefdata.recipe.plan import Pass, checkpoints_of
from prefdata.recipe.schema import SeedDataset
from prefdata.recipe.sources import Gold
from prefdata.recipe.tournament import Tournament
from prefdata.recipe.values import META_SUFFIX
from prefdata.rows import ID, Row, rows_of
from prefdata.seeds.identity import bare
from prefdata.seeds.seeds import load_seeds
from prefdata.stages.strength import WON
from prefdata.storage.folders import RowsWriter, read_rows

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
        fingerprint: of the lines that were read.
        left_out: lines that measure nothing, by reason: how many `rows`, and the `first`.
        notes: messages for the user.
    """

    loaded: LoadedRecipe
    step: Pass
    compared: tuple[str, str] | None
    fingerprint: str
    left_out: dict[str, dict[str, Any]]
    notes: list[str]

    @property
    def judge(self) -> Column:
        """The column that judges."""
        return self.step.columns[0]


def write_known(column: Column, gold: Gold, loaded: LoadedRecipe, target: Path) -> Test:
    """Write the rows of `read_known` to the folder `target`; errors as there."""
    test, table = read_known(column, gold, loaded)
    with RowsWriter(target, table.schema) as writer:
        writer.write(table)
    return test


def read_known(column: Column, gold: Gold, loaded: LoadedRecipe) -> tuple[Test, pa.Table]:
    """A judge, and the rows that it is asked about: which text stands first is drawn by row.

    Raises:
        PrefdataError: the files cannot be read, or no line has what the judge reads.
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
    where = gold.model_dump(include={"path", "name", "split", "revision", "limit"})
    config = SeedDataset(**where)
    places = [loaded.locate(path) for path in gold.path]
    wanted = {n for n in columns_read(judge, only.recipe) if not n.endswith(META_SUFFIX)}
    wanted -= {ID, TEXTS, *(compared or ())}
    needed = dict.fromkeys(("prompt", *SIDES), "'gold'")
    needed = dict.fromkeys(sorted(wanted), "the judge") | needed
    seeds = load_seeds(
        config, places, needed=needed, num_records=None, seed=loaded.recipe.seed, prompt="prompt",
        check=_check_sides, at=f"column {column.name!r}: gold.{{}}".format,
    )  # fmt: skip
    rows = [_row(row, compared, loaded.recipe.seed) for row in rows_of(seeds.table)]
    table = seeds.table.drop_columns(list(SIDES))
    for name in (*(compared or (TEXTS,)), FIRST_IS_CHOSEN):
        table = table.append_column(name, pa.array([row[name] for row in rows]))
    step = Pass(((judge,),), checkpoints_of(judge, only.recipe))
    return Test(only, step, compared, seeds.fingerprint, _count(seeds.rejects), seeds.notes), table


def _count(rejects: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """How many lines have each reason, and the place and detail of the first."""
    counts: dict[str, dict[str, Any]] = {}
    for bad in rejects:
        first = {"rows": 0, "first": f"{bad['source']}: {bad['detail']}"}
        counts.setdefault(bad["reason"], first)["rows"] += 1
    return counts


def _check_sides(fields: Row) -> None:
    """See that one of two texts can be better.

    Raises:
        RowError: it cannot.
    """
    texts = {side: bare(_text(side, fields[side])) for side in SIDES}
    if empty := [side for side, text in texts.items() if not text]:
        raise RowError("empty_answer", f"{empty[0]!r} is empty or blank")
    if len(set(texts.values())) == 1:
        raise RowError("identical", "'chosen' and 'rejected' are the same text")


def _row(row: Row, compared: tuple[str, str] | None, seed: int) -> Row:
    is_first = sampling_seed(seed, row[ID], "gold") % 2 == 0
    texts = [_text(side, row[side]) for side in (SIDES if is_first else SIDES[::-1])]
    told = dict(zip(compared, texts, strict=True)) if compared else {TEXTS: [{"text": t} for t in texts]}  # fmt: skip  # noqa: E501
    return {**told, FIRST_IS_CHOSEN: is_first}


def _text(side: str, value: Any) -> str:
    """The text of a side, which may be a list of messages that it ends.

    Raises:
        RowError: it is neither, or the last message is not the assistant's.
    """
    if isinstance(value, str):
        return value
    if not is_chat(value):
        raise RowError("field_type", f"{side!r} is neither a text nor a list of messages")
    last = read_chat(value)[-1]
    if last["role"] != "assistant":
        raise RowError("role", f"{side!r} ends with a turn of {last['role']!r}")
    return last["content"]


def measure(test: Test, judged: Path, failed: int) -> dict[str, Any]:
    """How a judge does on known preferences: the numbers of `run.json`.

    - `rows` judged, `failed`, `ties`, and `accuracy`, a tie counting half;
    - `left_out`: lines that were not asked about, as in `Test`;
    - `first`, `second`: verdicts by the place that they name;
    - `longer`, `shorter`: rows whose chosen is so, and the accuracy on them;
    - `calibration`: for each bin of confidence its mean, its rows, and the accuracy; their mean
      distance is `calibration_error` (ECE, Guo and others, arXiv 1706.04599).
    """
    found = np.array([_found(row, test) for row in read_rows(judged)]).reshape(-1, 5)
    won, chance, longer, first, second = found.T
    sure, right = np.maximum(chance, 1 - chance), (1 + np.sign(chance - 0.5)) / 2
    bins = np.minimum((sure - 0.5) * 2 * BINS, BINS - 1).astype(int)
    calibration = [
        {"confidence": float(sure[part].mean()), **_share(right[part])}
        for part in (bins == number for number in range(BINS))
        if part.any()
    ]
    apart = sum(one["rows"] * abs(one["confidence"] - one["accuracy"]) for one in calibration)
    return {
        **_share(won),
        "failed": failed,
        "left_out": test.left_out,
        "ties": int((won == 0.5).sum()),
        "first": int(first.sum()),
        "second": int(second.sum()),
        "longer": _share(won[longer > 0]),
        "shorter": _share(won[longer < 0]),
        "calibration": calibration,
        "calibration_error": apart / len(won) if len(won) else None,
    }


def _share(won: Any) -> dict[str, Any]:
    return {"rows": len(won), "accuracy": float(won.mean()) if len(won) else None}


def _found(row: Row, test: Test) -> tuple[float, ...]:
    """What chosen has won, its chance, by how much it is longer, and the places that are named.

    The chance is the share of verdicts, of all orders and judges, or one half and half the
    difference of the ratings in the width of their scale.
    """
    judge, is_first = test.judge, row[FIRST_IS_CHOSEN]
    texts = [row[n] for n in test.compared] if test.compared else [c["text"] for c in row[TEXTS]]
    meta = row[judge.name + META_SUFFIX]  # of a rubric it is a list of ratings
    said = [*single_verdicts(meta, judge.winner_key or "")] if isinstance(meta, Mapping) else []
    if test.compared:
        margin = 2 * WON.get(str(row[judge.name][judge.winner_key]).strip().upper(), 0.5) - 1
    else:
        first, second = (score or 0.0 for score in row[judge.name])
        margin = first - second
    lowest, highest = getattr(judge, "scale", (0, 1))
    chance = 0.5 + (margin and margin / (2 * (highest - lowest)))
    if said:
        chance = sum(won for won, _ in said) / len(said)
    places, side = [word for _, word in said], 1 if is_first else -1
    return (
        0.5 + side * (abs(margin) > 1e-9) * (0.5 if margin > 0 else -0.5),
        0.5 + side * (chance - 0.5),
        side * (len(texts[0]) - len(texts[1])),
        places.count("A"),
        places.count("B"),
    )


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
    yield from _tell_rows(told)
    for reason, found in told.get("left_out", {}).items():
        yield f"… left out, {reason}", f"{found['rows']:,}, the first {found['first']}"


def _tell_rows(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
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
