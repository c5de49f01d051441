"""Workers: rows dealt to processes, deaths survived, the culprit found, nobody left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from waiting import wait_until

from prefdata.errors import PrefdataError
from prefdata.inference import Failure, Sampling, TextRequest
from prefdata.recipe.schema import Model
from prefdata.workers.devices import Devices
from prefdata.workers.machine import Place
from prefdata.workers.messages import Order
from prefdata.workers.pool import Workers

CAPACITY = 16
STUB = (str(Path(__file__).with_name("stub_worker.py")),)
SAMPLING = Sampling(temperature=1.0, max_tokens=8)


@contextmanager
def workers(folder, n=2, path="stub", places=None, **more):
    order = Order("text", Model(alias="m", model="stub"), path, "transformers")
    said = []
    engine = Workers(
        order, places or [Place()] * n, folder / "logs", said.append, program=STUB, **more
    )
    engine.said = said
    try:
        yield engine
    finally:
        engine.close()


async def ask(engine, text, samples=2):
    requests = [
        TextRequest(({"role": "user", "content": text},), SAMPLING, k) for k in range(samples)
    ]
    found = {}
    async for index, outcome in engine.ask(requests):
        found[index] = outcome if isinstance(outcome, Failure) else outcome.text.split()
    return [found[index] for index in range(samples)]


def ask_all(engine, texts):
    async def run():
        return await asyncio.gather(*(ask(engine, t) for t in texts), return_exceptions=True)

    return asyncio.run(run())


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


class Gate:
    """Holds up the rows whose texts end with its `word`, wherever they are, until it is opened."""

    def __init__(self, folder):
        self._file = folder / "gate"
        self.word = f"until={self._file}"

    def arrived(self):
        """Workers by the first words of the rows that have reached them."""
        names = [file.name.split("-") for file in self._file.parent.glob("gate-*")]
        return {row: int(pid) for _, row, pid in names}

    async def arrival(self, count):
        """Wait until so many rows have reached a worker."""
        await asyncio.to_thread(wait_until, lambda: len(self.arrived()) >= count)
        return self.arrived()

    def open(self):
        self._file.touch()


@pytest.fixture
def gate(tmp_path):
    return Gate(tmp_path)


def check(texts, answers):
    for text, answer in zip(texts, answers, strict=True):
        assert [part[:2] for part in answer] == [[text.split()[0], str(k)] for k in range(2)]


def test_every_request_gets_its_own_answer_from_some_worker(tmp_path):
    texts = [f"row{n}" for n in range(200)]
    with workers(tmp_path) as engine:
        wait_until(lambda: engine.capacity == 2 * CAPACITY)
        answers = ask_all(engine, texts)
    check(texts, answers)
    assert len({part[2] for answer in answers for part in answer}) == 2


def test_samples_of_a_row_and_equal_prompts_go_to_one_worker(tmp_path, gate):
    names = [*(f"row{n}" for n in range(12) for _ in range(2)), "last"]

    async def run(engine):
        rows = [asyncio.create_task(ask(engine, f"{name} {gate.word}")) for name in names]
        await gate.arrival(13)  # all are dealt, while neither worker has done more than the other
        gate.open()
        return await asyncio.gather(*rows)

    with workers(tmp_path) as engine:
        wait_until(lambda: engine.capacity == 2 * CAPACITY)
        *answers, _ = asyncio.run(run(engine))
    for first, second in zip(answers[::2], answers[1::2], strict=True):
        assert len({part[2] for part in first + second}) == 1


def test_a_worker_that_is_held_up_gets_fewer_rows(tmp_path, gate):
    async def run(engine):
        slow = asyncio.create_task(ask(engine, f"slow {gate.word}", 28))
        await gate.arrival(1)
        rows = [asyncio.create_task(ask(engine, f"row{n} {gate.word}")) for n in range(200)]
        arrived = await gate.arrival(1 + 2 + CAPACITY)  # as many as there is room for
        gate.open()
        return arrived, await asyncio.gather(slow, *rows)

    with workers(tmp_path) as engine:
        wait_until(lambda: engine.capacity == 2 * CAPACITY)
        arrived, answers = asyncio.run(run(engine))
    busy = arrived.pop("slow")
    assert sorted(Counter(arrived.values()).values()) == [2, CAPACITY]
    assert Counter(arrived.values())[busy] == 2
    assert len(answers) == 201


def test_one_prompt_in_every_row_still_occupies_all_workers(tmp_path, gate):
    async def run(engine):
        rows = [asyncio.create_task(ask(engine, f"same {gate.word}")) for _ in range(30)]
        await asyncio.sleep(0)  # now all are dealt: there is room for each
        gate.open()
        return await asyncio.gather(*rows)

    with workers(tmp_path) as engine:
        wait_until(lambda: engine.capacity == 2 * CAPACITY)
        answers = asyncio.run(run(engine))
    shares = Counter(answer[0][2] for answer in answers)
    assert min(shares.values()) >= 10


def test_a_killed_worker_is_replaced_and_its_rows_are_asked_again(tmp_path, gate):
    texts = [f"row{n} {gate.word}" for n in range(60)]
    with workers(tmp_path) as engine:
        wait_until(lambda: engine.capacity == 2 * CAPACITY)

        async def run():
            asked = asyncio.gather(*(ask(engine, text) for text in texts))
            arrived = await gate.arrival(2 * CAPACITY)
            assert engine.pids[0] in arrived.values()
            os.kill(engine.pids[0], signal.SIGKILL)
            gate.open()
            return await asked

        answers = asyncio.run(run())
        check(texts, answers)
        assert len(engine.said) == 1
        assert "signal 9" in engine.said[0]
        wait_until(lambda: len(engine.pids) == 2)


@pytest.mark.parametrize("word", ["poison", "bug"])
def test_a_row_that_kills_is_refused_and_every_other_is_answered(tmp_path, word):
    texts = [f"row{n}" for n in range(80)]
    with workers(tmp_path) as engine:
        answers = ask_all(engine, [*texts[:40], f"culprit {word}", *texts[40:]])
        culprit = answers.pop(40)
        check(texts, answers)
        assert [one.reason for one in culprit] == ["kills_workers"] * 2
        assert len(engine.said) == 3


def test_two_rows_that_kill_are_both_found(tmp_path):
    texts = [f"row{n}" for n in range(40)]
    with workers(tmp_path, n=1) as engine:
        answers = ask_all(engine, ["first poison", *texts, "second poison"])
    assert [one.reason for n in (0, -1) for one in answers[n]] == ["kills_workers"] * 4
    check(texts, answers[1:-1])


def test_rows_that_kill_one_after_another_do_not_end_the_run(tmp_path):
    bad = [f"bad{n} poison" for n in range(4)]
    with workers(tmp_path, n=1) as engine:
        answers = ask_all(engine, [*bad, "a", "b"])
    assert [one.reason for row in answers[:4] for one in row] == ["kills_workers"] * 8
    check(["a", "b"], answers[4:])


def test_a_worker_that_hangs_is_replaced_and_its_row_refused(tmp_path):
    texts = [f"row{n}" for n in range(10)]
    with workers(tmp_path, n=1, hang_seconds=3) as engine:
        answers = ask_all(engine, ["culprit hang", *texts])
        assert [one.reason for one in answers[0]] == ["kills_workers"] * 2
        assert "told nothing for too long" in answers[0][0].detail
        check(texts, answers[1:])


def test_what_is_refused_leaves_the_others_alone(tmp_path):
    with workers(tmp_path) as engine:
        refused, *answers = ask_all(engine, ["a refuse", "b", "c"])
    assert refused == [Failure("refused", "the row asked for it")] * 2
    check(["b", "c"], answers)


def test_what_the_user_can_fix_reaches_the_run_as_such(tmp_path):
    with workers(tmp_path) as engine:
        [error] = ask_all(engine, ["a misfit"])
    assert isinstance(error, PrefdataError)
    assert str(error) == "the recipe is wrong"


def test_a_model_that_does_not_load_ends_every_call_with_the_reason(tmp_path):
    with workers(tmp_path, path="no such model") as engine:
        errors = ask_all(engine, ["a", "b"])
        late = ask_all(engine, ["c"])
    assert {str(error) for error in errors + late} == {"there is no such model"}


def test_workers_that_die_whatever_they_are_asked_end_the_run(tmp_path):
    with workers(tmp_path, n=1) as engine:
        errors = ask_all(engine, [f"row{n} bug" for n in range(20)])
    assert any(isinstance(error, PrefdataError) for error in errors)
    assert "5 workers in a row died without a result" in str(errors[-1])
    assert "a bug in the engine" in str(errors[-1])


def test_workers_that_die_while_they_load_end_the_run_with_their_last_words(tmp_path):
    with workers(tmp_path, n=1, path="dies") as engine:
        [error] = ask_all(engine, ["a"])
    assert isinstance(error, PrefdataError)
    assert "2 workers in a row died while it loaded (exit code 9)" in str(error)
    assert "out of memory, says the driver" in str(error)


def test_who_has_nothing_left_to_do_makes_room_for_others_and_somebody_stays(tmp_path, gate):
    devices, places = Devices(), [Place(gpus=(name,)) for name in "01"]

    async def run(engine, following):
        slow = asyncio.create_task(ask(engine, f"slow {gate.word}"))
        busy = (await gate.arrival(1))["slow"]
        engine.dismiss_idle()
        await asyncio.to_thread(wait_until, lambda: following.capacity == CAPACITY)
        assert engine.pids == [busy]
        answers = await ask(following, "row")
        gate.open()
        return answers, await slow, await ask(engine, "more")

    with workers(tmp_path / "1", places=places, devices=devices) as engine:
        wait_until(lambda: engine.capacity == 2 * CAPACITY)
        with workers(tmp_path / "2", places=places, devices=devices) as following:
            answers = asyncio.run(run(engine, following))
            engine.close()
            wait_until(lambda: following.capacity == 2 * CAPACITY)
    check(["row", "slow", "more"], answers)


@pytest.mark.parametrize(
    ("held", "share", "fits"),
    [(1.0, 1.0, False), (0.5, 0.5, True), (0.6, 0.5, False)],
)
def test_a_place_is_held_by_shares_of_its_memory(held, share, fits):
    devices, pair, second = Devices(), Place(gpus=("0", "1")), Place(gpus=("1",))
    for place in (pair, second):  # its own never wait
        devices.line_up("one", place)
        assert devices.take("one", place, held, lambda: True)
    devices.line_up("other", second)
    wanted = iter([True, False])
    waking = threading.Timer(0.01, devices.wake)
    waking.start()
    assert devices.take("other", second, share, lambda: next(wanted)) is fits
    waking.join()


def test_who_lined_up_first_gets_a_place_first():
    devices, place = Devices(), Place(gpus=("0",))
    devices.line_up("first", place)
    devices.line_up("second", place)
    wanted = iter([True, False])
    waking = threading.Timer(0.01, devices.wake)
    waking.start()
    assert not devices.take("second", place, 1.0, lambda: next(wanted))
    assert devices.take("first", place, 1.0, lambda: True)
    waking.join()


def test_closing_leaves_no_process_behind(tmp_path):
    with workers(tmp_path, path="has a child") as engine:
        ask_all(engine, ["a"])
        pids = engine.pids
        wait_until(lambda: all(_memory_of_child(pid) > 2**28 for pid in pids))
    assert not set(pids) & set(_groups())


def test_calls_in_flight_end_when_the_workers_are_closed(tmp_path, gate):
    with workers(tmp_path) as engine:

        async def run():
            asked = asyncio.create_task(ask(engine, f"row {gate.word}", 10))
            await gate.arrival(1)
            await asyncio.to_thread(engine.close)
            return await asyncio.gather(asked, return_exceptions=True)

        [error] = asyncio.run(run())
    assert isinstance(error, RuntimeError)


def test_workers_end_when_the_run_is_killed(tmp_path):
    script = (
        "import sys, time; from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_workers as t\n"
        "with t.workers(Path(sys.argv[1]), path='has a child') as engine:\n"
        "    t.ask_all(engine, ['a', 'b'])\n"
        "    print(*engine.pids, flush=True); time.sleep(1000)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    pids = [int(pid) for pid in run.stdout.readline().split()]
    assert len(pids) == 2
    assert all(is_alive(pid) for pid in pids)
    run.kill()
    run.wait()
    run.stdout.close()
    wait_until(lambda: not set(pids) & set(_groups()))


def _memory_of_child(pid):
    """Bytes of memory of what a worker has started."""
    pages = 0
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pages += int(Path(f"/proc/{child}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _groups():
    """The process group of every living process."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rsplit(")", 1)[1].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            yield int(group)
