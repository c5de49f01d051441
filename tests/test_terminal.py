import io
import os
import pty
import re
import select
import shutil
import struct
import termios
import time
from fcntl import ioctl

import forks
import pytest
from reported import line, make_plain_run, make_scored_run
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner
from waiting import PATIENCE

from prefdata.api.terminal import open_console, print_row, printable
from prefdata.cli import app
from prefdata.cli.pager import KEPT, KEYS, Opened, Shelf, open_rows, page_rows
from prefdata.cli.screens import share_lines
from prefdata.pipeline import build

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
LONG = "forty winks and more " * 12
KEY_LINE = f"[{KEYS}] "


def inspect(*arguments):
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def on_a_terminal(*arguments, typed="", columns=60, rows=24, **environment):
    """What the command writes to a real terminal, with something typed into it."""
    mine, its = pty.openpty()
    ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    told_otherwise = ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR")
    known = {k: v for k, v in os.environ.items() if k not in told_otherwise}
    known |= {"TERM": "xterm-256color"} | environment
    command = forks.Command(*arguments, terminal=its, environment=known)
    os.close(its)
    written, deadline = b"", time.monotonic() + PATIENCE
    answers = [*typed]
    while time.monotonic() < deadline:
        if not select.select([mine], [], [], 0.2)[0]:
            continue
        try:
            written += os.read(mine, 65536)
        except OSError:  # the command has ended
            break
        if answers and written.rstrip().endswith(b"quit]"):
            os.write(mine, (answers.pop(0) + "\n").encode())
    os.close(mine)
    assert command.wait() == 0
    return written.decode().replace("\r\n", "\n")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    lines = [line(n, f"question {n}", f"good {n} {LONG}", float(n), "cool") for n in range(3)]
    lines += [line(n, f"question {n}", f"bad {n}", -1.0) for n in range(3)]
    lines += [line("tie", "hopeless", text, 0.5) for text in ("one", "two")]
    return make_scored_run(tmp_path_factory.mktemp("run"), lines)


def test_away_from_a_terminal_all_pairs_are_printed_plain_and_whole(run):
    done = inspect(run)
    assert done.exit_code == 0, done.output
    assert not ESCAPE.search(done.stdout)
    assert [line for line in done.stdout.splitlines() if line.startswith("--- ")] == [
        f"--- pair {n}" for n in (1, 2, 3)
    ]
    assert f"  good 1 {LONG}".rstrip() in [text.rstrip() for text in done.stdout.splitlines()]


def test_rejects_words_and_numbers_choose_what_is_printed(run):
    rejects = inspect(run, "--rejects").stdout.splitlines()
    assert "reason: tie" in rejects
    assert "      text: one" in rejects
    found = inspect(run, "--search", "GOOD 2").stdout
    assert "good 2 " in found
    assert "good 1 " not in found
    assert inspect(run, "-n", 2).stdout.count("--- pair") == 2


def test_a_folder_without_a_run_is_told(tmp_path):
    done = inspect(tmp_path)
    assert done.exit_code == 2
    assert "does not contain a finished run" in done.stderr


def test_a_terminal_gets_colours_and_wrapped_texts(run):
    written = on_a_terminal("inspect", run, "-n", 1, columns=50)
    assert "\x1b[32m" in written
    plain = ESCAPE.sub("", written)
    assert max(cell_len(text) for text in plain.splitlines()) <= 50
    assert "good 0 " in plain
    assert plain.count("winks") == 12


def test_no_color_leaves_a_terminal_without_any_escape_code(run):
    written = on_a_terminal("inspect", run, "-n", 1, NO_COLOR="1")
    assert "\x1b" not in written
    assert "good 0 " in written


def test_a_preview_shows_whole_records_in_colour_and_without(project, tmp_path):
    recipe = project.write()
    arguments = ["build", recipe, "--preview", "-n", 1, "--rehearse"]
    coloured = on_a_terminal(*arguments)
    assert ESCAPE.search(coloured)
    plain = on_a_terminal(*arguments, NO_COLOR="1")
    assert "candidates:" in plain
    assert "chosen:" in plain
    assert plain.count("temperature: 0.9") >= 4


