import errno
import os
import socket
import subprocess
import sys
from uuid import uuid4

import pyarrow as pa
import pytest

from prefdata.errors import PrefdataError
from prefdata.rows import JSON_FIELD
from prefdata.storage import folders
from prefdata.storage.disk import (
    LOCK,
    Damaged,
    disk_errors,
    hold,
    publish,
    sweep,
    temporary_name,
    whole_file,
    write_text,
)
from prefdata.storage.folders import RowsWriter, count_rows, read_rows, read_schema, read_tables

SCHEMA = pa.schema({"id": pa.string()})


def table(*ids):
    return pa.table({"id": pa.array(ids, pa.string())})


def save(folder, *ids, stem="rows"):
    with RowsWriter(folder, SCHEMA, stem=stem) as rows:
        rows.write(table(*ids))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def ids(folder):
    return [row["id"] for row in read_rows(folder)]


def left_by(host, process):
    return f".rows@{host}-{process}-0badcafe.tmp"


def dead_process():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_rows_come_back_in_order(tmp_path):
    save(tmp_path / "a", "c", "a", "b")
    assert ids(tmp_path / "a") == ["c", "a", "b"]
    assert count_rows(tmp_path / "a") == 3
    assert names(tmp_path / "a") == ["rows-00000-of-00001.parquet"]


def test_no_rows_are_a_whole_folder_with_a_schema(tmp_path):
    save(tmp_path / "a")
    assert read_schema(tmp_path / "a") == SCHEMA
    assert (count_rows(tmp_path / "a"), ids(tmp_path / "a")) == (0, [])


def test_a_long_folder_has_several_files_that_know_their_number(tmp_path):
    many = folders.ROWS_PER_FILE + folders.ROWS_PER_GROUP
    with RowsWriter(tmp_path / "a", SCHEMA) as rows:
        for start in range(0, many, folders.ROWS_PER_GROUP):
            rows.write(table(*map(str, range(start, start + folders.ROWS_PER_GROUP))))
    assert names(tmp_path / "a") == ["rows-00000-of-00002.parquet", "rows-00001-of-00002.parquet"]
    assert ids(tmp_path / "a") == [str(n) for n in range(many)]


def test_stems_are_read_by_themselves(tmp_path):
    with RowsWriter(tmp_path / "a", SCHEMA, stem="train") as rows:
        rows.write(table("1"))
        rows.write(table("2"), stem="test")
    [test] = read_tables(tmp_path / "a", stem="test")
    assert test["id"].to_pylist() == ["2"]


def test_json_columns_are_parsed(tmp_path):
    schema = pa.schema([pa.field("id", pa.string()), pa.field("x", pa.string(), False, JSON_FIELD)])
    with RowsWriter(tmp_path / "a", schema) as rows:
        rows.write(pa.table({"id": ["1"], "x": ['{"y": [1, null]}']}, schema=schema))
    assert list(read_rows(tmp_path / "a")) == [{"id": "1", "x": {"y": [1, None]}}]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_exception_leaves_nothing_behind_and_the_old_folder_as_it_was(tmp_path, error):
    save(tmp_path / "a", "old")
    with pytest.raises(error), RowsWriter(tmp_path / "a", SCHEMA) as rows:
        rows.write(table("new"))
        raise error
    assert names(tmp_path) == ["a"]
    assert ids(tmp_path / "a") == ["old"]


def test_a_new_folder_takes_the_place_of_the_old_one(tmp_path):
    with RowsWriter(tmp_path / "a", SCHEMA, stem="train") as rows:
        rows.write(table("1"))
        rows.write(table("2"), stem="test")
    save(tmp_path / "a", "3", stem="train")
    assert names(tmp_path) == ["a"]
    assert ids(tmp_path / "a") == ["3"]


def test_two_writers_of_one_folder_both_leave_a_whole_one(tmp_path):
    with RowsWriter(tmp_path / "a", SCHEMA) as first:
        first.write(table("1"))
        save(tmp_path / "a", "2")
        assert ids(tmp_path / "a") == ["2"]
    assert ids(tmp_path / "a") == ["1"]


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_folder_that_lacks_a_part_is_refused(tmp_path, lost):
    for part in range(3):
        save(tmp_path / str(part), str(part))
        source = tmp_path / str(part) / "rows-00000-of-00001.parquet"
        if part != lost:
            (tmp_path / "a").mkdir(exist_ok=True)
            source.rename(tmp_path / "a" / f"rows-{part:05d}-of-00003.parquet")
    with pytest.raises(Damaged, match="parquet files are missing"):
        count_rows(tmp_path / "a")
    with pytest.raises(Damaged):
        ids(tmp_path / "a")


def test_an_empty_or_absent_folder_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    for folder in (tmp_path / "a", tmp_path / "b"):
        with pytest.raises(Damaged):
            read_schema(folder)


@pytest.mark.parametrize("size", [0, 3, 50, -1])
def test_a_file_that_is_cut_short_is_refused(tmp_path, size):
    save(tmp_path / "a", *"abc")
    file = tmp_path / "a" / "rows-00000-of-00001.parquet"
    os.truncate(file, size if size >= 0 else file.stat().st_size + size)
    with pytest.raises(Damaged, match=r"damaged or cut short .* delete .*/a and run"):
        count_rows(tmp_path / "a")


