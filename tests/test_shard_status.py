"""What the files of a run tell about its shards."""

import json
from pathlib import Path

import pytest

from prefdata.cluster.status import RunStatus, look_at_run, watch_run
from prefdata.errors import PrefdataError
from prefdata.run.shard_status import (
    ALIVE_SECONDS,
    ShardState,
    ShardStatus,
    forget_attempts,
    look_at_shards,
    write_status,
)
from prefdata.run.shards import Shard
from prefdata.storage.disk import write_text


@pytest.fixture
def folders(tmp_path):
    """Folders of four shards."""
    made = [Shard(number, 4).folder(tmp_path) for number in range(4)]
    for folder in made:
        folder.mkdir(parents=True)
    return made


def test_each_state_shows_in_the_files(tmp_path, folders):
    (folders[0] / "shard.json").write_text('{"run": "abc"}')
    (folders[1] / "attempt").write_text("7.0")
    (folders[2] / "failed").write_text("exit code 1\n")
    states = look_at_shards(tmp_path, 4)
    assert [one.state for one in states] == ["done", "running", "failed", "waiting"]
    assert states[2].reason == "exit code 1"


def test_a_shard_that_was_finished_for_another_recipe_does_not_count(tmp_path, folders):
    (folders[0] / "shard.json").write_text('{"run": "abc"}')
    assert look_at_shards(tmp_path, 4, run="abc")[0].state == "done"
    assert look_at_shards(tmp_path, 4, run="def")[0].state == "waiting"


def test_the_progress_of_another_recipe_does_not_count(tmp_path, folders):
    write_status(folders[0], ShardStatus(1, 1, 100, 100, 9.0))
    (folders[0] / "shard.json").write_text('{"run": "abc"}')
    assert look_at_shards(tmp_path, 4, run="abc")[0].status is not None
    (other, *_) = look_at_shards(tmp_path, 4, run="def")
    assert (other.state, other.status) == ("waiting", None)


def test_an_error_shows_though_no_row_was_begun(tmp_path, folders):
    (folders[1] / "error").write_text("the judge is poor")
    said = list(look_at_run(tmp_path, 4).lines())
    assert said[-1] == "shard 1 waits; its last attempt ended: the judge is poor"


def test_what_is_submitted_anew_has_not_failed(tmp_path, folders):
    (folders[2] / "failed").write_text("exit code 1\n")
    forget_attempts(tmp_path, 4, [1, 2])
    assert look_at_shards(tmp_path, 4)[2].state == "waiting"


def test_an_attempt_without_a_sign_of_life_does_not_run(tmp_path, folders):
    (folders[1] / "attempt").write_text("7.0")
    begun = (folders[1] / "attempt").stat().st_mtime
    for seconds, state in ((ALIVE_SECONDS - 1, "running"), (ALIVE_SECONDS + 1, "waiting")):
        assert look_at_shards(tmp_path, 4, now=begun + seconds)[1].state == state


def test_passes_and_rows_make_the_part_that_is_done():
    assert ShardStatus(1, 2, 50, 100, 9.0).fraction == 0.75
    assert ShardStatus(0, 1, 0, 0, 9.0).fraction == 1


def test_rows_and_time_left_come_from_the_shards_that_have_begun(tmp_path, folders):
    write_status(folders[0], ShardStatus(1, 2, 100, 100, 600.0))
    (folders[0] / "shard.json").write_text('{"run": "abc"}')
    write_status(folders[1], ShardStatus(1, 2, 0, 100, 300.0))
    assert list(look_at_run(tmp_path, 4).lines()) == [
        "4 shards: 1 done, 1 running, 2 waiting, 0 failed",
        "150 of about 400 rows",
        "about 25 minutes left, with 1 at a time",
    ]


def test_a_run_that_has_not_begun_has_no_rows(tmp_path):
    jobs = {"arrays": [], "merge": None, "shards": 3, "scored": "", "fingerprint": ""}
    write_text(tmp_path / "slurm" / "jobs.json", json.dumps(jobs))
    assert list(look_at_run(tmp_path, 3).lines())[:2] == [
        "3 shards: 0 done, 0 running, 3 waiting, 0 failed",
        "no row is done yet",
    ]


def test_a_finished_run_of_another_recipe_shows_beside_the_shards(tmp_path, folders):
    jobs = {"arrays": [], "merge": None, "shards": 4, "scored": "b", "fingerprint": "c"}
    write_text(tmp_path / "slurm" / "jobs.json", json.dumps(jobs))
    record = {"fingerprint": "a", "rows": 60, "pairs": {"train": 50, "test": 5}}
    write_text(tmp_path / "run.json", json.dumps(record))
    told = list(look_at_run(tmp_path, 4).lines())
    assert told[0] == "4 shards: 0 done, 0 running, 4 waiting, 0 failed"
    assert "a finished run of another recipe or pair rule is there: 60 rows, 55 pairs" in told[2]


