"""What a judge may see of a row: not who wrote what."""

from collections.abc import Iterable
from typing import Any

from prefdata.recipe.tools import with_calls
from prefdata.recipe.values import META_SUFFIX
from prefdata.rows import Row


def blinded(row: Row, names: Iterable[str]) -> Row:
    """The columns named, of candidates only the texts: a judge must not know who wrote what."""
    return {name: _text_alone(row[name], row.get(name + META_SUFFIX)) for name in names}


def _text_alone(value: Any, meta: Any) -> Any:
    """A value without what tells who wrote it; calls are printed behind their text."""
    if isinstance(value, list) and value and isinstance(value[0], dict) and "text" in value[0]:
        return [{"text": with_calls(one["text"], one)} for one in value]
    return with_calls(value, meta) if isinstance(value, str) and meta else value
