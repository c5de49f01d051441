"""Python functions that a recipe names: found, and hashed so that an edit makes new scores."""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from prefdata.errors import PrefdataError
from prefdata.recipe.contract import Column

Function = Callable[[str, Mapping[str, Any]], Any]


def load_function(column: Column, folder: Path) -> Function:
    """The function behind `package.module:name`, sought beside the recipe and on Python's path.

    Raises:
        PrefdataError: it cannot be imported.
    """
    module, _, name = (column.calls or "").partition(":")
    sys.path.insert(0, str(folder))  # as `python script.py` would find its neighbours
    try:
        function: Function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as err:
        raise PrefdataError(
            f"column {column.name!r}: the function {column.calls!r} cannot be imported ({err}); "
            "write 'package.module:name' for a function beside the recipe or on Python's path"
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
    source = inspect.getsourcefile(load_function(column, folder))
    return blake2b(Path(source).read_bytes(), digest_size=16).hexdigest() if source else "builtin"
