"""Runs for the tests of reports: scored by hand, with texts that a page must not trust."""

import orjson
import pyarrow as pa
from runs import FIELDS

from prefdata.pairs.repick import pairs_of_file
from prefdata.rows import REJECTS
from prefdata.storage.folders import RowsWriter, read_rows
from prefdata.storage.record import file_sizes

SCRIPT = "<script>window.hacked = 1</script>"
HOSTILE = (
    SCRIPT,
    "</script><script>window.hacked = 1</script>",
    "<!--<script>window.hacked = 1",
    '<img src="x" onerror="window.hacked = 1">',
    "{{ 7 * 7 }} {% raw %} &lt;b&gt; \u2028\u2029 ' \"><svg onload=window.hacked=1>",
)


def line(turn, prompt, text, score, alias="hot", temperature=0.9, **more):
    return {
        "turn": turn, "prompt": prompt, "text": text, "score": score, "alias": alias,
        "temperature": temperature, **more,
    }  # fmt: skip


def make_scored_run(folder, lines, *rules, name="scored.jsonl", run="run", seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in lines))
    pairs_of_file(file, FIELDS, rules, folder / run, seed=seed, say=lambda line: None)
    return folder / run


def make_plain_run(folder, turns=40, **options):
    """Turns with a margin of their number, the cool model winning four of five."""
    lines = []
    for n in range(turns):
        best, worst = ("hot", "cool") if n % 5 == 0 else ("cool", "hot")
        heat = {"hot": 0.9, "cool": 0.3}
        lines += [
            line(n, f"question {n}", f"good answer {n}", float(n) + 1, best, heat[best]),
            line(n, f"question {n}", f"bad {n}", 0.0, worst, heat[worst]),
        ]
    lines += [
        line(f"tie {n}", f"hopeless {n}", text, 0.5) for n in range(3) for text in ("one", "two")
    ]
    return make_scored_run(folder, lines, "test_size=0.2", **options)


def make_hostile_run(folder):
    """Every text of the run is an attack: prompts, answers, aliases, reasons, names of files."""
    lines = []
    for n, text in enumerate(HOSTILE):
        lines += [
            line(n, f"prompt {n} {text}", f"chosen {n} {text}", 2.0, f"alias {text}"),
            line(n, f"prompt {n} {text}", f"rejected {n} {text}", 1.0, f"other {text}"),
        ]
    lines.append({"turn": 99, "prompt": SCRIPT})
    run = make_scored_run(folder, lines, name="<img src=x onerror=hacked=1>.jsonl", run="<script>hacked=1<≤script>")  # fmt: skip  # noqa: E501
    rejects = [row | {"reason": SCRIPT, "detail": HOSTILE[1]} for row in read_rows(run / "rejects")]
    with RowsWriter(run / "rejects", REJECTS) as writer:
        writer.write(pa.Table.from_pylist(rejects, schema=REJECTS))
    record = orjson.loads((run / "run.json").read_bytes())
    record["rejects"] = {f"seeds: {SCRIPT}": len(rejects)}
    record["drops"] = {SCRIPT: 1}
    record["files"] |= file_sizes(run)
    (run / "run.json").write_bytes(orjson.dumps(record))
    return run
