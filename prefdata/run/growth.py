"""How a run grows: more rows of fresh seeds, then more samples, until it has enough pairs.

The next size is decided from what was counted at the end of the one before, and from nothing
else, so it is the same after any kill and on any number of GPUs. What a size asks stays in the
journal for the next one.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from prefdata.errors import PrefdataError, Say
from prefdata.fingerprint import digest
from prefdata.pairs.pair import SKIPPED
from prefdata.pairs.selection import VERDICTS
from prefdata.recipe.origins import columns_read
from prefdata.recipe.prompts import compile_prompt
from prefdata.recipe.reads import all_columns
from prefdata.recipe.schema import BUDGETS, Recipe
from prefdata.run.stage_folders import StageFolders, make_stage_folders
from prefdata.run.steps import Building
from prefdata.seeds.seeds import Seeds, seeds_of
from prefdata.storage.disk import write_text
from prefdata.storage.journal import read_values
from prefdata.storage.record import Record

STATE = "stages/growth.json"
FIRST_ROWS = 100
"""Rows on which a budget of tokens or hours is measured first."""
FASTEST = 4
"""A size has at most so many times the rows of the one before."""
SURPLUS = 1.1
"""Rows more than the mean yield asks for, so that the last size is seldom one too few."""
TIMES = "0" * 32
"""The journal's key under which a process notes when it began, on how many GPUs."""
_HOPELESS = frozenset((*VERDICTS, "empty_prompt", "prompt_differs", "pooled", "asked_differently"))
"""Reasons for which a row never has a pair, whatever it is asked more."""


@dataclass(frozen=True)
class Size:
    """Rows, and how many times the recipe's samples those with more of them have, by row id."""

    rows: int | None = None
    times: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spent:
    """What the journal holds: requests, their tokens, and hours of GPUs while it was written."""

    max_requests: int = 0
    max_tokens_total: int = 0
    max_gpu_hours: float = 0.0


@dataclass(frozen=True, slots=True)
class Counted:
    """What a size has given.

    Attributes:
        rows: of seeds.
        available: rows that the seeds could give.
        lacking: ids of rows without a pair that more samples may help, in order.
    """

    rows: int
    available: int
    pairs: int
    lacking: Sequence[str]
    spent: Spent


def spent_in(journal: Path) -> Spent:
    """Count what a journal holds, whichever recipe has asked for it."""
    requests = tokens = 0
    hours = 0.0
    for file in sorted(journal.glob("*.jsonl")):
        for key, value in read_values(file):
            if key == TIMES:
                hours += value["gpus"] * max(0.0, file.stat().st_mtime - value["time"]) / 3600
                continue
            requests += 1
            tokens += value.get("prompt_tokens", 0) + value.get("completion_tokens", 0)
    return Spent(requests, tokens, hours)


