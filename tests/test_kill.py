"""SIGKILL to the real command, again and again, until it is done: not one row differs.

What is asked of each killed run: whatever its journal held is never asked again, and what is
asked again was in flight, at most the engine's running batch.
"""

import asyncio
import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import forks
import moments
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from forks import FORKS
from waiting import PATIENCE, wait_until_stopped

from prefdata.engines.model_thread import ModelThread
from prefdata.fingerprint import TextKeys
from prefdata.inference import Completion, Sampling, TextRequest
from prefdata.run.passes import Sweep, run_pass
from prefdata.stages.asking import answers
from prefdata.storage.folders import RowsWriter
from prefdata.storage.journal import Journal
from prefdata.storage.journaled import Journaled, Opened, Work

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART = ROOT / "recipes" / "quickstart"
RESULTS = ("candidates", "pairs", "rejects")
PROMPTS, SAMPLES = 50, 4
CALLS = ("write", "sync", "rename")
KILLS = int(os.environ.get("PREFDATA_KILLS", "0"))
RUNNING_BATCH = 64
"""Sequences that the transformers engine runs at a time on a CPU."""
TURNS = 4
"""Of the event loop, in which a completion comes from the engine into the journal."""

pytestmark = pytest.mark.slow


def make_recipe(folder, prompts, models):
    """A recipe that loses rows in every way, over prompts that are all different."""
    lines = (QUICKSTART / "prompts.jsonl").read_bytes().splitlines()
    rows = [orjson.loads(line) for line in lines]
    rows = [{**row, "prompt": f"{row['prompt']}{' ' * n}"} for n in range(99) for row in rows]
    seeds = [orjson.dumps(row) for row in rows[:prompts]]
    seeds.insert(5, b'{"prompt": "cut sho')
    seeds.insert(50, b'{"prompt": null, "answer": 3}')
    (folder / "seeds.jsonl").write_bytes(b"\n".join(seeds))
    lm, rm = (str(models / name) for name in ("lm", "rm"))
    verdict = {"type": "string", "enum": ["A", "B"]}
    recipe = {
        "output_dir": "unused",
        "output_path": "${output_dir}/jsonl/pairs.jsonl",
        "seed": 3,
        "seed_dataset": {"path": "seeds.jsonl", "fields": ["prompt", "answer"]},
        "models": [
            {"alias": "bold", "model": lm, "inference_parameters": sampling(0.9)},
            {"alias": "careful", "model": lm, "inference_parameters": sampling(0.3)},
            {"alias": "grader", "model": rm},
        ],
        "columns": [
            {
                "name": "candidates",
                "type": "candidates",
                "model_alias": ["bold", "careful"],
                "samples": SAMPLES,
                "prompt": "{{ prompt }}",
            },
            {
                "name": "judge",
                "type": "llm_judge",
                "model_alias": "bold",
                "prompt": "{{ prompt }} A or B?",
                "output_format": {"type": "object", "properties": {"winner": verdict}},
                "both_orders": False,
            },
            {
                "name": "reward",
                "type": "reward_model",
                "model_alias": "grader",
                "candidates": "candidates",
                "prompt": "{{ prompt }}",
            },
            {
                "name": "right",
                "type": "verifier",
                "method": "number",
                "reference": "answer",
                "candidates": "candidates",
            },
            {
                "name": "large",
                "type": "expression",
                "expression": "{{ answer if answer > 15 else 'small' }}",
                "dtype": "int",
            },
        ],
        "output_projection": {
            "type": "preference_pairs",
            "candidates": "candidates",
            "score": "reward",
            "strategy": "best_vs_worst",
            "test_size": 0.2,
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder / "recipe.yaml"


def sampling(temperature):
    return {"temperature": temperature, "max_tokens": 24}


@dataclass
class Runs:
    """A recipe, how it is run, and the run that nobody has disturbed.

    Attributes:
        moments: names of all moments of that run (see moments.py), in their order.
    """

    recipe: Path
    options: tuple[str, ...]
    suffix: str
    reference: Path = field(init=False)
    moments: list[str] = field(init=False)

    def __post_init__(self):
        self.reference = self.out("reference")
        file = self.recipe.with_name("moments")
        with self.started("reference", moments.listing(self.reference, file)) as process:
            assert process.wait() == 0, process.stderr
        self.moments = file.read_text().splitlines()

    def out(self, name):
        return self.recipe.parent / f"{name}{self.suffix}"

    def has_moment(self, pattern):
        return any(re.match(pattern, moment) for moment in self.moments)

    @contextmanager
    def started(self, name, watched=()):
        """The command in a process group of its own, which is gone when this ends."""
        words = ["build", self.recipe, "--out", self.recipe.parent / name, *self.options]
        process = forks.Command(*words, watched=watched)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def signalled(self, name, sign, pattern, number=1):
        """As `started`; the process sends itself the signal at a moment (see moments.py)."""
        return self.started(name, moments.command(self.out(name), sign, pattern, number))

    def kill_at(self, name, pattern, number=1):
        """A run that is killed at a moment; returns whether it came before the end."""
        with self.signalled(name, signal.SIGKILL, pattern, number) as process:
            process.wait()
        assert process.returncode in (0, -signal.SIGKILL), process.stderr
        return process.returncode != 0

    def finish(self, name):
        """Run to the end; returns what the run says of itself."""
        with self.started(name) as process:
            assert process.wait() == 0, process.stderr
        return orjson.loads((self.out(name) / "run.json").read_bytes())


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    models = shutil.copytree(QUICKSTART / "models", folder / "models")
    return Runs(make_recipe(folder, PROMPTS, models), (), "")


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rehearsed")
    recipe = make_recipe(folder, 300, QUICKSTART / "models")
    return Runs(recipe, ("--rehearse",), "-rehearsal")


def journal_of(out):
    """All records of a run, as (key, value) pairs."""
    lines = [line for file in out.glob("journal/*") for line in file.read_bytes().split(b"\n")]
    records = []
    for line in filter(None, lines):
        with suppress(orjson.JSONDecodeError):  # a write that the kill has cut short
            record = orjson.loads(line)
            records.append((record["key"], record["value"]))
    return records


def rows(out):
    """Every row of the results, file by file."""
    return {
        file.relative_to(out).as_posix(): [*map(with_parsed, pq.read_table(file).to_pylist())]
        for name in RESULTS
        for file in sorted((out / name).glob("*.parquet"))
    }


def with_parsed(row):
    """A reject's row is a text; as a value it can be compared."""
    return row | {"row": orjson.loads(row["row"])} if "row" in row else row


def copies(out):
    return {file.name: file.read_bytes() for file in sorted((out / "jsonl").glob("*.jsonl"))}


def assert_equal(runs, name, record):
    out, expected = runs.out(name), orjson.loads((runs.reference / "run.json").read_bytes())
    found, wanted = rows(out), rows(runs.reference)
    assert {file: len(part) for file, part in found.items()} == {
        file: len(part) for file, part in wanted.items()
    }
    for file, part in wanted.items():
        for mine, one in zip(found[file], part, strict=True):
            assert mine == one, file
    assert copies(out) == copies(runs.reference)
    for part in ("seeds", "prompts", "pairs", "candidates", "rejects", "drops", "means"):
        assert record[part] == expected[part], part
    assert record["seeds"] == record["prompts"] + sum(record["rejects"].values())
    assert {path.name for path in out.rglob(".*")} <= {".prefdata.json"}


def assert_nothing_twice(runs, name):
    """No request was recorded twice, and each was answered as in the undisturbed run."""
    records, expected = journal_of(runs.out(name)), journal_of(runs.reference)
    assert len(dict(expected)) == len(expected)
    assert len(records) == len(dict(records))
    found = dict(records)
    assert found.keys() == dict(expected).keys()
    differing = [key for key, value in expected if found[key] != value]
    print(f"{name}: {len(records)} records, none twice")
    assert not differing


WRITES = {
    "seeds": r"stages/\.0-seeds-\w+@",
    "first stage": r"stages/\.1-[^.@]+@",
    "second stage": r"stages/\.2-[^.@]+@",
    "candidates": r"\.candidates@",
    "rejects": r"\.rejects@",
    "picks": r"\.+picks@",
    "pairs": r"\.pairs@",
    "jsonl": r"jsonl/\.pairs",
    "recipe.yaml": r"\.recipe\.yaml@",
    "run.json": r"\.run\.json@",
}
"""What is written when, in the order of a run."""


class Chain:
    """One run folder that is killed again and again, at moments that are drawn."""

    def __init__(self, runs, name, seed):
        self.runs, self.name, self.out = runs, name, runs.out(name)
        self.random = random.Random(seed)
        self.total = Counter(kind_of(value) for _, value in journal_of(runs.reference))

    def kill_at_records(self, kind, low, high, times):
        """Kill when the journal holds such shares of all records of a kind."""
        for share in sorted(self.random.uniform(low, high) for _ in range(times)):
            before = Counter(kind_of(value) for _, value in journal_of(self.out))[kind]
            number = max(1, int(self.total[kind] * share) - before)
            self.kill_at(f"journal {kind}", number)

    def kill_at_write(self, what):
        """Kill while a file or folder is written: with rows missing, not synced or not named."""
        calls = [call for call in CALLS if self.runs.has_moment(f"{call} {WRITES[what]}")]
        self.kill_at(f"{self.random.choice(calls)} {WRITES[what]}")

    def kill_at(self, pattern, number=1):
        assert self.runs.kill_at(self.name, pattern, number), (pattern, number)

    def finish(self):
        """Run to the end and compare."""
        record = self.runs.finish(self.name)
        assert_equal(self.runs, self.name, record)
        assert_nothing_twice(self.runs, self.name)


def kind_of(value):
    return "score" if "logits" in value else "text"


def test_a_run_of_real_models_killed_while_it_generates_scores_and_writes(real):
    chain = Chain(real, "killed", seed=1)
    chain.kill_at_records("text", 0.02, 0.95, times=2)
    chain.kill_at_records("score", 0.02, 0.9, times=2)
    for what in ("second stage", "jsonl"):
        chain.kill_at_write(what)
    chain.finish()


def test_a_rehearsed_run_killed_at_every_step(rehearsed):
    chain = Chain(rehearsed, "killed", seed=2)
    chain.kill_at_write("seeds")
    chain.kill_at_records("text", 0.01, 0.95, times=2)
    for _ in range(2):
        chain.kill_at_write("first stage")
    chain.kill_at_records("score", 0.01, 0.95, times=2)
    for what in (
        "second stage",
        "candidates",
        "rejects",
        "picks",
        "pairs",
        "recipe.yaml",
        "run.json",
    ):
        chain.kill_at_write(what)
    chain.finish()


@pytest.mark.skipif(not KILLS, reason="by hand: PREFDATA_KILLS=100")
@pytest.mark.parametrize("models", ["real", "rehearsed"])
def test_a_run_killed_at_moments_drawn_from_all_of_them(models, request):
    """`PREFDATA_KILLS=100` kills it a hundred times, as a round by hand does."""
    runs, draw = request.getfixturevalue(models), random.Random(KILLS)
    kills = 0
    while kills < KILLS:
        name = f"drawn {kills}"
        step = 2 * len(runs.moments) // min(KILLS, 25)
        while runs.kill_at(name, ".", draw.randint(1, step)):
            kills += 1
        assert_equal(runs, name, orjson.loads((runs.out(name) / "run.json").read_bytes()))
        assert_nothing_twice(runs, name)
    print(f"{models}: {kills} kills, every row as in the undisturbed run")


@pytest.mark.parametrize(
    ("models", "sign"), [("real", signal.SIGTERM), ("rehearsed", signal.SIGINT)]
)
def test_a_run_that_is_asked_to_stop_ends_soon_and_goes_on_later(models, sign, request):
    runs, name = request.getfixturevalue(models), f"asked {sign.name}"
    with runs.signalled(name, sign, "journal text", 100) as process:
        process.wait()
    assert process.returncode == 130, process.stderr
    assert process.stderr.splitlines()[-1] == "interrupted; run the same command again to continue"
    assert {path.name for path in runs.out(name).rglob(".*")} <= {".prefdata.json"}
    finished = len(journal_of(runs.out(name)))
    assert 100 <= finished < len(journal_of(runs.reference))
    record = runs.finish(name)
    assert record["requests"]["replayed"] == finished
    assert_equal(runs, name, record)
    assert_nothing_twice(runs, name)


def test_of_two_runs_in_one_folder_one_stops_and_the_other_is_not_harmed(rehearsed):
    with rehearsed.signalled("twice", signal.SIGSTOP, "journal text", 100) as first:
        wait_until_stopped(first)
        with rehearsed.started("twice") as second:
            second.wait()
        first.send_signal(signal.SIGCONT)
        assert first.wait() == 0
    assert second.returncode == 2
    assert "is writing there; wait for its end or choose another folder with --out" in second.stderr
    assert "Traceback" not in second.stderr
    record = orjson.loads((rehearsed.out("twice") / "run.json").read_bytes())
    assert_equal(rehearsed, "twice", record)
    assert_nothing_twice(rehearsed, "twice")


class Steps:
    """Work of a model thread that finishes a batch a step, and notes it where a kill leaves it.

    A step takes some turns of the event loop, as many as a batch that was handed over needs to
    be in the journal; when enough is finished the process kills itself.
    """

    def __init__(self, log, turns, most):
        self._log, self._turns, self._left, self._waiting = log, turns, most, []

    def prepare(self, requests, call):
        return [(index, call) for index in range(len(requests))]

    def start(self):
        pass

    def step(self, arrivals):
        self._waiting += arrivals
        self._turns.wait(TURNS)
        batch, self._waiting = self._waiting[:RUNNING_BATCH], self._waiting[RUNNING_BATCH:]
        os.write(self._log, b"x" * len(batch))
        for index, call in batch:
            call.deliver(index, Completion("word " * 200, "stop", 1, 200))
        self._left -= len(batch)
        if self._left <= 0:
            self._turns.wait(self._left % TURNS)
            os.kill(os.getpid(), signal.SIGKILL)
        return bool(self._waiting)


class Turns:
    """Counts the turns of an event loop; another thread waits for some."""

    def __init__(self):
        self._count, self._task = 0, None

    def begin(self):
        self._task = self._task or asyncio.create_task(self._go_on())

    def wait(self, number):
        end = self._count + number
        while self._count < end:
            time.sleep(0.0005)

    async def _go_on(self):
        while True:
            self._count += 1
            await asyncio.sleep(0)


class SteppingEngine:
    """A TextEngine over `Steps`, in a thread as the real ones."""

    def __init__(self, log, most):
        self._turns = Turns()
        self._thread = ModelThread("steps", Steps(log, self._turns, most))

    async def ask(self, requests):
        self._turns.begin()
        async for made in self._thread.ask(requests):
            yield made

    def close(self):
        self._thread.close()


class NoProgress:
    def advance(self, rows):
        pass


def generate_on_and_on(folder, most):
    """One pass of many rows through the journal, until somebody kills it."""
    log = os.open(folder / "finished", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with RowsWriter(folder / "seeds", pa.schema({"id": pa.string()})) as writer:
        writer.write(pa.table({"id": [f"r{n}" for n in range(50_000)]}))
    with Journal(folder / "journal") as journal:
        engine = Journaled(
            Opened(lambda: SteppingEngine(log, most)), TextKeys("m"), journal, Work()
        )

        async def stage(row):
            chat = ({"role": "user", "content": row["id"]},)
            requests = [TextRequest(chat, Sampling(1.0, 10), seed) for seed in range(8)]
            return {"texts": [answer.text for answer in await answers(engine, requests)]}

        fields = [pa.field("texts", pa.list_(pa.string()))]
        sweep = Sweep([[("texts", stage)]], fields, frozenset())
        run_pass(sweep, folder / "seeds", folder / "out", NoProgress())


def test_a_kill_loses_at_most_the_batch_that_runs_and_the_one_just_finished(tmp_path):
    lost, draw = [], random.Random(4)
    for number in range(6):
        folder = tmp_path / str(number)
        folder.mkdir()
        process = FORKS.Process(
            target=generate_on_and_on, args=(folder, draw.randint(RUNNING_BATCH, 3000))
        )
        process.start()
        process.join(PATIENCE)
        assert process.exitcode == -signal.SIGKILL
        records = journal_of(folder)
        assert len(records) == len(dict(records))
        lost.append((folder / "finished").stat().st_size - len(records))
    print("finished and not journaled at each kill:", lost)
    assert max(lost) <= 2 * RUNNING_BATCH
