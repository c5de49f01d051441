"""Waiting for what is sure to come: as long as it takes, whoever else uses the machine."""

import time
from pathlib import Path

PATIENCE = 300
"""Seconds after which a test stops waiting: for what never comes, not a bound on how fast it is."""


def wait_until(condition, process=None):
    """Look again and again until it is so; `process` is who brings it about, and must live."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process is None or process.poll() is None, "it ended before it had happened"
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def wait_until_stopped(process):
    """Until a process has stopped itself by SIGSTOP (see moments.py); fails if it ends before."""
    stat = Path(f"/proc/{process.pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", process)
