"""The disk: what has its name is whole, one process writes a folder, errors name their remedy.

Everything is written under a temporary name beside its place, brought to the disk, then renamed.
Knows no format and no stage.
"""

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import BinaryIO, NamedTuple

from prefdata.errors import PrefdataError

LOCK = ".lock"
_TEMPORARY = re.compile(r"\.(?P<name>.+)@(?P<host>.+)-(?P<process>\d+)-[0-9a-f]{8}\.(?:tmp|old)")
_SWEPT = ("exports", "k8s", "sky", "slurm", "stages")
"""Folders of a run in which something is written under temporary names."""
_FULL = "free some space"
_ELSEWHERE = "choose another folder with --out"
_FIXABLE = {
    errno.ENOSPC: ("the disk is full", _FULL),
    errno.EDQUOT: ("the disk quota is used up", _FULL),
    errno.EROFS: ("the file system is read-only", _ELSEWHERE),
    errno.EACCES: ("permission denied", f"change the rights, or {_ELSEWHERE},"),
    errno.EPERM: ("permission denied", f"change the rights, or {_ELSEWHERE},"),
    errno.EFBIG: ("the file is larger than this process may write", "raise the limit (ulimit -f)"),
    errno.ENOTDIR: ("a file stands where a folder is needed", "move it away"),
    errno.EEXIST: ("a file stands where a folder is needed", "move it away"),
    errno.EISDIR: ("a folder stands where a file is needed", "move it away"),
    errno.ENAMETOOLONG: ("the name is too long", "give a shorter path"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n)"),
    errno.EIO: ("the disk or its server failed", "check that it works"),
    errno.ESTALE: ("the file server no longer has the file", "check that the folder is mounted"),
}
_LONGEST_NAME = 255
"""Characters of a path in a message; of a longer one its ends are shown."""
_HERE, _SWAP = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of renameat2(2)."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, 524}
"""What file systems without locks answer; 524 is the kernel's ENOTSUPP (Lustre, some NFS)."""


class Damaged(PrefdataError):
    """A file or folder is not as it was written.

    Attributes:
        finding: what is wrong with which, without the remedy.
    """

    def __init__(self, place: Path, cause: str) -> None:
        self.finding = f"{place}: damaged or cut short ({cause})"
        super().__init__(
            f"{self.finding}; delete {place.parent if place.suffix == '.parquet' else place} and "
            "run `prefdata build` again: it is made again from the journal"
        )


@contextmanager
def disk_errors(place: Path | None = None) -> Iterator[None]:
    """Turn what the user can fix (full disk, no permission …) into a PrefdataError.

    `place`: what is named where the error names no file; None lets such an error pass.
    """
    try:
        yield
    except OSError as err:
        name = err.filename2 or err.filename or place
        if err.errno not in _FIXABLE or name is None:
            raise
        cause, remedy = _FIXABLE[err.errno]
        raise PrefdataError(
            f"{_shortened(str(name))}: cannot go on: {cause}; {remedy} and run the same command "
            "again. Everything finished so far is kept."
        ) from err


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[:80]}…{name[-40:]}"


@contextmanager
def hold(folder: Path, *, patience: float | None = None) -> Iterator[None]:
    """Be the one process that writes in a run folder; first remove what killed ones left there.

    The kernel gives the lock back when the process ends, however it ends. On a file system
    without locks nobody is kept out, and only what dead processes of this host left is removed.

    `patience`: seconds to wait for another process that has been told to end; then this one goes on
    beside it. None does not wait.

    Raises:
        PrefdataError: another process is writing there, and there is no patience.
    """
    with hold_file(folder / LOCK, patience=patience) as is_alone:
        sweep(folder, is_alone=is_alone)
        yield


@contextmanager
def hold_file(file: Path, *, patience: float | None = None) -> Iterator[bool]:
    """Be the one process that holds a lock file; whether it does, where there are no locks.

    Raises:
        PrefdataError: another process holds it, and there is no patience.
    """
    make_folder(file.parent)
    lock = _lock(file) if patience is None else _lock_patiently(file, patience)
    try:
        yield lock.is_held
    finally:
        if lock.is_held:
            file.unlink(missing_ok=True)
        os.close(lock.handle)


class _Lock(NamedTuple):
    """An open lock file; not held where the file system has no locks."""

    handle: int
    is_held: bool


def _lock(file: Path) -> _Lock:
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        owner = os.pread(handle, 200, 0).decode("utf-8", "replace")
        os.close(handle)
        raise PrefdataError(
            f"{file.parent}: {owner or 'another process'} is writing there; wait for its end or "
            f"choose another folder with --out. If it is gone with its machine, delete {file}"
        ) from err
    except OSError as err:
        if err.errno not in _NO_LOCKS:
            raise
        return _Lock(handle, is_held=False)
    if not _is_current(handle, file):  # its owner has finished and taken it away
        os.close(handle)
        return _lock(file)
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return _Lock(handle, is_held=True)


