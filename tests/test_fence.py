"""Fences: of two attempts at one shard the later one stays, and the rows are the same."""

import errno
import fcntl
import os
import signal
from pathlib import Path

import forks
import moments
import pytest
from gated import make_recipe
from waiting import wait_until, wait_until_stopped

from prefdata.errors import PrefdataError
from prefdata.storage.disk import hold
from prefdata.storage.fence import Attempt, fence, read_attempt
from prefdata.storage.folders import read_rows


def have_no_locks():
    """As on a file system without them."""
    real = fcntl.flock

    def flock(handle, how):
        if moments.place_of(handle).endswith("/.lock"):
            raise OSError(errno.ENOLCK, "no locks")
        return real(handle, how)

    fcntl.flock = flock


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_recipe(tmp_path_factory.mktemp("recipe"))


def shard_of(tmp_path):
    return tmp_path / "run-rehearsal" / "shards" / "00000-of-00002"


def start(recipe, tmp_path, *more, gate="", **how):
    words = ["build", recipe, "num_records=600", "columns.0.samples=1",
             "--rehearse", "--out", tmp_path / "run", "--shard", "0/2", *more]  # fmt: skip
    return forks.Command(*words, environment=os.environ | {"GATE": gate}, **how)


def start_and_stop(recipe, tmp_path, *more, **how):
    """A task that has stopped itself in the middle of its first answer."""
    watched = moments.command(shard_of(tmp_path), signal.SIGSTOP, "journal text")
    process = start(recipe, tmp_path, *more, watched=watched, **how)
    wait_until_stopped(process)
    return process


def scored(tmp_path):
    (last,) = (shard_of(tmp_path) / "stages").glob("1-*[0-9a-f]")
    return list(read_rows(last))


@pytest.fixture(scope="module")
def alone(recipe, tmp_path_factory):
    """The scored rows of a shard that nothing has disturbed."""
    out = tmp_path_factory.mktemp("alone")
    assert start(recipe, out).wait() == 0
    return scored(out)


@pytest.mark.slow
def test_a_later_attempt_ends_an_earlier_one_and_makes_the_same_rows(recipe, alone, tmp_path):
    closed = str(tmp_path / "closed")  # so that it has not come to its end before it looks
    first = start_and_stop(recipe, tmp_path, "--attempt", "1.0", gate=closed)
    second = start(recipe, tmp_path, "--attempt", "1.1")
    name = shard_of(tmp_path) / "attempt"
    wait_until(lambda: name.read_text() == "1.1", second)
    first.send_signal(signal.SIGCONT)
    # on a machine that is busy it may be ended by the alarm of a signal's ten seconds
    assert first.wait() in (130, 142, -signal.SIGALRM)
    assert "attempt 1.1 has taken over; attempt 1.0 ends" in first.stderr
    assert second.wait() == 0
    assert scored(tmp_path) == alone


@pytest.mark.slow
def test_a_second_task_on_a_shard_sees_that_it_is_taken_and_stops(recipe, alone, tmp_path):
    first = start_and_stop(recipe, tmp_path)
    second = start(recipe, tmp_path)
    assert second.wait() == 2
    assert f"process {first.pid} on " in (told := second.stderr)
    assert "is writing there; wait for its end" in told
    first.send_signal(signal.SIGCONT)
    assert first.wait() == 0
    assert scored(tmp_path) == alone


@pytest.mark.slow
def test_two_tasks_on_a_shard_do_no_harm_where_the_file_system_has_no_locks(
    recipe, alone, tmp_path
):
    both = [start_and_stop(recipe, tmp_path, first=have_no_locks) for _ in range(2)]
    for one in both:
        one.send_signal(signal.SIGCONT)
    assert [one.wait() for one in both] == [0, 0]
    assert scored(tmp_path) == alone
    assert len(list((shard_of(tmp_path) / "journal").iterdir())) == 2


def test_an_attempt_alone_is_left_alone(tmp_path):
    said = []
    file = tmp_path / "attempt"
    with fence(tmp_path, Attempt(1, 0), said.append, poll=0.01):
        for _ in range(3):  # signs of life, one a look
            before = file.stat().st_mtime_ns
            wait_until(lambda before=before: file.stat().st_mtime_ns > before)
    assert file.read_text() == "1.0"
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
        wait_until(lambda: (tmp_path / "attempt").read_text() == "7.1")


@pytest.mark.parametrize("text", ["", "7", "seven.0", "7.0.1", "-7.0"])
def test_what_is_no_attempt_is_one_message(text):
    with pytest.raises(
        PrefdataError, match=r"give two numbers that increase with each attempt.*; or next$"
    ):
        read_attempt(text, Path())


def test_the_next_attempt_is_later_than_all_before_whatever_clocks_say(tmp_path):
    assert read_attempt("next", tmp_path) == Attempt(1, 0)
    (tmp_path / "attempt").write_text("1764200000.3")
    assert read_attempt("next", tmp_path) == Attempt(1764200001, 0)


def test_whoever_has_patience_goes_on_beside_a_lock_that_nobody_gives_back(tmp_path):
    with hold(tmp_path), hold(tmp_path, patience=0.3):
        pass
    with hold(tmp_path):
        pass
