"""Templates: compile once, list the columns read, render one row. Knows no recipe.

Jinja2 in an immutable sandbox with strict undefined names. Strings are inserted verbatim and
are never rendered a second time.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson
from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError
from jinja2.exceptions import SecurityError
from jinja2.meta import find_referenced_templates, find_undeclared_variables
from jinja2.nodes import (
    Add,
    And,
    Concat,
    CondExpr,
    Const,
    Expr,
    Filter,
    Getitem,
    Name,
    Node,
    Or,
    Output,
    Slice,
    TemplateData,
)
from jinja2.visitor import NodeTransformer

from prefdata.errors import PrefdataError, RowError
from prefdata.recipe.bounded_template import BoundedEnvironment, TooMuch
from prefdata.recipe.chats import is_chat, is_message, transcript

_UNFIT = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError,
          RecursionError)  # fmt: skip
"""What Jinja's filters and operators raise for a value they cannot take."""
_WHOLE = ("default", "d", "e", "escape", "forceescape", "indent", "list", "replace", "reverse",
          "safe", "string", "trim", "truncate", "upper", "lower", "wordwrap")  # fmt: skip
"""Filters that print a value that is not a text as a whole."""


_ROW = "row"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A compiled template.

    Attributes:
        mentions: the same, in the order in which the template first names them.
        bare: the column that it prints and nothing else, as in `{{ prompt }}`.
        quoted: columns that it names as in `row["chosen-rating"]`: Jinja has no such names.
    """

    template: Template
    columns: frozenset[str]
    mentions: tuple[str, ...]
    bare: str | None
    printed: frozenset[str]
    quoted: frozenset[str] = frozenset()

    def render(self, row: Mapping[str, Any]) -> str:
        """The text for one row; only the columns read are handed to the template.

        Raises:
            RowError: `template_limit`, when it takes too long or makes too much; `template`, when a
                value of this row does not fit it, or is null where text is needed.
            PrefdataError: the template does what the sandbox forbids.
        """
        values = {name: row[name] for name in self.columns - self.quoted}
        if self.quoted:
            values[_ROW] = {name: row[name] for name in self.quoted}
        try:
            return self.template.render(values)
        except SecurityError as err:
            raise PrefdataError(
                f"a template does something that the sandbox forbids ({err}); templates may "
                "only read columns and use Jinja's filters"
            ) from err
        except TooMuch as err:
            raise RowError(
                "template_limit",
                f"the template {err} for this row, and was stopped; let it loop less",
            ) from err
        except _UNFIT as err:
            raise RowError(
                "template", f"the template cannot be rendered for this row: {err}"
            ) from err


@cache
def _environment() -> BoundedEnvironment:
    environment = BoundedEnvironment(undefined=StrictUndefined, finalize=_as_text)
    environment.globals.clear()  # a column may be called `range` or `dict`
    environment.filters["tojson"] = _to_json  # Jinja's own escapes <, > and & for HTML
    environment.bound_filter("tojson")
    environment.filters |= {"transcript": _transcript, "best": _best, "worst": _worst}
    return environment


def _as_text(value: Any) -> Any:
    if value is None:  # a model would read the word None
        raise TypeError(
            "it prints a null value; write {% if x is not none %} around it, or {{ x or '' }}"
        )
    if is_chat(value) or is_message(value):
        raise TypeError(
            "it prints a chat, which a model would read as JSON in one turn; write 'messages:' to "
            "send it turn by turn, or {{ column | transcript }} to print it, a line a turn"
        )
    # a list or a dict as a model knows it, not as Python prints it
    if isinstance(value, list | dict):
        return orjson.dumps(value).decode()
    return value


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _best(scores: Any) -> Any:
    """The place, or the name, of the highest score; None where there is none."""
    known = _known(scores)
    return max(known, key=known.__getitem__, default=None)


def _worst(scores: Any) -> Any:
    known = _known(scores)
    return min(known, key=known.__getitem__, default=None)


def _known(scores: Any) -> dict[Any, Any]:
    """The scores that are there, by place or by name."""
    if isinstance(scores, int | float):
        raise ValueError(
            f"best and worst choose among several scores, and this is one: {scores}; a filter over "
            "candidates sees the score of one candidate at a time"
        )
    told = scores.items() if isinstance(scores, Mapping) else enumerate(scores or ())
    return {place: score for place, score in told if score is not None and score == score}


def _transcript(value: Any) -> str:
    try:
        return transcript(value)
    except RowError as err:
        raise ValueError(f"transcript: {err.detail}") from err


@cache
def compile_prompt(source: str) -> Prompt:
    """Compile a template.

    Raises:
        PrefdataError: with Jinja's message and the line inside the template.
    """
    environment = _environment()
    try:
        tree, unquote = environment.parse(source), _Unquote()
        if _ROW in find_undeclared_variables(tree):  # it may be a loop's own name
            tree = unquote.visit(tree)
        columns = find_undeclared_variables(tree)
        if unquote.found and _ROW in columns:
            raise PrefdataError(
                f"the template names columns as in row[{min(unquote.found)!r}], and {_ROW!r} is a "
                "column, too; give it another name"
            )
        named = dict.fromkeys(node.name for node in tree.find_all(Name))
        mentions = tuple(name for name in named if name in columns)
        if any(True for _ in find_referenced_templates(tree)):
            raise PrefdataError(
                "the template includes, imports or extends another one, which is not "
                "supported; write all of it in one place"
            )
        printed = frozenset(_printed(tree)) & columns
        bare = _bare(tree)
        template = environment.from_string(source)
        quoted = frozenset(unquote.found)
        return Prompt(template, frozenset(columns), mentions, bare, printed, quoted)
    except TemplateSyntaxError as err:
        raise PrefdataError(
            f"the template is not valid Jinja: {err.message} (its line {err.lineno})"
        ) from err
    except TemplateError as err:
        raise PrefdataError(f"the template cannot be compiled: {err}") from err


class _Unquote(NodeTransformer):
    """Every `row["a name that Jinja has not"]` as that name, for who looks at the names."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def visit_Getitem(self, node: Getitem) -> Node:  # noqa: D102, N802
        self.generic_visit(node)
        name = node.arg.value if isinstance(node.arg, Const) else None
        is_row = isinstance(node.node, Name) and node.node.name == _ROW
        if not is_row or not isinstance(name, str) or name.isidentifier():
            return node
        self.found.add(name)
        return Name(name, "load", lineno=node.lineno)


def _bare(tree: Node) -> str | None:
    """The only name of a template that prints it and nothing else, blanks aside."""
    parts = [part for node in tree.iter_child_nodes() for part in getattr(node, "nodes", [node])]
    said = [p for p in parts if not (isinstance(p, TemplateData) and not p.data.strip())]
    return said[0].name if len(said) == 1 and isinstance(said[0], Name) else None


def _printed(tree: Node) -> Iterator[str]:
    """Names whose whole value, and not a part of it, may come out."""
    for output in tree.find_all(Output):
        for node in output.nodes:
            yield from _whole(node)


def _whole(node: Expr) -> Iterator[str]:
    parts: list[Expr | None] = []
    match node:
        case Name():
            yield node.name
        case CondExpr():
            parts = [node.expr1, node.expr2]
        case Or() | And() | Add():
            parts = [node.left, node.right]
        case Concat():
            parts = [*node.nodes]
        case Filter() if node.name in _WHOLE:
            parts = [node.node, *node.args]
        case Getitem() if isinstance(node.arg, Slice):
            parts = [node.node]
    for part in parts:
        if part is not None:
            yield from _whole(part)
