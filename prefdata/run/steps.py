"""One call of `build`: its seeds, passes, pairs and record, each made only if it is missing.

`pipeline.py` has the order. Knows no command line and no cluster.
"""

import platform
import shutil
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import pyarrow as pa

from prefdata.errors import PrefdataError, Say
from prefdata.fingerprint import FORMAT, digest, stage_fingerprint
from prefdata.pairs.diff import read_before
from prefdata.pairs.files import copies_of, write_jsonl
from prefdata.pairs.mixing import make_pairs
from prefdata.pairs.prompts import Background
from prefdata.pairs.readable import make_readable, renew_pairs
from prefdata.pairs.verdicts import count_verdicts
from prefdata.recipe.chats import ALL_ROLES, Roles
from prefdata.recipe.contract import Column
from prefdata.recipe.loader import LoadedRecipe
from prefdata.recipe.origins import columns_read
from prefdata.recipe.plan import Pass
from prefdata.recipe.reads import all_columns, score_columns
from prefdata.recipe.schema import Recipe
from prefdata.recipe.sources import Gold
from prefdata.recipe.values import META_SUFFIX, SKIPPED_SUFFIX
from prefdata.rows import ID, REJECTS, Row, rows_of
from prefdata.run.ahead import Ahead, Ordered, Turn, Way, columns_ahead
from prefdata.run.ending import Ending
from prefdata.run.estimate import requests_of, tokens_of
from prefdata.run.expansion import rows_added, run_expansion
from prefdata.run.gold import Test, measure, refuse_poor, tell, write_known
from prefdata.run.merging import add_up
from prefdata.run.passes import Sweep, rejects_of, run_ahead, run_pass, window_for
from prefdata.run.progress import Progress, show_progress
from prefdata.run.room import room_for
from prefdata.run.shard_status import ShardStatus, write_status
from prefdata.run.stage_folders import StageFolders
from prefdata.run.system_messages import tell_of_system_messages
from prefdata.seeds.benchmarks import items_of
from prefdata.seeds.seeds import Seeds, seeds_of
from prefdata.stages import Tools, fields_of, make_expansion, make_stage
from prefdata.stages.filters import check_filter
from prefdata.stages.functions import Functions
from prefdata.storage.disk import Damaged, hold_file, temporary_name, write_text
from prefdata.storage.folders import (
    RowsWriter,
    count_rows,
    link_parts,
    read_schema,
    read_tables,
    row_bytes,
)
from prefdata.storage.ownership import write_own
from prefdata.storage.record import (
    Record,
    count_candidates,
    file_sizes,
    is_table,
    read_record,
    withdraw_record,
    write_record,
)
from prefdata.workers.fleet import Engines, Fleet
from prefdata.workers.gauges import Gauges
from prefdata.workers.throughput import Throughput

Note = Callable[[int, int], None]
VERSIONS = ("datasets", "llguidance", "pyarrow", "torch", "transformers")
"""Packages whose version can matter to the rows."""
PATIENCE = 1800.0
"""Seconds that a shard waits while another one measures a judge, which may have to be loaded."""
MOST_TURNS = 100
"""Loads of models for one pass, where what one is asked depends on what another has answered."""
BYTES_PER_TOKEN = 4
"""Characters of a token, roughly."""


