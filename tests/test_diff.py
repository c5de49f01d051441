"""`prefdata diff`, and what a run tells of its own pairs before they were chosen again."""

import orjson
import pytest
from runs import make_run
from typer.testing import CliRunner

from prefdata.cli import app
from prefdata.hub.fetched import read_pairs
from prefdata.pairs.diff import Diff, compare_pairs
from prefdata.pairs.repick import pairs_of_run

OLD = [("q1", "a", "b"), ("q2", "a", "b"), ("q3", "a", "b"), ("q4", "a", "b"), ("q5", "a", "b")]


def diff(one, other):
    (_, pairs), (_, others) = read_pairs(str(one)), read_pairs(str(other))
    return compare_pairs(pairs, others)


def test_every_pair_is_kept_changed_gone_or_new_for_a_reason(tmp_path):
    new = [
        ("q1 ", "a", " b"),  # a prompt and its texts are the same but for blanks
        ("q2", "b", "a"),
        ("q3", "a", "c"),
        ("q4", "c", "b"),
        ("q6", "a", "b"),
    ]
    found = diff(make_run(tmp_path / "one", OLD), make_run(tmp_path / "other", new))
    assert found == Diff(
        pairs=(5, 5),
        kept=1,
        moved={},
        rescored=0,
        changed={"swapped": 1, "rejected": 1, "chosen": 1, "prompt": 1},
        gone={},
        new={},
    )


def test_what_a_rule_left_out_is_gone_for_its_reason_and_comes_back_for_it(tmp_path):
    one, other = make_run(tmp_path / "one", OLD), tmp_path / "other"
    pairs_of_run(one, ["max_pairs=2"], other)
    found = diff(one, other)
    assert (found.kept, found.changed, found.gone) == (2, {}, {"pairs: over_max_pairs": 3})
    assert diff(other, one).new == {"pairs: over_max_pairs": 3}


def test_a_row_that_the_other_run_does_not_have_is_told_apart(tmp_path):
    one, other = make_run(tmp_path / "one", OLD), make_run(tmp_path / "other", OLD[:3])
    assert diff(one, other).gone == {"not among the rows": 2}
    assert diff(other, one).new == {"not among the rows": 2}


def test_a_row_with_another_id_is_found_by_its_prompt(tmp_path):
    rows = [("q0", "a", "b"), *OLD[1:]]  # ids are of the turn, so q1 is another row than q0
    one = make_run(tmp_path / "one", OLD)
    other = make_run(tmp_path / "other", [*rows[1:], ("q1", "a", "a")])
    assert diff(one, other).gone == {"pairs: identical": 1}


def test_several_pairs_of_a_prompt_find_each_other(tmp_path):
    one = make_run(tmp_path / "one", [("q", "a", "b"), ("q", "a", "c"), ("q", "d", "e")])
    other = make_run(tmp_path / "other", [("q", "d", "e"), ("q", "a", "c")])
    found = diff(one, other)
    assert (found.kept, found.changed, found.gone) == (2, {}, {"its prompt has fewer pairs": 1})
    assert diff(other, one).new == {"its prompt has more pairs": 1}


def test_a_swap_is_found_whichever_other_texts_there_are(tmp_path):
    old = [(f"q{n}", f"a{n}", f"b{n}") for n in range(100)]
    new = [(q, b, a) if n % 2 else (q, a, b) for n, (q, a, b) in enumerate(old)]
    one, swapped = make_run(tmp_path / "one", old), make_run(tmp_path / "swapped", new)
    assert (diff(one, swapped).kept, diff(one, swapped).changed) == (50, {"swapped": 50})
    other = make_run(tmp_path / "other", [(q, a, f"c{n}") for n, (q, a, _) in enumerate(old)])
    assert diff(one, other).changed == {"rejected": 100}
    assert diff(swapped, other).changed == {"rejected": 50, "both": 50}


def test_a_pair_that_is_held_out_now_is_told(tmp_path):
    one, other = make_run(tmp_path / "one", OLD), tmp_path / "other"
    pairs_of_run(one, ["test_size=2"], other)
    assert diff(one, other).moved == {"train to test": 2}
    assert diff(other, one).moved == {"test to train": 2}


def test_the_command_prints_tables_or_json(tmp_path):
    one, other = make_run(tmp_path / "one", OLD), tmp_path / "other"
    pairs_of_run(one, ["max_pairs=2"], other)
    ran = CliRunner().invoke(app, ["diff", str(one), str(other)])
    assert ran.exit_code == 0
    assert "pairs: over_max_pairs" in ran.output
    ran = CliRunner().invoke(app, ["diff", str(one), str(other), "--json"])
    assert orjson.loads(ran.output)["gone"] == {"pairs: over_max_pairs": 3}


def test_a_run_whose_pairs_are_chosen_again_tells_what_has_changed(tmp_path):
    run = make_run(tmp_path, OLD)
    assert pairs_of_run(run, ["max_pairs=2"], run)["changes"]["gone"] == {
        "pairs: over_max_pairs": 3
    }
    again = pairs_of_run(run, ["max_pairs=4"], run)["changes"]
    assert (again["kept"], again["new"]) == (2, {"pairs: over_max_pairs": 2})
    assert pairs_of_run(run, ["max_pairs=1"], tmp_path / "other")["changes"] is None


@pytest.mark.parametrize("place", ["nowhere", "hf://datasets/nobody"])
def test_what_is_no_run_is_an_error(tmp_path, place):
    ran = CliRunner().invoke(app, ["diff", str(make_run(tmp_path, OLD)), place])
    assert ran.exit_code == 2
