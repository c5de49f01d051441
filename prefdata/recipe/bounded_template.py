"""A Jinja environment whose templates end: in bounded time, with bounded texts."""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from time import monotonic
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.runtime import Context, markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_SECONDS = 5.0
"""What one rendering may take; most take a ten-thousandth of that."""
MAX_CHARACTERS = 2**25
"""What one rendering may make, what it does not print in the end included."""
_LOOP, _JOIN = "each item", "joined"
"""Names of filters that no template can spell."""


_WIDTHS = re.compile(
    r"%(?:\([^)]*\))?[-+ #0]*(\d+)?(?:\.(\d+))?|\{[^{}]*:[^{}\d]*(\d+)?(?:\.(\d+))?"
)


class TooMuch(Exception):
    """The template takes too long or makes too much, and says which."""


class Budget(Context):
    """The names of one rendering, and what it has left."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.ends, self.left = monotonic() + MAX_SECONDS, MAX_CHARACTERS

    def spend(self, characters: int = 0) -> None:
        """Account for one step, before it is done.

        Raises:
            TooMuch: there is not so much left.
        """
        self.left -= characters
        if self.left < 0:
            raise TooMuch(f"makes more than {MAX_CHARACTERS:,} characters")
        if monotonic() > self.ends:
            raise TooMuch(f"was not through after {MAX_SECONDS:g} s")


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox, in which loops, calls and whatever makes long texts are accounted for."""

    context_class = Budget
    intercepted_binops = frozenset(("*", "**", "+", "%"))

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters |= {_LOOP: _each, _JOIN: _joined}
        for name in ("center", "indent", "replace", "join", "batch", "slice", "format", "tojson"):
            self.bound_filter(name)

    def bound_filter(self, name: str) -> None:
        """Refuse this filter where it would make a text that is too long."""
        self.filters[name] = _bounded(name, self.filters[name])

    def concat(self, parts: Iterable[str]) -> str:
        """Join what was printed."""
        size, kept = 0, []
        for part in parts:
            size += len(part)
            if size > MAX_CHARACTERS:
                raise TooMuch(f"makes more than {MAX_CHARACTERS:,} characters")
            kept.append(part)
        return "".join(kept)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """As the sandbox, if the result has room."""
        _spend(context, _growth(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **more: Any) -> Any:  # noqa: N805, D102
        text = getattr(__obj, "__self__", None)
        grown = 0
        if isinstance(text, str):
            grown = made_by(__obj.__name__, text, *args, *more.values())
        _spend(__context, grown)
        return super().call(__context, __obj, *args, **more)

    def _generate(self, source: nodes.Template, *args: Any, **more: Any) -> str:
        return super()._generate(_Accounting().visit(source), *args, **more)


def made_by(name: str, text: Any, *given: Any) -> int:
    """Characters that a filter or a method of a string would make, at most or nearly."""
    if name == "replace" and len(given) >= 2:
        old, new = str(given[0]), str(given[1])
        return len(str(text)) + str(text).count(old) * len(new)
    if name == "join" and isinstance(text, str) and given and isinstance(given[0], list | tuple):
        return len(text) * len(given[0]) + _size(given[0])
    if name == "join":
        count = len(text) if isinstance(text, list | tuple) else 0
        return len(str(given[0])) * count + _size(text) if given else _size(text)
    if name in ("format", "format_map"):
        return _format_width(str(text), *given)
    numbers = [one for one in given if isinstance(one, int) and not isinstance(one, bool)]
    lines = str(text).count("\n") + 1 if name == "indent" else 1
    return lines * max(map(abs, numbers), default=0) if name in _PADDING else 0


_PADDING = frozenset(
    ("center", "ljust", "rjust", "zfill", "expandtabs", "indent", "batch", "slice", "tojson")
)


class _Accounting(NodeTransformer):
    """Every loop and every `~` through a filter of ours."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, _LOOP, [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        parts = nodes.Tuple(node.nodes, "load", lineno=node.lineno)
        return nodes.Filter(parts, _JOIN, [], [], None, None, lineno=node.lineno)


@pass_context
def _each(context: Context, items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _spend(context)
        yield item


@pass_context
def _joined(context: Context, parts: tuple[Any, ...]) -> str:
    _spend(context, sum(len(part) for part in parts if isinstance(part, str)))
    return markup_join(parts) if context.eval_ctx.autoescape else str_join(parts)


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    is_passed = hasattr(function, "jinja_pass_arg")

    @wraps(function)
    def bounded(*args: Any, **more: Any) -> Any:
        given = args[1:] if is_passed else args
        if made_by(name, *given, *more.values()) > MAX_CHARACTERS:
            raise TooMuch(f"makes more than {MAX_CHARACTERS:,} characters by {name}")
        return function(*args, **more)

    return bounded


def _spend(context: Context, characters: int = 0) -> None:
    if isinstance(context, Budget):
        context.spend(characters)


def _growth(operator: str, left: Any, right: Any) -> int:
    if operator == "*":
        return max(_times(left, right), _times(right, left))
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        return left.bit_length() * abs(right)
    if operator == "%" and isinstance(left, str):
        return _format_width(left, right)
    if operator == "+" and isinstance(left, str | list | tuple):
        return len(left) + (len(right) if isinstance(right, str | list | tuple) else 0)
    return 0


def _times(value: Any, count: Any) -> int:
    if isinstance(value, str | list | tuple) and isinstance(count, int):
        return len(value) * max(count, 0)
    return 0


def _format_width(text: str, *given: Any) -> int:
    """Widths in a format, and those that the values may be: `%*d` and `{:{}}` take them there."""
    digits = [one for found in _WIDTHS.findall(text) for one in found if one]
    flat = [one for value in given for one in (value if isinstance(value, tuple) else (value,))]
    asked = [one for one in flat if isinstance(one, int)] if "*" in text or "{:{" in text else []
    return max((min(int(d[:12]), 10**12) for d in digits), default=0) + max(asked, default=0)


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    return sum(map(_size, value)) if isinstance(value, list | tuple) else 8
