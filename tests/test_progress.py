import io
import re
import threading
from time import monotonic

import pytest

from prefdata.pipeline import build
from prefdata.run.progress import show_progress
from prefdata.storage.journaled import Load, Work

HOUR = 3600.0
"""No plain line comes by itself in a test."""


class Log(io.StringIO):
    """A file that tells when something is written into it."""

    def __init__(self):
        super().__init__()
        self.written = threading.Event()

    def write(self, text):
        self.written.set()
        return super().write(text)


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def screen(monkeypatch):
    for name in ("NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return Screen()


def last_line(total, change, *, rows=0, requests=0.0, seconds=0.01):
    """What a log says after `change(work)`, before the pass is over."""
    log, work = Log(), Work()
    with show_progress("answers", total, work, requests=requests, stream=log, seconds=seconds) as p:
        change(work)
        p.advance(rows)
        log.written.clear()
        assert log.written.wait(10)
        return log.getvalue().splitlines()[-1]


def test_requests_are_counted_before_the_first_row_is_done():
    def change(work):
        work.answered = work.generated = 1200

    line = last_line(60, change, requests=80.0)
    assert line.startswith("answers: 1,200/4,800 requests, ")
    assert "0/60 rows" in line
    assert " left, " in line


def test_the_first_of_many_requests_promise_no_time():
    def change(work):
        work.answered = work.generated = 20

    assert "left" not in last_line(60, change, requests=80.0)


def test_a_model_that_loads_is_named_and_timed():
    def change(work):
        work.loads.append(Load("org/lm", "lm on 8 GPUs", start=monotonic() - 41))

    assert last_line(60, change, requests=1.0).startswith("answers: loading lm on 8 GPUs (0:41), ")


def test_what_came_from_the_journal_is_told_and_promises_no_speed():
    def change(work):
        work.answered = work.replayed = 30

    line = last_line(60, change, rows=30, requests=1.0)
    assert "30/60 requests, 30 from the journal, 30/60 rows" in line
    assert "left" not in line


def test_rows_that_end_early_ask_no_more():
    def change(work):
        work.answered = work.generated = 10

    line = last_line(20, change, rows=19, requests=10.0)
    assert "10/20 requests" in line


def test_a_log_has_no_line_twice():
    log, work = Log(), Work()
    with show_progress("answers", 2, work, requests=1.0, stream=log, seconds=HOUR) as progress:
        work.answered = 2
        progress.advance(2)
    [line] = log.getvalue().splitlines()
    assert line == "answers: 2 requests, 2 rows, 0:00"


def test_a_pass_that_fails_tells_no_end():
    log = Log()
    with pytest.raises(KeyError), show_progress("answers", 2, Work(), stream=log, seconds=HOUR):
        raise KeyError
    assert log.getvalue() == ""


def test_a_terminal_has_one_bar_a_pass_that_fits(screen):
    work = Work()
    with show_progress("answers", 240, work, requests=8.0, stream=screen) as progress:
        work.answered = work.generated = 1920
        work.completion_tokens = 10**9
        progress.advance(240)
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue()).split("\r")[-1].strip("\n")
    assert last.startswith("answers ━━━━━━━━━━ 1,920 requests, 240 rows")
    assert len(last) <= 80


def test_a_dumb_terminal_gets_lines(screen, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with show_progress("answers", 2, Work(), stream=screen):
        pass
    assert screen.getvalue() == "answers: 0 rows, 0:00\n"


def test_requests_of_a_pass_are_those_of_its_columns(project, capsys):
    build(project.load(), project.folder / "run", rehearse=True, say=print)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(", ")[0] for line in lines] == [
        "candidates: 80 requests",
        "reward: 80 requests",
    ]
    build(project.load("columns.0.samples=8"), project.folder / "run", rehearse=True, say=print)
    assert "candidates: 160 requests, 80 from the journal, 20 rows" in capsys.readouterr().err
