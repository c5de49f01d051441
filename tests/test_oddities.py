import pytest

from prefdata.run.oddities import find_oddities

FAIR = {"rows": 100, "agreed": 90, "ties": 10, "first": 95, "second": 95, "neither": 10}


def record(**changes):
    """A run with nothing odd, but for the changes."""
    return {
        "rehearsed": False,
        "rows": 100,
        "candidates": 800,
        "pairs": {"train": 80, "test": 20},
        "rejects": {},
        "drops": {"identical": 400},
        "judges": {"judge": FAIR},
        "one_order": {},
        "lengths": (60, 40),
        "outcomes": {"answer": {"bold": {"stop": 60, "length": 30}}},
        **changes,
    }


def judged(first, second):
    return {"judge": FAIR | {"first": first, "second": second}}


def test_an_ordinary_run_has_nothing_odd():
    assert find_oddities(record()) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"drops": {"identical": 401}}, "Few different texts: 401 of 800 (50.1%)"),
        ({"rejects": {"pairs: tie": 34}}, "Many ties: 34 of 100 rows (34.0%)"),
        ({"rejects": {"pairs: tie": 34}, "judges": {}}, "a rubric with more criteria"),
        ({"judges": judged(130, 70)}, "judge names the response shown first in 65.0%"),
        ({"judges": judged(70, 130)}, "judge names the response shown second in 65.0%"),
        ({"judges": judged(199, 1)}, "judge answers A in 99.5% of its verdicts, whichever"),
        ({"judges": judged(1, 199)}, "judge answers B in 99.5% of its verdicts, whichever"),
        ({"one_order": judged(199, 1)}, "judge answers A in 99.5% of its verdicts. It is asked"),
        ({"lengths": (61, 39)}, "the longer text is chosen in 61.0% of 100 pairs"),
        ({"lengths": (39, 61)}, "the shorter text is chosen in 61.0% of 100 pairs"),
        ({"pairs": {"train": 80, "test": 4}}, "an accuracy on 4 pairs is known to ± 49% only"),
        (
            {"outcomes": {"answer": {"bold": {"stop": 60, "length": 31}}}},
            "34.1% of those of 'bold' in column 'answer' reach max_tokens",
        ),
    ],
)
def test_what_is_odd_is_told_in_one_sentence(changes, told):
    [warning] = find_oddities(record(**changes))
    assert told in warning


@pytest.mark.parametrize(
    "changes",
    [
        {"candidates": 20, "drops": {"identical": 19}},
        {"rows": 20, "rejects": {"pairs: tie": 20}},
        {"judges": judged(29, 0)},
        {"one_order": judged(29, 0)},
        {"lengths": (29, 0)},
        {"pairs": {"train": 10, "test": 2}},
        {"outcomes": {"answer": {"bold": {"length": 29}}}},
    ],
    ids=str,
)
def test_little_data_is_not_called_odd(changes):
    assert find_oddities(record(**changes)) == []


def test_a_rehearsal_is_not_judged():
    assert find_oddities(record(rehearsed=True, lengths=(100, 0))) == []


def test_a_record_of_an_earlier_version_can_be_read():
    old = record(drops={})
    for name in ("one_order", "lengths", "outcomes"):
        del old[name]
    assert find_oddities(old) == []
