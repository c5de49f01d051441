"""The tables of a run folder, which `load_dataset` reads at any time: empty at first, made anew."""

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from prefdata.pairs.diff import PairsOfRun, changes_since
from prefdata.pairs.files import SPLITS
from prefdata.pairs.mixing import make_pairs, schema_of_pairs
from prefdata.pairs.outcomes import count_outcomes, count_skipped, settle_reasoning
from prefdata.pairs.prompts import Background
from prefdata.recipe.mix import OutputProjection
from prefdata.rows import REJECTS
from prefdata.storage.folders import RowsWriter
from prefdata.storage.ownership import TABLES, write_own
from prefdata.storage.record import Record, count_reasons

README = "README.md"
_MARK = "---\n"


def make_readable(
    out: Path, scored: pa.Schema, rule: OutputProjection, background: Background
) -> None:
    """Write README.md and empty tables where there are none yet."""
    kinds = {
        "candidates": ("rows", scored),
        "pairs": ("train", schema_of_pairs(scored, rule, background)),
        "rejects": ("rows", REJECTS),
    }
    for name in TABLES:
        stem, schema = kinds[name]
        if not (out / name).exists():
            with RowsWriter(out / name, schema, stem=stem):
                pass
    if not (out / README).exists():
        write_readme(out)


def renew_pairs(
    scored: Path,
    out: Path,
    refused: Iterable[pa.Table],
    rule: OutputProjection,
    background: Background,
    before: PairsOfRun | None,
) -> Record:
    """Write pairs and rejects of a run folder anew; what its record says of them.

    `refused`: rejects of the steps before. `before`: the pairs that were there, if they are known.
    """
    write_readme(out, has_test=False)  # until there is one again
    with RowsWriter(out / "rejects", REJECTS) as rejects:
        for table in refused:
            rejects.write(table)
        choice = make_pairs(scored, out / "pairs", rejects, rule, background)
    write_readme(out)
    return {
        **choice.told(),
        "rejects": count_reasons(out / "rejects"),
        "outcomes": count_outcomes(scored),
        "skipped": count_skipped(scored),
        "reasoning": settle_reasoning(scored, rule),
        **changes_since(before, out, choice.prompt_field),
    }


def write_readme(out: Path, *, has_test: bool | None = None) -> None:
    """Write README.md: which files `load_dataset` reads.

    `has_test`: whether pairs have a test split; None for what is there.
    """
    configs = [_config(out, name, has_test) for name in ("pairs", "candidates", "rejects")]
    head = yaml.safe_dump({"configs": configs}, sort_keys=False)
    write_own(
        out / README,
        out,
        f"{_MARK}{head}{_MARK}\n# {out.absolute().name}\n\nMade by prefdata {version('prefdata')}; "
        "`run.json` is there when the run is finished. `load_dataset` of this folder reads "
        "`pairs`, and `candidates` and `rejects` by their names.\n",
    )


def add_configs(card: str, out: Path) -> str:
    """The card with the configurations that it leaves out because they have no rows."""
    _, head, prose = card.split(_MARK, 2)
    told: dict[str, Any] = yaml.safe_load(head)
    names = {config["config_name"] for config in told["configs"]}
    missing = [_config(out, name, None) for name in TABLES if name not in names]
    if not missing:
        return card
    told["configs"] += missing
    head = yaml.safe_dump(told, sort_keys=False, allow_unicode=True)
    return f"{_MARK}{head}{_MARK}{prose}"


def splits_of(table: str) -> tuple[str, ...]:
    """The splits that a table may have."""
    return SPLITS if table == "pairs" else ("train",)


def stem_of(table: str, split: str) -> str:
    """First part of the names of the files with a split of a table."""
    return split if table == "pairs" else "rows"


def config_of(table: str, splits: Iterable[str]) -> dict[str, Any]:
    """What tells `load_dataset` which files of a table make which splits."""
    files = [{"split": one, "path": f"{table}/{stem_of(table, one)}-*"} for one in splits]
    default = {"default": True} if table == "pairs" else {}
    return {"config_name": table, "data_files": files, **default}


def _config(out: Path, table: str, has_test: bool | None) -> dict[str, Any]:
    is_split = any((out / "pairs").glob("test-*")) if has_test is None else has_test
    return config_of(table, [one for one in splits_of(table) if one == "train" or is_split])
