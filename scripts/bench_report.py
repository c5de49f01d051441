"""A report of many pairs: seconds to write it, its size, and how soon Chromium answers a reader.

    python scripts/bench_report.py --pairs 10000 --words 150

Chromium and playwright come with scripts/test_browser.sh.
"""

import argparse
import random
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import orjson
from playwright.sync_api import Page, sync_playwright

from prefdata.pairs.repick import pairs_of_file
from prefdata.recipe.layout import Layout
from prefdata.report import make_report

FIELDS = Layout(group_by=("turn",), prompt="prompt", text="text", score="score")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
SYLLABLES = ["ka", "ro", "mi", "ten", "lu", "sa", "vor", "ne", "dal", "pi", "gu", "fen", "o", "tri"]
WATCH = """() => {
  addEventListener('input', () => { window.from = performance.now(); }, true);
  new MutationObserver(() => requestAnimationFrame(() => { window.until = performance.now(); }))
    .observe(document.documentElement, { attributes: true, attributeFilter: ['data-filtered'] });
}"""
NEXT = """() => {
  const from = performance.now();
  document.querySelector('#list').dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowDown' }));
  return performance.now() - from;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--words", type=int, default=150, help="words of an answer, on average")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), asked.pairs, asked.words)
        before, start = peak(), time.monotonic()
        report = make_report(run)
        seconds = time.monotonic() - start
        print(f"pairs in the page             {report.shown[0]:,} of {report.shown[1]:,}")
        print(f"writing the report            {seconds:.2f} s")
        print(f"size of the file              {report.bytes / 2**20:.1f} MiB")
        print(f"peak memory                   {peak():,.0f} MiB, {before:,.0f} before")
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            measure(browser.new_page(viewport={"width": 1280, "height": 900}), report.file)
            browser.close()


def peak() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_run(folder: Path, pairs: int, words: int) -> Path:
    """Pairs of drawn words; the answers of a pair share half of theirs."""
    drawn = random.Random(0)
    known = ["".join(drawn.choices(SYLLABLES, k=drawn.randint(1, 4))) for _ in range(5000)]
    file = folder / "scored.jsonl"
    with file.open("wb") as lines:
        for turn in range(pairs):
            shared = drawn.choices(known, k=words // 2)
            prompt = " ".join(drawn.choices(known, k=20))
            for alias in ("hot", "cool"):
                own = drawn.choices(known, k=drawn.randint(1, words))
                line = {
                    "turn": turn, "prompt": prompt, "text": " ".join(shared + own),
                    "score": drawn.gauss(0, 3), "alias": alias, "temperature": 0.9,
                }  # fmt: skip
                lines.write(orjson.dumps(line) + b"\n")
    pairs_of_file(file, FIELDS, (), folder / "run", seed=0, say=print)
    return folder / "run"


def measure(page: Page, file: Path) -> None:
    start = time.monotonic()
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready=yes]", timeout=120_000)
    print(f"opened until all is there     {time.monotonic() - start:.2f} s")
    page.evaluate(WATCH)
    search = page.get_by_role("searchbox")
    told = []
    for letter in "karomi":
        before = page.evaluate("document.documentElement.dataset.filtered")
        search.press_sequentially(letter)
        told.append(answer(page, before))
    print(f"first keystroke to the list   {told[0]:.0f} ms")
    print(f"next keystrokes, median       {statistics.median(told[1:]):.0f} ms")
    print(f"found                         {page.locator('#count').inner_text()}")
    search.fill("")
    page.wait_for_timeout(1000)
    before = page.evaluate("document.documentElement.dataset.filtered")
    page.get_by_role("spinbutton", name="Margin from").fill("2")
    print(f"margin to the list            {answer(page, before):.0f} ms")
    page.locator("#list").focus()
    opened = [page.evaluate(NEXT) for _ in range(9)]
    print(f"opening a pair, with its diff {statistics.median(opened):.0f} ms")


def answer(page: Page, before: str) -> float:
    """Milliseconds from the last input to the frame with the new list."""
    for _ in range(3000):
        if page.evaluate("document.documentElement.dataset.filtered") != before:
            page.wait_for_timeout(60)
            return float(page.evaluate("window.until - window.from"))
        page.wait_for_timeout(10)
    raise SystemExit("the list has not answered within 30 seconds")


if __name__ == "__main__":
    main()
