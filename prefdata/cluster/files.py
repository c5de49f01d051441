"""Files that start tasks: written from templates, unless the user has changed them."""

from collections.abc import Mapping
from difflib import unified_diff
from pathlib import Path
from typing import Any

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined

from prefdata.errors import Say
from prefdata.storage.ownership import check_file, claim_folder, write_own


def write_files(
    files: Mapping[Path, tuple[str, Mapping[str, Any]]], out: Path, *, force: bool, say: Say
) -> None:
    """Write all files, or none, and say what differs from those there.

    `files`: name of the template and its values, by the place in the run folder `out`.

    Raises:
        PrefdataError: one was edited.
    """
    environment = Environment(
        loader=PackageLoader("prefdata.cluster", "."),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["yaml"] = _as_yaml
    for place in files:
        check_file(place, out, is_forced=force)
    claim_folder(out)
    for place, (template, values) in files.items():
        _write(place, out, environment.get_template(template).render(values), say)


def _write(place: Path, out: Path, text: str, say: Say) -> None:
    before = place.read_text("utf-8") if place.exists() else text
    differences = unified_diff(before.splitlines(), text.splitlines(), lineterm="", n=0)
    changed = [line for line in differences if not line.startswith(("---", "+++", "@@"))]
    if changed:
        say("\n  ".join((f"{place} is replaced; what changes in it:", *changed)))
    write_own(place, out, text)


def _as_yaml(value: str) -> str:
    """A text as YAML reads it on one line: JSON is YAML, and no word of it is `no` or `null`."""
    return orjson.dumps(value).decode()
