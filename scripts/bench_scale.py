"""A million prompts without models: time, memory, disk and files of every command, and of shards.

    python scripts/bench_scale.py [--rows 1000000] [--shards 64]

Prompts of drawn words, some twice and some nearly, four scripted answers to each, scored, paired,
exported. A tenth of the rows is run first; every command is a process of its own. At the end the
run is made again in shards, two at a time, merged, and compared with the run in one piece.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import orjson

from prefdata.storage.folders import read_tables
from prefdata.storage.record import read_record

RECIPE = """
output_dir: {out}
seed_dataset: {{path: {seeds}, fields: [prompt]}}
models:
  - {{alias: hot, model: scripted, inference_parameters: {{temperature: 0.9, max_tokens: 64}}}}
  - {{alias: cool, model: scripted, inference_parameters: {{temperature: 0.3, max_tokens: 64}}}}
  - {{alias: grader, model: scripted}}
columns:
  - name: candidates
    type: candidates
    model_alias: [hot, cool]
    samples: 2
    prompt: "Answer: {{{{ prompt }}}}"
  - name: reward
    type: reward_model
    model_alias: grader
    candidates: candidates
    prompt: "{{{{ prompt }}}}"
output_projection:
  type: preference_pairs
  candidates: candidates
  score: reward
  strategy: best_vs_worst
  dedupe: exact
  test_size: 0.02
"""
SYLLABLES = ["ka", "ro", "mi", "ten", "lu", "sa", "vor", "ne", "dal", "pi", "gu", "fen", "o", "tri"]
REPEATED, EDITED = 0.02, 0.03
"""Shares of prompts that are an earlier one, as it was or with two words more at its end."""
GIBIBYTE = 2**30


@dataclass(frozen=True)
class Spent:
    """What a command has taken: seconds, of which the processors worked, and MiB at its peak."""

    seconds: float
    peak: float
    work: float

    def __str__(self) -> str:
        return f"{self.seconds:,.1f} s, {self.peak:,.0f} MiB"


def main() -> None:
    """Measure a tenth of the rows, all rows, and all rows in shards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary one by default")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        small = measure(Path(folder) / "small", asked.rows // 10)
        large = measure(Path(folder) / "large", asked.rows)
        measure_collected(Path(folder) / "collected", asked.rows)
        growth = large.seconds / small.seconds
        print(f"build takes {growth:.2f} times as long for 10 times the rows", flush=True)
        measure_shards(Path(folder) / "large", asked.rows, asked.shards)


def measure(folder: Path, rows: int) -> Spent:
    """Print what each command takes; returns that of `build`."""
    folder.mkdir()
    write_seeds(folder / "seeds.jsonl", rows)
    recipe, run = folder / "recipe.yaml", folder / "run-rehearsal"
    recipe.write_text(RECIPE.format(out=folder / "run", seeds=folder / "seeds.jsonl"))
    print(f"\n{rows:,} prompts, 4 candidates each", flush=True)
    spent = command("build", recipe, "--rehearse")
    tell("build: generate, score, pairs, exact dedupe", spent)
    for name, seconds in (read_record(run) or {})["seconds"].items():
        tell(f"  of it {name}", f"{seconds:,.1f} s")
    tell_pairs(run)
    tell_disk("the run folder", run)
    tell("build again: nothing to do", command("build", recipe, "--rehearse"))
    tell("export --format trl", command("export", run, "--format", "trl"))
    near = folder / "near"
    minhash = command("pairs", run, "dedupe=minhash", "--out", near)
    tell("pairs with MinHash dedupe", minhash)
    tell_pairs(near)
    return spent


def measure_collected(folder: Path, rows: int) -> None:
    """Pairs of two scored answers to each prompt, collected elsewhere, some of them repeated."""
    folder.mkdir()
    drawn, last, repeated = random.Random(1), None, 0
    with (folder / "scored.jsonl").open("wb") as lines:
        for turn in range(rows):
            if last is None or drawn.random() >= REPEATED:
                words = [" ".join(drawn.choices(SYLLABLES, k=12)) for _ in range(3)]
                last = [str(turn), *words]
            else:
                repeated += 1
            for score, text in enumerate(last[2:]):
                line = {"turn": turn, "prompt": " ".join(last[:2]), "text": text, "score": score}
                lines.write(orjson.dumps(line) + b"\n")
    print(
        f"\n{2 * rows:,} scored candidates from elsewhere, {repeated:,} pairs repeated", flush=True
    )
    out = folder / "pairs"
    columns = [word for name in ("prompt", "text", "score") for word in (f"--{name}", name)]
    spent = command(
        "pairs", folder / "scored.jsonl", "--group", "turn", *columns, "dedupe=exact", "--out", out
    )
    tell("pairs with exact dedupe", spent)
    tell_pairs(out)


