"""Files that come with the package: recipes, layouts, the quickstart. Reads none of them."""

from pathlib import Path

from prefdata.errors import PrefdataError, suggest

# the folder recipes/ of the repository: a link to it in a clone, the files themselves in a wheel
_RECIPES = Path(__file__).parent.parent / "recipes"


def shipped(name: str) -> Path:
    """The file or folder `name` of the shipped recipes, as in `quickstart/recipe.yaml`.

    Raises:
        PrefdataError: none is called so; those beside it are suggested.
    """
    place = _RECIPES / name
    if not place.exists():
        known = sorted(found.name for found in place.parent.glob("*"))
        raise PrefdataError(f"prefdata ships no {name!r}; {suggest(place.name, known)}")
    return place
