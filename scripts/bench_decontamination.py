"""Decontamination: planted items that are found, clean prompts that are not, time for 100,000.

Prompts and items are paragraphs of the docstrings of installed packages, so there is nothing to
fetch: a paragraph that occurs twice is used once, and items are of other packages than prompts. The
benchmark has 2,000 items, of which 100 are planted: verbatim, in capitals, with other punctuation,
and inside of longer prompts.

    python scripts/bench_decontamination.py [--ngram 8] [--overlap 0.5]
"""

import argparse
import ast
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
    for place in map(Path, sys.path):
        for file in place.glob("**/*.py") if place.is_dir() else ():
            half = halves[len(file.relative_to(place).parts[0]) % 2]
            if len(half) < (ITEMS, CLEAN)[half is halves[1]]:
                for part in docstrings(file):
                    words = words_of(part)
                    if 20 <= len(words) <= 200 and not CODE.search(part):
                        half.setdefault(tuple(words), part)
    return [*halves[0].values()], [*halves[1].values()]


CODE = re.compile(r">>>|::|--|==|[`_\[{<]|:param|Args:|Returns:|^ *\w+ ?:", re.MULTILINE)
"""What prose has not, and what packages of one family share."""


def docstrings(file: Path) -> list[str]:
    """Paragraphs of the docstrings of a file."""
    try:
        nodes = [*ast.walk(ast.parse(file.read_text()))]
    except (SyntaxError, ValueError, OSError):
        return []
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Module)
    texts = (ast.get_docstring(node) or "" for node in nodes if isinstance(node, kinds))
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
    benchmark, clean = halves[0][:ITEMS], halves[1][:CLEAN]
    numbered = ((f"benchmark:{n}", text) for n, text in enumerate(benchmark))
    start = time.perf_counter()
    known = Items(numbered, ngram=given.ngram, overlap=given.overlap, near=0.8)
    print(f"{len(known):,} items indexed in {time.perf_counter() - start:.1f} s")
    planted = [dressed(item, clean[n], n) for n, item in enumerate(benchmark[:PLANTED])]
    found = sum(known.find(text) is not None for text in planted)
    print(f"planted: {found} of {len(planted)} found")
    false = [match for text in clean if (match := known.find(text)) is not None]
    print(f"clean: {len(false)} of {len(clean):,} matched ({len(false) / len(clean):.3%})")
    many = (clean * (MANY // len(clean) + 1))[:MANY]
    start = time.perf_counter()
    for text in many:
        known.find(text)
    words = sum(len(words_of(text)) for text in clean) / len(clean)
    print(f"{MANY:,} prompts of {words:.0f} words: {time.perf_counter() - start:.1f} s")
    for match in false[:5]:
        print(f"  {match.overlap:.2f} {match.is_near} {' '.join(match.item.split())[:120]!r}")


if __name__ == "__main__":
    main()
