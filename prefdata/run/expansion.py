"""The pass that makes several rows of one: parents of a folder into children in the next."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa

from prefdata.errors import RowError
from prefdata.rows import ID, REJECTS, Row, reject, rows_of
from prefdata.run.passes import rejects_of
from prefdata.run.progress import Progress
from prefdata.storage.folders import RowsWriter, count_rows, read_schema, read_tables


def run_expansion(
    name: str,
    children: Callable[[Row], list[Row]],
    fields: Sequence[pa.Field],
    source: Path,
    target: Path,
    progress: Progress,
) -> None:
    """Write `target`, the children of the rows of `source`, and `target`.rejects beside it.

    `children`: `id` and new columns of every child of a row; what else it has is its parent's.
    """
    schema = read_schema(source)
    with (
        RowsWriter(target, pa.schema([*schema, *fields])) as rows,
        RowsWriter(rejects_of(target), REJECTS) as rejects,
    ):
        for table in read_tables(source):
            parents, made, refused = [], [], []
            for place, row in enumerate(rows_of(table)):
                try:
                    new = children(row)
                except RowError as err:
                    told = {"stage": name, "reason": err.reason, "detail": err.detail}
                    refused.append(reject(row, **told))
                    continue
                parents += [place] * len(new)
                made += new
            rows.write(_joined(table.take(pa.array(parents, pa.int64())), made, fields))
            rejects.write(pa.Table.from_pylist(refused, schema=REJECTS))
            progress.advance(table.num_rows)


def rows_added(source: Path, target: Path) -> int:
    """By how much an expansion has raised the number of rows, rejects among them."""
    return count_rows(target) + count_rows(rejects_of(target)) - count_rows(source)


def _joined(parents: pa.Table, made: list[Row], fields: Sequence[pa.Field]) -> pa.Table:
    ids = pa.array([row[ID] for row in made], pa.string())
    table = parents.set_column(parents.schema.get_field_index(ID), parents.schema.field(ID), ids)
    for field in fields:
        table = table.append_column(field, pa.array([row[field.name] for row in made], field.type))
    return table
