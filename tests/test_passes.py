import asyncio
import signal
import threading
from itertools import count

import pyarrow as pa
import pytest

from prefdata.engines.scripted import Scripted
from prefdata.errors import PrefdataError, RowError
from prefdata.fingerprint import TextKeys
from prefdata.inference import Sampling, TextRequest
from prefdata.rows import JSON_FIELD
from prefdata.run.passes import Sweep, rejects_of, run_pass
from prefdata.stages.asking import answers
from prefdata.storage.folders import RowsWriter, read_rows
from prefdata.storage.journal import Journal
from prefdata.storage.journaled import Journaled, Opened, Work

INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


class Counted:
    """A Progress that adds up."""

    rows = 0

    def advance(self, rows):
        self.rows += rows


def field(name, kind=None, **more):
    return pa.field(name, kind or pa.int64(), **more)


def seeds(folder, count, **columns):
    table = pa.table({"id": [f"r{n}" for n in range(count)], "n": list(range(count)), **columns})
    with RowsWriter(folder / "seeds", table.schema) as rows:
        rows.write(table)
    return folder / "seeds"


def run(folder, levels, fields, count=10, reads=("n",), **columns):
    """The rows of `folder/out` and of its rejects, after one pass."""
    progress = Counted()
    source = seeds(folder, count, **columns)
    run_pass(Sweep(levels, fields, frozenset(reads)), source, folder / "out", progress)
    assert progress.rows == count
    return list(read_rows(folder / "out")), list(read_rows(rejects_of(folder / "out")))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


async def double(row):
    return {"twice": 2 * row["n"]}


def test_stages_add_their_columns_and_keep_the_rest(tmp_path):
    rows, rejects = run(tmp_path, [[("twice", double)]], [field("twice")], other=list("abcdefghij"))
    assert rows[3] == {"id": "r3", "n": 3, "other": "d", "twice": 6}
    assert (len(rows), rejects) == (10, [])


def test_rows_keep_their_order_whichever_is_ready_first(tmp_path):
    async def stage(row):
        await asyncio.sleep((row["n"] * 7919 % 13) / 1000)
        return {"twice": 2 * row["n"]}

    rows, _ = run(tmp_path, [[("twice", stage)]], [field("twice")], count=2500)
    assert [row["n"] for row in rows] == list(range(2500))


def test_about_a_thousand_rows_are_in_flight(tmp_path):
    running = most = 0
    are_many = asyncio.Event()

    async def stage(row):
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 900:
            for _ in range(100):  # turns of the loop in which more could begin
                await asyncio.sleep(0)
            are_many.set()
        await are_many.wait()
        running -= 1
        return {}

    run(tmp_path, [[("none", stage)]], [], count=3000)
    assert 900 <= most <= 1100


def test_a_slow_row_does_not_hold_up_the_rows_behind_it(tmp_path):
    done = []

    async def stage(row):
        if row["n"] == 0:
            while len(done) < 900:
                await asyncio.sleep(0.01)
        done.append(row["n"])
        return {}

    run(tmp_path, [[("none", stage)]], [], count=1000)
    assert done.index(0) >= 900


def test_a_later_level_sees_what_the_earlier_made_and_needs_no_barrier(tmp_path):
    seen, is_second_begun = [], asyncio.Event()

    async def first(row):
        if row["n"] == 9:
            await is_second_begun.wait()
        seen.append(("first", row["n"]))
        return {"a": row["n"]}

    async def second(row):
        seen.append(("second", row["n"]))
        is_second_begun.set()
        return {"b": row["a"] + 1}

    rows, _ = run(tmp_path, [[("a", first)], [("b", second)]], [field("a"), field("b")])
    assert [row["b"] for row in rows] == list(range(1, 11))
    assert seen.index(("second", 0)) < seen.index(("first", 9))


def test_a_reject_keeps_what_was_made_before_it(tmp_path):
    async def picky(row):
        if row["n"] % 3 == 0:
            raise RowError("third", f"{row['n']} is a multiple of three")
        return {"fine": 1}

    async def never(row):
        assert row["n"] % 3, "a rejected row goes no further"
        return {"last": 1}

    levels = [[("twice", double), ("fine", picky)], [("last", never)]]
    fields = [field("twice"), field("fine"), field("last")]
    rows, rejects = run(tmp_path, levels, fields, other=list("abcdefghij"))
    assert [row["n"] for row in rows] == [1, 2, 4, 5, 7, 8]
    assert [reject["id"] for reject in rejects] == ["r0", "r3", "r6", "r9"]
    assert {(r["stage"], r["reason"]) for r in rejects} == {("fine", "third")}
    assert rejects[1]["detail"] == "3 is a multiple of three"
    assert rejects[1]["row"] == '{"n":3,"other":"d","twice":6}'


