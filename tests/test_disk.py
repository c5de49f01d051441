"""Full disks, read-only disks, damaged files: a clear message, and nothing finished is lost."""

import os
import re
import resource
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import forks
import orjson
import pyarrow.parquet as pq
import pytest
from conftest import Project

from prefdata.errors import PrefdataError
from prefdata.pipeline import build
from prefdata.storage.disk import publish, temporary_name
from prefdata.storage.ownership import LEDGER, claim_folder

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ("candidates", "pairs", "rejects")
ROWS, SAMPLES = 300, 4


@pytest.fixture
def project(project):
    return enlarged(project)


def enlarged(project):
    """With rows enough that every file of a run takes some pages of the disk."""
    project.write_seeds(
        [{"prompt": f"question {n}, {'words ' * 20}", "answer": n} for n in range(ROWS)]
        + [b"{broken"]
    )
    project.recipe["columns"].append(
        {"name": "small", "type": "expression", "expression": "{{ answer }}", "dtype": "int"}
    )
    project.recipe["output_projection"] |= {"test_size": 0.1, "min_margin": 6}
    return project


@pytest.fixture(scope="session")
def can_mount(tmp_path_factory):
    place = tmp_path_factory.mktemp("mount")
    tried = subprocess.run(
        ["mount", "-t", "tmpfs", "none", place], capture_output=True, check=False
    )
    if tried.returncode:
        pytest.skip("this user may not mount a file system")
    subprocess.run(["umount", place], check=True)


