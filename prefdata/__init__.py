"""Build preference datasets: prompts, candidates, scores, pairs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefdata.api.building import build, preview
    from prefdata.api.run import Run, open_run
    from prefdata.errors import PrefdataError, RowError
    from prefdata.recipe.loader import load_recipe
    from prefdata.recipe.schema import Recipe

__all__ = [
    "PrefdataError", "Recipe", "RowError", "Run", "__version__", "build", "load_recipe",
    "open_run", "preview",
]  # fmt: skip

_HOMES = {
    "PrefdataError": "prefdata.errors",
    "Recipe": "prefdata.recipe.schema",
    "RowError": "prefdata.errors",
    "Run": "prefdata.api.run",
    "build": "prefdata.api.building",
    "load_recipe": "prefdata.recipe.loader",
    "open_run": "prefdata.api.run",
    "preview": "prefdata.api.building",
}


def __getattr__(name: str) -> Any:
    """A name of the Python API, imported when it is first used: nothing here is slow to import."""
    if name == "__version__":
        from importlib.metadata import version  # takes longer than all the rest

        return version("prefdata")
    if name not in _HOMES:
        raise AttributeError(f"module 'prefdata' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
