"""The whole journey: recipe -> seeds -> passes -> pairs. One function tells it; the rest is detail.

A finished step is a folder named after a fingerprint of everything that went into it; an
unfinished one is made again, and the journal answers what was answered before.
"""

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from prefdata.chain import Chain, make_chain
from prefdata.fingerprint import pairs_fingerprint
from prefdata.pair_files import write_jsonl
from prefdata.parts import add_up, find_parts, join_parts, read_shard_record, write_shard_record
from prefdata.plan import Pass
from prefdata.preferences import choose_pairs
from prefdata.projection import DpoPreference
from prefdata.recipe import META_SUFFIX, Extract, Recipe
from prefdata.recipe_columns import (
    columns_read,
    reads_any,
    score_columns,
)
from prefdata.recipe_loader import LoadedRecipe
from prefdata.record import (
    Record,
    count_reasons,
    file_sizes,
    read_record,
    withdraw_record,
    write_record,
)
from prefdata.rows import REJECTS
from prefdata.runtime.disk import Damaged, disk_errors, hold, write_text
from prefdata.runtime.expansion import rows_added, run_expansion
from prefdata.runtime.fence import fence
from prefdata.runtime.fleet import Fleet
from prefdata.runtime.folders import RowsWriter, count_rows, link_folder, read_tables
from prefdata.runtime.machine import Machine
from prefdata.runtime.pace import Pace, keep_pace
from prefdata.runtime.passes import Sweep, rejects_of, run_ahead, run_pass
from prefdata.runtime.progress import Progress, show_progress
from prefdata.seeds import Seeds, seeds_of
from prefdata.selection import check_dedupe
from prefdata.shards import Shard
from prefdata.stages import Tools, expand, fields_of, make_stage
from prefdata.verdicts import count_verdicts

Say = Callable[[str], None]
PATIENCE = 30.0
"""Seconds in which an earlier attempt at a shard has to end: it looks every two, and drains."""
JSONL_COLUMNS = ("prompt", "chosen", "rejected")
VERSIONS = ("datasets", "llguidance", "pyarrow", "rensa", "torch", "transformers")
"""Packages whose version can matter to the rows."""


def build(
    loaded: LoadedRecipe,
    out: Path,
    *,
    machine: Machine | None = None,
    rehearse: bool = False,
    say: Say = print,
) -> Record:
    """Run a recipe, or go on where an earlier run of it stopped; returns what `run.json` holds.

    Args:
        loaded: a checked recipe.
        out: the run folder; made if missing.
        machine: what the models may use; the CPU, in this process, where left out.
        rehearse: answer with the scripted engines, without loading a model.
        say: told what the user should know, a line at a time.

    Raises:
        PrefdataError: the user can fix it; everything finished so far is kept.
    """
    started = time.time()
    check_dedupe(loaded.recipe.output_projection)
    with (
        disk_errors(out),
        hold(out),
        Fleet(loaded, out, machine=machine or Machine(), rehearse=rehearse, say=say) as fleet,
        keep_pace(fleet.work) as pace,
    ):
        run = Building(loaded, out, fleet, pace, say)
        seeds = run.load_seeds()
        chain = make_chain(loaded, fleet.checkpoints, seeds.fingerprint, out)
        if finished := run.finished(pairs_fingerprint(chain.fingerprint, loaded.recipe)):
            say("nothing to do: this run is finished")
            run.keep_recipe()
            return finished
        run.run_passes(seeds, chain)
        return run.conclude(seeds, chain, started)


