"""The whole journey: recipe -> seeds -> passes -> pairs. One function tells it; the rest is detail.

A finished step is a folder named after a fingerprint of everything that went into it; an
unfinished one is made again, and the journal answers what was answered before.
"""

import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from prefdata import engines
from prefdata.engines.checkpoints import check_role, identify
from prefdata.engines.scripted import ScriptedReward, ScriptedText
from prefdata.fingerprint import (
    ScoreKeys,
    TextKeys,
    model_identity,
    pairs_fingerprint,
    stage_fingerprint,
)
from prefdata.plan import Checkpoint, Pass, plan_passes
from prefdata.preferences import choose_pairs, write_jsonl
from prefdata.projection import DpoPreference
from prefdata.recipe import Candidates, Recipe
from prefdata.recipe_columns import columns_needed, columns_read, score_columns
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
from prefdata.runtime.disk import (
    Damaged,
    disk_errors,
    hold,
    publish,
    temporary_name,
    write_text,
)
from prefdata.runtime.folders import RowsWriter, count_rows, read_tables
from prefdata.runtime.journal import Journal
from prefdata.runtime.journaled import JournaledReward, JournaledText, Work
from prefdata.runtime.passes import Sweep, rejects_of, run_pass
from prefdata.runtime.progress import show_progress
from prefdata.seeds import Seeds, load_seeds
from prefdata.stages import Tools, fields_of, make_stage

Say = Callable[[str], None]
JSONL_COLUMNS = ("prompt", "chosen", "rejected")


def build(
    loaded: LoadedRecipe, out: Path, *, rehearse: bool = False, say: Say = print
) -> dict[str, Any]:
    """Run a recipe, or go on where an earlier run of it stopped; returns what `run.json` holds.

    Args:
        loaded: a checked recipe.
        out: the run folder; made if missing.
        rehearse: answer with the scripted engines, without loading a model.
        say: told what the user should know, a line at a time.

    Raises:
        PrefdataError: the user can fix it; everything finished so far is kept.
    """
    started = time.time()
    with disk_errors(out), hold(out), ExitStack() as open_things:
        run = _Run(loaded, out, rehearse, say)
        checkpoints = run.identify_checkpoints()
        seeds = run.load_seeds()
        folder, fingerprint = run.save_seeds(seeds)
        folders = [folder]
        steps = []
        for number, step in enumerate(plan_passes(loaded.recipe), start=1):
            fingerprint = stage_fingerprint(fingerprint, step.columns, loaded.recipe, checkpoints)
            folders.append(out / "stages" / f"{number}-{step.name}-{fingerprint[:8]}")
            steps.append((step, folders[-2], folders[-1]))
        final = pairs_fingerprint(fingerprint, loaded.recipe)
        if (finished := run.finished(final)) is not None:
            say("nothing to do: this run is finished")
            return finished
        for step, source, target in steps:
            run.run_pass(step, source, target, open_things)
        outcome = run.choose(folders)
        return run.record(final, fingerprint, seeds, outcome, checkpoints, started)


