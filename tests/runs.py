"""Finished runs made from scored candidates, for what comes after a run."""

import orjson

from prefdata.pairs.repick import pairs_of_file
from prefdata.recipe.layout import Layout

FIELDS = Layout(group_by=("turn",), prompt="prompt", text="text", score="score")
TOOL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}],
}
DIALOGUE = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And 3+3?"},
]


def make_run(folder, pairs, *rules, seed=0):
    """A run whose pairs are (prompt, chosen, rejected), scored 3.1 and 0.4."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "scored.jsonl"
    lines = [
        {"turn": turn, "prompt": prompt, "text": text, "score": score}
        for turn, (prompt, *texts) in enumerate(pairs)
        for text, score in zip(texts, (3.1, 0.4), strict=True)
    ]
    file.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    run = folder / "run"
    pairs_of_file(file, FIELDS, rules, run, seed=seed, say=lambda line: None)
    return run


def read_lines(file):
    return [orjson.loads(line) for line in file.read_bytes().splitlines()]