def _lock_patiently(file: Path, patience: float) -> _Lock:
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            return _lock(file)
        except PrefdataError:
            time.sleep(0.2)
    # the kernel of a machine that is gone cannot give its lock back
    return _Lock(os.open(file, os.O_RDWR | os.O_CREAT, 0o644), is_held=False)


def _is_current(handle: int, file: Path) -> bool:
    return file.exists() and os.path.samestat(os.fstat(handle), file.stat())


def sweep(folder: Path, *, is_alone: bool) -> None:
    """Remove temporary files and folders from a run folder; nobody else's have such names.

    What a kill has taken out of its place, and nothing has replaced, goes back.

    `is_alone`: nobody else writes there; otherwise only what dead processes of this host left is
    removed.
    """
    for place in (folder, *(folder / name for name in _SWEPT)):
        for path in sorted(place.glob(".*@*-*-*.*")):
            found = _TEMPORARY.fullmatch(path.name)
            if found is None or not (is_alone or _is_left_over(path)):
                continue
            whole = path.with_name(found["name"])
            if path.suffix == ".old" and not whole.exists():
                path.rename(whole)
            else:
                _remove(path)


def sweep_beside(place: Path) -> None:
    """Remove what dead processes of this host have left of one file or folder, wherever it is."""
    for path in place.parent.glob(f".{escape(place.name)}@*"):
        if _is_left_over(path):
            _remove(path)


def _is_left_over(path: Path) -> bool:
    found = _TEMPORARY.fullmatch(path.name)
    if found is None or found["host"] != socket.gethostname():
        return False
    try:
        os.kill(int(found["process"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it lives and is somebody else's
        return False
    return False


def _remove(path: Path) -> None:
    if path.is_dir():
        # on NFS a file that somebody still reads keeps its folder until the next sweep
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def temporary_name(place: Path) -> Path:
    """A name beside `place` that nobody else uses; leading dot, so that loaders skip it."""
    owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    return place.with_name(f".{place.name}@{owner}.tmp")


def publish(temporary: Path, place: Path) -> None:
    """Give a finished file or folder its name, in the place of what had it.

    Where the file system can exchange two folders, there is one under the name at any time;
    elsewhere a kill between two renames leaves none, and never a part. Where several processes
    publish one folder at the same time, one of them has the last word.
    """
    if temporary.is_dir():
        for file in temporary.rglob("*"):
            sync(file)
    sync(temporary)
    if temporary.is_dir() and place.is_dir() and _exchange(temporary, place):
        sync(place.parent)
        _remove(temporary)
        return
    replaced = []
    while not _replace(temporary, place):
        replaced.append(temporary_name(place).with_suffix(".old"))
        with suppress(FileNotFoundError):  # somebody else has moved it away
            place.rename(replaced[-1])
    for old in replaced:
        _remove(old)
    sync(place.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Give two folders each other's name in one step; whether that is possible here."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # glibc since 2.28
    if rename is None:
        return False
    names = (os.fsencode(one.absolute()), os.fsencode(other.absolute()))
    return rename(_HERE, names[0], _HERE, names[1], _SWAP) == 0  # type: ignore[no-any-return]


def _replace(temporary: Path, place: Path) -> bool:
    """Rename; whether that was possible, as a folder takes the place of an empty one alone."""
    try:
        temporary.replace(place)
    except OSError as err:
        if err.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not temporary.is_dir():
            raise
        return False
    return True


def sync(path: Path) -> None:
    """Bring a file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as err:
        # some network file systems know no fsync of folders
        if err.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that a power cut does not take them away again.

    Raises:
        PrefdataError: it lies where no folder can be made, as in /proc.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    try:
        folder.mkdir(exist_ok=True)
    except FileNotFoundError as err:
        raise PrefdataError(f"{folder}: no folder can be made there; {_ELSEWHERE}") from err
    sync(folder.parent)


@contextmanager
def whole_file(place: Path, *, before: Callable[[Path], None] | None = None) -> Iterator[BinaryIO]:
    """A file to write; it appears under its name when the context is left without an exception.

    `before`: called with the finished file, before it gets its name.
    """
    make_folder(place.parent)
    sweep_beside(place)  # which may lie outside of the run folder
    temporary = temporary_name(place)
    try:
        with temporary.open("wb") as file:
            yield file
        if before is not None:
            before(temporary)
        publish(temporary, place)
    finally:
        with suppress(OSError):  # a read-only file system refuses even this
            temporary.unlink(missing_ok=True)


def write_text(place: Path, text: str) -> None:
    """Write a whole text file, or leave the old one."""
    with whole_file(place) as file:
        file.write(text.encode())
