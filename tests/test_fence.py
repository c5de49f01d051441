"""Fences: of two attempts at one shard the later one stays, and the rows are the same."""

import subprocess
import sys
import time

import pytest
from conftest import QUICKSTART, hear_ctrl_c

from prefdata.runtime.disk import hold
from prefdata.runtime.fence import fence
from prefdata.runtime.folders import read_rows

RECIPE = QUICKSTART / "recipe.yaml"


def start(out, attempt):
    command = [sys.executable, "-m", "prefdata", "build", RECIPE, "num_records=1600",
               "columns.0.samples=1", "--out", out, "--shard", "0/2",
               "--attempt", attempt]  # fmt: skip
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=hear_ctrl_c,
    )  # fmt: skip


def scored(out):
    (last,) = (out / "shards" / "00000-of-00002" / "stages").glob("1-*[0-9a-f]")
    return list(read_rows(last))


@pytest.mark.slow
def test_a_later_attempt_ends_an_earlier_one_and_makes_the_same_rows(tmp_path):
    alone = start(tmp_path / "alone", "1.0")
    assert alone.wait() == 0
    first = start(tmp_path / "both", "1.0")
    journal = tmp_path / "both" / "shards" / "00000-of-00002" / "journal"
    deadline = time.monotonic() + 60
    while not list(journal.glob("*.jsonl")):
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = start(tmp_path / "both", "1.1")
    assert first.wait(30) == 130
    assert "attempt 1.1 has taken over; attempt 1.0 ends" in first.stderr.read()
    assert second.wait(60) == 0
    assert scored(tmp_path / "both") == scored(tmp_path / "alone")


def test_an_attempt_alone_is_left_alone(tmp_path):
    said = []
    with fence(tmp_path, "1.0", said.append, poll=0.01):
        time.sleep(0.1)
    assert (tmp_path / "attempt").read_text() == "1.0"
    assert not said


def test_whoever_has_patience_goes_on_beside_a_lock_that_nobody_gives_back(tmp_path):
    with hold(tmp_path), hold(tmp_path, patience=0.3):
        pass
    with hold(tmp_path):
        pass
