"""How rows look in a terminal: wrapped and coloured, or plain where nobody reads colours."""

import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from prefdata.recipe.chats import is_chat

SHORT = 60
"""Characters of a text that still stands on the line of its name."""
STYLES = {"prompt": "cyan", "chosen": "green", "rejected": "red", "reason": "yellow"}
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def open_console(stream: TextIO | None = None) -> Console:
    """A console that writes no escape code where NO_COLOR is set or nobody sits before it."""
    stream = stream or sys.stdout
    is_plain = bool(os.environ.get("NO_COLOR")) or not stream.isatty()
    return Console(
        file=stream,
        color_system=None if is_plain else "auto",
        soft_wrap=not stream.isatty(),
        force_jupyter=False,  # what is written to a stream is no output of a cell
        highlight=False,
        markup=False,
        emoji=False,
    )


def print_row(console: Console, title: str, row: Mapping[str, Any]) -> None:
    """Every field of a row in full under a title; fields without a value are left out."""
    if console.is_terminal:
        console.rule(Text(printable(title), "bold"), align="left")
    else:
        console.print(f"--- {printable(title)}")
    _print_fields(console, row.items(), 0)


def printable(text: str) -> str:
    """The text with its control characters as signs: a row must not move the cursor."""
    return _CONTROLS.sub(_sign, text.replace("\r\n", "\n"))


def _print_fields(console: Console, fields: Iterable[tuple[str, Any]], depth: int) -> None:
    for name, value in fields:
        if value is None:
            continue
        heading = Text(f"{printable(str(name))}:", "bold")
        if isinstance(value, dict):
            _print(console, heading, depth)
            _print_fields(console, value.items(), depth + 1)
        elif isinstance(value, list):
            _print_list(console, heading, value, depth)
        else:
            _print_text(console, heading, printable(str(value)), STYLES.get(str(name), ""), depth)


def _print_list(console: Console, heading: Text, values: list[Any], depth: int) -> None:
    if not any(isinstance(value, dict | list | str) for value in values):
        _print_text(console, heading, ", ".join(str(value) for value in values), "", depth)
        return
    _print(console, heading, depth)
    if is_chat(values):
        _print_fields(console, map(_turn, values), depth + 1)
        return
    numbered = ((f"{number}", value) for number, value in enumerate(values, start=1))
    _print_fields(console, numbered, depth + 1)


def _turn(message: Mapping[str, Any]) -> tuple[str, Any]:
    """A message under its role: its text, or all that it has."""
    role = str(message.get("role") or message["from"])
    text = message.get("content" if message.get("role") else "value")
    more = {k: v for k, v in message.items() if k not in ("role", "from", "content", "value")}
    kept = {key: value for key, value in more.items() if value not in (None, [])}
    return role, {"content": text} | kept if kept else text


def _print_text(console: Console, heading: Text, text: str, style: str, depth: int) -> None:
    if len(text) <= SHORT and "\n" not in text:
        _print(console, heading.append(" ").append(Text(text, f"not bold {style}".strip())), depth)
    else:
        _print(console, heading, depth)
        _print(console, Text(text, style), depth + 1)


def _print(console: Console, text: Text, depth: int) -> None:
    if console.is_terminal:
        console.print(Padding(text, (0, 0, 0, 2 * depth)))
    else:  # no line is cut or filled up with blanks
        for line in text.plain.split("\n"):
            console.print(Text("  " * depth + line), overflow="ignore", crop=False)


def _sign(found: re.Match[str]) -> str:
    code = ord(found[0])
    return chr(0x2400 + code) if code < 0x20 else f"<{code:02x}>"
