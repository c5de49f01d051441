"""Fences: of two attempts at one shard the later one stays, and the rows are the same."""

import subprocess
import sys
import time

import pytest
from conftest import QUICKSTART, hear_ctrl_c

from prefdata.errors import PrefdataError
from prefdata.storage.disk import hold
from prefdata.storage.fence import Attempt, fence, read_attempt
from prefdata.storage.folders import read_rows

RECIPE = QUICKSTART / "recipe.yaml"


NO_LOCKS = """
import errno, fcntl, os
real = fcntl.flock
def flock(handle, how):
    if os.readlink(f"/proc/self/fd/{handle}").endswith("/.lock"):
        raise OSError(errno.ENOLCK, "no locks")
    return real(handle, how)
fcntl.flock = flock
from prefdata.cli import app
app()
"""


def start(out, *more, program=("-m", "prefdata")):
    command = [sys.executable, *program, "build", RECIPE, "num_records=3000",
               "columns.0.samples=1", "--out", out, "--shard", "0/2", *more]  # fmt: skip
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=hear_ctrl_c,
    )  # fmt: skip


def scored(out):
    (last,) = (out / "shards" / "00000-of-00002" / "stages").glob("1-*[0-9a-f]")
    return list(read_rows(last))


def wait_for_journal(out, process):
    journal = out / "shards" / "00000-of-00002" / "journal"
    deadline = time.monotonic() + 60
    while not list(journal.glob("*.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The scored rows of a shard that nothing has disturbed."""
    out = tmp_path_factory.mktemp("alone")
    assert start(out).wait() == 0
    return scored(out)


@pytest.mark.slow
def test_a_later_attempt_ends_an_earlier_one_and_makes_the_same_rows(alone, tmp_path):
    first = start(tmp_path / "both", "--attempt", "1.0")
    wait_for_journal(tmp_path / "both", first)
    second = start(tmp_path / "both", "--attempt", "1.1")
    assert first.wait(30) == 130
    assert "attempt 1.1 has taken over; attempt 1.0 ends" in first.stderr.read()
    assert second.wait(60) == 0
    assert scored(tmp_path / "both") == alone


@pytest.mark.slow
def test_a_second_task_on_a_shard_sees_that_it_is_taken_and_stops(alone, tmp_path):
    first = start(tmp_path)
    wait_for_journal(tmp_path, first)
    second = start(tmp_path)
    assert second.wait(60) == 2
    assert f"process {first.pid} on " in (told := second.stderr.read())
    assert "is writing there; wait for its end" in told
    assert first.wait(60) == 0
    assert scored(tmp_path) == alone


@pytest.mark.slow
def test_two_tasks_on_a_shard_do_no_harm_where_the_file_system_has_no_locks(alone, tmp_path):
    both = [start(tmp_path, program=("-c", NO_LOCKS)) for _ in range(2)]
    assert [one.wait(120) for one in both] == [0, 0]
    assert scored(tmp_path) == alone
    assert len(list((tmp_path / "shards" / "00000-of-00002" / "journal").iterdir())) == 2


def test_an_attempt_alone_is_left_alone(tmp_path):
    said = []
    with fence(tmp_path, Attempt(1, 0), said.append, poll=0.01):
        time.sleep(0.1)
    assert (tmp_path / "attempt").read_text() == "1.0"
    assert not said


@pytest.mark.parametrize("later", ["7.1", "8.0", "12.0"])
def test_an_attempt_that_comes_late_does_not_begin(later, tmp_path):
    (tmp_path / "attempt").write_text(later)
    said = []
    with pytest.raises(KeyboardInterrupt), fence(tmp_path, Attempt(7, 0), said.append):
        pytest.fail("it has begun")
    assert said == [f"attempt {later} has taken over; attempt 7.0 ends"]
    assert (tmp_path / "attempt").read_text() == later


def test_an_attempt_whose_name_was_written_over_by_an_earlier_one_writes_it_again(tmp_path):
    with fence(tmp_path, Attempt(7, 1), print, poll=0.01):
        (tmp_path / "attempt").write_text("7.0")
        deadline = time.monotonic() + 10
        while (tmp_path / "attempt").read_text() != "7.1":
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("text", ["", "7", "seven.0", "7.0.1", "-7.0"])
def test_what_is_no_attempt_is_one_message(text):
    with pytest.raises(PrefdataError, match="give two numbers that rise from attempt to attempt"):
        read_attempt(text)


def test_whoever_has_patience_goes_on_beside_a_lock_that_nobody_gives_back(tmp_path):
    with hold(tmp_path), hold(tmp_path, patience=0.3):
        pass
    with hold(tmp_path):
        pass
