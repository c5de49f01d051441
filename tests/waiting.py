"""Waiting for what is sure to come: as long as it takes, whoever else uses the machine."""

import os
import time

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
    """Until a child has stopped itself by SIGSTOP (see moments.py); fails if it ends before."""
    how = os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG
    wait_until(lambda: os.waitid(os.P_PID, process.pid, how) is not None)
    end = os.waitid(os.P_PID, process.pid, how)
    assert end.si_code == os.CLD_STOPPED, "it ended before it came to the moment"
