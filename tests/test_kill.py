"""SIGKILL to the real command, again and again, until it is done: not one row differs.

What is asked of each killed run: whatever its journal held is never asked again, and what is
asked again was in flight, at most the engine's running batch.
"""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import hear_ctrl_c

from prefdata.engines.model_thread import ModelThread
from prefdata.fingerprint import TextKeys
from prefdata.inference import Completion, Sampling, TextRequest
from prefdata.run.passes import Sweep, run_pass
from prefdata.stages.asking import answers
from prefdata.storage.folders import RowsWriter
from prefdata.storage.journal import Journal
from prefdata.storage.journaled import JournaledText, Work

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART = ROOT / "recipes" / "quickstart"
RESULTS = ("candidates", "pairs", "rejects")
PROMPTS, SAMPLES = 110, 4
MINUTES = 5
RUNNING_BATCH = 64
"""Sequences that the transformers engine runs at a time on a CPU."""

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
    """A recipe, how it is run, and the run that nobody has disturbed."""

    recipe: Path
    options: tuple[str, ...]
    suffix: str
    reference: Path = field(init=False)

    def __post_init__(self):
        self.reference = self.out("reference")
        started = time.monotonic()
        with self.started("reference") as process:
            assert process.wait(60 * MINUTES) == 0, process.stderr.read()
        print(f"undisturbed: {time.monotonic() - started:.1f} s")

    def out(self, name):
        return self.recipe.parent / f"{name}{self.suffix}"

    @contextmanager
    def started(self, name):
        """The real command in a process group of its own, which is gone when this ends."""
        out = self.recipe.parent / name
        process = subprocess.Popen(
            [sys.executable, "-m", "prefdata", "build", self.recipe, "--out", out, *self.options],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=hear_ctrl_c,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def kill_when(self, name, ready: Callable[[], bool], pause: float):
        """Start, and kill as soon as `ready`; returns whether that came before the end."""
        with self.started(name) as process:
            if not wait_until(ready, process, pause):
                assert process.returncode == 0, process.stderr.read()
                return False
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait() == -signal.SIGKILL

    def finish(self, name):
        """Run to the end; returns what the run says of itself."""
        with self.started(name) as process:
            error = process.communicate(timeout=60 * MINUTES)[1]
            assert process.returncode == 0, error
        return orjson.loads((self.out(name) / "run.json").read_bytes())


def wait_until(ready, process, pause):
    """Look again and again; whether it came before the process ended by itself."""
    deadline = time.monotonic() + 60 * MINUTES
    while not ready():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline
        time.sleep(pause)
    return True


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    models = shutil.copytree(QUICKSTART / "models", folder / "models")
    return Runs(make_recipe(folder, PROMPTS, models), (), "")


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rehearsed")
    recipe = make_recipe(folder, 1500, QUICKSTART / "models")
    return Runs(recipe, ("--rehearse",), "-rehearsal")


class Records:
    """Whole records of a growing journal, by kind, read as they come."""

    def __init__(self, out):
        self._folder, self._read, self._rest = out / "journal", Counter(), {}
        self.counts = Counter()

    def count(self, kind):
        for file in self._folder.glob("*.jsonl"):
            with file.open("rb") as journal:
                journal.seek(self._read[file])
                data = journal.read()
            self._read[file] += len(data)
            *lines, self._rest[file] = (self._rest.get(file, b"") + data).split(b"\n")
            self.counts.update("score" if b'"logits"' in line else "text" for line in lines)
        return self.counts[kind]


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


def half_written(out, pattern):
    """Temporary files, and folders with something in them, that match a pattern."""
    found = [path for path in out.glob(pattern) if path.name.endswith(".tmp")]
    return [path for path in found if path.is_file() or any_bytes(path)]


def any_bytes(folder):
    with suppress(FileNotFoundError):  # renamed this moment
        return any(file.stat().st_size > 4 for file in folder.glob("*.parquet"))
    return False


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
    assert not [path for path in out.rglob(".*") if path.name.startswith(".")]


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
    "seeds": "stages/.0-seeds*",
    "first stage": "stages/.1-*",
    "second stage": "stages/.2-*",
    "candidates": ".candidates@*",
    "rejects": ".rejects@*",
    "picks": ".picks@*",
    "pairs": ".pairs@*",
    "jsonl": "jsonl/.pairs*",
    "recipe.yaml": ".recipe.yaml@*",
    "run.json": ".run.json@*",
}
"""What is written when, in the order of a run."""