def test_a_failed_shard_is_told_with_its_log(tmp_path, folders):
    (folders[2] / "failed").write_text("exit code 2")
    write_status(folders[1], ShardStatus(0, 1, 0, 9, 1.0))
    log = tmp_path / "slurm" / "logs" / "shard-2.log"
    assert f"shard 2 failed: exit code 2; see {log}" in list(look_at_run(tmp_path, 4).lines())


def test_a_shard_leaves_word_until_it_is_done(project):
    from prefdata.pipeline import build_shard

    out = project.folder / "out"
    build_shard(project.load(), out, Shard(0, 2), rehearse=True, say=print)
    one, two = look_at_shards(out, 2)
    assert (one.state, two.state) == ("done", "waiting")
    assert one.status.fraction == 1
    assert one.status.of_rows == 10


def test_the_error_that_ends_an_attempt_is_told_until_another_one_goes_well(project):
    from prefdata.pipeline import build_shard

    out, lines = project.folder / "out", project.folder / "seeds.jsonl"
    loaded = project.load()
    known, _ = lines.read_bytes(), lines.write_bytes(b"")
    with pytest.raises(PrefdataError) as told:
        build_shard(loaded, out, Shard(1, 2), rehearse=True, say=print)
    state = look_at_shards(out, 2)[1]
    assert (state.state, state.reason) == ("waiting", str(told.value))
    write_status(state.shard.folder(out), ShardStatus(0, 1, 0, 9, 1.0))
    assert f"shard 1 waits; its last attempt ended: {told.value}" in list(
        look_at_run(out, 2).lines()
    )
    lines.write_bytes(known)
    build_shard(loaded, out, Shard(1, 2), rehearse=True, say=print)
    assert look_at_shards(out, 2)[1].reason is None


def test_another_division_is_refused(tmp_path, folders):
    from prefdata.run.shards import count_shards

    assert count_shards(tmp_path, default=9) == 4
    with pytest.raises(PrefdataError, match="already divided into 4 shards, not into 8; leave out"):
        count_shards(tmp_path, 8)


def test_the_status_for_programs_has_the_same_figures(tmp_path, folders):
    (folders[0] / "shard.json").write_text('{"run": "abc"}')
    (folders[2] / "failed").write_text("exit code 2")
    write_status(folders[1], ShardStatus(1, 2, 50, 100, 300.0))
    told = look_at_run(tmp_path, 4).told()
    assert told["shards"] == {"done": 1, "running": 1, "waiting": 1, "failed": 1}
    assert (told["rows"], told["of_rows"], told["is_over"]) == (75, 400, False)
    assert told["failed"] == [
        {
            "shard": 2,
            "reason": "exit code 2",
            "log": str(tmp_path / "slurm" / "logs" / "shard-2.log"),
        }
    ]
    record = {"fingerprint": "a", "rows": 60, "pairs": {"train": 50, "test": 5}}
    write_text(tmp_path / "run.json", json.dumps(record))
    told = look_at_run(tmp_path, 4).told()
    assert (told["is_merged"], told["is_over"], told["rows"], told["pairs"]) == (True, True, 60, 55)


def states(*told, **more):
    shards = [ShardState(Shard(n, len(told)), state) for n, state in enumerate(told)]
    return RunStatus(Path("out"), shards, **more)


@pytest.mark.parametrize(
    ("status", "is_over"),
    [
        (states("done", "running"), False),
        (states("done", "waiting"), False),
        (states("done", "waiting", queue={1: False}), False),
        (states("done", "waiting", queue={}), True),
        (states("done", "failed", queue={}), True),
        (states("failed", "running", queue={1: True}), False),
        (states("done", "done"), False),
        (states("done", "done", queue={}), False),
        (states("done", "done", queue={}, notes=["the merge is not in the queue"]), True),
        (states("done", "done", notes=["the queue could not be read"]), False),
        (RunStatus(Path("out")), True),
        (RunStatus(Path("out"), record={}, is_merged=True), True),
    ],
)
def test_a_run_is_over_when_nothing_will_change_by_itself(status, is_over):
    assert status.is_over is is_over


def test_watching_ends_with_the_run():
    coming = [states("running"), states("done"), RunStatus(Path("out"), is_merged=True)]
    left, shown, waits = list(coming), [], []
    assert watch_run(lambda: left.pop(0), shown.append, wait=waits.append).is_merged
    assert shown == coming
    assert len(waits) == 2
