"""A recipe's regular expressions, searched in the texts of rows. None may search for ever."""

import re
from collections.abc import Iterator

import regex

from prefdata.errors import RowError

MAX_SECONDS = 2.0
"""CPU time that one search of one text may take; most need less than a thousandth of that."""
_BRACE = re.compile(r"(\\N\{[^}]*\}|\\.)|\{(?!\d*,?\d*\})", re.DOTALL)
"""What is escaped, or a brace that Python takes for itself and `regex` for a fuzzy match."""


class Pattern:
    """A pattern of one column, in the `regex` package, which can be told when to give up.

    It reads what Python's `re` reads and has its look-around; `re` itself cannot be stopped, and
    engines in linear time, such as RE2, know no look-around.
    """

    def __init__(self, column: str, pattern: str, *, dotall: bool = True) -> None:
        """Compile it.

        `pattern`: valid, as `recipe.values.compile_pattern` has seen. `dotall`: `.` matches line
        ends too.
        """
        flags = regex.DOTALL if dotall else 0
        self._compiled = regex.compile(_BRACE.sub(_literal, pattern), flags)
        self._column = column

    @property
    def groups(self) -> int:
        """How many groups it has."""
        return int(self._compiled.groups)

    def search(self, text: str) -> "regex.Match[str] | None":
        """The first match.

        Raises:
            RowError: `pattern_timeout`, the pattern is not through with this text in time.
        """
        try:
            return self._compiled.search(text, timeout=MAX_SECONDS)
        except TimeoutError as err:
            raise self._too_long(text) from err

    def finditer(self, text: str) -> "Iterator[regex.Match[str]]":
        """All matches, one after another; errors as for `search`, for all of them together."""
        try:
            yield from self._compiled.finditer(text, timeout=MAX_SECONDS)
        except TimeoutError as err:
            raise self._too_long(text) from err

    def _too_long(self, text: str) -> RowError:
        return RowError(
            "pattern_timeout",
            f"the pattern of column {self._column!r} was not through after {MAX_SECONDS:g} s of "
            "CPU time; "
            "nested repetitions such as (x+)+ try every way to split a text: write a simpler "
            f"pattern. The text: {text[:200]!r}",
        )


def _literal(found: "re.Match[str]") -> str:
    return found[1] or r"\{"
