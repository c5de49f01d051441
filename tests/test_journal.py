import math
import os
import threading
from pathlib import Path
from zlib import crc32

import orjson
import pytest
from forks import FORKS
from hypothesis import given, settings
from hypothesis import strategies as st

from prefdata.errors import PrefdataError
from prefdata.inference import Completion
from prefdata.storage.journal import OPEN_FILES, Damage, Journal

TEXTS = {
    "ascii": "plain",
    "empty": "",
    "line separators": "a\u2028b\u2029c\x85d\r\ne",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈",
    "NUL": "before\0after",
    "looks like a record": '","crc":"00000000"}\n{"key":"' + "0" * 32,
    "a megabyte": "long ä " * 150_000,
}


BEFORE_VERSIONS = (
    b'{"key":"00000000000000000000000000000007","value":{"text":"Ja.","finish_reason":"stop",'
    b'"prompt_tokens":3,"completion_tokens":2},"crc":"24c71b29"}\n'
)
"""A record as it was written when records stated no version."""


def as_version(version, line):
    """The same record, as if another release had written it."""
    body = line[: line.rindex(b',"v":')] + b',"v":%d}' % version
    return body[:-1] + b',"crc":"%08x"}\n' % crc32(body)


def key(number):
    return f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC834 % 2**128:032x}"


def write(folder, values, worker="w0"):
    with Journal(folder, worker) as journal:
        journal.append([(key(number), value) for number, value in values.items()])


def read(folder, numbers):
    with Journal(folder) as journal:
        return {number: values[0] for number in numbers if (values := journal.get(key(number)))}


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def only_file(folder):
    [file] = folder.iterdir()
    return file


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_comes_back_as_it_was(tmp_path, text):
    completion = Completion(text, "stop", 3, 5)
    write(tmp_path, {1: completion})
    assert read(tmp_path, [1]) == {1: orjson.loads(orjson.dumps(completion))}


def test_a_score_comes_back_to_the_last_bit_and_what_is_not_finite_as_null(tmp_path):
    logits = (0.1 + 0.2, -1.0 / 3, 5e-324, 1.7976931348623157e308, math.nan, math.inf, -math.inf)
    write(tmp_path, {1: {"logits": logits}})
    assert read(tmp_path, [1])[1]["logits"] == [*logits[:4], None, None, None]


def test_unknown_keys_have_no_value(tmp_path):
    write(tmp_path, {1: "one"})
    with Journal(tmp_path) as journal:
        assert journal.get(key(2)) == []
        # equal in the half that is held in memory
        assert journal.get(key(1)[:16] + key(2)[16:]) == []


def test_an_earlier_run_is_read_and_none_of_its_bytes_are_touched(tmp_path):
    write(tmp_path, {1: "one"})
    before = only_file(tmp_path).read_bytes()
    write(tmp_path, {2: "two"})
    first, second = sorted(tmp_path.iterdir())
    assert first.read_bytes() == before
    assert read(tmp_path, [1, 2]) == {1: "one", 2: "two"}
    assert second.name == "w0-001.jsonl"


def test_the_first_of_two_records_with_one_key_counts(tmp_path):
    write(tmp_path, {1: "first"})
    write(tmp_path, {1: "second"})
    assert read(tmp_path, [1]) == {1: "first"}


def test_nothing_is_written_before_the_first_record(tmp_path):
    with Journal(tmp_path / "journal") as journal:
        assert len(journal) == 0
    assert not (tmp_path / "journal").exists()


def test_more_files_than_may_be_open_are_read(tmp_path):
    numbers = range(2 * OPEN_FILES)
    for number in numbers:
        write(tmp_path, {number: number + 1}, worker=f"w{number}")
    before = open_files()
    with Journal(tmp_path) as journal:
        assert [journal.get(key(number)) for number in numbers] == [[n + 1] for n in numbers]
        assert open_files() <= before + OPEN_FILES
    assert open_files() == before


def test_a_file_cut_at_any_byte_loses_the_cut_record_and_nothing_else(tmp_path):
    values = {1: "one", 2: {"logits": [0.5]}, 3: "drei\u2028🙂", 4: "four"}
    write(tmp_path / "whole", values)
    data = only_file(tmp_path / "whole").read_bytes()
    ends = [0, *(n + 1 for n, byte in enumerate(data) if byte == ord("\n"))]
    for cut in range(len(data) + 1):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "w0-000.jsonl").write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends) - 1
        with Journal(folder) as journal:
            assert len(journal) == whole
            torn = cut - ends[whole]
            assert journal.damage == ([Damage("w0-000.jsonl", ends[whole], torn)] if torn else [])
            journal.append([(key(9), "after")])
        kept = {n: values[n] for n in list(values)[:whole]}
        assert read(folder, [*values, 9]) == kept | {9: "after"}