def screens(*arguments, typed, **how):
    """The lines that were written before each question for a key."""
    written = ESCAPE.sub("", on_a_terminal(*arguments, typed=typed, **how))
    return [part.splitlines() for part in written.split(KEY_LINE)]


def test_a_reader_pages_with_keys(run):
    typed = ["", "b", "3", "", "/bad 9", "/GOOD 2", "", "/", "q"]
    shown = screens("inspect", run, typed=typed, columns=80)
    titles = [
        match[0]
        for screen in shown
        for one in screen
        if (match := re.match(r"pair \d+ of \d+", one))
    ]
    assert titles == [f"pair {at}" for at in ("1 of 3", "2 of 3", "1 of 3", "3 of 3", "1 of 1",
                                              "1 of 3")]  # fmt: skip
    assert "that was the last one; q leaves, a number goes back to it" in shown[4]
    assert "0 pairs contain 'bad 9'" in shown[5]
    assert "pair 1 of 1 with 'good 2'   train" in shown[6]


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """Chats and answers that are longer than a screen."""
    chat = [{"role": "user", "content": LONG * 9}, {"role": "assistant", "content": "Well."},
            {"role": "user", "content": "And now?"}]  # fmt: skip
    lines = [line(1, chat, f"{n} {LONG * 9}\nend", n + 0.123456) for n in range(12)]
    return make_scored_run(tmp_path_factory.mktemp("long"), lines)


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (160, 50), (40, 16)])
def test_a_pair_fits_the_screen_with_what_matters(long_run, columns, rows):
    typed = ["f", "m", "c", "cf", "?", "q"]
    screen, whole, values, candidates, all_whole, _, _ = screens(
        "inspect", long_run, typed=typed, columns=columns, rows=rows
    )
    assert len(screen) < rows
    assert max(map(cell_len, screen)) <= columns
    scores = "score 11.1 : 0.123   margin 11"
    names = ("prompt", "chosen", "rejected", scores)
    at = [next(n for n, one in enumerate(screen) if one.startswith(name)) for name in names]
    assert at == sorted(at)
    assert "  user: And now?" in screen
    assert sum("more lines, f shows all" in one for one in screen) == 3
    assert not any("shows all" in one for one in whole)
    assert sum(one.count("winks") for one in whole) == 3 * 9 * 12
    assert "is_tie             False" in values
    assert len(candidates) <= rows  # the key that was typed is the first line
    assert sum(one.count("winks") for one in all_whole) == 13 * 9 * 12


def test_lines_of_a_screen_are_shared_fairly():
    assert share_lines([2, 3, 4], 20) == [2, 3, 4]
    assert share_lines([50, 50, 50], 18) == [6, 6, 6]
    assert share_lines([50, 2, 3], 18) == [13, 2, 3]
    assert share_lines([1, 50, 3], 18) == [1, 14, 3]
    assert share_lines([9, 9, 9], 2) == [1, 1, 1]


def test_an_unfinished_run_is_read_from_its_latest_stage(project):
    out = project.folder / "run"
    project.write_seeds([{"prompt": f"question {n}", "answer": n} for n in range(4)] + [b"{broken"])
    build(project.load(), out, rehearse=True, say=lambda text: None)
    (out / "run.json").unlink()
    done = inspect(out, "-n", 2)
    assert "the run is not finished; as after reward" in done.stderr
    assert done.stdout.count("--- row") == 2
    shutil.rmtree(next(out.glob("stages/2-*.rejects")))  # as if the pass were not over
    screen, _ = screens("inspect", out, typed="q", columns=80)
    assert screen[0] == "row 1 of 4   the run is not finished; as after candidates"
    assert "  question 0" in screen
    assert "hot, 0.9" in screen
    assert "reason: bad_line" in inspect(out, "--rejects").stdout


def test_a_recipe_stands_for_its_run(project):
    project.recipe["output_dir"] = str(project.folder / "made")
    recipe = project.write()
    build(project.load(), project.folder / "made", rehearse=True, say=lambda text: None)
    assert inspect(recipe, "-n", 1).stdout.startswith("--- pair 1\n")


def test_a_search_is_counted(run):
    assert inspect(run, "--search", "question").stderr == "3 pairs with 'question'\n"
    assert inspect(run, "--search", "nowhere").stderr == "0 pairs with 'nowhere'\n"


