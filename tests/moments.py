"""The prefdata command in a process that sends itself a signal at a moment with a name.

So a test need not be quick enough to catch a run in the middle of something: the run is there when
the signal falls, however busy the machine is. A moment is what changes the disk: `journal text` and
`journal score` are one record each, half of which is written by then; `write PATH` comes after rows
of an unfinished parquet file; `sync PATH`, `rename PATH`, `mkdir PATH` and `remove PATH` come
before a call of that kind. Paths are those within the run folder.
"""

import os
import re
import signal
import sys
import threading
from pathlib import Path

AUDITED = {
    "os.rename": "rename", "os.mkdir": "mkdir", "os.remove": "remove", "os.link": "link",
}  # fmt: skip


def command(out, sign, pattern, number=1):
    """What stands before the words of a prefdata command over the run folder `out`.

    Args:
        out: the run folder.
        sign: the signal.
        pattern: a regular expression; moments whose names begin like it count.
        number: which of them it is, from 1.
    """
    return [sys.executable, __file__, str(out), str(int(sign)), pattern, str(number)]


def listing(out, file):
    """As `command`, for a run that nothing disturbs and that writes its moments into a file."""
    return [sys.executable, __file__, str(out), "0", str(file), "0"]


class Moments:
    """Counts the moments of this process; at the one that is meant the signal falls."""

    def __init__(self, out, sign, pattern, number):
        self._out, self._sign, self._left = f"{out}/", sign, number
        self._is_meant = re.compile(pattern).match
        self._lock = threading.Lock()
        self._list = Path(pattern).open("w") if number == 0 else None  # noqa: SIM115

    def come(self, name, before=lambda: None):
        """A moment; `before` is done if it is the one."""
        with self._lock:
            if self._list is not None:
                print(name, file=self._list, flush=True)
            elif self._is_meant(name):
                self._left -= 1
                if self._left == 0:
                    before()
                    os.kill(os.getpid(), self._sign)

    def at(self, call, path, before=lambda: None):
        """A moment of a path, if it is one of the run folder."""
        path = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
        if path.startswith(self._out):
            self.come(f"{call} {path.removeprefix(self._out)}", before)

    def watch(self):
        """Hear of every moment from now on."""
        import pyarrow.parquet as pq

        write, sync, pwrite = pq.ParquetWriter.write_table, os.fsync, os.pwrite

        def write_table(writer, *arguments, **more):
            write(writer, *arguments, **more)
            self.at("write", writer.where)

        def fsync(handle):
            self.at("sync", place_of(handle))
            sync(handle)

        def append(handle, data, offset):
            if "/journal/" in place_of(handle):
                end = 0
                for line in data.splitlines(keepends=True):
                    half, end = end + len(line) // 2, end + len(line)
                    kind = "score" if b'"logits"' in line else "text"
                    self.come(
                        f"journal {kind}", lambda half=half: pwrite(handle, data[:half], offset)
                    )
            return pwrite(handle, data, offset)

        pq.ParquetWriter.write_table, os.fsync, os.pwrite = write_table, fsync, append
        sys.addaudithook(
            lambda event, told: self.at(AUDITED[event], told[0]) if event in AUDITED else None
        )


def place_of(handle):
    return str(Path(f"/proc/self/fd/{handle}").readlink())


def main():
    """Watch as the first four arguments say, then be prefdata with the others."""
    out, sign, pattern, number, *words = sys.argv[1:]
    Moments(out, signal.Signals(int(sign)) if sign != "0" else 0, pattern, int(number)).watch()
    sys.argv = ["prefdata", *words]
    from prefdata.cli import main as prefdata

    prefdata()


if __name__ == "__main__":
    main()
