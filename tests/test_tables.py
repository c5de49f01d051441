import numpy as np
import pyarrow as pa
import pytest

from prefdata.storage.tables import reorder, take_rows


def chunked(count, size):
    parts = [
        pa.table({"n": list(range(start, min(start + size, count)))})
        for start in range(0, count, size)
    ]
    return pa.concat_tables(parts)


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_rows_come_in_the_order_of_their_places(size, piece):
    places = np.random.default_rng(0).integers(0, 50, 120)
    assert reorder(chunked(50, size), places, at_once=piece)["n"].to_pylist() == places.tolist()


def test_no_place_is_no_row():
    empty = reorder(chunked(5, 2), np.array([], dtype=np.int64))
    assert empty.num_rows == 0 and empty.schema == chunked(5, 2).schema


def test_more_text_than_one_array_holds_is_reordered():
    # 2.1 GiB of text, in a table that shows one chunk many times
    text = "x" * 2**20
    chunk = pa.table({"t": [text] * 21})
    table = pa.concat_tables([chunk] * 103)
    assert table.nbytes > 2**31
    assert reorder(table, np.arange(0, table.num_rows, 500))["t"].to_pylist() == [text] * 5


def test_places_of_one_batch_stay_together():
    batches = chunked(10, 5).to_batches()
    assert take_rows(batches, np.array([7, 1, 7, 0]))["n"].to_pylist() == [7, 1, 7, 0]
