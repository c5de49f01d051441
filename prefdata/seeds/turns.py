"""Scored data from elsewhere: lines in, rows with all candidates of a turn out. Picks no pair."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from prefdata.errors import PrefdataError, RowError, suggest
from prefdata.fingerprint import copy_id, digest
from prefdata.recipe.layout import Layout, is_optional, plain
from prefdata.rows import CANDIDATE, ID, JSON_FIELD, TURNS, Row
from prefdata.seeds.files import Line
from prefdata.seeds.identity import prompt_identity
from prefdata.seeds.layouts import Given, given, is_within
from prefdata.seeds.paths import is_there
from prefdata.seeds.recognition import recognise
from prefdata.seeds.transcripts import as_json

CHUNK = 10_000
SAMPLE = 20
"""Lines by which a layout is recognised."""
Code = Callable[[Any], Any]


class Turns:
    """Rows gathered from lines; the first line of a turn sets its prompt.

    Attributes:
        rows: by the id of the turn, which comes from the fields of `group_by` alone.
        rejects: lines that lack a field, have a value that cannot be used, or have a different
            prompt.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.rows: dict[str, Row] = {}
        self.rejects: list[Row] = []
        self._copies: Counter[str] = Counter()
        self._first: list[Row] = []
        self._unfound = {path: key for key, path in layout.paths}

    def read(self, lines: Iterable[Line], limit: int | None = None) -> None:
        """Add lines; those of further files join the turns that are there.

        `limit`: rows that are wanted; where each line is one, no more are read.
        """
        for line in lines:
            if line.fields is None:
                self.rejects.append(line.reject({"raw": line.raw}, line.reason, line.detail))
                continue
            if len(self._first) < SAMPLE:
                self._first.append(line.fields)
            for path in [
                path for path in self._unfound if is_there(line.fields, path, self._layout)
            ]:
                del self._unfound[path]
            try:
                told = given(line.fields, self._layout)
                self._add(told)
            except RowError as err:
                self.rejects.append(line.reject(line.fields, err.reason, err.detail))
                continue
            if told.is_row and len(self.rows) == limit:
                return

    def check_fields(
        self, called: Callable[[str], str], advice: str, *, is_scored: bool = True
    ) -> None:
        """Make sure that every field that is named stands in some line, and that there is a row.

        Who wrote the texts may be missing where only a preset names it.

        `called`: what the user knows a key of the layout as. `advice`: what to do with the name of
        a layout, as in `add --layout {}`.

        Raises:
            PrefdataError: one is in none; what is named wrongly would leave no pair and no reason.
        """
        for path, key in self._unfound.items() if self._first else ():
            is_wanted = is_scored or not key.endswith("score")
            if is_wanted and not is_optional(self._layout, key):
                known = dict.fromkeys(name for line in self._first for name in line)
                raise PrefdataError(
                    f"{called(key)}: there is no field {path!r}; {suggest(path, known)}"
                    f"{self._resemblance(advice)}"
                )
        if not self.rows:
            told = "".join(f"; the first: {r['source']}: {r['detail']}" for r in self.rejects[:1])
            raise PrefdataError(
                f"{called('')}: there is no usable line{told}{self._resemblance(advice)}"
            )

    def _resemblance(self, advice: str) -> str:
        found = recognise(self._first)
        if found is None or plain(found) == plain(self._layout):
            return ""
        return f"; the file looks like {found.called}: {advice.format(found.file)}"

    def notes(self) -> list[str]:
        """What the user should know of the rows, a sentence each."""
        texts = sum(isinstance(row["prompt"], str) for row in self.rows.values())
        if texts in (0, len(self.rows)):
            return []
        return [
            f"{texts:,} of {len(self.rows):,} prompts are texts and the others chats; the texts "
            "become chats of one turn of the user"
        ]

    def table(self) -> pa.Table:
        """`id`, the fields of `group_by`, `prompt`, `candidates`, the scores, `margin`.

        Prompts are texts, or lists of role and content; where messages have more than that, tool
        calls or parts of content, they are JSON texts, which keep them as they are. A text among
        chats becomes a chat of one turn of the user.
        """
        rows = list(self.rows.values())
        kinds: list[tuple[pa.Field, Code]] = [(pa.field(ID, pa.string()), _same)]
        for name in self._layout.columns.values():
            kinds.append(_group_field(name, [row[name] for row in rows]))
        kinds.append(_prompt_field([row["prompt"] for row in rows]))
        has_turns = any(one["turns"] for row in rows for one in row["candidates"])
        kind = pa.struct([*CANDIDATE.fields, *([TURNS] if has_turns else [])])
        kinds.append((pa.field("candidates", pa.list_(kind)), _same))
        for name in self._layout.score_columns:
            kinds.append((pa.field(name, pa.list_(pa.float64())), _same))
        if self._layout.has_margin:
            kinds.append((pa.field("margin", pa.float64()), _same))
        schema = pa.schema([field for field, _ in kinds])
        # in parts: a piece of an Arrow list column holds 2 GiB of text at most
        parts = (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
        tables = [
            pa.table(
                [pa.array([code(row[f.name]) for row in part], f.type) for f, code in kinds], schema
            )
            for part in parts
        ]
        return pa.concat_tables(tables) if tables else schema.empty_table()

    def _add(self, given: Given) -> None:
        layout = self._layout
        names, identity = layout.columns, prompt_identity(given.prompt)
        keys = [identity if n == layout.prompt else value for n, value in given.group.items()]
        if given.is_row:
            said = [(one["text"], one["turns"], one["tool_calls"]) for one in given.candidates]
            content = digest(*keys, identity, said, size=10)
            key = copy_id(content, self._copies[content])
            self._copies[content] += 1
        else:
            key = digest(*(keys or [identity]), size=10)
        new = {names[name]: value for name, value in given.group.items() if name in names}
        new |= {name: [] for name in ("candidates", *layout.score_columns)}
        new |= {ID: key, "prompt": given.prompt, "margin": given.margin}
        row = self.rows.setdefault(key, new)
        if prompt_identity(row["prompt"]) != identity:
            raise RowError(
                "prompt_differs",
                f"another line of the group {list(given.group.values())} has another prompt; "
                "name the prompt's field in group_by, too, to keep such lines apart",
            )
        for candidate in given.candidates:
            number = candidate["sample"]
            place = len(row["candidates"]) if number is None else number
            row["candidates"].append(candidate | {"sample": place})
        for name, scores in given.scores.items():
            row[name] += scores


def _is_plain(prompt: Any) -> bool:
    return isinstance(prompt, list) and all(
        turn.keys() == {"role", "content"} and isinstance(turn["content"], str) for turn in prompt
    )


def _same(value: Any) -> Any:
    return value


def _prompt_field(prompts: list[Any]) -> tuple[pa.Field, Code]:
    """The column of prompts, and how a prompt is put into it."""
    if all(isinstance(prompt, str) for prompt in prompts):
        return pa.field("prompt", pa.string()), _same
    if all(_is_plain(_as_chat(prompt)) for prompt in prompts):
        turn = pa.struct({"role": pa.string(), "content": pa.string()})
        return pa.field("prompt", pa.list_(turn)), _as_chat
    return pa.field("prompt", pa.string(), metadata=JSON_FIELD), lambda p: as_json(_as_chat(p))


def _as_chat(prompt: Any) -> Any:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _group_field(name: str, values: list[Any]) -> tuple[pa.Field, Code]:
    """Ids as they are if all are texts or all integers of 64 bits, else as JSON texts."""
    if all(isinstance(value, str) for value in values):
        return pa.field(name, pa.string()), _same
    if all(type(value) is int and is_within(value, 64) for value in values):
        return pa.field(name, pa.int64()), _same
    return pa.field(
        name, pa.string()
    ), lambda value: value if isinstance(value, str) else as_json(value)
