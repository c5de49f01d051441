"""What is done once by processes that share a cache."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from prefdata.engines.cache import once, remember


def test_of_many_who_want_it_one_makes_it_and_the_others_wait(tmp_path):
    made, at_once = [], threading.Barrier(4)

    def want(number):
        at_once.wait()
        return remember(tmp_path / "cache" / "it", lambda: made.append(number) or str(number))

    with ThreadPoolExecutor(4) as pool:
        found = {*pool.map(want, range(4))}
    assert found == {str(made[0])}
    assert len(made) == 1


def test_one_that_fails_lets_the_next_be_the_first(tmp_path):
    with pytest.raises(ValueError, match="no"), once(tmp_path, "it"):
        raise ValueError("no")
    assert not (tmp_path / "it.done").exists()
    with once(tmp_path, "it"):
        pass
    assert (tmp_path / "it.done").exists()


def test_nobody_waits_longer_than_patience_or_where_nothing_can_be_written(tmp_path):
    with once(tmp_path, "it"), once(tmp_path, "it", patience=0.0):
        pass
    (tmp_path / "file").touch()
    assert remember(tmp_path / "file" / "it", lambda: "made") == "made"
