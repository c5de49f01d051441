"""Pairs, exported as a user does it. Knows no trainer's code."""

from dataclasses import dataclass

import orjson
from runs import FIELDS

from prefdata.export import ExportOptions, export_run
from prefdata.pairs.repick import pairs_of_file


@dataclass(frozen=True)
class Pair:
    """One preference: what the files have to say again.

    Attributes:
        prompt: messages; the last is the user's.
        margin: by how much the chosen answer's score is above the rejected one's.
    """

    prompt: tuple[dict[str, str], ...]
    chosen: str
    rejected: str
    margin: float


def say(role, content):
    return {"role": role, "content": content}


PAIRS = (
    Pair((say("user", "What is 2 + 2?"),), "It is 4.", "It is 5.", 1.5),
    Pair(
        (say("user", "Wie groß?\n\n- naïve „Frage“"),),
        "Größe:\n\n\t漢字 🙂\n```\nx = {'a': 1}\n```",
        "nein\nnicht\\n",
        0.25,
    ),
    Pair(
        (
            say("system", "Answer in one word."),
            say("user", "Name a colour."),
            say("assistant", "Blue."),
            say("user", "Another one?"),
        ),
        "Green.",
        "I will not.",
        2.0,
    ),
)


# answers that begin or end with white space, or that a chat template has words of
ODD_PAIRS = (Pair((say("user", "Who are you?"),), " user\n", "s", 0.5),)


HELD_OUT = Pair((say("user", "Is this a test?"),), "Yes.", "No.", 1.0)


def export_pairs(folder, name, pairs=PAIRS):
    """The pairs as `prefdata export` writes them, with HELD_OUT in the test file."""
    folder.mkdir(parents=True)
    lines = [
        {"turn": turn, "prompt": pair.prompt, "text": text, "score": score}
        for turn, pair in enumerate((*pairs, HELD_OUT))
        for text, score in ((pair.chosen, pair.margin), (pair.rejected, 0.0))
    ]
    file = folder / "scored.jsonl"
    file.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    for seed in range(100):  # which prompt is held out depends on it
        run = folder / f"run{seed}"
        pairs_of_file(file, FIELDS, (), run, seed=seed, say=print)
        exported = export_run(run, name, ExportOptions(test_size=1), say=print)
        if HELD_OUT.prompt[0]["content"] in exported.test.read_text():
            return exported
    raise AssertionError("no seed of a hundred holds the pair out")
