"""Templates: compile once, list the columns read, render one row. Knows no recipe.

Jinja2 in an immutable sandbox with strict undefined names. Strings are inserted verbatim and
are never rendered a second time.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson
from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError
from jinja2.exceptions import SecurityError
from jinja2.meta import find_referenced_templates, find_undeclared_variables
from jinja2.nodes import Name
from jinja2.sandbox import ImmutableSandboxedEnvironment

from prefdata.errors import PrefdataError, RowError

_UNFIT = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)
"""What Jinja's filters and operators raise for a value they cannot take."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A compiled template.

    Attributes:
        columns: names of the columns it reads.
        mentions: the same, in the order in which the template first names them.
    """

    template: Template
    columns: frozenset[str]
    mentions: tuple[str, ...]

    def render(self, row: Mapping[str, Any]) -> str:
        """The text for one row; only the columns read are handed to the template.

        Raises:
            RowError: `template`, when a value of this row does not fit the template, or is null
                where text is needed.
            PrefdataError: the template does what the sandbox forbids.
        """
        values = {name: row[name] for name in self.columns}
        try:
            return self.template.render(values)
        except SecurityError as err:
            raise PrefdataError(
                f"a template does something that the sandbox forbids ({err}); templates may "
                "only read columns and use Jinja's filters"
            ) from err
        except _UNFIT as err:
            raise RowError(
                "template", f"the template cannot be rendered for this row: {err}"
            ) from err


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, finalize=_as_text)
    environment.globals.clear()  # a column may be called `range` or `dict`
    environment.filters["tojson"] = _to_json  # Jinja's own escapes <, > and & for HTML
    return environment


def _as_text(value: Any) -> Any:
    if value is None:  # a model would read the word None
        raise TypeError(
            "it prints a null value; write {% if x is not none %} around it, or {{ x or '' }}"
        )
    # a list or a dict as a model knows it, not as Python prints it
    if isinstance(value, list | dict):
        return orjson.dumps(value).decode()
    return value


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


@cache
def compile_prompt(source: str) -> Prompt:
    """Compile a template.

    Raises:
        PrefdataError: with Jinja's message and the line inside the template.
    """
    environment = _environment()
    try:
        tree = environment.parse(source)
        columns = find_undeclared_variables(tree)
        named = dict.fromkeys(node.name for node in tree.find_all(Name))
        mentions = tuple(name for name in named if name in columns)
        if any(True for _ in find_referenced_templates(tree)):
            raise PrefdataError(
                "the template includes, imports or extends another one, which is not "
                "supported; write all of it in one place"
            )
        return Prompt(environment.from_string(source), frozenset(columns), mentions)
    except TemplateSyntaxError as err:
        raise PrefdataError(
            f"the template is not valid Jinja: {err.message} (its line {err.lineno})"
        ) from err
    except TemplateError as err:
        raise PrefdataError(f"the template cannot be compiled: {err}") from err