@contextmanager
def disk(place, size):
    """A file system of its own with so many KiB."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def remount(place, option):
    subprocess.run(["mount", "-o", f"remount,{option}", place], check=True)


def run(project, out, *overrides):
    """Build in this process; returns the record and what was said."""
    said = []
    record = build(project.load(*overrides), out, rehearse=True, say=said.append)
    return record, [line for line in said if "bad_line" not in line]


def command(project, out, **options):
    """The command in a process; its run folder is `<out>-rehearsal`."""
    return forks.run("build", project.write(), "--out", out, "--rehearse", **options)


def rows(out):
    """Every row of the results, file by file."""
    return {
        file.relative_to(out).as_posix(): pq.read_table(file).to_pylist()
        for name in RESULTS
        for file in sorted((out / name).glob("*.parquet"))
    }


def journaled(out):
    return sum(line.endswith(b'"}\n') for file in out.glob("journal/*") for line in file.open("rb"))


def requests(record):
    return record["requests"]["generated"] + record["requests"]["scored"]


def temporary_files(out):
    found = [path for path in out.rglob(".*") if path.name.startswith(".")]
    return [path for path in found if path.name != LEDGER]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("reference")
    record, _ = run(enlarged(Project(folder)), folder / "run")
    assert record["rejects"]["seeds: bad_line"] == 1
    assert len(record["rejects"]) > 1
    return folder / "run"


@pytest.fixture
def out(reference, tmp_path):
    """A run like it, with its links, that a test may harm."""
    subprocess.run(["cp", "-a", reference, tmp_path / "run"], check=True)
    return tmp_path / "run"


def size_of(out):
    """KiB of a run; what is linked twice counts once."""
    files = {file.stat().st_ino: file for file in out.rglob("*") if file.is_file()}
    return sum(-(-file.stat().st_size // 4096) * 4 for file in files.values())


def stopped_in(out):
    """What a run that a full disk has stopped was writing."""
    done = sorted(path.name.split("-")[0] for path in out.glob("stages/[0-9]*-????????"))
    count = journaled(out)
    if not done:
        return "seeds"
    if len(done) == 3:
        return "pairs"
    if count not in (ROWS * SAMPLES, 2 * ROWS * SAMPLES):
        return "journal"
    return "stage"


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_moment_costs_only_what_did_not_fit(
    project, reference, tmp_path, can_mount
):
    needed, where = size_of(reference), []
    for size in range(16, needed + 16, max(needed // 14, 4)):
        with disk(tmp_path / "small", size) as small:
            out = small / "run"
            try:
                run(project, out)
                where.append("fits")
            except PrefdataError as err:
                assert str(out) in str(err)
                assert "cannot go on: the disk is full; free some space and run the same" in str(
                    err
                )
                assert not temporary_files(out)
                where.append(stopped_in(out))
            finished = journaled(out)
            remount(small, f"size={10 * needed}k")
            record, said = run(project, out)
            assert rows(out) == rows(reference)
            assert journaled(out) == 2 * ROWS * SAMPLES
            if where[-1] != "fits":
                assert requests(record) == 2 * ROWS * SAMPLES - finished
            assert not [line for line in said if "whole record" in line]
    print({name: where.count(name) for name in where})
    assert {"seeds", "journal", "stage", "pairs"} <= set(where)


def test_the_command_says_in_one_line_that_the_disk_is_full(project, tmp_path, can_mount):
    with disk(tmp_path / "small", 300) as small:
        ended = command(project, small / "run")
        assert ended.returncode == 2
        assert "Traceback" not in ended.stderr
        assert ended.stderr.splitlines()[-1] == (
            f"error: {small}/run-rehearsal: cannot go on: the disk is full; free some space and "
            "run the same command again. Everything finished so far is kept."
        )
        remount(small, "size=100m")
        run(project, small / "run-rehearsal")


def limit_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))


def test_a_limit_on_the_size_of_files_is_told_like_a_full_disk(project, reference, tmp_path):
    ended = command(project, tmp_path / "run", first=limit_files)
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
    assert "the file is larger than this process may write; raise the limit" in ended.stderr
    out = tmp_path / "run-rehearsal"
    finished = journaled(out)
    assert finished > 100
    record, _ = run(project, out)
    assert rows(out) == rows(reference)
    assert requests(record) == 2 * ROWS * SAMPLES - finished


@pytest.mark.parametrize("finished", [False, True], ids=["empty", "half done"])
def test_a_read_only_folder_is_refused_before_any_work(project, tmp_path, can_mount, finished):
    with disk(tmp_path / "small", 10_000) as small:
        if finished:
            run(project, small / "run-rehearsal")
        remount(small, "ro")
        ended = command(project, small / "run")
        assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
        assert f"error: {small}/run-rehearsal" in ended.stderr
        assert "the file system is read-only; choose another folder with --out" in ended.stderr
        remount(small, "rw")
        run(project, small / "run-rehearsal")


def test_a_folder_that_turns_read_only_on_the_way_is_told(project, reference, tmp_path, can_mount):
    with disk(tmp_path / "small", 10_000) as small:
        run(project, small / "run")
        remount(small, "ro")
        with pytest.raises(PrefdataError, match="the file system is read-only"):
            run(project, small / "run", "output_projection.strategy=exhaustive")
        remount(small, "rw")
        record, _ = run(project, small / "run")
        assert rows(small / "run") == rows(reference)


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


def empty(file):
    os.truncate(file, 0)


def delete(file):
    file.unlink()


@pytest.mark.parametrize("harm", [cut, empty, delete])
@pytest.mark.parametrize("folder", RESULTS)
def test_a_damaged_result_is_made_anew_and_nothing_is_asked_again(
    project, reference, out, folder, harm
):
    file = sorted((out / folder).iterdir())[-1]
    harm(file)
    record, said = run(project, out)
    assert f"{folder}/{file.name}: " in said[0]
    assert said[0].endswith("it is made again")
    assert rows(out) == rows(reference)
    assert requests(record) == 0


@pytest.mark.parametrize("harm", [cut, empty, delete])
@pytest.mark.parametrize("stage", ["0-seeds-*", "1-*", "2-*", "*.rejects"])
def test_a_damaged_stage_of_an_unfinished_run_is_made_anew(project, reference, out, stage, harm):
    (out / "run.json").unlink()
    for folder in out.glob(f"stages/{stage}"):
        if folder.match("*.rejects") == stage.endswith(".rejects"):
            harm(folder / "rows-00000-of-00001.parquet")
    record, said = run(project, out)
    assert any(f"{out}/stages/" in line and "renamed" in line for line in said)
    assert rows(out) == rows(reference)
    assert requests(record) == 0
    assert run(project, out)[1] == ["nothing to do: this run is finished"]


def test_a_stage_whose_rejects_are_gone_is_made_anew(project, reference, out, tmp_path):
    (out / "run.json").unlink()
    for folder in out.glob("stages/*.rejects"):
        folder.rename(tmp_path / folder.name)
    record, _ = run(project, out)
    assert rows(out) == rows(reference)
    assert requests(record) == 0


def test_a_stage_with_a_flipped_bit_stops_the_run_with_a_remedy_that_works(project, reference, out):
    (out / "run.json").unlink()
    [folder] = [f for f in out.glob("stages/2-*") if not f.match("*.rejects")]
    file = folder / "rows-00000-of-00001.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    with pytest.raises(
        PrefdataError, match=rf"damaged or cut short .* delete {re.escape(str(folder))} and run"
    ):
        run(project, out)
    for part in folder.iterdir():
        part.unlink()
    folder.rmdir()
    record, _ = run(project, out)
    assert rows(out) == rows(reference)
    assert requests(record) == 0


@pytest.mark.parametrize("content", [b"", b'{"prefdata": "0.', b"[1]", b"\0" * 300])
def test_a_damaged_run_json_is_written_anew(project, reference, out, content):
    first = orjson.loads((out / "run.json").read_bytes())
    (out / "run.json").write_bytes(content)
    record, said = run(project, out)
    assert said[0].startswith(f"{out}/run.json: damaged or cut short (")
    assert rows(out) == rows(reference)
    assert requests(record) == 0
    assert {k: record[k] for k in ("seeds", "pairs", "rejects", "drops", "files", "means")} == {
        k: first[k] for k in ("seeds", "pairs", "rejects", "drops", "files", "means")
    }


def test_a_deleted_jsonl_is_written_anew(project, tmp_path):
    out, copy = tmp_path / "run", tmp_path / "elsewhere" / "pairs.jsonl"
    run(project, out, f"output_path={copy}")
    whole = copy.read_bytes()
    delete(copy)
    _, said = run(project, out, f"output_path={copy}")
    assert said[0].startswith(f"{copy}: ")
    assert copy.read_bytes() == whole


@pytest.mark.parametrize("harm", [cut, lambda copy: copy.write_text("of another run\n")])
def test_a_jsonl_that_is_not_as_it_was_written_is_not_replaced(project, tmp_path, harm):
    copy = tmp_path / "pairs.jsonl"
    run(project, tmp_path / "a", f"output_path={copy}")
    harm(copy)
    before = copy.read_bytes()
    with pytest.raises(PrefdataError, match="did not write it as it is"):
        run(project, tmp_path / "a", f"output_path={copy}")
    assert copy.read_bytes() == before


def tear_off(data):
    """As when the process was killed in the middle of a write."""
    return data[: data.rindex(b"\n", 0, len(data) // 2) + 40]


def flip_a_bit(data):
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


def empty_it(data):
    return b""


def fill_with_noise(data):
    return os.urandom(50_000)


def zero_the_tail(data):
    """As after a power cut: the length was written, the last pages were not."""
    kept = len(data) * 3 // 4
    return data[:kept] + bytes(len(data) - kept)


def zero_a_page(data):
    return data[:8192] + bytes(4096) + data[12288:]


@pytest.mark.parametrize(
    "harm", [tear_off, flip_a_bit, empty_it, fill_with_noise, zero_the_tail, zero_a_page]
)
def test_a_damaged_journal_costs_only_the_damaged_records(project, reference, out, harm):
    [file] = out.glob("journal/*")
    whole = set(file.read_bytes().splitlines())
    file.write_bytes(harm(file.read_bytes()))
    kept = len(whole & set(file.read_bytes().splitlines()))
    unfinish(out)
    record, said = run(project, out)
    assert requests(record) == 2 * ROWS * SAMPLES - kept
    assert record["requests"]["replayed"] == kept
    assert rows(out) == rows(reference)
    told = [line for line in said if f"journal {file.name}: " in line]
    assert len(told) == (harm is not empty_it)
    assert all("done again, everything else is kept" in line for line in told)


def unfinish(out):
    """Take away everything but the journal."""
    (out / "run.json").unlink()
    for folder in ("stages", *RESULTS):
        (out / folder).rename(out.parent / f"{folder} of before")


def test_records_of_other_recipes_in_the_journal_do_no_harm(project, reference, tmp_path):
    out = tmp_path / "run"
    run(project, out, "seed=1")
    run(project, out, "models.0.inference_parameters.temperature=0.1")
    run(project, out)
    assert rows(out) == rows(reference)


def test_a_kill_between_the_renames_of_a_folder_is_healed(project, reference, out):
    (out / "run.json").unlink()
    for name in RESULTS:
        (out / name).rename(out / f".{name}@host-1-00000000.tmp")
    [stage] = [f for f in out.glob("stages/2-*") if not f.match("*.rejects")]
    stage.rename(stage.with_name(f".{stage.name}@host-1-00000000.tmp"))
    record, _ = run(project, out)
    assert rows(out) == rows(reference)
    assert requests(record) == 0
    assert not temporary_files(out)


def test_a_run_json_of_another_kind_is_no_finished_run(project, reference, tmp_path):
    out = tmp_path / "run"
    claim_folder(out)
    (out / "run.json").write_bytes(orjson.dumps({"seeds": 3, "files": {}}))  # of `prefdata pairs`
    run(project, out)
    assert rows(out) == rows(reference)


def test_a_folder_that_several_publish_at_once_is_whole_in_the_end(tmp_path):
    place = tmp_path / "rows"

    def write(worker):
        for _ in range(50):
            temporary = temporary_name(place)
            temporary.mkdir()
            for part in ("one", "two"):
                (temporary / part).write_text(str(worker))
            publish(temporary, place)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len({file.read_text() for file in place.iterdir()}) == 1
    assert sorted(file.name for file in place.iterdir()) == ["one", "two"]
    assert [file.name for file in tmp_path.iterdir()] == ["rows"]