def test_a_flipped_bit_in_a_page_is_noticed_when_the_rows_are_read(tmp_path):
    save(tmp_path / "a", *(uuid4().hex for n in range(1000)))
    file = tmp_path / "a" / "rows-00000-of-00001.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert count_rows(tmp_path / "a") == 1000
    with pytest.raises(Damaged, match="CRC"):
        ids(tmp_path / "a")


def test_a_disk_that_cannot_be_read_is_not_called_a_damaged_file(tmp_path):
    save(tmp_path / "a", "1")
    file = tmp_path / "a" / "rows-00000-of-00001.parquet"
    file.rename(tmp_path / "b")
    file.symlink_to("rows-00000-of-00001.parquet")  # a circle: ELOOP
    with pytest.raises(OSError, match="symbolic links"):
        count_rows(tmp_path / "a")


def test_a_file_is_whole_or_not_there(tmp_path):
    write_text(tmp_path / "deep" / "a.txt", "old")
    with pytest.raises(ValueError), whole_file(tmp_path / "deep" / "a.txt") as file:
        file.write(b"half of the n")
        raise ValueError
    assert (tmp_path / "deep" / "a.txt").read_text() == "old"
    assert names(tmp_path / "deep") == ["a.txt"]


def test_a_file_takes_away_what_a_killed_process_left_of_it(tmp_path):
    (tmp_path / left_by(socket.gethostname(), dead_process())).write_text("half")
    (tmp_path / left_by(socket.gethostname(), os.getpid())).write_text("being written")
    (tmp_path / left_by("elsewhere", 1)).write_text("who knows")
    write_text(tmp_path / "rows", "whole")
    assert len(names(tmp_path)) == 3


def test_whoever_is_alone_removes_all_that_was_left(tmp_path):
    (tmp_path / "stages").mkdir()
    for host, process in ((socket.gethostname(), os.getpid()), ("elsewhere", 1)):
        (tmp_path / "stages" / left_by(host, process)).mkdir()
        (tmp_path / left_by(host, process)).write_text("half")
    save(tmp_path / "stages" / "1-a", "1")
    with hold(tmp_path):
        assert names(tmp_path) == [LOCK, "stages"]
    assert names(tmp_path) == ["stages"]
    assert names(tmp_path / "stages") == ["1-a"]


def test_whoever_is_not_alone_removes_only_what_dead_processes_of_this_host_left(tmp_path):
    here = socket.gethostname()
    dead, alive = left_by(here, dead_process()), left_by(here, os.getpid())
    unknown = left_by("host-elsewhere", dead_process())
    for name in (dead, alive, unknown, ".rows.tmp", ".@.tmp", ".a@b.tmp"):
        (tmp_path / name).mkdir()
    sweep(tmp_path, is_alone=False)
    assert names(tmp_path) == sorted([alive, unknown, ".rows.tmp", ".@.tmp", ".a@b.tmp"])


def test_a_temporary_name_tells_its_owner_and_is_never_given_twice(tmp_path):
    first, second = temporary_name(tmp_path / "rows"), temporary_name(tmp_path / "rows")
    assert first != second
    first.mkdir()
    sweep(tmp_path, is_alone=False)
    assert first.exists()


def test_only_one_process_at_a_time_writes_in_a_folder(tmp_path):
    with (
        hold(tmp_path),
        pytest.raises(PrefdataError, match=f"process {os.getpid()} on .* is writing there; wait"),
        hold(tmp_path),
    ):
        pass
    with hold(tmp_path):  # given back
        pass


def test_a_killed_process_holds_nothing(tmp_path):
    code = "import os, sys, pathlib; from prefdata.storage.disk import hold\n"
    code += "with hold(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert names(tmp_path) == [LOCK]
    with hold(tmp_path):
        pass


def test_a_kill_between_the_two_renames_loses_no_whole_folder(tmp_path):
    save(tmp_path / "a", "old")
    save(tmp_path / "b", "new")
    old, new = temporary_name(tmp_path / "a"), temporary_name(tmp_path / "a")
    (tmp_path / "b").rename(new)
    (tmp_path / "a").rename(old)  # killed here: the next run makes `a` again
    with hold(tmp_path):
        save(tmp_path / "a", "new")
    assert names(tmp_path) == ["a"]
    assert ids(tmp_path / "a") == ["new"]


def test_publishing_replaces_a_file_at_once(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").write_text("new")
    publish(tmp_path / "b", tmp_path / "a")
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "new"


def test_an_error_of_the_disk_names_place_cause_and_remedy(tmp_path):
    message = r"run: cannot go on: the disk is full; free some space and run the same command again"
    with pytest.raises(PrefdataError, match=message), disk_errors(tmp_path / "run"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_in_the_place_of_a_folder_is_not_thrown_away(tmp_path):
    (tmp_path / "a").write_text("mine")
    message = "a: cannot go on: a file stands where a folder is needed; move it away"
    with pytest.raises(PrefdataError, match=message), disk_errors(tmp_path):
        save(tmp_path / "a", "1")
    assert names(tmp_path) == ["a"]


def test_an_error_that_the_user_cannot_mend_stays_a_bug(tmp_path):
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path):
        (tmp_path / "nowhere").read_text()
    with pytest.raises(OSError, match="no errno"), disk_errors(tmp_path):
        raise OSError("no errno")
