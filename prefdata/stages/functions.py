"""Python functions that a recipe names: found, and hashed so that an edit makes new scores."""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from hashlib import blake2b
from pathlib import Path
from typing import Any

from prefdata.errors import PrefdataError
from prefdata.recipe.contract import Column
from prefdata.stages.function_process import raised

Function = Callable[[str, Mapping[str, Any]], Any]


def load_function(column: Column, folder: Path) -> Function:
    """The function behind `package.module:name`, looked up beside the recipe and on Python's path.

    Raises:
        PrefdataError: it cannot be imported.
    """
    module, _, name = (column.calls or "").partition(":")
    sys.path.insert(0, str(folder))  # as `python script.py` would find its neighbours
    try:
        with redirect_stdout(sys.stderr):  # what it prints is no output of ours
            function: Function = getattr(importlib.import_module(module), name)
        if not callable(function):
            raise TypeError(f"{name} is not a function")
    # somebody else's code runs at its import: whatever it raises, sys.exit included
    except (Exception, SystemExit) as err:
        raise PrefdataError(
            f"column {column.name!r}: the function {column.calls!r} cannot be imported "
            f"({raised(err)}); correct it, or write 'package.module:name' for a "
            "function beside the recipe or on Python's path"
        ) from err
    finally:
        sys.path.remove(str(folder))
    return function


def code_of(column: Column, folder: Path) -> str:
    """Hash of the module that a column's function lies in; empty for a column without one.

    Code that the module itself imports is not looked at.
    """
    if column.calls is None:
        return ""
    module = inspect.getmodule(load_function(column, folder))
    source = getattr(module, "__file__", None)  # what is built in comes with Python's version
    code = Path(source).read_bytes() if source else sys.version.encode()
    return blake2b(code, digest_size=16).hexdigest()
