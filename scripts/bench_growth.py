"""A run of a million prompts: time, memory and disk of `prefdata diff` and `prefdata clean`.

    python scripts/bench_growth.py [--rows 1000000] [--folder DIR]

The run of bench_scale.py, four scripted answers to each prompt. `diff` compares it with the pairs
of another rule. For `clean` each of its stages and each record of its journal is there a second
time, under another fingerprint and another key, as an earlier recipe would have left them.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from bench_scale import RECIPE, command, tell, tell_disk, write_seeds

from prefdata.storage.journal import Journal, read_values

OLD = (0, 0)
"""Times of the files, so that they are older than the run."""


def main() -> None:
    """Build the run unless it is there, then measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="of the run; made if it is not there")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = asked.folder or Path(place)
        recipe, run, other = folder / "recipe.yaml", folder / "run-rehearsal", folder / "other"
        if not (run / "run.json").exists():
            write_seeds(folder / "seeds.jsonl", asked.rows)
            recipe.write_text(RECIPE.format(out=folder / "run", seeds=folder / "seeds.jsonl"))
            tell("build", command("build", recipe, "--rehearse"))
        tell("pairs of another rule", command("pairs", run, "min_margin=4", "--out", other))
        told = command("diff", run, other, "--json")
        tell("diff", f"{told}, of it work {told.work:,.1f} s")
        tell_disk("the run folder", run)
        double(run)
        tell_disk("with as much of an earlier recipe", run)
        for words in (["clean", run], ["clean", run, "--yes"]):
            told = command(*words)
            tell(" ".join(map(str, words)), f"{told}, of it work {told.work:,.1f} s")
        tell_disk("after it", run)
        tell("build again: nothing to do", command("build", recipe, "--rehearse"))


def double(run: Path) -> None:
    """What an earlier recipe might have left: stages, and records among those of the run."""
    for folder in sorted((run / "stages").glob("*-????????*")):
        name, dot, rest = folder.name.partition(".")
        copy = shutil.copytree(folder, folder.with_name(f"{name[:-8]}{name[:-9:-1]}{dot}{rest}"))
        os.utime(copy, OLD)
    for file in sorted((run / "journal").glob("*.jsonl")):
        with Journal(run / "doubled") as journal:
            for key, value in read_values(file):
                journal.append([(key, value), (key[::-1], value)])
        (made,) = (run / "doubled").iterdir()
        made.replace(file)
        os.utime(file, OLD)
    (run / "doubled").rmdir()


if __name__ == "__main__":
    main()