def measure_shards(folder: Path, rows: int, count: int) -> None:
    """Make the run of `measure` again in shards, merge it, and compare it with the whole."""
    recipe, whole = folder / "recipe.yaml", folder / "run-rehearsal"
    out = folder / "sharded"
    asked = [recipe, "--rehearse", "--out", out]
    print(f"\n{rows:,} prompts in {count} shards, two at a time", flush=True)
    start = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        parts = list(
            pool.map(lambda n: command("build", *asked, "--shard", f"{n}/{count}"), range(count))
        )
    tell("all shards, wall time", f"{time.monotonic() - start:,.1f} s")
    tell("the costliest shard", max(parts, key=lambda part: part.seconds))
    tell_disk("the shards", merged := folder / "sharded-rehearsal")
    tell("merge", command("merge", *asked))
    tell_disk("shards and merged run", merged)
    for name in ("pairs", "candidates", "rejects"):
        is_same = digest(merged / name) == digest(whole / name)
        tell(f"{name} as in one piece", "yes" if is_same else "NO")
    again = command("build", recipe, "--rehearse", "--out", out)
    tell("build of the merged run: nothing to do", again)


def write_seeds(file: Path, rows: int) -> None:
    """Prompts of 5 to 45 words."""
    drawn = random.Random(0)
    known = ["".join(drawn.choices(SYLLABLES, k=drawn.randint(1, 4))) for _ in range(20_000)]
    kept: list[str] = []
    with file.open("wb") as lines:
        for _ in range(rows):
            kind = drawn.random()
            if kept and kind < REPEATED:
                prompt = drawn.choice(kept)
            elif kept and kind < REPEATED + EDITED:
                prompt = f"{drawn.choice(kept)} {' '.join(drawn.choices(known, k=2))}"
            else:
                prompt = " ".join(drawn.choices(known, k=drawn.randint(5, 45)))
            kept.append(prompt)
            lines.write(orjson.dumps({"prompt": prompt}) + b"\n")


def command(*words: object) -> Spent:
    """Run a command of prefdata to its end.

    Raises:
        SystemExit: it failed.
    """
    told = [sys.executable, "-m", "prefdata", *map(str, words)]
    start = time.monotonic()
    with tempfile.TemporaryFile() as output:
        sinks = [(os.POSIX_SPAWN_DUP2, output.fileno(), stream) for stream in (1, 2)]
        child = os.posix_spawn(sys.executable, told, os.environ, file_actions=sinks)
        _, status, usage = os.wait4(child, 0)  # its own peak, not that of all children so far
        if os.waitstatus_to_exitcode(status):
            output.seek(0)
            sys.exit(f"{' '.join(told)}\n{output.read().decode()}")
    return Spent(time.monotonic() - start, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime)


def tell(what: str, value: object) -> None:
    """One line of the table."""
    print(f"{what:44}{value}", flush=True)


def tell_pairs(run: Path) -> None:
    """Pairs of a run, and what was left out."""
    record = read_record(run) or {}
    tell("  pairs", f"{sum(record['pairs'].values()):,}; left out {record['drops']}")


def tell_disk(what: str, folder: Path) -> None:
    """Bytes and files; a file with several names counts once."""
    found = {(s.st_dev, s.st_ino): s.st_size for s in stats(folder)}
    tell(what, f"{sum(found.values()) / GIBIBYTE:.2f} GiB in {len(found):,} files")


def stats(folder: Path) -> Iterable[os.stat_result]:
    """Of all files below a folder."""
    return (file.stat() for file in folder.rglob("*") if file.is_file())


def digest(folder: Path) -> str:
    """Hash of the rows in order, however they are cut into files."""
    hashed = blake2b()
    for table in read_tables(folder):
        for row in table.to_pylist():
            hashed.update(orjson.dumps(row))
    return hashed.hexdigest()


if __name__ == "__main__":
    main()
