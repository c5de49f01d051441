"""The items of benchmarks, which no prompt and no text may contain."""

from collections.abc import Callable, Iterator

from prefdata.errors import PrefdataError, suggest
from prefdata.fingerprint import digest
from prefdata.recipe.chats import is_chat, read_chat
from prefdata.recipe.contract import Column
from prefdata.recipe.filters import Filter
from prefdata.recipe.schema import SeedDataset
from prefdata.recipe.sources import Benchmark
from prefdata.seeds.files import read_lines


def items_of(benchmark: Benchmark, locate: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """(place, text) of every item.

    Args:
        benchmark: of the recipe.
        locate: finds a path, which may be relative to the recipe.

    Raises:
        PrefdataError: it does not exist, a line cannot be read, or has no text in such a column.
    """
    path, column = benchmark.path, benchmark.column
    where = benchmark.model_dump(include={"name", "split", "revision"})
    config = SeedDataset(path=(path,), **where)
    is_empty = True
    at = "decontaminate.against.{}".format
    for line in read_lines(config, locate(path), [], at=at):
        if line.fields is None:
            raise PrefdataError(
                f"{path}: {line.source}: {line.reason}: {line.detail}; what cannot be read cannot "
                "be looked for, so fix the line, or take it out"
            )
        if column not in line.fields:
            raise PrefdataError(
                f"{path}: {line.source}: there is no column {column!r}; "
                f"{suggest(column, line.fields)}"
            )
        value, is_empty = line.fields[column], False
        texts = [one["content"] for one in read_chat(value)] if is_chat(value) else [value]
        for text in texts:
            if not isinstance(text, str):
                raise PrefdataError(
                    f"{path}: {line.source}: column {column!r} has no text there: {text!r}; fix "
                    "the line, or take it out"
                )
            yield line.source, text
    if is_empty:
        raise PrefdataError(f"{path}: there is no item, so nothing can be found; give another path")


def identities(column: Column, locate: Callable[[str], str]) -> list[str]:
    """A hash of every benchmark that a column reads."""
    rule = column.decontaminate if isinstance(column, Filter) else None
    return [digest([*items_of(one, locate)]) for one in (rule.against if rule else ())]
