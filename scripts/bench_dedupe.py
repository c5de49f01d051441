"""CPU time that near duplicates and groups take as a set of prompts grows.

python scripts/bench_dedupe.py [SIZE...]
"""

import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from prefdata.pairs.choose import choose_pairs
from prefdata.pairs.prompts import Background
from prefdata.pairs.selection import PairFacts, select
from prefdata.recipe.projection import PreferencePairs
from prefdata.rows import CANDIDATE, REJECTS
from prefdata.storage.folders import RowsWriter

SIZES = (4_000, 8_000, 16_000, 100_000)
VOCABULARY = [f"word{n}" for n in range(50_000)]
RULE = {
    "type": "preference_pairs",
    "candidates": "candidates",
    "score": "score",
    "strategy": "best_vs_worst",
}


def with_preamble(count: int) -> list[str]:
    """Prompts that share 100 words and have 18 of their own: alike, and no near duplicates."""
    draw = random.Random(0)
    preamble = " ".join(f"shared{n}" for n in range(100))
    return [f"{preamble} {' '.join(draw.choices(VOCABULARY, k=18))}" for _ in range(count)]


def of_a_template(count: int) -> list[str]:
    """Prompts of ten words, of which three are drawn from a hundred each."""
    draw = random.Random(0)
    return [
        f"Write a story about a {draw.choice(VOCABULARY[:100])} and a "
        f"{draw.choice(VOCABULARY[100:200])} in the style of {draw.choice(VOCABULARY[200:300])}"
        for _ in range(count)
    ]


def with_copies(count: int) -> list[str]:
    """Prompts of 60 words; each fourth is the one before it with a word more."""
    draw = random.Random(0)
    prompts: list[str] = []
    for n in range(count):
        prompts.append(
            f"{prompts[-1]} indeed" if n % 4 == 3 else " ".join(draw.choices(VOCABULARY, k=60))
        )
    return prompts


def near_duplicates(prompts: list[str]) -> tuple[float, int]:
    """CPU seconds, and prompts left out."""
    rule = PreferencePairs(**RULE, dedupe="minhash")
    start = time.process_time()
    found = select((PairFacts(prompt, "a", "b") for prompt in prompts), rule, seed=0)
    return time.process_time() - start, found.counts["near_duplicate"]


def groups(count: int) -> tuple[float, int]:
    """CPU seconds to pair rows of two candidates in groups of four, far from each other; pairs."""
    rule = PreferencePairs(**RULE, group_by=("turn",))
    empty = dict.fromkeys(field.name for field in CANDIDATE)
    fields = {"id": pa.string(), "turn": pa.int64(), "prompt": pa.string()}
    lists = {"candidates": pa.list_(CANDIDATE), "score": pa.list_(pa.float64())}
    with tempfile.TemporaryDirectory() as place:
        folder, turns = Path(place), max(1, count // 4)
        with RowsWriter(folder / "scored", pa.schema(fields | lists)) as writer:
            for begin in range(0, count, 1000):
                rows = [
                    {
                        "id": str(n),
                        "turn": n % turns,
                        "prompt": f"prompt {n % turns} " + "text " * 100,
                        "candidates": [
                            empty | {"text": f"answer {n} {side} " + "text " * 100, "sample": side}
                            for side in range(2)
                        ],
                        "score": [n % 7, (n + 3) % 5],
                    }
                    for n in range(begin, min(begin + 1000, count))
                ]
                writer.write(pa.Table.from_pylist(rows, schema=writer.schema))
        start = time.process_time()
        with RowsWriter(folder / "rejects", REJECTS) as rejects:
            background = Background(["score"])
            choice = choose_pairs(folder / "scored", folder / "pairs", rejects, rule, background)
        return time.process_time() - start, sum(choice.pairs.values())


def main() -> None:
    """Print a table, a line a size."""
    sizes = [int(word) for word in sys.argv[1:]] or list(SIZES)
    kinds = {"preamble": with_preamble, "template": of_a_template, "copies": with_copies}
    print("|   prompts | " + " | ".join((*kinds, "group_by", "peak memory")) + " |")
    for size in sizes:
        cells = []
        for make in kinds.values():
            seconds, gone = near_duplicates(make(size))
            cells.append(f"{seconds:.1f} s, {gone:,} out")
        seconds, pairs = groups(size)
        cells.append(f"{seconds:.1f} s, {pairs:,} pairs")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| {size:>9,} | " + " | ".join(cells) + f" | {peak:,.0f} MiB |", flush=True)


if __name__ == "__main__":
    main()