class Chain:
    """One run folder that is killed again and again; every kill is checked for where it fell."""

    def __init__(self, runs, name, seed):
        self.runs, self.name, self.out = runs, name, runs.out(name)
        self.random = random.Random(seed)
        self.total = Counter(
            "score" if "logits" in value else "text" for _, value in journal_of(runs.reference)
        )
        self.kills: Counter[str] = Counter()

    def kill_at_records(self, kind, share):
        """Kill when the journal holds about this share of all records of a kind."""
        records = Records(self.out)
        before = records.count(kind)
        wanted = max(before + 1, int(self.total[kind] * share))
        killed = self.runs.kill_when(self.name, lambda: records.count(kind) >= wanted, 0.002)
        if killed and before < records.count(kind) < self.total[kind]:
            self.kills[kind] += 1

    def kill_at_write(self, what):
        """Kill while a file is being written, a random moment after it has appeared.

        On a busy machine the file may be whole before the kill falls: then run.json is taken away,
        so that the same command writes the results again, and the next kill may be in time.
        """
        for _ in range(5):
            if self._kill_at_write(what) or not (self.out / "run.json").is_file():
                return
            (self.out / "run.json").unlink()

    def _kill_at_write(self, what):
        pattern, wait = WRITES[what], self.random.choice([0, 0, 0.0003, 0.001])

        def ready():
            return bool(half_written(self.out, pattern))

        def ready_and_waited():
            return ready() and not time.sleep(wait)

        is_hit = self.runs.kill_when(self.name, ready_and_waited, 0.0001) and ready()
        if is_hit:
            self.kills["write"] += 1
            self.kills[f"write {what}"] += 1
        return is_hit

    def finish(self, *, least):
        """Run to the end, compare, and make sure that the kills fell where they should."""
        record = self.runs.finish(self.name)
        print(f"{self.name}{self.runs.suffix}:", dict(self.kills))
        assert_equal(self.runs, self.name, record)
        assert_nothing_twice(self.runs, self.name)
        assert all(self.kills[kind] >= count for kind, count in least.items())


def test_a_run_of_real_models_killed_while_it_generates_scores_and_writes(real):
    chain = Chain(real, "killed", seed=1)
    chain.kill_at_write("seeds")
    for share in sorted(chain.random.uniform(0.02, 0.95) for _ in range(4)):
        chain.kill_at_records("text", share)
    chain.kill_at_write("first stage")
    for share in sorted(chain.random.uniform(0.02, 0.9) for _ in range(3)):
        chain.kill_at_records("score", share)
    for what in ("second stage", "rejects", "picks", "pairs", "jsonl", "run.json"):
        chain.kill_at_write(what)
    chain.finish(least={"text": 3, "score": 2, "write": 4})


def test_a_rehearsed_run_killed_at_every_step(rehearsed):
    chain = Chain(rehearsed, "killed", seed=2)
    chain.kill_at_write("seeds")
    for share in sorted(chain.random.uniform(0.01, 0.95) for _ in range(4)):
        chain.kill_at_records("text", share)
    for _ in range(2):
        chain.kill_at_write("first stage")
    for share in sorted(chain.random.uniform(0.01, 0.95) for _ in range(3)):
        chain.kill_at_records("score", share)
    for what in ("second stage", "candidates", "rejects", "picks", "pairs", "recipe.yaml"):
        chain.kill_at_write(what)
    chain.kill_at_write("run.json")
    chain.finish(least={"text": 3, "score": 2, "write": 5})