@settings(max_examples=200, deadline=None)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=8),
    data=st.data(),
)
def test_a_flipped_bit_loses_one_record_or_two_and_returns_no_wrong_value(
    tmp_path_factory, texts, data
):
    folder = tmp_path_factory.mktemp("journal")
    write(folder, dict(enumerate(texts)))
    file = only_file(folder)
    raw = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(raw)
    with Journal(folder) as journal:
        found = [journal.get(key(number)) for number in range(len(texts))]
        assert journal.damage
    lost = [number for number, text in enumerate(texts) if found[number] != [text]]
    assert [found[number] for number in lost] == [[]] * len(lost)
    assert len(lost) <= 2  # two where the line break between them was hit


@pytest.mark.parametrize(
    "tail",
    [b"\0" * 5000, b'{"key":"', os.urandom(3000), b"\n\n\n", b'{"key":"x","crc":"00000000"}\n'],
    ids=["NUL bytes after a power cut", "half a record", "noise", "empty lines", "a wrong sum"],
)
def test_what_is_no_record_is_told_once_and_passed_over(tmp_path, tail):
    write(tmp_path, {1: "one"})
    file = only_file(tmp_path)
    size = file.stat().st_size
    with file.open("ab") as journal:
        journal.write(tail)
    with Journal(tmp_path) as journal:
        assert journal.damage == [Damage(file.name, size, len(tail))]
        assert "done again, everything else is kept" in str(journal.damage[0])
        assert journal.get(key(1)) == ["one"]


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, os.urandom(4096), b"[]\n"])
def test_a_file_without_one_record_does_no_harm(tmp_path, content):
    (tmp_path / "w7-000.jsonl").write_bytes(content)
    write(tmp_path, {1: "one"})
    assert read(tmp_path, [1]) == {1: "one"}


def test_a_file_that_changes_under_a_reader_gives_no_wrong_value(tmp_path):
    write(tmp_path, {1: "one", 2: "two"})
    with Journal(tmp_path) as journal:
        os.truncate(only_file(tmp_path), 10)
        assert journal.get(key(1)) == []


def append_at_once(folder, number, ready):
    with Journal(folder) as journal:
        ready.wait()
        for value in range(200):
            journal.append([(key(1000 * number + value), value + 1)])


def test_processes_that_open_at_the_same_time_get_files_of_their_own(tmp_path):
    ready = FORKS.Barrier(4)
    writers = [FORKS.Process(target=append_at_once, args=(tmp_path, n, ready)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(list(tmp_path.iterdir())) == 4
    with Journal(tmp_path) as journal:
        assert len(journal) == 800
        assert not journal.damage
        assert all(journal.get(key(1000 * n + v)) == [v + 1] for n in range(4) for v in range(200))


def test_records_are_with_the_kernel_as_soon_as_append_returns(tmp_path):
    with Journal(tmp_path) as journal:
        for number in range(3):
            journal.append([(key(number), "value")])
            assert len(only_file(tmp_path).read_bytes().splitlines()) == number + 1


def test_a_closed_journal_leaves_no_thread_and_no_file_open(tmp_path):
    threads, files = threading.active_count(), open_files()
    write(tmp_path, {1: "one"})
    read(tmp_path, [1])
    assert (threading.active_count(), open_files()) == (threads, files)


def test_a_record_is_one_line_of_plain_json(tmp_path):
    write(tmp_path, {1: "one"})
    [line] = Path(only_file(tmp_path)).read_bytes().splitlines()
    assert list(orjson.loads(line)) == ["key", "value", "v", "crc"]


def test_a_journal_from_before_records_had_a_version_is_read(tmp_path):
    (tmp_path / "w0-1.jsonl").write_bytes(BEFORE_VERSIONS)
    with Journal(tmp_path) as journal:
        [value] = journal.get("0" * 31 + "7")
        assert journal.damage == []
    assert value["text"] == "Ja."


def test_a_record_of_a_newer_version_stops_the_run_with_one_message(tmp_path):
    write(tmp_path, {1: "one", 2: "two"})
    file = only_file(tmp_path)
    file.write_bytes(b"".join(as_version(2, line) for line in file.read_bytes().splitlines()))
    with pytest.raises(PrefdataError, match="version 2, written by a newer prefdata") as caught:
        Journal(tmp_path)
    assert str(caught.value).count("\n") == 0


def test_a_text_that_looks_like_a_version_is_none(tmp_path):
    write(tmp_path, {1: ',"v":2,"crc":"00000000"}', 2: {"v": 2}})
    assert read(tmp_path, [1, 2]) == {1: ',"v":2,"crc":"00000000"}', 2: {"v": 2}}


def test_a_file_is_closed_after_a_while_and_the_next_one_begun(tmp_path):
    with Journal(tmp_path, file_seconds=0) as journal:
        for number in range(3):
            journal.append([(f"{number:032x}", number)])
    assert [file.name for file in sorted(tmp_path.glob("*"))] == [
        f"w0-{number:03d}.jsonl" for number in range(3)
    ]
    with Journal(tmp_path) as journal:
        assert [journal.get(f"{number:032x}") for number in range(3)] == [[0], [1], [2]]
