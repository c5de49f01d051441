"""What of a run goes to the Hub: its parquet files as they are, card, recipe, record, report."""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from prefdata.fingerprint import digest
from prefdata.hub.card import make_card
from prefdata.hub.content import Contents, measure_content
from prefdata.pairs.readable import splits_of, stem_of
from prefdata.recipe.publication import CONFIGS, Publish
from prefdata.run.finished import FinishedRun
from prefdata.run.public import make_public_recipe, make_public_record
from prefdata.storage.folders import read_tables
from prefdata.storage.record import Record

REPORT = "report.html"
TAG = re.compile("run-[0-9a-f]{32}")
FindChanges = Callable[[FinishedRun, str], tuple[str, Record] | None]
FOLDERS = tuple(f"{name}/" for name in CONFIGS)


@dataclass(frozen=True, slots=True)
class Upload:
    """Everything that a publication consists of.

    Attributes:
        contents: by config and split; a config without rows is left out, as `datasets` cannot load
            one.
    """

    tag: str
    card: str
    contents: Contents
    files: dict[str, Path | bytes]

    @property
    def title(self) -> str:
        """Of the commit, and of the pull request."""
        return f"prefdata {self.tag}"

    @property
    def data(self) -> dict[str, Path | bytes]:
        """The files with rows alone."""
        return {name: file for name, file in self.files.items() if name.startswith(FOLDERS)}


def pack(
    run: FinishedRun, settings: Publish, find_changes: FindChanges = lambda run, tag: None
) -> Upload:
    """Look at every row once and say what is to be where.

    `find_changes`: tells, of a run and its tag, the version before it and how they differ.

    Raises:
        Damaged: a file of the run is not as it was written.
    """
    contents = _measure(run.folder, settings)
    facts = {name: {s: asdict(c) for s, c in splits.items()} for name, splits in contents.items()}
    tag = f"run-{run.record.get('fingerprint') or digest(facts)}"
    card = make_card(run, settings, contents, tag, find_changes(run, tag))
    files: dict[str, Path | bytes] = {
        file.relative_to(run.folder).as_posix(): file
        for name, splits in contents.items()
        for split in splits
        for file in sorted((run.folder / name).glob(f"{stem_of(name, split)}-*.parquet"))
    }
    files["README.md"] = card.encode()
    files["run.json"] = make_public_record(run, facts)
    if (recipe := make_public_recipe(run)) is not None:
        files["recipe.yaml"] = recipe.encode()
    if (report := run.folder / REPORT).is_file():
        files[REPORT] = report
    return Upload(tag, card, contents, files)


def _measure(folder: Path, settings: Publish) -> Contents:
    found = {
        name: {
            split: measure_content(read_tables(folder / name, stem=stem_of(name, split)))
            for split in splits_of(name)
        }
        for name in settings.configs
    }
    filled = {
        name: {split: content for split, content in splits.items() if content.rows}
        for name, splits in found.items()
    }
    return {name: splits for name, splits in filled.items() if splits}
