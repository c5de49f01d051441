"""Decontamination: planted items that are found, clean prompts that are not, time for 100,000.

Prompts and items are paragraphs of the docstrings of installed packages, so there is nothing to
fetch: a paragraph that occurs twice is used once, and items are of other packages than prompts. The
benchmark has 2,000 items, of which 100 are planted: verbatim, in capitals, with other punctuation,
and inside of longer prompts. Packages copy from each other, so a prompt counts as clean if it has
no run of 13 words in common with any item.

    python scripts/bench_decontamination.py [--ngram 8] [--overlap 0.5]
"""

import argparse
import random
import re
import sys
import time
from pathlib import Path

from prefdata.stages.contamination import Items, words_of

ITEMS, PLANTED, CLEAN, MANY = 2_000, 100, 10_000, 100_000


def paragraphs() -> tuple[list[str], list[str]]:
    """Prose of 20 to 200 words, each once: of one half of the packages, and of the other."""
    halves: tuple[dict[tuple[str, ...], str], ...] = ({}, {})
    places = [Path(place) for place in sys.path if Path(place).is_dir()]
    files = ((place, file) for place in places for file in place.glob("*/**/*.py"))
    for place, file in files:
        is_clean = len(file.relative_to(place).parts[0]) % 2
        if len(halves[is_clean]) < (ITEMS, 2 * CLEAN)[is_clean]:
            for part in docstrings(file):
                words = words_of(part)
                if 20 <= len(words) <= 200 and not CODE.search(part):
                    halves[is_clean].setdefault(tuple(words), part)
        elif len(halves[0]) >= ITEMS and len(halves[1]) >= 2 * CLEAN:
            break
    return [*halves[0].values()], [*halves[1].values()]


CODE = re.compile(r">>>|::|--|==|[`_\[{<]|:param|Args:|Returns:|^ *\w+ ?:", re.MULTILINE)
"""What prose has not, and what packages of one family share."""


def runs(text: str) -> set[tuple[str, ...]]:
    """Runs of 13 words, by which GPT-3 calls a text contaminated (arXiv 2005.14165)."""
    words = words_of(text)
    return {tuple(words[at : at + 13]) for at in range(len(words) - 12)}


DOCSTRING = re.compile(r'"""(.*?)"""', re.DOTALL)


def docstrings(file: Path) -> list[str]:
    """Paragraphs of the docstrings of a file."""
    texts = DOCSTRING.findall(file.read_text(errors="ignore"))
    return [part for text in texts for part in re.split(r"\n\s*\n", text)]


def dressed(item: str, other: str, number: int) -> str:
    """An item as a contaminated set may have it."""
    ways = (
        item,
        item.upper(),
        re.sub(r"[.,;:]", " -", item).replace("'", "\u2019"),
        f"{other}\n\n{item}\n\nAnswer in one sentence.",
    )
    return ways[number % len(ways)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ngram", type=int, default=8)
    parser.add_argument("--overlap", type=float, default=0.5)
    given = parser.parse_args()
    draw = random.Random(0)
    halves = paragraphs()
    for half in halves:
        draw.shuffle(half)
    benchmark, others = halves[0][:ITEMS], halves[1]
    copied = {run for text in benchmark for run in runs(text)}
    clean = [text for text in others if copied.isdisjoint(runs(text))][:CLEAN]
    print(f"{len(others) - len(clean):,} of {len(others):,} prompts have 13 words of an item")
    numbered = ((f"benchmark:{n}", text) for n, text in enumerate(benchmark))
    start = time.process_time()
    known = Items(numbered, ngram=given.ngram, overlap=given.overlap, near=0.8)
    print(f"{len(known):,} items indexed in {time.process_time() - start:.1f} s of CPU")
    planted = [dressed(item, clean[n], n) for n, item in enumerate(benchmark[:PLANTED])]
    found = sum(known.find(text) is not None for text in planted)
    print(f"planted: {found} of {len(planted)} found")
    false = [match for text in clean if (match := known.find(text)) is not None]
    print(f"clean: {len(false)} of {len(clean):,} matched ({len(false) / len(clean):.3%})")
    many = (clean * (MANY // len(clean) + 1))[:MANY]
    start = time.process_time()
    for text in many:
        known.find(text)
    words = sum(len(words_of(text)) for text in clean) / len(clean)
    print(f"{MANY:,} prompts of {words:.0f} words: {time.process_time() - start:.1f} s of CPU")
    for match in false[:5]:
        print(f"  {match.overlap:.2f} {match.is_near} {' '.join(match.item.split())[:120]!r}")


if __name__ == "__main__":
    main()
