"""What was made of earlier pairs of a run and still lies beside the new ones. Changes nothing."""

import re
from pathlib import Path
from typing import Any

import orjson

from prefdata.errors import PrefdataError
from prefdata.storage.record import identify_pairs, read_record

REPORT = "report.html"
_PAIRS = re.compile(rb'<meta name="prefdata-pairs" content="([0-9a-f]*)">')
_GENERATOR = b'<meta name="generator" content="prefdata'


def find_stale(run: Path) -> list[str]:
    """A sentence for every export, training and report of a run that is of earlier pairs."""
    record = read_record(run)
    if record is None:
        return []
    pairs, told = identify_pairs(run, record), []
    for file in sorted(run.glob("exports/*/export.json")):
        if _is_of_others(file, pairs):
            told.append(
                f"{file.parent}: an export of earlier pairs; `prefdata export {run} --format "
                f"{file.parent.name}` makes it anew"
            )
    for file in sorted(run.glob("trained/*/data/export.json")):
        if _is_of_others(file, pairs):
            told.append(f"{file.parent.parent}: trained on earlier pairs of this run")
    page = run / REPORT
    if is_report(page) and report_pairs(page) != pairs:
        told.append(f"{page}: a report on earlier pairs; `prefdata report {run}` makes it anew")
    return told


def check_training(run: Path, record: dict[str, Any], out: Path, *, is_forced: bool) -> None:
    """Refuse to replace what was trained on earlier pairs.

    Raises:
        PrefdataError: that is there.
    """
    if not is_forced and _is_of_others(out / "data" / "export.json", identify_pairs(run, record)):
        raise PrefdataError(
            f"{out}: what is there was trained on earlier pairs of the run, or of another one, and "
            "would be replaced; choose another folder with --out, or replace it with --force"
        )


def is_report(page: Path) -> bool:
    """Whether a file is a page that prefdata wrote."""
    return page.is_file() and _GENERATOR in _head(page)


def report_pairs(page: Path) -> str | None:
    """Which pairs a page is about."""
    found = _PAIRS.search(_head(page)) if page.is_file() else None
    return found[1].decode() if found else None


def _head(page: Path) -> bytes:
    with page.open("rb") as file:
        return file.read(4096)


def _is_of_others(file: Path, pairs: str) -> bool:
    try:
        told = orjson.loads(file.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return False
    return isinstance(told, dict) and told.get("pairs", pairs) != pairs