def test_every_row_may_be_rejected(tmp_path):
    numbers = count()

    async def stage(row):
        raise RowError(f"reason {next(numbers) % 2}", "none is good")

    rows, rejects = run(tmp_path, [[("x", stage)]], [field("x")], count=1500)
    assert (len(rows), len(rejects)) == (0, 1500)


def test_rows_that_all_fail_for_one_reason_stop_the_run(tmp_path):
    async def stage(row):
        raise RowError("all", "none is good")

    with pytest.raises(PrefdataError, match="'x': the first 16 rows all fail for one reason, all"):
        run(tmp_path, [[("x", stage)]], [field("x")], count=1500)
    assert len(run(tmp_path, [[("x", stage)]], [field("x")], count=15)[1]) == 15


def test_no_rows_make_whole_folders(tmp_path):
    rows, rejects = run(tmp_path, [[("twice", double)]], [field("twice")], count=0, reads=())
    assert (rows, rejects) == ([], [])


def test_columns_of_json_reach_a_stage_as_values_and_the_disk_as_texts(tmp_path):
    async def stage(row):
        return {"y": {"of": row["x"], "deep": [1, {"a": None}]}}

    fields = [field("y", pa.string(), metadata=JSON_FIELD)]
    schema = pa.schema(
        [field("id", pa.string()), field("n"), field("x", pa.string(), metadata=JSON_FIELD)]
    )
    with RowsWriter(tmp_path / "seeds", schema) as rows:
        rows.write(pa.table({"id": ["r0"], "n": [0], "x": ['{"k":[1]}']}, schema=schema))
    run_pass(
        Sweep([[("y", stage)]], fields, frozenset(["x"])),
        tmp_path / "seeds",
        tmp_path / "out",
        Counted(),
    )
    [row] = read_rows(tmp_path / "out")
    assert row["y"] == {"of": {"k": [1]}, "deep": [1, {"a": None}]}


@pytest.mark.parametrize("at", [0, 700, 2499])
def test_an_error_in_a_stage_stops_the_run_and_leaves_no_half_folder(tmp_path, at):
    async def stage(row):
        await asyncio.sleep(0.001)
        if row["n"] == at:
            raise ZeroDivisionError("a bug")
        return {"twice": 2}

    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(tmp_path, [[("twice", stage)]], [field("twice")], count=2500)
    assert names(tmp_path) == ["seeds"]
    assert threading.active_count() == threads


def test_an_error_while_rows_are_written_stops_the_run(tmp_path):
    async def stage(row):
        return {"twice": "no number"}

    with pytest.raises(pa.ArrowInvalid):
        run(tmp_path, [[("twice", stage)]], [field("twice")], count=5000)
    assert names(tmp_path) == ["seeds"]


def test_what_was_answered_before_an_error_is_not_asked_again(tmp_path):
    asked = []

    def reply(request):
        asked.append(request.seed)
        if request.seed == 77 and len(asked) < 100:
            raise ZeroDivisionError("a bug")
        return "answer"

    def attempt():
        work = Work()
        with Journal(tmp_path / "journal") as journal:
            engine = Journaled(Opened(lambda: Scripted(reply)), TextKeys("m"), journal, work)

            async def stage(row):
                request = TextRequest(({"role": "user", "content": "q"},), Sampling(1, 9), row["n"])
                return {"text": (await answers(engine, [request]))[0].text}

            run(tmp_path, [[("text", stage)]], [field("text", pa.string())], count=80)
        return work

    with pytest.raises(ZeroDivisionError):
        attempt()
    asked += [0] * 100
    work = attempt()
    assert work.generated + work.replayed == 80
    assert work.replayed >= 77
    assert names(tmp_path) == ["journal", "out", "out.rejects", "seeds"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [0, 3, 9])
def test_a_signal_in_the_very_step_that_ends_the_head_row_is_still_an_interrupt(
    tmp_path, number, at
):
    """The loop has then been told already that what it waits for is there."""
    left = []

    async def stage(row):
        try:
            await asyncio.sleep(0.01 if row["n"] <= at else 30)
        except asyncio.CancelledError:
            left.append(row["n"])
            raise
        if row["n"] == at:
            signal.raise_signal(number)
        return {"twice": 0}

    before = [signal.signal(one, signal.default_int_handler) for one in INTERRUPTS]
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, [[("twice", stage)]], [field("twice")])
    finally:
        for one, handler in zip(INTERRUPTS, before, strict=True):
            signal.signal(one, handler)
    assert sorted(left) == list(range(at + 1, 10))
    assert names(tmp_path) == ["seeds"]


def test_after_a_signal_no_stage_is_begun(tmp_path):
    begun = []

    async def stage(row):
        begun.append(row["n"])
        signal.raise_signal(signal.SIGTERM)
        return {"twice": 0}

    before = [signal.signal(one, signal.default_int_handler) for one in INTERRUPTS]
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, [[("twice", stage)]], [field("twice")])
    finally:
        for one, handler in zip(INTERRUPTS, before, strict=True):
            signal.signal(one, handler)
    assert begun == [0]
