"""Which weights a name stands for: their content, hashed whole."""

import os

import pytest

from prefdata.engines.cache import hash_files
from prefdata.engines.checkpoints import WHOLE_FILE, identify
from prefdata.recipe.schema import Model

MIDDLE = WHOLE_FILE // 2 + 12_345
LONG_AGO = 1_700_000_000


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prefdata" / "file-hashes"


@pytest.fixture
def folder(tmp_path):
    """A checkpoint with one large file of weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    write(folder / "model.safetensors")
    return folder


def write(file):
    with file.open("wb") as weights:
        weights.truncate(WHOLE_FILE + 1)


def change(file, place, value=b"x"):
    with file.open("r+b") as weights:
        weights.seek(place)
        weights.write(value)
    os.utime(file, (LONG_AGO, LONG_AGO))  # as a copy that keeps the times


def identity(folder):
    return identify(Model(alias="m", model=str(folder)), str(folder))


def test_one_changed_byte_anywhere_in_a_large_file_is_another_checkpoint(folder):
    weights = folder / "model.safetensors"
    found = {identity(folder)}
    for place in (0, MIDDLE, WHOLE_FILE):
        change(weights, place)
        found.add(identity(folder))
    assert len(found) == 4


def test_a_checkpoint_keeps_its_identity_when_it_is_moved(folder, tmp_path):
    before = identity(folder)
    assert identity(folder.rename(tmp_path / "elsewhere")) == before


def test_a_large_file_is_read_once(folder, cache):
    weights = folder / "model.safetensors"
    [before] = hash_files([weights], settled=-1)
    [memo] = cache.iterdir()
    memo.write_text("0" * 32)  # what is remembered is believed: the file is not read
    assert hash_files([weights]) == ["0" * 32]
    change(weights, 0, b"\0")  # the same bytes, written anew
    assert hash_files([weights], settled=-1) == [before]
    assert len([*cache.iterdir()]) == 2


def test_a_file_that_has_just_been_written_is_not_remembered(folder, cache):
    assert identity(folder) == identity(folder)
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_costs_time_alone(folder, tmp_path):
    (tmp_path / "cache").write_text("a file stands here")
    files = [folder / "model.safetensors"]
    assert hash_files(files, settled=-1) == hash_files(files, settled=-1)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("generation_config.json", True), ("chat_template.jinja", True), ("modeling_x.py", True),
        ("additional_chat_templates/tools.jinja", True), ("optimizer.pt", False),
        ("README.md", False),
    ],
)  # fmt: skip
def test_what_else_of_a_folder_counts(folder, name, counts):
    before = identity(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    assert (identity(folder) != before) == counts


def test_weights_of_another_form_count_where_there_are_no_others(folder):
    (folder / "model.safetensors").unlink()
    before = identity(folder)
    (folder / "consolidated.00.pth").write_text("x")
    assert identity(folder) != before
