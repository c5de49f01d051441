"""Whose is it: what prefdata has made may be replaced, anything else may not.

A run folder has a list of the files that were written for it, each with its hashes: a file that is
not as it was written is the user's. Folders are told by the names of the files in them.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from prefdata.errors import PrefdataError
from prefdata.storage.disk import hold, make_folder, whole_file, write_text

LEDGER = ".prefdata.json"
FILES = ("README.md", "recipe.yaml", "report.html", "run.json")
TABLES = ("candidates", "pairs", "rejects")
FOLDERS = (
    *TABLES, "exports", "journal", "k8s", "logs", "shards", "sky", "slurm", "stages", "trained",
)  # fmt: skip
KEPT_HASHES = 8
"""Of one file: a kill may come between the note of a hash and the file that has it."""
TABLE = re.compile(r"[a-z]+-\d{5}-of-\d{5}\.parquet")
"""Names of the files that a folder of rows consists of."""
_ELSEWHERE = "choose another folder with --out, or move it away"


class Input(NamedTuple):
    """A file or folder that a command reads.

    Attributes:
        is_whole: nothing may be written in it either.
    """

    path: Path
    what: str
    is_whole: bool = False


def check_folder(out: Path, inputs: Sequence[Input] = (), *, is_forced: bool = False) -> None:
    """See that a run may be made in a folder without loss to the user.

    `is_forced`: whether a file of the user's may be replaced; never one that is read, nor a folder.

    Raises:
        PrefdataError: something there is not prefdata's.
    """
    for one in inputs:
        if one.is_whole and _is_inside(out, one.path):
            raise PrefdataError(
                f"{out}: the run would be made in {one.what}; choose another folder with --out"
            )
    if not is_run_folder(out):
        names = (*FOLDERS, *(() if is_forced else FILES))
        for place in (out / name for name in names):
            if place.exists() or place.is_symlink():
                raise _not_ours(place, _ELSEWHERE)
    for name in TABLES:
        strange = [file for file in _entries(out / name) if not TABLE.fullmatch(file.name)]
        if strange:
            raise _not_ours(strange[0], _ELSEWHERE)
        for one in inputs:
            if _is_inside(one.path, out / name):
                raise PrefdataError(
                    f"{out / name}: {one.what} is in there, and would be replaced; {_ELSEWHERE}"
                )
    for name in ("recipe.yaml", "README.md"):
        check_file(out / name, out, inputs, is_forced=is_forced)


def check_file(
    place: Path, out: Path, inputs: Sequence[Input] = (), *, is_forced: bool = False
) -> None:
    """See that a file may be written without loss to the user.

    `inputs`: what the run reads; never replaced, unless prefdata wrote it.

    Raises:
        PrefdataError: it is an input, lies in a folder that is one, or is not prefdata's.
    """
    is_own = _is_written(place, out)
    for one in inputs:
        if _is_same(place, one.path) and not is_own:
            raise PrefdataError(
                f"{place}: this is {one.what}, and would be replaced; choose another place"
            )
        if one.is_whole and _is_inside(place, one.path) and not _is_inside(place, out):
            raise PrefdataError(f"{place}: it lies in {one.what}; choose another place")
    if place.is_dir():
        raise PrefdataError(f"{place}: a folder is there, and a file is to be written; choose another place")  # fmt: skip  # noqa: E501
    if place.exists() and not is_own and not is_forced:
        raise _not_ours(place, "choose another place, move it away, or replace it with --force")


def check_name(place: Path, out: Path) -> None:
    """See that a file is not where the run has files of its own, whatever is there now.

    Raises:
        PrefdataError: it is.
    """
    if not _is_inside(place, out):
        return
    first = place.resolve().relative_to(out.resolve()).parts[:1]
    if first and first[0] in (*FOLDERS, *FILES, LEDGER):
        raise PrefdataError(
            f"{place}: the run keeps its own {first[0]} there; choose another place"
        )


def is_run_folder(folder: Path) -> bool:
    """Whether prefdata has made it, or begun to."""
    if (folder / LEDGER).is_file():
        return True
    try:  # as the first versions left them
        told = orjson.loads((folder / "run.json").read_bytes())
        return "prefdata" in told or all(name in told for name in ("seeds", "projection"))
    except (OSError, ValueError, TypeError):
        seeds = "stages/0-seeds-????????"
        return any(place for at in ("", "shards/*-of-*/") for place in folder.glob(at + seeds))


def claim_folder(out: Path) -> None:
    """Say that a folder, which has been checked, is a run folder."""
    if not (out / LEDGER).is_file():
        make_folder(out)
        _write(out, {name: [_hash(out / name)] for name in FILES if (out / name).is_file()})


@contextmanager
def hold_run(out: Path) -> Iterator[None]:
    """Be the one process that writes in a run folder, which has been checked, and claim it."""
    with hold(out):
        claim_folder(out)
        yield


@contextmanager
def own_file(place: Path, out: Path) -> Iterator[BinaryIO]:
    """A whole file that is noted as prefdata's before it appears."""
    with whole_file(place, before=lambda temporary: _note(place, out, temporary)) as file:
        yield file