@pytest.mark.parametrize(
    ("models", "sign"), [("real", signal.SIGTERM), ("rehearsed", signal.SIGINT)]
)
def test_a_run_that_is_asked_to_stop_ends_soon_and_goes_on_later(models, sign, request):
    runs, name = request.getfixturevalue(models), f"asked {sign.name}"
    records = Records(runs.out(name))
    with runs.started(name) as process:
        assert wait_until(lambda: records.count("text") > 300, process, 0.002)
        asked = time.monotonic()
        process.send_signal(sign)
        error = process.communicate(timeout=60)[1]
        seconds = time.monotonic() - asked
    print(f"{sign.name}: ended after {seconds:.1f} s")
    assert (process.returncode, seconds < 10) == (130, True), error
    assert error.splitlines()[-1] == "interrupted; the same command goes on where it stopped"
    assert not [path for path in runs.out(name).rglob(".*") if path.name.startswith(".")]
    finished = len(journal_of(runs.out(name)))
    record = runs.finish(name)
    assert record["requests"]["replayed"] == finished
    assert_equal(runs, name, record)
    assert_nothing_twice(runs, name)


def test_of_two_runs_in_one_folder_one_stops_and_the_other_is_not_harmed(rehearsed):
    with rehearsed.started("twice") as first, rehearsed.started("twice") as second:
        ends = [(p.communicate(timeout=60 * MINUTES)[1], p.returncode) for p in (first, second)]
    assert sorted(code for _, code in ends) == [0, 2]
    [error] = [error for error, code in ends if code == 2]
    assert "is writing there; wait for its end or choose another folder with --out" in error
    assert "Traceback" not in error
    record = orjson.loads((rehearsed.out("twice") / "run.json").read_bytes())
    assert_equal(rehearsed, "twice", record)
    assert_nothing_twice(rehearsed, "twice")


class Steps:
    """Work of a model thread that finishes a batch a step, and notes it where a kill leaves it."""

    def __init__(self, log, seconds):
        self._log, self._seconds, self._waiting = log, seconds, []

    def start(self):
        pass

    def step(self, arrivals):
        self._waiting += arrivals
        time.sleep(self._seconds)
        batch, self._waiting = self._waiting[:RUNNING_BATCH], self._waiting[RUNNING_BATCH:]
        os.write(self._log, b"x" * len(batch))
        for index, call in batch:
            call.deliver(index, Completion("word " * 200, "stop", 1, 200))
        return bool(self._waiting)


class SteppingEngine:
    """A TextEngine over `Steps`, in a thread as the real ones."""

    def __init__(self, log, seconds):
        self._thread = ModelThread("steps", Steps(log, seconds))

    async def generate(self, requests):
        jobs = self._thread.stream(
            lambda call: [(index, call) for index in range(len(requests))], len(requests)
        )
        async for index, completion in jobs:
            yield index, completion

    def close(self):
        self._thread.close()


class NoProgress:
    def advance(self, rows):
        pass


def generate_on_and_on(folder, seconds):
    """One pass of many rows through the journal, until somebody kills it."""
    log = os.open(folder / "finished", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with RowsWriter(folder / "seeds", pa.schema({"id": pa.string()})) as writer:
        writer.write(pa.table({"id": [f"r{n}" for n in range(50_000)]}))
    with Journal(folder / "journal") as journal:
        engine = JournaledText(lambda: SteppingEngine(log, seconds), TextKeys("m"), journal, Work())

        async def stage(row):
            chat = ({"role": "user", "content": row["id"]},)
            requests = [TextRequest(chat, Sampling(1.0, 10), seed) for seed in range(8)]
            return {"texts": [answer.text for answer in await answers(engine, requests)]}

        fields = [pa.field("texts", pa.list_(pa.string()))]
        sweep = Sweep([[("texts", stage)]], fields, frozenset())
        run_pass(sweep, folder / "seeds", folder / "out", NoProgress())


def test_a_kill_loses_at_most_the_batch_that_runs_and_the_one_just_finished(tmp_path):
    """At 1,300 to 3,200 completions a second."""
    lost, draw = [], random.Random(4)
    for number in range(6):
        folder = tmp_path / str(number)
        folder.mkdir()
        process = multiprocessing.get_context("spawn").Process(
            target=generate_on_and_on, args=(folder, draw.choice([0.02, 0.05]))
        )
        process.start()
        while process.is_alive() and not list(folder.glob("journal/*")):
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 3))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        records = journal_of(folder)
        assert len(records) == len(dict(records))
        lost.append((folder / "finished").stat().st_size - len(records))
    print("finished and not journaled at each kill:", lost)
    assert max(lost) <= 2 * RUNNING_BATCH