@dataclass
class _Run:
    """One call of `build`: where it writes, what it holds open, what it counts."""

    loaded: LoadedRecipe
    out: Path
    rehearse: bool
    say: Say
    work: Work = field(default_factory=Work)
    seconds: dict[str, float] = field(default_factory=dict)
    _journal: Journal | None = None
    _engines: dict[str, JournaledText | JournaledReward] = field(default_factory=dict)
    _identities: dict[str, str] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        return self.loaded.recipe

    def identify_checkpoints(self) -> dict[str, str]:
        """Content hash or commit of every alias's checkpoint; a missing one stops the run."""
        found: dict[str, str] = {}
        roles = {
            a: c.role
            for p in plan_passes(self.recipe)
            for c in p.checkpoints.values()
            for a in [c.model.alias]
        }
        for model in self.recipe.models:
            path = self.loaded.locate(model.model)
            if self.rehearse:
                found[model.alias] = "scripted"
                continue
            found[model.alias] = identify(model, path)
            if model.alias in roles and not model.skip_health_check:
                check_role(model, path, roles[model.alias])
        self._identities = {m.alias: model_identity(m, found[m.alias]) for m in self.recipe.models}
        return found

    def load_seeds(self) -> Seeds:
        with self._timed("seeds"):
            config = self.recipe.seed_dataset
            seeds = load_seeds(
                config,
                self.loaded.locate(config.path),
                needed=columns_needed(self.recipe),
                num_records=self.recipe.num_records,
                seed=self.recipe.seed,
            )
        for note in seeds.notes:
            self.say(note)
        for bad in seeds.rejects[:5]:
            self.say(f"{bad['source']}: {bad['reason']}: {bad['detail']}; it goes to rejects")
        if len(seeds.rejects) > 5:
            self.say(f"… and {len(seeds.rejects) - 5:,} more bad seeds, all in rejects")
        return seeds

    def save_seeds(self, seeds: Seeds) -> tuple[Path, str]:
        folder = self.out / "stages" / f"0-seeds-{seeds.fingerprint[:8]}"
        if not self._is_whole(folder):
            with (
                RowsWriter(folder, seeds.table.schema) as rows,
                RowsWriter(rejects_of(folder), REJECTS) as rejects,
            ):
                rejects.write(pa.Table.from_pylist(seeds.rejects, schema=REJECTS))
                for batch in seeds.table.to_batches(max_chunksize=10_000):
                    rows.write(pa.Table.from_batches([batch]))
        return folder, seeds.fingerprint

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

    def run_pass(self, step: Pass, source: Path, target: Path, open_things: ExitStack) -> None:
        """Make `target` unless it is there and whole."""
        if self._is_whole(target):
            return
        sweep = self._sweep(step, open_things)
        with (
            self._timed(step.name),
            show_progress(step.name, count_rows(source), self.work) as progress,
        ):
            run_pass(sweep, source, target, progress)

    def choose(self, folders: list[Path]) -> dict[str, Any]:
        """Write candidates, pairs, rejects and the JSONL copies; returns their counts."""
        scored, rule = folders[-1], self.recipe.output_projection
        withdraw_record(self.out)
        with self._timed("pairs"):
            _link(scored, self.out / "candidates")
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
        }

    def record(
        self,
        fingerprint: str,
        scored: str,
        seeds: Seeds,
        outcome: dict[str, Any],
        checkpoints: Mapping[str, str],
        started: float,
    ) -> Record:
        """Write recipe.yaml and run.json."""
        write_text(self.out / "recipe.yaml", self.loaded.resolved)
        record = {
            "prefdata": version("prefdata"),
            "fingerprint": fingerprint,
            "scored_fingerprint": scored,
            "rehearsed": self.rehearse,
            "seeds": len(seeds),
            **outcome,
            "checkpoints": dict(checkpoints),
            "requests": {
                "generated": self.work.generated,
                "scored": self.work.scored,
                "replayed": self.work.replayed,
            },
            "tokens": {
                "prompt": self.work.prompt_tokens,
                "completion": self.work.completion_tokens,
            },
            "loads": self.work.loads,
            "seconds": self.seconds | {"total": time.time() - started},
            "started": started,
            "versions": {
                name: version(name) for name in ("datasets", "pyarrow", "torch", "transformers")
            },
            "python": platform.python_version(),
        }
        return write_record(self.out, record, self._copies().values())

    def _sweep(self, step: Pass, open_things: ExitStack) -> Sweep:
        text, reward = self._open(step, open_things)
        models = {model.alias: model for model in self.recipe.models}
        tools = Tools(self.recipe.seed, models, text, reward, self.loaded.folder)
        waves = [[(c.name, make_stage(c, self.recipe, tools)) for c in wave] for wave in step.waves]
        fields = [field for column in step.columns for field in fields_of(column)]
        reads = frozenset[str]().union(*(columns_read(column) for column in step.columns))
        return Sweep(waves, fields, reads)

    def _open(
        self, step: Pass, open_things: ExitStack
    ) -> tuple[dict[str, JournaledText], dict[str, JournaledReward]]:
        """Engines of a pass by alias; those that earlier passes have loaded are used again."""
        journal = self._open_journal(open_things)
        text: dict[str, JournaledText] = {}
        reward: dict[str, JournaledReward] = {}
        for model in self.recipe.models:
            for key, checkpoint in step.checkpoints.items():
                if Checkpoint(checkpoint.role, model).key != key:
                    continue
                if key not in self._engines:
                    self._engines[key] = self._engine(checkpoint, journal)
                    open_things.callback(self._engines[key].close)
                engine = self._engines[key]
                if isinstance(engine, JournaledText):
                    text[model.alias] = engine
                else:
                    reward[model.alias] = engine
        return text, reward

    def _engine(self, checkpoint: Checkpoint, journal: Journal) -> JournaledText | JournaledReward:
        model, identity = checkpoint.model, self._identities[checkpoint.model.alias]
        path = self.loaded.locate(model.model)

        def load_text() -> engines.TextEngine:
            self.work.loads.append(model.model)
            return ScriptedText() if self.rehearse else engines.open_text_engine(model, path)

        def load_reward() -> engines.RewardEngine:
            self.work.loads.append(model.model)
            return ScriptedReward() if self.rehearse else engines.open_reward_engine(model, path)

        if checkpoint.role == "text":
            return JournaledText(load_text, TextKeys(identity), journal, self.work)
        return JournaledReward(load_reward, ScoreKeys(identity), journal, self.work)

    def _open_journal(self, open_things: ExitStack) -> Journal:
        if self._journal is None:
            self._journal = open_things.enter_context(Journal(self.out / "journal"))
            for damage in self._journal.damage:
                self.say(str(damage))
        return self._journal

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
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start


def _link(source: Path, target: Path) -> None:
    """Show a finished folder under a second name, without a second copy where links work."""
    temporary = temporary_name(target)
    try:
        shutil.copytree(source, temporary, copy_function=_hard_link)
        publish(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _hard_link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _count_candidates(scored: Path, recipe: Recipe) -> int:
    """Texts that could become a side of a pair."""
    rule = recipe.output_projection
    if isinstance(rule, DpoPreference):
        return 2 * count_rows(scored)
    column = next(
        c for c in recipe.columns if isinstance(c, Candidates) and c.name == rule.candidates
    )
    return count_rows(scored) * column.samples * len(column.model_alias)
