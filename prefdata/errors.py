"""What the user is told: `Say` a line; PrefdataError ends a command, RowError a row."""

import difflib
from collections.abc import Callable, Iterable

Say = Callable[[str], None]
"""Gets what happens, a line at a time."""


class PrefdataError(Exception):
    """Something the user can fix; printed without a traceback, exit code 2.

    The message says what was found, why it cannot go on and what to do.
    """


class RowError(Exception):
    """One row cannot go on: it becomes a reject, the run continues.

    Attributes:
        reason: a short stable word such as `prompt_too_long`; counted in every summary.
        detail: one sentence for whoever reads the rejects.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def suggest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'? Known: …`; the question only if a known name is similar."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    question = f"did you mean {near[0]!r}? " if near else ""
    return f"{question}Known: {', '.join(names) or 'none'}"


def install_command(extra: str | None) -> str:
    """The command that installs an extra of pyproject.toml; prefdata is on no package index."""
    return f"pip install '.{f'[{extra}]' if extra else ''}' in a clone of prefdata"