def first_size(recipe: Recipe) -> Size:
    """Where a run begins: no larger than its budgets surely allow."""
    if recipe.target_pairs is None:
        return Size(recipe.num_records)
    rows = recipe.num_records or recipe.target_pairs
    if recipe.max_requests is not None:
        columns = all_columns(recipe)
        asked = sum(one.requests(columns) for one in recipe.columns if one.aliases)
        rows = min(rows, max(1, int(recipe.max_requests // max(1, asked))))
    if recipe.max_tokens_total is not None or recipe.max_gpu_hours is not None:
        rows = min(rows, FIRST_ROWS)
    return Size(rows)


def next_size(recipe: Recipe, size: Size, counted: Counted) -> Size | str:
    """The size after one that has been counted, or why there is none."""
    target, rows = recipe.target_pairs, counted.rows
    if target is not None and counted.pairs >= target:
        return f"target_pairs {target:,} is reached"
    budgets = _budgets(recipe, counted.spent)
    rooms = {
        k: max(0.0, (limit - spent) / max(spent, 1e-9)) for k, (spent, limit) in budgets.items()
    }
    tightest = min(rooms, key=rooms.__getitem__, default="")
    room = rooms.get(tightest, math.inf)
    over = f"{tightest} is spent: what is left of it is less than another row takes"
    affordable = rows * room  # rows that cost what those so far have cost in the mean
    if target is not None and rows < counted.available:
        wanted = math.ceil((target - counted.pairs) * rows / max(counted.pairs, 1) * SURPLUS)
        more = min(wanted, rows * (FASTEST - 1), counted.available - rows)
        more = more if more <= affordable else int(affordable)
        return Size(rows + more, size.times) if more > 0 else over
    most = _most_times(recipe)
    times = dict(size.times)
    is_able = False
    for row in counted.lacking:
        now = times.get(row, 1)
        if now >= most:
            continue
        is_able, affordable = True, affordable - now
        if affordable < 0:
            return Size(size.rows, times) if times != size.times else over
        times[row] = now * 2
    if is_able:
        return Size(size.rows, times)
    return (
        "nothing new can come: the seeds are used up, and every row without a pair has max_samples"
    )


def _hopeless(recipe: Recipe) -> frozenset[str]:
    """Reasons for which a row has no pair, however many samples it has.

    Where no condition reads samples, or what is made of them, a row that is skipped stays so.
    """
    sampled = set[str]()
    for column in recipe.columns:
        if column.most_times > 1 or columns_read(column, recipe) & sampled:
            sampled |= {*column.makes}
    conditions = [one.skip_when for one in recipe.columns if one.skip_when is not None]
    stays = all(compile_prompt(one).columns.isdisjoint(sampled) for one in conditions)
    return _HOPELESS | {SKIPPED} if stays else _HOPELESS


def _most_times(recipe: Recipe) -> float:
    return max((one.most_times for one in recipe.columns), default=1.0)


class Growth:
    """The sizes of one run, one after another; what was decided survives a kill."""

    def __init__(self, run: Building) -> None:
        """Go on from the last size that an earlier process has begun."""
        self._run, self._whole = run, run.loaded
        self._file, self._history = run.out / STATE, list[Record]()
        self.is_growing = _is_growing(run.recipe)
        self._size, self._available = first_size(run.recipe), 0
        if not self.is_growing:
            return
        _check_target(run.recipe)
        self._base = self._identify()
        if run.recipe.target_pairs is not None and run.recipe.num_records is None:
            self._size = Size(min(self._size.rows or 0, self._available))
        if (state := read_growth(run.out)) and state["base"] == self._base:
            self._size, self._history = Size(state["rows"], state["times"]), state["history"]
        if run.recipe.max_gpu_hours is not None and run.fleet.gpus:
            run.fleet.journal.append([(TIMES, {"gpus": run.fleet.gpus, "time": time.time()})])
        run.say = _said_once(run.say)
        self._begin()

    def _identify(self) -> str:
        """Of everything that sizes are decided from, but for what is counted."""
        seeds = seeds_of(
            self._whole.recipe.model_copy(update={"num_records": None}),
            self._whole.locate, self._whole.place, self._run.out,
        )  # fmt: skip
        self._available = max(len(seeds.table), self._whole.recipe.num_records or 0)
        stages = make_stage_folders(
            self._whole, self._run.fleet.checkpoints, seeds.fingerprint, self._run.out
        )
        told = ("num_records", "target_pairs", *BUDGETS)
        return digest(stages.pairs, [getattr(self._whole.recipe, name) for name in told])

    def _begin(self) -> None:
        self._run.loaded = self._whole.changed(num_records=self._size.rows)
        self._run.times = self._size.times
        state = {"base": self._base, "history": self._history, **asdict(self._size)}
        write_text(self._file, orjson.dumps(state).decode())

    def goes_on(self, seeds: Seeds, stages: StageFolders) -> bool:
        """Whether the run, whose passes are finished, is to have another size."""
        if not self.is_growing:
            return False
        pairs, lacking = self._run.try_pairs(stages, _hopeless(self._whole.recipe))
        spent = spent_in(self._run.out / "journal")
        counted = Counted(len(seeds.table), self._available, pairs, lacking, spent)
        after = next_size(self._whole.recipe, self._size, counted)
        self._history.append({"rows": counted.rows, "more": len(self._size.times), "pairs": pairs})
        if isinstance(after, str):
            self._history[-1] |= {"end": after, "budgets": _budgets(self._whole.recipe, spent)}
            return False
        self._run.say(
            f"{pairs:,} pairs from {counted.rows:,} rows; "
            + (
                f"goes on with {(after.rows or 0) - counted.rows:,} fresh seeds"
                if after.rows != self._size.rows
                else f"goes on with more samples for {_raised(self._size, after):,} rows"
            )
        )
        self._size = after
        self._run.fleet.journal.refresh()
        self._begin()
        return True

    def told(self) -> dict[str, Any]:
        """What the record of the run says, under `growth`."""
        return {"growth": self._history} if self.is_growing else {}


def _said_once(say: Say) -> Say:
    """Each size reads the same seeds and finds the same in them."""
    said = set[str]()

    def once(line: str) -> None:
        if line not in said:
            said.add(line)
            say(line)

    return once


def _raised(before: Size, after: Size) -> int:
    return sum(before.times.get(row, 1) != times for row, times in after.times.items())


def _is_growing(recipe: Recipe) -> bool:
    return recipe.target_pairs is not None or _most_times(recipe) > 1


def _check_target(recipe: Recipe) -> None:
    """See that the rules allow as many pairs; those of a finished run may be changed to fewer."""
    target, most = recipe.target_pairs, recipe.output_projection.max_pairs
    if target is not None and isinstance(most, int) and most < target:
        raise PrefdataError(
            f"max_pairs is {most:,}, so there are never target_pairs {target:,}; raise it, or "
            "remove it"
        )


def read_growth(out: Path) -> Record:
    """The size that was begun last in a run folder; empty where none grows there."""
    file = out / STATE
    found: Record = orjson.loads(file.read_bytes()) if file.is_file() else {}
    return found


def refuse_growth(recipe: Recipe) -> None:
    """See that a run whose rows are made in shards does not grow.

    Raises:
        PrefdataError: it does: only all rows together tell how many pairs there are.
    """
    if _is_growing(recipe):
        raise PrefdataError(
            "target_pairs and max_samples look at the pairs of all rows, which no shard has; build "
            "in one piece (prefdata build), or leave them out"
        )


def tell_growth(growth: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """Names and values of a summary: why it ended, the sizes, what was spent of which budget."""
    for one in growth[-1:]:
        yield "grown until", one["end"]
        for name, (spent, limit) in one["budgets"].items():
            yield f"  {name}", f"{spent:,.6g} of {limit:,} are in the journal"
    for one in growth:
        more = f", {one['more']:,} of them with more samples" if one["more"] else ""
        yield "  size", f"{one['pairs']:,} pairs from {one['rows']:,} rows{more}"


def plan_growth(recipe: Recipe, out: Path) -> Iterator[str]:
    """What a plan says: where a run that grows begins, and what is spent of its budgets."""
    if not _is_growing(recipe):
        return
    _check_target(recipe)
    if recipe.target_pairs is not None:
        rows = first_size(recipe).rows
        yield f"grows from {rows:,} rows until there are {recipe.target_pairs:,} pairs"
    for column in recipe.columns:
        if column.most_times > 1:
            most = f"{column.most_times:,g} times as many"
            yield f"{column.name}: rows without a pair have more samples, up to {most}"
    for name, (spent, limit) in _budgets(recipe, spent_in(out / "journal")).items():
        yield f"{name}: {spent:,.6g} of {limit:,} are spent"


def _budgets(recipe: Recipe, spent: Spent) -> dict[str, tuple[float, float]]:
    """Of each budget that the recipe has, what is spent and what it is."""
    limits = {name: getattr(recipe, name) for name in BUDGETS}
    return {k: (getattr(spent, k), limit) for k, limit in limits.items() if limit is not None}
