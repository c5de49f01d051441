"""`Run`: a finished run as tables and as what the commands make of it."""

import glob
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import (
    Dataset,
    DatasetDict,
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    load_dataset,
)

from prefdata.api.loading import HUB
from prefdata.api.records import Records, figures_of, pairs_or_rejects, table
from prefdata.errors import PrefdataError, Say, suggest
from prefdata.export import Export, ExportOptions, Lines, export_run
from prefdata.hub.fetched import compare_runs, fetch_run
from prefdata.hub.publish import Publication, publish_run
from prefdata.pairs.files import SPLITS
from prefdata.pairs.repick import pairs_of_run
from prefdata.recipe.loader import RecipeSource, give_name, load_recipe, strategy_of
from prefdata.recipe.schema import Recipe
from prefdata.report import Report, make_report
from prefdata.run.cleaning import Unneeded, clean_run
from prefdata.run.finished import FinishedRun
from prefdata.run.finished import open_run as open_finished
from prefdata.run.oddities import find_oddities
from prefdata.run.stale import find_stale
from prefdata.storage.disk import disk_errors
from prefdata.storage.folders import read_schema
from prefdata.storage.record import Record


class Run:
    """A finished run. Its tables are read from the folder whenever they are asked for.

    Attributes:
        folder: where it lies.
    """

    def __init__(self, finished: FinishedRun) -> None:
        self.folder = finished.folder
        self._finished = finished

    @property
    def summary(self) -> Record:
        """What `run.json` tells: counts, means, reasons of rejects, tokens, seconds, versions."""
        return self._finished.record

    @property
    def warnings(self) -> list[str]:
        """What commands warn of: what is odd about the run, and files of its earlier pairs."""
        return [*find_oddities(self.summary), *find_stale(self.folder)]

    @property
    def recipe(self) -> Recipe | None:
        """The recipe; None where the pairs come from a file of scored candidates."""
        return self._finished.recipe

    @property
    def pairs(self) -> DatasetDict:
        """The pairs, `train` and, where there is one, `test`."""
        counts = self.summary["pairs"]
        splits = [split for split in SPLITS if counts.get(split) or split == "train"]
        return DatasetDict({split: self._table("pairs", split) for split in splits})

    @property
    def candidates(self) -> Dataset:
        """The scored rows: seed columns, texts, scores."""
        return self._table("candidates", "rows")

    @property
    def rejects(self) -> Dataset:
        """Rows without a pair: `stage`, `reason`, `detail`, and the `row` as JSON."""
        return self._table("rejects", "rows")

    def _table(self, name: str, stem: str) -> Dataset:
        folder = self.folder / name
        if not folder.is_dir():
            raise PrefdataError(f"{folder}: the run has no {name}; it was published without them")
        files = sorted(folder.glob(f"{stem}-*.parquet"))
        if not sum(pq.read_metadata(file).num_rows for file in files):
            return Dataset(read_schema(folder).empty_table())
        with _without_bars():
            # `datasets` takes places for patterns, and puts the current folder before them as it is
            places = [glob.escape(str(file.absolute())) for file in files]
            return load_dataset("parquet", data_files=places, split="train")

    def repick(self, out: Path | str | None = None, *, force: bool = False, **rules: Any) -> "Run":
        """Choose pairs again, by other rules; no model is asked.

        Args:
            out: another folder for the pairs; by default they are replaced in this run.
            force: replace a file of yours in `out`.
            **rules: fields of the recipe's `output_projection`, such as `strategy="exhaustive"`;
                a strategy may be a function, too.

        Raises:
            PrefdataError: a rule that the columns cannot serve.
        """
        given: dict[str, Callable[..., Any]] = {}
        told = dict(strategy_of(rules))
        if "strategy" in told:
            told = {"pick": None} | told
        plain = {
            k: give_name(value, given) if callable(value) else value for k, value in told.items()
        }
        overrides = [f"{key}={json.dumps(value)}" for key, value in plain.items()]
        place = Path(out) if out else self.folder
        pairs_of_run(self.folder, overrides, place, force=force, given=given)
        made = open_finished(place)
        if place == self.folder:
            self._finished = made
        return Run(made)

    def export(
        self,
        format: str | Lines,
        out: Path | str | None = None,
        *,
        say: Say = print,
        **options: Any,
    ) -> Export:
        """Write the pairs as a trainer wants them.

        Args:
            format: as `prefdata export --format` takes it, or a function from a pair to lines.
            out: the folder; `exports/<format>` in the run by default.
            say: called with what is left out.
            **options: fields of `ExportOptions`: `test_size`, `max_tokens`, `tokenizer` …

        Raises:
            PrefdataError: no such format or option, or no pair that the format can hold.
        """
        known = {field.name for field in fields(ExportOptions)} - {"may_be_text"}
        if unknown := sorted(options.keys() - known):
            raise PrefdataError(
                f"export has no option {unknown[0]!r}; {suggest(unknown[0], known)}"
            )
        given = ExportOptions(may_be_text=True, **options)
        return export_run(self.folder, format, given, Path(out) if out else None, say=say)

    def report(
        self,
        out: Path | str | None = None,
        *,
        compare: "Run | Path | str | None" = None,
        force: bool = False,
    ) -> Report:
        """Write the HTML report, `report.html` in the run by default.

        Args:
            out: another file.
            compare: another run, shown beside this one.
            force: replace a file of yours.

        Raises:
            PrefdataError: a file is in the way.
        """
        other = compare.folder if isinstance(compare, Run) else compare
        return make_report(
            self.folder, Path(out) if out else None, compare=Path(other) if other else None,
            is_forced=force,
        )  # fmt: skip

    def diff(self, other: "Run | Path | str") -> dict[str, Any]:
        """What has become of the pairs in another run, as `prefdata diff --json` tells it.

        Args:
            other: a run, its folder, or `hf://datasets/owner/name`.

        Raises:
            PrefdataError: there is no finished run.
        """
        place = other.folder if isinstance(other, Run) else other
        return compare_runs(str(self.folder), str(place))

    def clean(
        self, *, remove: bool = False, recipe: RecipeSource | None = None, say: Say = print
    ) -> Unneeded:
        """Stages and journal records that the run needs no more, removed only where you say so.

        Args:
            remove: whether to remove them.
            recipe: the one that is being built in the folder, where it is another than this run's.
            say: called with each message.

        Raises:
            PrefdataError: a build was begun there whose recipe is not given.
        """
        given = None if recipe is None else load_recipe(recipe)
        return clean_run(self.folder, given, is_meant=remove, say=say, progress=False)

    def publish(
        self,
        repo_id: str | None = None,
        *,
        revision: str | None = None,
        private: bool | None = None,
        create_pr: bool = False,
        say: Say = print,
    ) -> Publication:
        """Bring the run to the Hugging Face Hub with its card, load it back, compare.

        Args:
            repo_id: `owner/name`; the recipe's by default.
            revision: the branch.
            private: visibility of a new dataset; the recipe's by default, else private.
            create_pr: open a pull request instead.
            say: called with each message.

        Raises:
            PrefdataError: no right to publish it, or the Hub does not have it as it was sent.
        """
        return publish_run(
            self.folder,
            repo_id=repo_id,
            revision=revision,
            private=private,
            create_pr=create_pr,
            say=say,
        )

    def preview(self, n: int = 2) -> Records:
        """The first `n` pairs in full, or rejects where there are no pairs; for a cell."""
        return pairs_or_rejects(self.folder, n)

    def __repr__(self) -> str:
        figures = ", ".join(f"{name} {value}" for name, value in figures_of(self.summary))
        return f"Run({str(self.folder)!r}: {figures})"

    def _repr_html_(self) -> str:
        warned = "".join(f"<p>{escape(warning)}</p>" for warning in self.warnings)
        return f"<b>{escape(str(self.folder))}</b>{table(figures_of(self.summary))}{warned}"


@contextmanager
def _without_bars() -> Iterator[None]:
    """A table is no work worth a bar."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@disk_errors()
def open_run(source: Path | str, out: Path | str | None = None) -> Run:
    """Open a finished run, or one that was published.

    Args:
        source: a run folder, or `hf://datasets/owner/name`, to which `@revision` may be added.
        out: of a published one: the folder that it is fetched into; one called like the dataset,
            in the current folder, by default.

    Raises:
        PrefdataError: there is no finished run.
    """
    if isinstance(source, str) and source.startswith(HUB):
        return Run(open_finished(fetch_run(source, Path(out) if out else None)))
    return Run(open_finished(Path(source)))