def write_own(place: Path, out: Path, text: str) -> None:
    """Write a whole text file that is noted as prefdata's."""
    with own_file(place, out) as file:
        file.write(text.encode())


def is_own(file: Path, root: Path, run: Path) -> bool:
    """Whether prefdata made a file for a run that lies in a folder or around it.

    `file`: an absolute path below `root`. `root`: where files are sought; runs above it do not
    count.
    """
    for folder in file.parents:
        if not folder.is_relative_to(root):
            return False
        if folder == run or is_run_folder(folder):
            first = file.relative_to(folder).parts[0]
            written = _read(folder)
            if first in (*FOLDERS, *FILES) or _name(file, folder) in written:
                return True
    return False


def _is_written(place: Path, out: Path) -> bool:
    """Whether the file is as it was written for this run."""
    if not place.is_file() or place.is_symlink():
        return False
    if not (out / LEDGER).is_file():
        return is_run_folder(out) and place.parent == out
    return _hash(place) in _read(out).get(_name(place, out), ())


def _note(place: Path, out: Path, content: Path) -> None:
    known, name, new = _read(out), _name(place, out), _hash(content)
    hashes = [*(one for one in known.get(name, []) if one != new), new][-KEPT_HASHES:]
    if known.get(name) != hashes:
        _write(out, known | {name: hashes})


def _name(place: Path, out: Path) -> str:
    """Inside of the run folder relative to it, so that it may be moved."""
    place, out = place.absolute(), out.absolute()
    return str(place.relative_to(out) if place.is_relative_to(out) else place)


def _read(out: Path) -> dict[str, list[str]]:
    try:
        told: Any = orjson.loads((out / LEDGER).read_bytes())
        return dict(told["files"])
    except (OSError, ValueError, TypeError, KeyError):  # none, or none that says anything
        return {}


def _write(out: Path, files: dict[str, list[str]]) -> None:
    told = orjson.dumps({"files": files}, option=orjson.OPT_INDENT_2).decode()
    write_text(out / LEDGER, told)


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return file_digest(content, "sha256").hexdigest()


def _entries(folder: Path) -> list[Path]:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        return [folder]
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _is_same(place: Path, other: Path) -> bool:
    """Whether two paths lead to one file, by links of any kind."""
    if place.exists() and other.exists():
        return place.samefile(other)
    return place.resolve() == other.resolve()


def _is_inside(place: Path, folder: Path) -> bool:
    return place.resolve().is_relative_to(folder.resolve())


def _not_ours(place: Path, remedy: str) -> PrefdataError:
    return PrefdataError(
        f"{place}: it is there already, and prefdata did not write it as it is; {remedy}"
    )
