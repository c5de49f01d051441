"""One row as a screen of a terminal: what a reader wants first, as much of it as fits."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from prefdata.api.terminal import STYLES, printable
from prefdata.recipe.chats import is_chat
from prefdata.recipe.values import META_SUFFIX
from prefdata.rows import ID, Row

HIDDEN = (ID, "row_id", "split")
"""Columns that a screen of a row does not show by themselves."""


@dataclass(frozen=True)
class Section:
    """A heading and the text below it.

    Attributes:
        ends: its end is wanted more than its beginning, as that of a chat.
    """

    heading: Text
    body: Text
    ends: bool = False


def print_screen(
    console: Console, title: str, row: Row, kind: str, *, lines: int | None, key: str = "f"
) -> None:
    """Print a row so that it takes no more lines than that; None for all of it.

    `row`: a pair, a reject, or a row of a stage. `kind`: `pair`, `reject` or `row`. `key`: shows
    what is left out.
    """
    sections = [*{"pair": _pair, "reject": _reject, "row": _row}[kind](row)]
    note = scores_of(row) if kind == "pair" else ""
    most = len(sections) if lines is None else max(1, (lines - 2) // 2)
    if hidden := sections[most:]:
        sections, note = sections[:most], f"… {len(hidden)} more, {key} shows all"
    wrapped = [[*section.body.wrap(console, console.width - 2)] for section in sections]
    wanted = [len(body) for body in wrapped]
    free = None if lines is None else lines - 1 - bool(note) - len(sections)
    room = wanted if free is None else share_lines(wanted, free)
    gap = [Text()] if free is None or sum(room) + len(sections) + bool(note) <= free else []
    shown = [Text(printable(title), "bold")]
    for section, body, given in zip(sections, wrapped, room, strict=True):
        shown += [*gap, section.heading]
        shown += [Text("  ").append_text(line) for line in _cut(body, given, key, section.ends)]
    for line in [*shown, *([*gap, Text(note)] if note else [])]:
        console.print(line, no_wrap=True, overflow="ellipsis")


def _cut(body: Sequence[Text], most: int, key: str, ends: bool) -> Sequence[Text]:
    """So many lines of a body, one of which says what is left out."""
    if len(body) <= most:
        return body
    told = Text(f"… {len(body) - most + 1:,} more lines, {key} shows all", "dim")
    return [told, *body[len(body) - most + 1 :]] if ends else [*body[: most - 1], told]


def share_lines(wanted: Sequence[int], room: int) -> list[int]:
    """Of so many lines to each what it wants, or what is fair: short ones lend to long ones.

    The first, a prompt or a reason, may have a third of them, and what the others do not want.
    """
    fair = max(room // 3, room - sum(wanted[1:]))
    first = min(wanted[0], max(1, min(fair, room - len(wanted) + 1)))
    given, left = [first, *([0] * (len(wanted) - 1))], room - first
    order = sorted(range(1, len(wanted)), key=wanted.__getitem__)
    for number, at in enumerate(order):
        given[at] = min(wanted[at], max(1, left // (len(order) - number)))
        left -= given[at]
    return given


def print_values(console: Console, row: Row) -> None:
    """What else a pair holds, a line for each value of both sides: `alias: bold : careful`."""
    for name, value in row.items():
        if name in ("prompt", "chosen", "rejected") or name.startswith("rejected_"):
            continue
        side = name.removeprefix("chosen_")
        values = [value, row.get(f"rejected_{side}")] if side != name else [value]
        if any(one not in (None, []) for one in values):
            told = " : ".join("–" if one is None else spoken(one) for one in values)
            console.print(
                Text(f"{printable(side):18} ", "bold").append(printable(told), "not bold")
            )


def scores_of(row: Row) -> str:
    """The scores of both sides in one line, rounded: `reward 7.12 : 1.81  margin 5.31`."""
    sides = [row.get(f"{side}_scores") or {} for side in ("chosen", "rejected")]
    told = [
        f"{name} {rounded(sides[0][name])} : {rounded(sides[1].get(name))}" for name in sides[0]
    ]
    if not told and row.get("chosen_score") is not None:
        told = [f"score {rounded(row['chosen_score'])} : {rounded(row['rejected_score'])}"]
    if row.get("margin") is not None:
        told.append(f"margin {rounded(row['margin'])}")
    if row.get("is_tie"):
        told.append("a tie")
    return "   ".join(told)


def rounded(value: Any) -> str:
    """A number with three digits, as many as a reader compares."""
    if not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _pair(row: Row) -> Iterator[Section]:
    yield _section("prompt", row["prompt"])
    for side in ("chosen", "rejected"):
        writer = _writer({name: row.get(f"{side}_{name}") for name in ("alias", "temperature")})
        calls = row.get(f"{side}_tool_calls")
        text = "\n".join(part for part in (row[side], calls) if part)
        thought = row.get(f"{side}_reasoning")
        note = f"after a thought of {len(thought):,} characters" if thought else ""
        yield _section(side, text, writer, note)


def _reject(row: Row) -> Iterator[Section]:
    yield _section("reason", f"{row['stage']}: {row['reason']}: {row['detail']}")
    if row["row"] is None:
        yield _section("source", str(row.get("source")))
    else:
        yield from _row(row["row"])


def _row(row: Row) -> Iterator[Section]:
    """The texts and chats of a row, the prompt first; candidates with their scores, best first."""
    lists = {name: value for name, value in row.items() if _is_scores(value)}
    for name in sorted(row, key=lambda name: name != "prompt"):
        value = row[name]
        if name in HIDDEN or name in lists or name.endswith(META_SUFFIX) or value is None:
            continue
        is_list = isinstance(value, list) and bool(value)
        if is_list and all(isinstance(one, dict) and "text" in one for one in value):
            own = {n: told for n, told in lists.items() if len(told) == len(value)}
            yield from _candidates(value, own)
        else:
            yield _section(name, value, _writer(row.get(name + META_SUFFIX) or {}))


def _candidates(
    candidates: Sequence[Mapping[str, Any]], scores: Mapping[str, Sequence[Any]]
) -> Iterator[Section]:
    """Each with its scores, the highest of the first score first."""
    first = next(iter(scores.values()), [None] * len(candidates))
    best = [-float("inf") if value is None else value for value in first]
    for at in sorted(range(len(candidates)), key=lambda at: -best[at]):
        one = candidates[at]
        told = [f"{name} {rounded(values[at])}" for name, values in scores.items()]
        yield _section(_writer(one) or f"candidate {at + 1}", one["text"] or "(empty)", *told)


def spoken(value: Any) -> str:
    """A value as a reader wants it: a chat as turns, a number rounded."""
    if is_chat(value):
        turns = ((turn.get("role") or turn["from"], turn) for turn in value)
        return "\n".join(
            f"{role}: {turn.get('content') or turn.get('value') or turn.get('tool_calls')}"
            for role, turn in turns
        )
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {spoken(one)}" for name, one in value.items())
    if isinstance(value, list):
        return "\n".join(map(spoken, value))
    return rounded(value) if isinstance(value, float) else str(value)


def _section(name: str, value: Any, *notes: str) -> Section:
    heading = Text(printable(name), f"bold {STYLES.get(name, '')}".strip())
    for note in notes:
        if note:
            heading.append(f"   {printable(note)}", "dim")
    body = Text(printable(spoken(value)), STYLES.get(name, ""))
    return Section(heading, body, ends=is_chat(value))


def _writer(meta: Mapping[str, Any]) -> str:
    """Who wrote a text: `bold, 0.9`."""
    parts = (meta.get("alias") or meta.get("model"), meta.get("temperature"))
    return ", ".join(str(part) for part in parts if part is not None)


def _is_scores(value: Any) -> bool:
    is_list = isinstance(value, list) and any(one is not None for one in value)
    return is_list and all(one is None or isinstance(one, int | float) for one in value)