def page(rows, *answers):
    """The titles shown to a reader who answers so."""
    told = iter(answers)

    def ask(prompt):
        answer = next(told, None)
        if answer is None:
            raise EOFError
        return answer

    stream = io.StringIO()
    page_rows(open_console(stream), Opened("row", lambda: iter(rows), len(rows)), ask)
    return [int(n) for n in re.findall(r"ID (\d+)\n", stream.getvalue())]


ROWS = [{"id": str(n), "text": f"ID {n + 1}\nrow-{n}"} for n in range(KEPT * 3)]


@pytest.mark.parametrize(
    ("answers", "shown"),
    [
        (["", "", "b"], [1, 2, 3, 2]),
        (["b", ""], [1, 2]),
        (["300", "1", "300"], [1, 300, 1, 300]),
        (["300", ""], [1, 300]),
        (["301", "0", "-1", "what", "2"], [1, 2]),
        (["/row-299", "b", "/", "2"], [1, 300, 1, 2]),
        (["/row-299", "q", ""], [1, 300]),
        ([], [1]),
    ],
)
def test_paging_goes_where_the_answers_say(answers, shown):
    assert page(ROWS, *answers) == shown


def test_far_back_the_rows_are_read_again_and_few_are_kept():
    opened = []

    def rows():
        opened.append(1)
        return iter(ROWS)

    shelf = Shelf(rows)
    assert shelf.get(len(ROWS) - 1) == ROWS[-1]
    assert shelf.get(len(ROWS) - KEPT) == ROWS[-KEPT]
    assert len(opened) == 1
    assert shelf.get(0) == ROWS[0]
    assert len(opened) == 2
    assert shelf.get(len(ROWS)) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", "\u241b[2Jgone"),
        ("a\rb", "a\u240db"),
        ("\x9b31m\x7f", "<9b>31m<7f>"),
        ("tab\there\nand\r\nthere é 漢", "tab\there\nand\nthere é 漢"),
    ],
    ids=["escape", "carriage return", "c1", "harmless"],
)
def test_control_characters_are_shown_and_not_obeyed(text, shown):
    assert printable(text) == shown


def test_no_text_of_a_run_reaches_the_terminal_as_a_command(tmp_path):
    attack = "\x1b]0;title\x07\x1b[2J[bold]no markup[/bold] :smile:"
    lines = [line(1, attack, f"{n} {attack}", float(n), f"{n}{attack}") for n in range(2)]
    run = make_scored_run(tmp_path, lines)
    written = on_a_terminal("inspect", run, "-n", 1, columns=200)
    assert "\x1b]0" not in written
    assert "\x1b[2J" not in written
    assert "[bold]no markup[/bold] :smile:" in written


def test_every_value_of_a_row_is_printed():
    stream = io.StringIO()
    row = {
        "prompt": [{"role": "user", "content": "Hi"}],
        "scores": [1.0, None, 2.5],
        "nested": {"answer": {"words": ["one", "two"]}, "nothing": None},
        "flag": False,
        "text": "two\nlines",
    }
    print_row(open_console(stream), "row 1", row)
    assert stream.getvalue().splitlines() == [
        "--- row 1",
        "prompt:",
        "  user: Hi",
        "scores: 1.0, None, 2.5",
        "nested:",
        "  answer:",
        "    words:",
        "      1: one",
        "      2: two",
        "flag: False",
        "text:",
        "  two",
        "  lines",
    ]


def test_pairs_of_both_splits_are_paged_train_first(tmp_path):
    run = make_plain_run(tmp_path)
    splits = [row["split"] for row in open_rows(run).rows()]
    assert splits == sorted(splits, reverse=True)
    assert set(splits) == {"train", "test"}


def test_a_turn_of_sharegpts_layout_is_shown_beside_ones_of_openais():
    console = Console(file=io.StringIO())
    turns = [
        {"role": "user", "content": "one", "from": None, "value": None},
        {"role": None, "content": None, "from": "human", "value": "two"},
    ]
    print_row(console, "row", {"prompt": turns})
    assert console.file.getvalue().split() == [
        "---",
        "row",
        "prompt:",
        "user:",
        "one",
        "human:",
        "two",
    ]
