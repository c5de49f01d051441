"""SIGKILL to the real command, again and again, until it is done: not one row differs.

What is asked of each killed run: whatever its journal held is never asked again, and what is
asked again was in flight, at most the engine's running batch.
"""

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
import pyarrow.parquet as pq
import pytest
import yaml

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
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def kill_when(self, name, ready: Callable[[], bool]):
        """Start, and kill as soon as `ready`; returns whether that came before the end."""
        deadline = time.monotonic() + 60 * MINUTES
        with self.started(name) as process:
            while not ready():
                if process.poll() is not None:
                    assert process.returncode == 0, process.stderr.read()
                    return False
                assert time.monotonic() < deadline
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait() == -signal.SIGKILL

    def finish(self, name):
        """Run to the end; returns what the run says of itself."""
        with self.started(name) as process:
            error = process.communicate(timeout=60 * MINUTES)[1]
            assert process.returncode == 0, error
        return orjson.loads((self.out(name) / "run.json").read_bytes())


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    models = shutil.copytree(QUICKSTART / "models", folder / "models")
    return Runs(make_recipe(folder, PROMPTS, models), (), "")


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rehearsed")
    recipe = make_recipe(folder, 3000, QUICKSTART / "models")
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
            records.append((record["key"], orjson.dumps(record["value"])))
    return records


def rows(out):
    """Every row of the results, file by file."""
    return {
        file.relative_to(out).as_posix(): pq.read_table(file).to_pylist()
        for name in RESULTS
        for file in sorted((out / name).glob("*.parquet"))
    }


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
    assert rows(out) == rows(runs.reference)
    assert copies(out) == copies(runs.reference)
    for part in ("seeds", "prompts", "pairs", "candidates", "rejects", "drops", "means"):
        assert record[part] == expected[part]
    assert record["seeds"] == record["prompts"] + sum(record["rejects"].values())
    assert not [path for path in out.rglob(".*") if path.name.startswith(".")]


def assert_nothing_twice(runs, name):
    """No request was recorded twice, and each was answered as in the undisturbed run."""
    records, expected = journal_of(runs.out(name)), journal_of(runs.reference)
    assert len({key for key, _ in expected}) == len(expected)
    twice = len(records) - len({key for key, _ in records})
    print(f"{name}: {len(records)} records, {twice} of them twice")
    assert twice == 0
    assert dict(records) == dict(expected)


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
        self.total = Counter("score" if b"logits" in v else "text" for _, v in journal_of(runs.reference))  # fmt: skip  # noqa: E501
        self.kills: Counter[str] = Counter()

    def kill_at_records(self, kind, share):
        """Kill when the journal holds about this share of all records of a kind."""
        records = Records(self.out)
        before = records.count(kind)
        wanted = max(before + 1, int(self.total[kind] * share))
        killed = self.runs.kill_when(self.name, lambda: records.count(kind) >= wanted)
        if killed and before < records.count(kind) < self.total[kind]:
            self.kills[kind] += 1

    def kill_at_write(self, what):
        """Kill while a file is being written, a random moment after it has appeared."""
        pattern, wait = WRITES[what], self.random.choice([0, 0, 0.0003, 0.001])

        def ready():
            return bool(half_written(self.out, pattern))

        if self.runs.kill_when(self.name, lambda: ready() and not time.sleep(wait)) and ready():
            self.kills["write"] += 1
            self.kills[f"write {what}"] += 1

    def finish(self):
        record = self.runs.finish(self.name)
        assert_equal(self.runs, self.name, record)
        assert_nothing_twice(self.runs, self.name)
        print(self.name, dict(self.kills))


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
    chain.finish()
    assert chain.kills["text"] >= 3
    assert chain.kills["score"] >= 2
    assert chain.kills["write"] >= 4
    assert chain.kills["text"] + chain.kills["score"] + chain.kills["write"] >= 11


def test_a_rehearsed_run_killed_at_every_step(rehearsed):
    chain = Chain(rehearsed, "killed", seed=2)
    chain.kill_at_write("seeds")
    for share in sorted(chain.random.uniform(0.01, 0.95) for _ in range(4)):
        chain.kill_at_records("text", share)
    for _ in range(2):
        chain.kill_at_write("first stage")
    for share in sorted(chain.random.uniform(0.01, 0.95) for _ in range(4)):
        chain.kill_at_records("score", share)
    for what in ("second stage", "candidates", "rejects", "picks", "pairs", "recipe.yaml"):
        chain.kill_at_write(what)
    chain.kill_at_write("run.json")
    chain.finish()
    assert chain.kills["text"] + chain.kills["score"] + chain.kills["write"] >= 12
