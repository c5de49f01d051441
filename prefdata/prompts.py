"""Templates: compile once, list the columns read, render one row. Knows no recipe.

Jinja2 in an immutable sandbox with strict undefined names. Strings are inserted verbatim and
are never rendered a second time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson
from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, UndefinedError
from jinja2.exceptions import SecurityError
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from prefdata.errors import PrefdataError, RowError


@dataclass(frozen=True, slots=True)
class Prompt:
    """A compiled template and the names of the columns it reads."""

    template: Template
    columns: frozenset[str]

    def render(self, row: Mapping[str, Any]) -> str:
        """The text for one row; only the columns read are handed to the template.

        Raises:
            RowError: `template`, when a value of this row does not fit the template.
            PrefdataError: the template does what the sandbox forbids.
        """
        try:
            return self.template.render({name: row[name] for name in self.columns})
        except SecurityError as err:
            raise PrefdataError(
                f"a template does what the sandbox forbids ({err}); templates may only read "
                "columns and use Jinja's filters"
            ) from err
        except (UndefinedError, TypeError, ValueError, ArithmeticError, TemplateError) as err:
            raise RowError(
                "template", f"the template cannot be rendered for this row: {err}"
            ) from err


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, finalize=_as_text)
    environment.globals.clear()  # a column may be called `range` or `dict`
    return environment


def _as_text(value: Any) -> Any:
    # a list or a dict as a model knows it, not as Python prints it
    if isinstance(value, list | dict):
        return orjson.dumps(value).decode()
    return value


@cache
def compile_prompt(source: str) -> Prompt:
    """Compile a template.

    Raises:
        PrefdataError: with Jinja's message and the line inside the template.
    """
    environment = _environment()
    try:
        columns = find_undeclared_variables(environment.parse(source))
        return Prompt(environment.from_string(source), frozenset(columns))
    except TemplateSyntaxError as err:
        raise PrefdataError(
            f"the template is not valid Jinja: {err.message} (its line {err.lineno})"
        ) from err
    except TemplateError as err:
        raise PrefdataError(f"the template cannot be compiled: {err}") from err