def build_shard(
    loaded: LoadedRecipe,
    out: Path,
    shard: Shard,
    *,
    attempt: str | None = None,
    machine: Machine | None = None,
    rehearse: bool = False,
    say: Say = print,
) -> Record:
    """Make one slice of the rows, up to their scores; `merge` makes pairs of all slices.

    Args:
        loaded: a checked recipe.
        out: the folder of the whole run; the shard has a folder of its own in it.
        shard: which slice.
        attempt: a name that no other attempt at it has: earlier ones that still run are ended.
        machine: as for `build`, and so are the others.
        rehearse: as for `build`.
        say: as for `build`.

    Returns:
        What the shard's `shard.json` holds.

    Raises:
        PrefdataError: as from `build`.
    """
    started = time.time()
    check_dedupe(loaded.recipe.output_projection)
    here = shard.folder(out)
    with (
        disk_errors(here),
        fence(here, attempt, say) if attempt else nullcontext(),
        hold(here, patience=PATIENCE if attempt else None),
        Fleet(loaded, here, machine=machine or Machine(), rehearse=rehearse, say=say) as fleet,
        keep_pace(fleet.work) as pace,
    ):
        run = Building(loaded, here, fleet, pace, say)
        seeds = shard.slice(run.load_seeds())
        chain = make_chain(loaded, fleet.checkpoints, seeds.fingerprint, here)
        if (finished := read_shard_record(here)) and finished["fingerprint"] == chain.fingerprint:
            say(f"nothing to do: shard {shard.name} is finished")
            return finished
        run.run_passes(seeds, chain)
        return write_shard_record(here, run.spent(started) | {"fingerprint": chain.fingerprint})


def merge(
    loaded: LoadedRecipe, out: Path, count: int, *, rehearse: bool = False, say: Say = print
) -> Record:
    """Make of finished shards the run that one task would have made; row for row the same.

    Args:
        loaded: the recipe of the shards.
        out: the folder of the run, with the shards in it.
        count: how many shards there are.
        rehearse: whether they were rehearsed.
        say: as for `build`.

    Raises:
        PrefdataError: a shard is missing or unfinished, or was made by another recipe.
    """
    started = time.time()
    check_dedupe(loaded.recipe.output_projection)
    with (
        disk_errors(out),
        hold(out),
        Fleet(loaded, out, machine=Machine(), rehearse=rehearse, say=say) as fleet,
        keep_pace(fleet.work) as pace,
    ):
        run = Building(loaded, out, fleet, pace, say)
        seeds = run.load_seeds()
        chain = make_chain(loaded, fleet.checkpoints, seeds.fingerprint, out)
        if finished := run.finished(pairs_fingerprint(chain.fingerprint, loaded.recipe)):
            say("nothing to do: this run is finished")
            run.keep_recipe()
            return finished
        parts = find_parts(loaded, fleet.checkpoints, seeds, out, count)
        run.save_seeds(seeds, chain.folders[0])
        join_parts(parts, chain, out)
        return run.conclude(seeds, chain, started, [part.record for part in parts])


