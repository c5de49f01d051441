"""Python functions that a recipe names or is given: found, and hashed so that an edit counts."""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from prefdata.errors import PrefdataError, suggest
from prefdata.recipe.mix import picks_of
from prefdata.recipe.schema import Recipe
from prefdata.stages.code import hash_code
from prefdata.stages.function_process import raised

GROUP = "prefdata"
"""The entry points by which a package brings functions."""


def brought() -> dict[str, str]:
    """`package.module:name` of the functions that installed packages bring, by entry point."""
    return {point.name: point.value for point in entry_points(group=GROUP)}


@dataclass(frozen=True)
class Functions:
    """Where the functions of a recipe are looked up.

    Attributes:
        given: those that were objects in Python, by the names that stand for them.
    """

    folder: Path = Path()
    given: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    def find(self, name: str, where: str) -> Callable[..., Any]:
        """The function `package.module:name`, one that was given, or one of an entry point.

        Raises:
            PrefdataError: it cannot be imported.
        """
        if name in self.given:
            return self.given[name]
        sys.path.insert(0, str(self.folder))  # as `python script.py` would find its neighbours
        try:
            module, colon, path = self.locate(name, where).partition(":")
            with redirect_stdout(sys.stderr):  # what it prints is no output of ours
                found: Any = importlib.import_module(module)
            for part in path.split(".") if colon else ():
                found = getattr(found, part)
            if not callable(found):
                raise TypeError(f"{path or module} is not a function")
        except PrefdataError:
            raise
        # somebody else's code runs at its import: whatever it raises, sys.exit included
        except (Exception, SystemExit) as err:
            raise PrefdataError(
                f"{where}: the function {name!r} cannot be imported "
                f"({raised(err)}); correct it, or write 'package.module:name' for a "
                "function beside the recipe or on Python's path"
            ) from err
        finally:
            sys.path.remove(str(self.folder))
        function: Callable[..., Any] = found
        return function

    def find_stage(self, name: str, where: str) -> Callable[..., Any]:
        """As `find`, a function that can wait for the models that it asks."""
        function = self.find(name, where)
        if not inspect.iscoroutinefunction(function):
            raise PrefdataError(
                f"{where}: {name!r} is not a coroutine function; write it as "
                "'async def stage(row, ask)'"
            )
        return function

    def locate(self, name: str, where: str) -> str:
        """`package.module:name` for a name, which may be that of an entry point.

        Raises:
            PrefdataError: no package has such an entry point.
        """
        if ":" in name:
            return name
        known = brought()
        if name not in known:
            raise PrefdataError(
                f"{where}: no package has an entry point {name!r} for prefdata; write "
                f"'package.module:name', or correct it: {suggest(name, known)}"
            )
        return known[name]

    def code(self, name: str | None, where: str) -> str:
        """Hash of a function and what it closes over; empty where there is none."""
        return "" if name is None else hash_code(self.find(name, where))

    def code_of_picks(self, recipe: Recipe) -> str:
        """Hash of the functions that pick a recipe's pairs; empty where none does."""
        picks = picks_of(recipe.output_projection).items()
        return "".join(self.code(name, f"output_projection.{key}") for key, name in picks)
