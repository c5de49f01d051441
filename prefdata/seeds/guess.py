"""What a file of seeds seems to hold: its prompt, the fields of every line. Writes no recipe."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from prefdata.errors import PrefdataError, suggest
from prefdata.recipe.chats import looks_like_chat
from prefdata.recipe.layout import Preset
from prefdata.recipe.schema import SeedDataset
from prefdata.rows import Row
from prefdata.seeds.files import kind_of, read_lines
from prefdata.seeds.recognition import recognise

SAMPLE = 200
"""Lines that are looked at."""
PROMPTS = (
    "prompt", "question", "instruction", "messages", "conversation", "conversations", "chat",
    "query", "problem", "task", "input", "user", "text",
)  # fmt: skip
"""Names of fields that hold prompts, the surest first."""
ANSWERS = ("answer", "reference", "solution", "target", "label", "ground_truth")
"""Names of fields that hold the right answer."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A file of seeds, from its first lines.

    Attributes:
        fields: that all lines with a prompt have, the prompt first; `fields` of a recipe rejects
            lines without.
        answer: the field with the right answer, if any.
        layout: the layout of scored or labelled texts that they have, if any.
    """

    prompt: str
    is_chat: bool
    fields: tuple[str, ...]
    others: tuple[str, ...]
    answer: str | None
    is_number: bool
    lines: int
    layout: Preset | None = None


def guess_seeds(file: Path, prompt: str | None = None) -> Guess:
    """Look at the first lines of a file.

    `file`: as `seed_dataset.path` takes it.

    Raises:
        PrefdataError: there is no usable line, or no field that seems to be the prompt.
    """
    read = read_lines(SeedDataset(path=(str(file),)), str(file), [])
    rows = [line.fields for line in islice(read, SAMPLE) if line.fields]
    if not rows:
        raise PrefdataError(f"{file}: there is no usable line; give a file with one object a line")
    names = list(dict.fromkeys(name for row in rows for name in row))
    common = [n for n in names if 2 * sum(row.get(n) is not None for row in rows) > len(rows)]
    layout = recognise(rows[:20])
    if prompt is None and layout is not None and layout.prompt in common:
        prompt = layout.prompt
    found = _find_prompt(file, rows, common) if prompt is None else prompt
    if found not in names:
        raise PrefdataError(f"{file}: the field {found!r} is in no line; {suggest(found, names)}")
    # a line without a prompt is a reject whatever the recipe says
    rows = [row for row in rows if row.get(found) is not None]
    if not rows:
        raise PrefdataError(f"{file}: the field {found!r} is null in every line")
    full = [name for name in names if all(row.get(name) is not None for row in rows)]
    answer = next((name for name in ANSWERS if name in full), None)
    values = [row[answer] for row in rows] if answer else []
    return Guess(
        found,
        looks_like_chat(rows[0][found]),
        (found, *(name for name in full if name != found)),
        tuple(name for name in names if name not in full),
        answer,
        all(_is_number(value) for value in values),
        len(rows),
        layout,
    )


def _find_prompt(file: Path, rows: Sequence[Row], names: Sequence[str]) -> str:
    first = {n: next((r[n] for r in rows if r.get(n) is not None), None) for n in names}
    asks = [n for n in names if looks_like_chat(first[n]) or kind_of(first[n]) == "text"]
    known = [name for name in PROMPTS if name in asks]
    if not known and len(asks) != 1:
        raise PrefdataError(
            f"{file}: it is not clear which field is the prompt; name one with --prompt-field: "
            f"{', '.join(asks or names) or 'none is in most lines'}"
        )
    return (known or asks)[0]


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return not isinstance(value, bool)