@dataclass
class Building:
    """One call of `build`: where it writes, what it holds open, what it counts."""

    loaded: LoadedRecipe
    out: Path
    fleet: Fleet
    pace: Pace
    say: Say
    seconds: dict[str, float] = field(default_factory=dict)
    slowest: dict[str, list[tuple[str, float]]] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """What is built."""
        return self.loaded.recipe

    def load_seeds(self) -> Seeds:
        """All seeds; tells of those that cannot be used."""
        with self._timed("seeds"):
            seeds = seeds_of(self.loaded)
        for note in seeds.notes:
            self.say(note)
        for bad in seeds.rejects[:5]:
            self.say(f"{bad['source']}: {bad['reason']}: {bad['detail']}; it goes to rejects")
        if len(seeds.rejects) > 5:
            self.say(f"… and {len(seeds.rejects) - 5:,} more bad seeds, all in rejects")
        return seeds

    def save_seeds(self, seeds: Seeds, folder: Path) -> None:
        """Write the seeds as the first stage, unless they are there."""
        if not self._is_whole(folder):
            with (
                RowsWriter(folder, seeds.table.schema) as rows,
                RowsWriter(rejects_of(folder), REJECTS) as rejects,
            ):
                rejects.write(pa.Table.from_pylist(seeds.rejects, schema=REJECTS))
                for batch in seeds.table.to_batches(max_chunksize=10_000):
                    rows.write(pa.Table.from_batches([batch]))

    def run_passes(self, seeds: Seeds, chain: Chain) -> None:
        """Make every folder of the chain that is not there."""
        self.save_seeds(seeds, chain.folders[0])
        if not all(self.is_made(target) for _, _, target in chain.steps):
            self.fleet.check_health()
        for step, source, target in chain.steps:
            self.run_pass(step, source, target)

    def conclude(
        self, seeds: Seeds, chain: Chain, started: float, parts: Sequence[Record] = ()
    ) -> Record:
        """Choose the pairs of finished passes and write the record of the run.

        Args:
            seeds: all of them.
            chain: of finished folders.
            started: when, in seconds since 1970.
            parts: records of the shards that have made the folders, if shards have.
        """
        added = {s.name: rows_added(source, target) for s, source, target in chain.steps if s.expands}  # fmt: skip  # noqa: E501
        record = {
            "prefdata": version("prefdata"),
            "fingerprint": pairs_fingerprint(chain.fingerprint, self.recipe),
            "scored_fingerprint": chain.fingerprint,
            "folder": str(self.loaded.folder),
            "rehearsed": self.fleet.is_rehearsal,
            "seeds": len(seeds),
            "added": added,
            "rows": len(seeds) + sum(added.values()),
            "stages": [folder.name for folder in chain.folders],
            "shards": len(parts) or None,
            **self.choose(list(chain.folders)),
        }
        return self.record(record, add_up([*parts, self.spent(started)]))

    def spent(self, started: float) -> Record:
        """What this call has asked of the models, and how long it took."""
        work = self.fleet.work
        return {
            "checkpoints": self.fleet.checkpoints,
            "loads": work.loads,
            "requests": {
                "generated": work.generated,
                "scored": work.scored,
                "replayed": work.replayed,
            },
            "tokens": {"prompt": work.prompt_tokens, "completion": work.completion_tokens},
            "seconds": self.seconds | {"total": time.time() - started},
            "started": started,
            "pace": self.pace.told(),
            "slowest": self.slowest,
        }

    def finished(self, fingerprint: str) -> Record | None:
        """The record of a finished run with this fingerprint whose files are all whole."""
        try:
            record = read_record(self.out)
        except Damaged as err:
            self.say(f"{err.finding}; it is written anew")
            return None
        if record is None or record.get("fingerprint") != fingerprint:
            return None
        found = file_sizes(self.out, self._copies().values())
        lost = record["files"].items() - found.items()
        for name, size in sorted(lost):
            self.say(f"{name}: {found.get(name, 0):,} bytes of {size:,} are there; it is made anew")
        return record if record["files"] == found else None

    def is_made(self, target: Path) -> bool:
        """Whether a pass has been finished before; what is damaged shows when it is read."""
        return target.exists() and rejects_of(target).exists()

    def run_pass(self, step: Pass, source: Path, target: Path) -> None:
        """Make `target` unless it is there and whole."""
        if self._is_whole(target):
            return
        if (column := step.expands) is not None:
            with self._timed(step.name), self._progress(step.name, source) as progress:
                run_expansion(
                    column.name, expand(column), fields_of(column), source, target, progress
                )
            return
        *before, last = self.fleet.sittings(step)
        with self._timed(step.name):
            for number, sitting in enumerate(before, start=1):
                name = f"{step.name} ({number} of {len(before) + 1} models)"
                with self._progress(name, source) as progress:
                    run_ahead(sweep := self._sweep(step, sitting), source, progress)
                self.slowest[name] = sweep.slowest.rows()
            with self._progress(step.name, source) as progress:
                run_pass(sweep := self._sweep(step, last), source, target, progress)
            self.slowest[step.name] = sweep.slowest.rows()

    def choose(self, folders: list[Path]) -> dict[str, Any]:
        """Write candidates, pairs, rejects and the JSONL copies; returns their counts."""
        scored, rule = folders[-1], self.recipe.output_projection
        withdraw_record(self.out)
        with self._timed("pairs"):
            link_folder(scored, self.out / "candidates")
            with RowsWriter(self.out / "rejects", REJECTS) as rejects:
                for folder in folders:
                    for table in read_tables(rejects_of(folder)):
                        rejects.write(table)
                choice = choose_pairs(
                    scored,
                    self.out / "pairs",
                    rejects,
                    rule,
                    scores=score_columns(self.recipe),
                    seed=self.recipe.seed,
                )
            for split, place in self._copies().items():
                write_jsonl(self.out / "pairs", split, place, columns=JSONL_COLUMNS)
        return {
            "candidates": _count_candidates(scored, self.recipe),
            "pairs": choice.pairs,
            "prompts": choice.prompts,
            "rejects": count_reasons(self.out / "rejects"),
            "drops": dict(choice.drops),
            "means": choice.means,
            "judges": count_verdicts(scored, self.recipe),
        }

    def record(self, record: Record, spent: Record) -> Record:
        """Write recipe.yaml and run.json."""
        self.keep_recipe()
        versions = {
            "versions": {name: version(name) for name in VERSIONS if find_spec(name)},
            "python": platform.python_version(),
        }
        return write_record(self.out, record | spent | versions, self._copies().values())

    def keep_recipe(self) -> None:
        """Write recipe.yaml, which may say anew where to publish what is finished."""
        write_text(self.out / "recipe.yaml", self.loaded.resolved)

    def _progress(self, name: str, source: Path) -> AbstractContextManager[Progress]:
        return show_progress(name, count_rows(source), self.fleet.work)

    def _sweep(self, step: Pass, sitting: frozenset[str]) -> Sweep:
        text, reward = self.fleet.engines_of(step, sitting)
        models = {model.alias: model for model in self.recipe.models}
        tools = Tools(self.recipe.seed, models, text, reward, self.loaded.folder)
        waves = [[(c.name, make_stage(c, self.recipe, tools)) for c in wave] for wave in step.waves]
        fields = [field for column in step.columns for field in fields_of(column)]
        return Sweep(waves, fields, _reads(step), self.fleet.window)

    def _is_whole(self, folder: Path) -> bool:
        """Whether a step is finished; a damaged one is set aside, to be made again."""
        for part in (folder, rejects_of(folder)):
            if not part.exists():
                return False
            try:
                count_rows(part)
            except Damaged as err:
                aside = part.with_name(f"{part.name}.damaged-{int(time.time())}")
                part.rename(aside)
                self.say(f"{err.finding}; it is set aside as {aside.name} and made anew")
                return False
        return True

    def _copies(self) -> dict[str, Path]:
        """JSONL files that the recipe asks for, by split."""
        if self.recipe.output_path is None:
            return {}
        place = Path(self.recipe.output_path)
        splits = {"train": place}
        if self.recipe.output_projection.test_size:
            splits["test"] = place.with_name(f"{place.stem}.test{place.suffix}")
        return splits

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        self.pace.begin(name)
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start


def _reads(step: Pass) -> frozenset[str] | None:
    """Columns that a pass reads; None for all of them, which a Python function may ask for."""
    if any(reads_any(column) for column in step.columns):
        return None
    named = frozenset[str]().union(*(columns_read(column) for column in step.columns))
    # a part of a text shares its provenance, where it has one
    sources = (c.column + META_SUFFIX for c in step.columns if isinstance(c, Extract))
    return named.union(sources)


def _count_candidates(scored: Path, recipe: Recipe) -> int:
    """Texts that could become a side of a pair."""
    rule = recipe.output_projection
    if isinstance(rule, DpoPreference):
        return 2 * count_rows(scored)
    if rule.responses:
        return len(rule.responses) * count_rows(scored)
    column = rule.candidates or ""
    tables = read_tables(scored, columns=[column])
    return sum(pc.sum(pc.list_value_length(table[column])).as_py() or 0 for table in tables)