@dataclass
class Building:
    """One call of `build`: where it writes, what it holds open, what it counts.

    Attributes:
        started: when, in seconds since 1970.
        is_shard: it makes one of several slices, and writes its progress to disk.
        ending: asked when the run is to end.
        times: how many times the recipe's samples rows have that have more of them, by id.
    """

    loaded: LoadedRecipe
    out: Path
    fleet: Fleet
    throughput: Throughput
    say: Say
    started: float
    gauges: Gauges | None = None
    is_shard: bool = False
    progress: bool = True
    ending: Ending = field(default_factory=Ending)
    times: Mapping[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    slowest: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    gold: dict[str, dict[str, Any]] = field(default_factory=dict)
    _passes: tuple[int, int] = (0, 0)
    _ahead: Ahead | None = None

    @property
    def recipe(self) -> Recipe:
        """What is built."""
        return self.loaded.recipe

    def load_seeds(self) -> Seeds:
        """All seeds; reports those that cannot be used."""
        with self._timed("seeds"):
            seeds = seeds_of(self.recipe, self.loaded.locate, self.loaded.place, self.out)
        for note in seeds.notes:
            self.say(note)
        for bad in seeds.rejects[:5]:
            self.say(f"{bad['source']}: {bad['reason']}: {bad['detail']}; it goes to rejects")
        if len(seeds.rejects) > 5:
            self.say(f"… and {len(seeds.rejects) - 5:,} more bad seeds, all in rejects")
        return seeds

    def identify(self, seeds: Seeds) -> str:
        """Fingerprint of the seeds, and of which rows have more samples."""
        more = sorted(self.times.items())
        return digest(seeds.fingerprint, more) if more else seeds.fingerprint

    def make_readable(self, seeds: Seeds, stages: StageFolders, out: Path) -> None:
        """See that `load_dataset` can read the run folder; tell what the recipe makes of it."""
        columns = [column for step in stages.passes for column in step.columns]
        fields = [field for column in columns for field in fields_of(column)]
        scored = pa.schema([*seeds.table.schema, *fields])
        make_readable(out, scored, self.recipe.output_projection, self._background())
        for note in self.loaded.notes:
            self.say(note)

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

    def run_passes(self, seeds: Seeds, stages: StageFolders) -> None:
        """Make every folder of the stages that is not there."""
        self.save_seeds(seeds, stages.folders[0])
        if not all(self.is_made(target) for _, _, target in stages.steps):
            roles = self.fleet.template_roles
            for note in tell_of_system_messages(self.recipe, seeds.table, roles):
                self.say(note)
            for column in self.recipe.columns:
                check_filter(column)
            self.fleet.check_health()
        if not self.gold:  # in a run that grows they have been
            self.measure_judges()
        steps = [*stages.steps]
        if not any(step.expands for step in stages.passes):
            self.fleet.expect(tokens_of(stages.passes, self.recipe, len(seeds)))
        try:
            for number, (step, source, target) in enumerate(steps):
                self._passes = (number, len(steps))
                self.ending.check()
                after = [one for one, _, made in steps[number + 1 :][:1] if not self.is_made(made)]
                self.run_pass(step, source, target, *after)
        finally:
            if self._ahead is not None:
                self._ahead.close()

    def measure_judges(self) -> None:
        """Ask judges about preferences that are known, before they are believed.

        Raises:
            PrefdataError: a judge finds too few; of a rehearsal, whose answers mean nothing, none
                is expected.
        """
        for column, gold, test, known, alone in self.judging():
            for note in test.notes:
                self.say(note)
            told = self.gold[column.name] = self._measure(test, known, alone)
            for what, how in tell(told):
                self.say(f"{column.name}, {what}: {how}")
            if not self.fleet.is_rehearsal:
                refuse_poor(column.name, gold, told)

    def _measure(self, test: Test, known: Path, alone: "Building") -> dict[str, Any]:
        """What a judge finds; shards wait for the one that asks it, and read what that has found.

        One that is killed gives its place to the next.
        """
        shared = self.out.parent if self.is_shard else known.parent
        judge, asked = test.judge, test.loaded.recipe
        who = stage_fingerprint(test.fingerprint, (judge,), asked, self.fleet.checkpoints)
        name = f"gold-{digest(who, judge.name, self.fleet.is_rehearsal)}"
        if (shared / f"{name}.lock").exists():
            self.say(f"{judge.name}: waits while another shard measures it")
        with hold_file(shared / f"{name}.lock", patience=PATIENCE):
            if (told := read_record(shared, f"{name}.json")) is None:
                judged = known.with_name("judged")
                alone.run_pass(test.step, known, judged)
                told = measure(test, judged, count_rows(rejects_of(judged)))
                write_text(shared / f"{name}.json", orjson.dumps(told).decode())
        return told

    def judging(self) -> Iterator[tuple[Column, Gold, Test, Path, "Building"]]:
        """Of every judge that is measured: its measure, the rows with it, and who asks it alone."""
        for column in self.recipe.columns:
            if (gold := column.known) is None:
                continue
            with TemporaryDirectory() as name:
                known = Path(name) / "known"
                test = write_known(column, gold, self.loaded, known)
                alone = replace(self, loaded=test.loaded, is_shard=False, seconds={}, slowest={})
                yield column, gold, test, known, alone

    def conclude(
        self,
        seeds: Seeds,
        stages: StageFolders,
        parts: Sequence[Record] = (),
        *,
        more: Record | None = None,
    ) -> Record:
        """Choose the pairs of finished passes and write the record of the run.

        `parts`: records of the shards that have made the folders, if shards have. `more`: what the
        record says besides.
        """
        added = _rows_added(stages)
        record = (more or {}) | {
            "prefdata": version("prefdata"),
            "format": FORMAT,
            "fingerprint": stages.pairs,
            "scored_fingerprint": stages.fingerprint,
            "folder": str(self.loaded.folder),
            "rehearsed": self.fleet.is_rehearsal,
            "seeds": len(seeds),
            "added": added,
            "rows": len(seeds) + sum(added.values()),
            "stages": [folder.name for folder in stages.folders],
            "shards": len(parts) or None,
            "roles": _lacking(self.fleet.template_roles),
            **self.choose(list(stages.folders)),
        }
        return self.record(record, add_up([*parts, self.spent()]))

    def check_rows(self, seeds: Seeds, stages: StageFolders) -> None:
        """See that every row of a shard is scored or a reject.

        Raises:
            PrefdataError: some are lost, or there twice.
        """
        rows = len(seeds) + sum(_rows_added(stages).values())
        lost = [count_rows(rejects_of(folder)) for folder in stages.folders]
        if (found := count_rows(stages.folders[-1]) + sum(lost)) != rows:
            raise PrefdataError(
                f"{self.out}: {found:,} of {rows:,} rows were found, which happens when two "
                f"processes write to one run at the same time; delete {self.out / 'stages'} "
                "and run the same command again: the rows are made again from the journal"
            )

    def spent(self) -> Record:
        """What this call has asked of the models, and how long it took."""
        work = self.fleet.work
        if self.gauges is not None:
            self.gauges.look(time.time())
        return {
            "checkpoints": {
                model.alias: self.fleet.checkpoints[model.alias].replace(
                    model.model, self.loaded.tell(model.model)
                )
                for model in self.recipe.models
            },
            "loads": [self.loaded.tell(load.model) for load in work.loads],
            "requests": {
                "generated": work.generated,
                "scored": work.scored,
                "replayed": work.replayed,
            },
            "tokens": {"prompt": work.prompt_tokens, "completion": work.completion_tokens},
            "seconds": self.seconds | {"total": time.time() - self.started},
            "started": self.started,
            "throughput": self.throughput.told(),
            "replicas": self.gauges.told() if self.gauges is not None else {},
            "slowest": self.slowest,
            "gold": self.gold,
            "failures": work.failures,
        }

    def finished(self, fingerprint: str, scored: str | None = None) -> Record | None:
        """The record of a finished run with this fingerprint whose files are whole; says so."""
        try:
            record = read_record(self.out)
        except Damaged as err:
            self.say(f"{err.finding}; it is written again")
            return None
        if record is None or record.get("fingerprint") != fingerprint:
            if record is not None and record.get("scored_fingerprint") == scored:
                self.say(
                    "the pairs here were chosen by other rules than the recipe's; they are chosen "
                    "again as the recipe says"
                )
            elif record and "scored_fingerprint" in record and record["format"] != FORMAT:
                self.say(
                    "the run that was finished here is of another version of prefdata, which gave "
                    "its rows another form or meaning; they are made again, and what is asked as "
                    "it was then comes from the journal"
                )
            return None
        found, copies = file_sizes(self.out), copies_of(self.recipe)
        told = {name: size for name, size in record["files"].items() if is_table(name)}
        for name, size in sorted(told.items() - found.items()):
            self.say(
                f"{name}: it has {found.get(name, 0):,} bytes instead of {size:,}; it is made again"
            )
        if told != found:
            return None
        is_missing = not all(place.is_file() for place in copies.values())
        if is_missing or record["files"] != file_sizes(self.out, copies.values()):
            for split, place in copies.items():
                write_jsonl(self.out, split, place, reasoning=record.get("reasoning"))
                self.say(f"{place}: written; the run itself was finished")
            record = write_record(self.out, record, copies.values())
        else:
            self.say("nothing to do: this run is finished")
        self.keep_recipe()
        return record

    def is_made(self, target: Path) -> bool:
        """Whether a pass has been finished before; what is damaged shows when it is read."""
        return target.exists() and rejects_of(target).exists()

    def run_pass(self, step: Pass, source: Path, target: Path, after: Pass | None = None) -> None:
        """Make `target` unless it is there and whole; `after` is the pass that will follow."""
        if self._is_whole(target):
            return
        if (column := step.expands) is not None:
            with self._timed(step.name), self._progress(step.name, source) as progress:
                children = make_expansion(column)
                run_expansion(column.name, children, fields_of(column), source, target, progress)
            return
        groups = self.fleet.model_groups(step)
        if len(groups) > 1 and any(column.asks_in_turns for column in step.columns):
            with self._timed(step.name):
                groups = [self._ask_in_turns(step, groups, source)]
        turns = [(step, group) for group in groups]
        if after is not None and after.expands is None:
            turns.append((after, self.fleet.model_groups(after)[0]))
        with self._timed(step.name):
            for number, group in enumerate(groups):
                turn, is_last = (number, len(groups)), number + 1 == len(groups)
                told = "" if is_last else f" ({number + 1} of {len(groups)} models)"
                name, asked = (
                    step.name + told,
                    _requests(step, self.recipe, None if is_last else group),
                )
                following = turns[number + 1] if number + 1 < len(turns) else None
                with (
                    self._progress(name, source, asked, group=turn) as progress,
                    self._overlap(turns[number], following, source) as note,
                ):
                    sweep = replace(self._sweep(step, group), note=note)
                    if is_last:
                        run_pass(sweep, source, target, progress)
                    else:
                        run_ahead(sweep, source, progress)
                self.slowest[name] = sweep.slowest.rows()

    @contextmanager
    def _overlap(self, turn: Turn, following: Turn | None, source: Path) -> Iterator[Note]:
        """While a turn comes to its end, its rows go on to the models of the following turn."""
        before, levels = self._ahead, None
        if following is not None:
            levels = columns_ahead(turn[0], following[0], self.recipe)
        if following is None or levels is None:
            yield lambda begun, finished: None
        else:
            begin = partial(self._way, turn, following, levels, source)
            total = count_rows(source)
            ahead = self._ahead = Ahead(total, self.fleet, turn, following, begin)
            try:
                yield ahead.note
            except BaseException:
                ahead.close()
                raise
            ahead.finish()
        if before is not None:  # whatever it has asked has been answered by now
            before.close()

    def _way(self, turn: Turn, following: Turn, columns: Ordered, source: Path) -> Way:
        fleet, step = self.fleet, following[0]
        engines = fleet.go_ahead(*turn, *following)
        levels = [
            [(column.name, make_stage(column, self._tools(asked))) for column in level]
            for asked, part in zip(engines, columns, strict=True)
            for level in part
        ]
        reads = [_reads(turn[0], self.recipe), _reads(step, self.recipe)]
        wanted = {ID}.union(*(names for names in reads if names is not None))
        names = [n for n in read_schema(source).names if n in wanted or None in reads]
        size = row_bytes(source) + _row_bytes(turn[0], self.recipe) + _row_bytes(step, self.recipe)
        limit = room_for(fleet.gpus, 0).limit

        def rows() -> Iterator[Row]:
            for table in read_tables(source):
                yield from rows_of(table.select(names))

        return Way(
            levels,
            rows,
            max(1, min(window_for(fleet.gpus), limit // max(1, size))),
        )

    def _ask_in_turns(
        self, step: Pass, groups: Sequence[frozenset[str]], source: Path
    ) -> frozenset[str]:
        """Load one group after another until nothing is left to ask; returns the last."""
        for turn in range(MOST_TURNS):
            group = groups[turn % len(groups)]
            requests, part = _requests(step, self.recipe, group), (0, 1)
            name = f"{step.name} (turn {turn + 1})"
            with self._progress(name, source, requests, group=part) as progress:
                if not run_ahead(self._sweep(step, group), source, progress):
                    return group
        raise PrefdataError(
            f"{step.name}: after {MOST_TURNS} turns of its models, rows still have more to ask. "
            "Models that do not fit into memory together are loaded in turn: give each its share "
            "(engine: {gpu_memory_utilization: 0.45}), and let the function ask the same "
            "questions whenever it is called for a row"
        )

    def look_up(self, step: Pass, source: Path) -> int:
        """Read in the journal whatever a pass asks; returns how many rows have more to ask."""
        if step.expands is not None or not step.checkpoints:
            return 0
        sweep = self._sweep(step, frozenset(step.checkpoints))
        self.fleet.look_up_alone()
        with self._progress(f"{step.name}, looked up", source) as progress:
            return run_ahead(sweep, source, progress)

    def choose(self, folders: list[Path]) -> dict[str, Any]:
        """Write candidates, pairs, rejects and the JSONL copies; returns their counts."""
        scored, rule = folders[-1], self.recipe.output_projection
        before = read_before(self.out)
        withdraw_record(self.out)
        with self._timed("pairs"):
            link_parts([scored], self.out / "candidates")
            refused = (table for one in folders for table in read_tables(rejects_of(one)))
            made = renew_pairs(scored, self.out, refused, rule, self._background(), before)
            for split, place in copies_of(self.recipe).items():
                write_jsonl(self.out, split, place, reasoning=made["reasoning"])
        return made | {
            "candidates": count_candidates(scored, self.recipe),
            "judges": count_verdicts(scored, self.recipe),
            "one_order": count_verdicts(scored, self.recipe, both_orders=False),
        }

    def _background(self) -> Background:
        """What the pairs are made by."""
        return Background(
            score_columns(self.recipe),
            self.recipe.seed,
            self.recipe,
            self.fleet.template_roles,
            Functions(self.loaded.folder, self.loaded.given),
        )

    def try_pairs(self, stages: StageFolders, hopeless: Container[str]) -> tuple[int, list[str]]:
        """How many pairs finished passes give; ids of rows without one, but for some reasons."""
        rule = self.recipe.output_projection.model_copy(update={"test_size": 0})
        place, lacking = temporary_name(self.out / "stages" / "growth"), list[str]()
        try:
            with RowsWriter(place / "rejects", REJECTS) as rejects, self._timed("pairs"):
                choice = make_pairs(
                    stages.folders[-1], place / "pairs", rejects, rule, self._background()
                )
            for table in read_tables(place / "rejects", columns=["id", "reason"]):
                found = zip(*(column.to_pylist() for column in table.columns), strict=True)
                lacking += [row for row, reason in found if reason not in hopeless]
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return sum(choice.pairs.values()), lacking

    def record(self, record: Record, spent: Record) -> Record:
        """Write recipe.yaml and run.json."""
        self.keep_recipe()
        versions = {
            "versions": {name: version(name) for name in VERSIONS if find_spec(name)},
            "python": platform.python_version(),
        }
        return write_record(self.out, record | spent | versions, copies_of(self.recipe).values())

    def keep_recipe(self) -> None:
        """Write recipe.yaml, which may say anew where to publish what is finished."""
        write_own(self.out / "recipe.yaml", self.out, self.loaded.resolved)

    def _progress(
        self, name: str, source: Path, requests: float = 0, *, group: tuple[int, int] = (0, 1)
    ) -> AbstractContextManager[Progress]:
        tell = partial(self._leave_word, group) if self.is_shard else None
        work = self.fleet.work
        rows, is_shown = count_rows(source), self.progress
        return show_progress(name, rows, work, requests=requests, tell=tell, is_shown=is_shown)

    def _leave_word(self, group: tuple[int, int], rows: int, of_rows: int) -> None:
        """Tell how far the shard is; each model that has a turn at a pass sees all rows."""
        turn, turns = group
        seconds = time.time() - self.started
        rows = (rows + turn * of_rows) // turns
        write_status(self.out, ShardStatus(*self._passes, rows, of_rows, seconds))

    def _sweep(self, step: Pass, group: frozenset[str]) -> Sweep:
        tools, recipe = self._tools(self.fleet.engines_of(step, group)), self.recipe
        levels = [[(c.name, make_stage(c, tools)) for c in level] for level in step.levels]
        fields = [field for column in step.columns for field in fields_of(column)]
        gpus = self.fleet.gpus
        room = room_for(gpus, _row_bytes(step, recipe))
        reads, window = _reads(step, recipe), window_for(gpus)
        return Sweep(levels, fields, reads, window, room=room, ending=self.ending)

    def _tools(self, engines: Engines) -> Tools:
        recipe, folder = self.recipe, self.loaded.folder
        models = {model.alias: model for model in recipe.models}
        columns, prompt = all_columns(recipe), recipe.output_projection.prompt_field
        roles = self.fleet.template_roles
        text, reward = (
            {alias: engine for (alias, asked), engine in engines.items() if asked == role}
            for role in ("text", "reward")
        )
        return Tools(
            recipe.seed, models, text, reward, folder, columns, prompt, roles, self.loaded.given,
            self.loaded.locate, partial(items_of, locate=self.loaded.locate), self.times,
        )  # fmt: skip

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
                self.say(f"{err.finding}; it is renamed {aside.name} and made again")
                return False
        return True

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        self.throughput.begin(name)
        start = time.monotonic()
        yield
        spent = time.monotonic() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + spent  # a run that grows comes again


def _lacking(roles: Mapping[str, Roles]) -> Record:
    """Aliases whose templates do not know all roles, as `roles_of_record` reads them."""
    return {alias: asdict(known) for alias, known in roles.items() if known != ALL_ROLES}


def _rows_added(stages: StageFolders) -> dict[str, int]:
    """By how much each expansion has raised the number of rows."""
    return {s.name: rows_added(source, target) for s, source, target in stages.steps if s.expands}


def _row_bytes(step: Pass, recipe: Recipe) -> int:
    """What a row makes in a pass if every answer is as long as it may be; some have no bound."""
    return sum(
        round(count * BYTES_PER_TOKEN * (one.model.inference_parameters.max_tokens or 0))
        for one, count in requests_of(step, recipe)
    )


def _requests(step: Pass, recipe: Recipe, group: frozenset[str] | None = None) -> float:
    """What one row asks of models in a pass, or of those of a group, which share a column."""
    asked = requests_of(step, recipe)
    return sum(count for one, count in asked if group is None or one.key in group)


def _reads(step: Pass, recipe: Recipe) -> frozenset[str] | None:
    """Columns that a pass reads; None for all of them, which a Python function may ask for."""
    if any(column.calls for column in step.columns):
        return None
    named = frozenset[str]().union(*(columns_read(column, recipe) for column in step.columns))
    # a part of a text shares its provenance, where it has one
    sources = (column.source + META_SUFFIX for column in step.columns if column.source)
    return named.union(sources, (name + SKIPPED_SUFFIX for name in named))
