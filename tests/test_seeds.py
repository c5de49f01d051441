import gzip
import lzma
import time

import datasets
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_stub import Hub, Shell

from prefdata.errors import PrefdataError
from prefdata.recipe.schema import SeedDataset
from prefdata.recipe.tools import read_tools
from prefdata.rows import rows_of
from prefdata.seeds.columns import chunk_table, join_chunks
from prefdata.seeds.seeds import load_seeds

NEEDED = {"prompt": "columns.0.prompt"}
WITH_TOOLS = {**NEEDED, "tools": "columns.0.tools"}
ABC = [{"prompt": letter} for letter in "abc"]


def load(path, *, needed=NEEDED, num_records=None, seed=0, made=None, tools=(), **config):
    return load_seeds(
        SeedDataset(path=str(path), **config), [str(path)],
        needed=needed, num_records=num_records, seed=seed, made=made or {}, tools=tools,
    )  # fmt: skip


def prompts(seeds):
    return seeds.table["prompt"].to_pylist()


def ids(seeds):
    """Id of each prompt; of equal prompts, of the last."""
    return {row["prompt"]: row["id"] for row in seeds.table.to_pylist()}


def refused(seeds):
    return [(row["source"], row["reason"], row["detail"]) for row in seeds.rejects]


@pytest.fixture
def lines(tmp_path):
    """Write JSON lines: rows, or bytes as they are."""

    def lines(*rows, name="seeds.jsonl", end=b"\n"):
        raw = [row if isinstance(row, bytes) else orjson.dumps(row) for row in rows]
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(end.join(raw))
        return tmp_path / name

    return lines


@pytest.fixture
def file(tmp_path):
    def file(name, content):
        place = tmp_path / name
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
        return place

    return file


# Kinds of source


@pytest.fixture(params=["jsonl", "ndjson", "json list", "json lines", "json object", "csv", "parquet", "folder", "glob", "save_to_disk", "split", "jsonl.gz", "json.xz", "csv.zst", "clone", "named splits"])  # fmt: skip  # noqa: E501
def source(request, tmp_path, lines, file):
    """A source of every kind with the same three rows: its path and the fields of its config."""
    raw = orjson.dumps(ABC)
    match request.param:
        case "jsonl" | "ndjson" as suffix:
            return lines(*ABC, name=f"seeds.{suffix}"), {}
        case "json list":
            return file("seeds.json", raw), {}
        case "json lines":
            return lines(*ABC, name="seeds.json"), {}
        case "json object":
            return file("seeds.json", orjson.dumps({"version": 1, "data": ABC})), {}
        case "csv":
            return file("seeds.csv", "prompt\na\nb\nc\n"), {}
        case "parquet":
            pq.write_table(pa.Table.from_pylist(ABC), tmp_path / "seeds.parquet")
            return tmp_path / "seeds.parquet", {}
        case "folder" | "glob" as kind:
            lines(*ABC[:2], name="data/1.jsonl")
            lines(*ABC[2:], name="data/more/2.jsonl")
            lines({"prompt": "cache"}, name="data/.cache/3.jsonl")
            lines(b"no seeds", name="data/README.md")
            return tmp_path / ("data" if kind == "folder" else "data/**/[12].jsonl"), {}
        case "save_to_disk":
            datasets.Dataset.from_list(ABC).save_to_disk(tmp_path / "saved")
            return tmp_path / "saved", {}
        case "split":
            train = datasets.Dataset.from_list(ABC)
            both = datasets.DatasetDict(train=train, test=train.select([0]))
            both.save_to_disk(tmp_path / "saved")
            return tmp_path / "saved", {"split": "train"}
        case "jsonl.gz":
            return file("seeds.jsonl.gz", gzip.compress(lines(*ABC).read_bytes())), {}
        case "json.xz":
            return file("seeds.json.xz", lzma.compress(raw)), {}
        case "csv.zst":
            packed = pa.compress(b"prompt\na\nb\nc\n", "zstd", asbytes=True)
            return file("seeds.csv.zst", packed), {}
        case "clone":
            lines(*ABC, name="clone/main/train-0.jsonl")
            lines(ABC[0], name="clone/main/test-0.jsonl")
            lines(ABC[0], name="clone/more/train-0.jsonl")
            return file("clone/README.md", CARD).parent, {"split": "train"}
        case "named splits":
            lines(*ABC, name="named/data/train-00000-of-00001.jsonl")
            lines(ABC[0], name="named/data/test-00000-of-00001.jsonl")
            return tmp_path / "named", {"split": "train"}


CARD = """---
configs:
- config_name: main
  default: true
  data_files:
  - {split: train, path: main/train-*}
  - {split: test, path: [main/test-*]}
- config_name: more
  data_files: more/*
---
"""


def test_every_kind_of_source_gives_the_same_rows_and_ids(source, lines):
    path, config = source
    seeds = load(path, **config)
    assert prompts(seeds) == ["a", "b", "c"]
    assert ids(seeds) == ids(load(lines(*ABC, name="plain.jsonl")))
    assert seeds.rejects == [] and seeds.notes == []


def test_a_saved_dataset_with_several_splits_needs_a_split(tmp_path):
    one = datasets.Dataset.from_list(ABC)
    datasets.DatasetDict(train=one, test=one).save_to_disk(tmp_path / "saved")
    with pytest.raises(PrefdataError, match=r"has several splits.*set it to one of: train, test"):
        load(tmp_path / "saved")
    with pytest.raises(PrefdataError, match=r"no split 'tran'.*one of: train, test"):
        load(tmp_path / "saved", split="tran")


def test_a_clone_of_a_hub_dataset_mixes_no_splits_and_no_configurations(lines, file):
    for name in ("main/train", "main/test", "more/any"):
        lines({"prompt": name}, name=f"clone/{name}.jsonl")
    place = file("clone/README.md", CARD.replace("-*", "*")).parent
    with pytest.raises(PrefdataError, match=r"has several splits.*set it to one of: train, test"):
        load(place)
    assert prompts(load(place, split="test")) == ["main/test"]
    assert prompts(load(place, name="more")) == ["more/any"]
    with pytest.raises(PrefdataError, match="no 'mor'.*one of: main, more"):
        load(place, name="mor")


def test_files_beside_those_of_named_splits_are_said_to_be_unread(lines, tmp_path):
    for name in ("train", "validation", "extra/more"):
        lines({"prompt": name}, name=f"folder/{name}.jsonl")
    seeds = load(tmp_path / "folder", split="train")
    assert prompts(seeds) == ["train"]
    assert "files in no split are not read: 1" in seeds.notes[0]


@pytest.mark.parametrize("name", ["seeds.jsonl.gz", "seeds.jsonl.xz", "seeds.jsonl.zst"])
def test_a_packed_file_that_is_cut_off_is_named(file, name):
    packed = {"gz": gzip.compress, "xz": lzma.compress,
              "zst": lambda raw: pa.compress(raw, "zstd", asbytes=True)}  # fmt: skip
    whole = packed[name.rpartition(".")[2]](b'{"prompt": "a"}\n' * 1000)
    with pytest.raises(PrefdataError, match=f"{name} is truncated or corrupt"):
        load(file(name, whole[:-9]))


def test_a_saved_dataset_with_one_split_needs_none(tmp_path):
    datasets.DatasetDict(only=datasets.Dataset.from_list(ABC)).save_to_disk(tmp_path / "saved")
    assert prompts(load(tmp_path / "saved")) == ["a", "b", "c"]


def test_what_only_the_hub_reads_is_said_to_be_unread(lines):
    [note] = load(lines(*ABC), split="train", revision="v1").notes
    assert note.startswith("seed_dataset.split, seed_dataset.revision: ignored")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("nowhere.jsonl", "file not found: 'nowhere.jsonl'"),
        ("./nowhere", "file not found: './nowhere'"),
        ("/nowhere/at/all", "file not found: '/nowhere/at/all'"),
        ("*.jsonl", r"file not found: '\*.jsonl'"),
        ("**x", "is not a valid glob"),
        ("empty", "the folder 'empty' has no file of a supported type"),
        ("notes.txt", "the type of .*notes.txt is not supported; use one of: .jsonl"),
        ("broken.parquet", "is truncated or corrupt, or not a parquet file"),
        ("broken.json", "is not valid JSON"),
        ("scalar.json", "must contain a list of objects"),
    ],
)
def test_a_path_that_leads_to_no_seeds_is_explained(
    tmp_path, file, monkeypatch, path, expected
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in ("notes.txt", "broken.parquet", "broken.json"):
        file(name, "words")
    file("scalar.json", "5")
    with pytest.raises(PrefdataError, match=expected) as caught:
        load(path)
    assert str(caught.value).startswith("seed_dataset.path: ")


@pytest.mark.parametrize("name", ["nobody/no-such-dataset", "no-such-dataset", "a/b/c"])
def test_a_hub_id_that_cannot_be_had_is_a_clear_error_soon(name, monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "sleep", pytest.fail)  # nobody waits to try again
    with pytest.raises(PrefdataError, match=f"'{name}' was not found locally, and could not"):
        load(name)


# Lines that cannot be used


def test_every_bad_line_is_a_reject_with_its_place_and_reason(lines):
    seeds = load(
        lines(
            {"prompt": "good"}, b'{"prompt": "cut', b"", b"   ", b"[1]", b"null", b"3", b'"word"',
            {"promt": "misspelt"}, {"prompt": None}, {"prompt": 5}, b'{"prompt": "\\ud800"}',
            b'{"prompt": "\xff"}', b'{"prompt": NaN}', {"prompt": "also good"},
        )
    )  # fmt: skip
    assert prompts(seeds) == ["good", "also good"]
    assert [(source, reason) for source, reason, _ in refused(seeds)] == [
        ("seeds.jsonl:2", "bad_line"), ("seeds.jsonl:5", "bad_line"),
        ("seeds.jsonl:6", "bad_line"), ("seeds.jsonl:7", "bad_line"),
        ("seeds.jsonl:8", "bad_line"), ("seeds.jsonl:9", "missing_field"),
        ("seeds.jsonl:10", "missing_field"), ("seeds.jsonl:11", "field_type"),
        ("seeds.jsonl:12", "bad_line"), ("seeds.jsonl:13", "bad_line"),
        ("seeds.jsonl:14", "bad_line"),
    ]  # fmt: skip
    assert len(seeds) == 13
    details = dict(zip((2, 5, 6, 7, 8, 9, 10, 11), refused(seeds), strict=False))
    assert "not valid JSON" in details[2][2]
    assert details[5][2] == "a row must be a JSON object, but this is a list"
    assert details[9][2] == (
        "there is no field 'prompt', which columns.0.prompt needs; did you mean 'promt'? "
        "Known: promt"
    )
    assert details[10][2] == "'prompt' is null"
    assert details[11][2] == "'prompt' is a number, earlier rows have text"


def test_a_reject_keeps_all_that_the_line_had(lines):
    seeds = load(lines({"prompt": "x"}, b'{"broken', {"id": 7, "note": "kept"}))
    kept = [orjson.loads(row["row"]) for row in seeds.rejects]
    assert kept == [{"raw": '{"broken'}, {"source_id": 7, "note": "kept"}]
    assert all(row["stage"] == "seeds" and row["id"] for row in seeds.rejects)


def test_rows_and_rejects_together_are_all_lines(lines):
    rows = [{"prompt": str(n)} if n % 3 else b"{" for n in range(100)]
    seeds = load(lines(*rows))
    assert len(seeds) == 100 and seeds.table.num_rows == 66 and len(seeds.rejects) == 34


def test_equal_names_in_two_folders_are_told_apart(lines, tmp_path):
    for folder in ("a", "b"):
        lines({"prompt": folder}, b"{", name=f"{folder}/seeds.jsonl")
    seeds = load(tmp_path)
    assert [source for source, _, _ in refused(seeds)] == ["a/seeds.jsonl:2", "b/seeds.jsonl:2"]
    assert len({row["id"] for row in seeds.rejects}) == 2


@pytest.mark.parametrize(
    "rows", [[], [b"{", b"}"], [{"question": "?"}]], ids=["empty", "bad", "other"]
)
def test_a_file_without_a_usable_row_stops_the_run_and_shows_the_first(lines, rows):
    with pytest.raises(PrefdataError, match="has no usable row") as caught:
        load(lines(*rows))
    assert ("; the first: seeds.jsonl:1: " in str(caught.value)) == bool(rows)


@pytest.mark.parametrize("name", ["seeds.jsonl", "seeds.json"])
def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(lines, name):
    place = lines(*ABC, b"", name=name, end=b"\r\n")
    place.write_bytes(b"\xef\xbb\xbf" + place.read_bytes())
    seeds = load(place)
    assert prompts(seeds) == ["a", "b", "c"] and not seeds.rejects


def test_line_separators_inside_a_text_do_not_end_the_line(lines):
    text = "one\u2028two\u0085three\x0bfour"
    assert prompts(load(lines({"prompt": text}))) == [text]


# CSV


def test_csv_cells_are_text_and_empty_ones_are_null(file):
    seeds = load(file("s.csv", 'prompt,n\nx,01\n"two\nlines, one cell",\n,3\n'))
    assert seeds.table.select(["prompt", "n"]).to_pylist() == [
        {"prompt": "x", "n": "01"},
        {"prompt": "two\nlines, one cell", "n": None},
    ]
    assert refused(seeds) == [("s.csv:5", "missing_field", "'prompt' is null")]


def test_csv_lines_of_another_length_or_encoding_are_rejects(file):
    seeds = load(file("s.csv", "prompt,n\nshort\nlong,1,2\ngood,1\ncaf\xe9,2\n".encode("latin-1")))
    assert prompts(seeds) == ["good"]
    assert [source for source, _, _ in refused(seeds)] == ["s.csv:2", "s.csv:3", "s.csv:5"]
    assert "2 columns" in refused(seeds)[0][2] and "UTF-8" in refused(seeds)[2][2]


def test_a_csv_as_spreadsheets_and_pandas_write_it_is_read(file):
    text = ",prompt,note\r\n0,é,x\r\n1,b,y\r\n"
    seeds = load(file("s.csv", b"\xef\xbb\xbf" + text.encode()))
    assert seeds.table.column_names == ["id", "prompt", "note"]
    assert prompts(seeds) == ["é", "b"]
    assert seeds.notes == ["s.csv: the column without a name (an index?) is ignored"]


def test_a_csv_cell_may_be_long(file):
    assert len(prompts(load(file("s.csv", f'prompt\n"{"x" * 300_000}"\n')))[0]) == 300_000


@pytest.mark.parametrize(("mark", "called"), [(";", "semicolons"), ("\t", "tabs")])
def test_a_csv_without_commas_is_refused_with_a_hint(file, mark, called):
    with pytest.raises(PrefdataError, match=f"parted by {called}, and a CSV is read by commas"):
        load(file("s.csv", f"prompt{mark}answer\na{mark}b\n"))


def test_a_csv_header_that_repeats_a_name_is_refused(file):
    with pytest.raises(PrefdataError, match="names 'prompt' twice; rename one"):
        load(file("s.csv", "prompt,prompt\na,b\n"))


# Columns


def test_fields_keeps_those_columns_alone_and_in_that_order(lines):
    seeds = load(lines({"a": 1, "prompt": "x", "b": 2}), fields=("b", "prompt"))
    assert seeds.table.column_names == ["id", "b", "prompt"]


def test_a_column_that_is_not_kept_may_hold_anything(lines):
    rows = [{"prompt": "x", "note": 1}, {"prompt": "y", "note": "text"}, {"prompt": "z"}]
    assert prompts(load(lines(*rows), fields=("prompt",))) == ["x", "y", "z"]


def test_a_row_without_a_named_field_is_a_reject(lines):
    seeds = load(lines({"prompt": "x", "n": 1}, {"prompt": "y"}), fields=("prompt", "n"))
    assert refused(seeds) == [
        ("seeds.jsonl:2", "missing_field",
         "there is no field 'n', which seed_dataset.fields needs; Known: prompt"),
    ]  # fmt: skip


def test_columns_that_nobody_needs_may_be_missing_or_null(lines):
    seeds = load(lines({"prompt": "x", "a": None}, {"prompt": "y", "b": 2}))
    assert seeds.table.num_rows == 2 and not seeds.rejects


def test_values_that_arrow_cannot_hold_together_name_their_column(lines):
    with pytest.raises(PrefdataError, match=r"column 'tags' has values of different types"):
        load(lines({"prompt": "x", "tags": [1]}, {"prompt": "y", "tags": ["b"]}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([1, 2**64 - 1], pa.uint64()), "column 'odd' has integers beyond 64 bits"),
        (pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())), "column 'odd' is a map"),
    ],
    ids=["uint64", "map"],
)
def test_a_column_that_no_table_of_ours_holds_is_named(tmp_path, values, message):
    pq.write_table(pa.table({"prompt": ["a", "b"], "odd": values}), tmp_path / "s.parquet")
    with pytest.raises(PrefdataError, match=message):
        load(tmp_path / "s.parquet")
    assert prompts(load(tmp_path / "s.parquet", fields=("prompt",))) == ["a", "b"]


def test_a_seed_column_called_id_is_renamed_and_said_so_once(lines):
    seeds = load(lines({"id": "u1", "prompt": "x"}, {"id": "u2", "prompt": "y"}))
    assert seeds.table["source_id"].to_pylist() == ["u1", "u2"]
    assert seeds.notes == ["seed column 'id' is renamed 'source_id': 'id' is the row's own key"]
    kept = load(lines({"id": "u1", "prompt": "x", "n": 1}), fields=("id", "prompt"))
    assert kept.table.column_names == ["id", "source_id", "prompt"]
    assert len(kept.notes) == 1


def test_a_template_that_reads_source_id_makes_id_needed(lines):
    needed = {"source_id": "columns.0.prompt"}
    seeds = load(lines({"id": "u1"}, {"id": None}, {"n": 1}), needed=needed)
    assert seeds.table["source_id"].to_pylist() == ["u1"]
    assert [reason for _, reason, _ in refused(seeds)] == ["missing_field"] * 2


def test_id_never_replaces_a_source_id_that_is_there(lines):
    row = {"id": 1, "source_id": 2, "prompt": "x"}
    with pytest.raises(PrefdataError, match="the seeds have 'source_id' too"):
        load(lines(row))
    kept = load(lines(row), fields=("source_id", "prompt"))
    assert kept.table["source_id"].to_pylist() == [2]


def test_a_seed_column_called_like_a_column_of_the_recipe_is_refused(lines):
    row = {"prompt": "x", "judge": "old"}
    made = {"judge": "columns.2", "judge__meta": "columns.2"}
    with pytest.raises(PrefdataError, match=r"columns.2: the seeds already have a column 'judge'"):
        load(lines(row), made=made)
    assert prompts(load(lines(row), made=made, fields=("prompt",))) == ["x"]


# How many, in which order


def test_limit_and_num_records_take_the_first_seeds(lines):
    assert prompts(load(lines(*ABC), limit=2)) == ["a", "b"]
    assert prompts(load(lines(*ABC), num_records=2)) == ["a", "b"]
    assert prompts(load(lines(*ABC), limit=2, num_records=1)) == ["a"]
    assert prompts(load(lines(*ABC), limit=9)) == ["a", "b", "c"]


def test_a_limit_counts_usable_rows(lines):
    seeds = load(lines(b"{", *ABC), limit=2)
    assert prompts(seeds) == ["a", "b"] and len(seeds) == 3


def test_more_records_than_seeds_cycles_them_with_an_id_for_every_copy(lines):
    seeds = load(lines(*ABC), num_records=7)
    assert prompts(seeds) == ["a", "b", "c", "a", "b", "c", "a"]
    assert len(set(seeds.table["id"].to_pylist())) == 7
    assert seeds.notes == [
        "num_records: 7 rows from 3 seeds: each is used 2.3 times, with fresh sampling seeds"
    ]


def test_a_longer_run_begins_with_the_ids_of_a_shorter_one(lines):
    short, long = (load(lines(*ABC), num_records=n).table["id"].to_pylist() for n in (2, 8))
    assert long[:2] == short


@pytest.mark.parametrize("count", [2, 40, 90])
def test_a_shuffle_is_complete_reproducible_and_seeded(lines, count):
    rows = [{"prompt": str(n)} for n in range(40)]
    path = lines(*rows)
    first, again, other = (
        prompts(load(path, strategy="shuffle", num_records=count, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert first[:40] != [row["prompt"] for row in rows][:count]
    if count >= 40:
        assert set(first) == {row["prompt"] for row in rows}


def test_a_shuffle_draws_from_all_seeds_before_the_limit(lines):
    path = lines(*({"prompt": str(n)} for n in range(40)))
    drawn = prompts(load(path, strategy="shuffle", limit=10))
    assert len(drawn) == 10 and max(map(int, drawn)) >= 10


# Ids


def test_an_id_depends_on_the_rows_content_alone(lines):
    alone = ids(load(lines({"prompt": "b"})))
    assert ids(load(lines({"prompt": "b"}, *ABC[:1])))["b"] == alone["b"]
    assert ids(load(lines({"prompt": "z"}, *reversed(ABC))))["b"] == alone["b"]
    assert ids(load(lines(*ABC), strategy="shuffle"))["b"] == alone["b"]
    assert ids(load(lines({"prompt": "b", "n": 1})))["b"] != alone["b"]


@pytest.mark.parametrize(
    "others",
    [
        {"prompt": "other", "n": 2.5, "deep": {"k": 1}, "list": [1]},
        {"prompt": "other", "n": 2, "deep": {"k": 1, "more": [1.5]}, "list": [0.5]},
        {"prompt": "other", "n": None, "new": "column"},
    ],
    ids=["float", "nested", "null"],
)
def test_an_id_does_not_change_with_the_types_of_other_rows(lines, others):
    row = {"prompt": "x", "n": 1, "deep": {"k": 1}, "list": [3]}
    assert ids(load(lines(row, others)))["x"] == ids(load(lines(row)))["x"]


def test_equal_rows_get_ids_of_their_own_that_stay_when_more_come(lines):
    twice = load(lines(*ABC, ABC[0])).table["id"].to_pylist()
    assert len(set(twice)) == 4
    thrice = load(lines(ABC[0], *ABC, ABC[0])).table["id"].to_pylist()
    assert set(twice) < set(thrice) and len(set(thrice)) == 5


def test_the_fingerprint_covers_rows_order_and_rejects(lines):
    variants = [
        ABC, ABC[:2], [*reversed(ABC)], [*ABC, b"{"], [b"{", *ABC], [*ABC, b"}"],
        [*ABC, {"prompt": None}],
    ]  # fmt: skip
    found = [load(lines(*rows)).fingerprint for rows in variants]
    assert len(set(found)) == len(variants)
    assert load(lines(*ABC)).fingerprint == found[0]


def write(folder, rows):
    (folder / "s.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"city": {"a": 1}}}}
CLOCK = {"name": "clock", "parameters": {}}
OFFERED = [[WEATHER], orjson.dumps([CLOCK]).decode(), None, [], "[]", [CLOCK, WEATHER], "left out"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_column_of_tools_mixes_lists_json_texts_and_none(tmp_path, order):
    rows = [{"prompt": f"p{n}", "tools": told} for n, told in enumerate(OFFERED)]
    del rows[-1]["tools"]
    write(tmp_path, rows[::order])
    seeds = load(tmp_path / "s.jsonl", needed=WITH_TOOLS, tools=("tools",))
    assert seeds.rejects == []
    found = {row["prompt"]: read_tools(row["tools"]) for row in rows_of(seeds.table)}
    clock = {"type": "function", "function": CLOCK}
    expected = [(WEATHER,), (clock,), (), (), (), (clock, WEATHER), ()]
    assert found == {f"p{n}": tools for n, tools in enumerate(expected)}
    apart = rows_of(join_chunks([chunk_table([row]) for row in rows[::order]]))
    assert {row["prompt"]: read_tools(row["tools"]) for row in apart} == found


def test_a_row_whose_tools_are_none_is_a_reject_beside_the_others(tmp_path):
    told = [[WEATHER], "no JSON", 5, [{"nothing": 1}], {"name": "bare"}]
    write(tmp_path, [{"prompt": "p", "tools": one} for one in told])
    seeds = load(tmp_path / "s.jsonl", needed=WITH_TOOLS, tools=("tools",))
    assert len(seeds.table) == 1
    assert {row["reason"] for row in seeds.rejects} == {"tools"}


@pytest.mark.parametrize("fields", [None, ["prompt", "tools"]])
def test_a_column_of_tools_that_no_line_has_is_named_wrongly(tmp_path, fields):
    write(tmp_path, [{**row, "tool": [CLOCK]} for row in ABC])
    with pytest.raises(PrefdataError, match="no line has a field 'tools'; did you mean"):
        load(tmp_path / "s.jsonl", needed=WITH_TOOLS, tools=("tools",), fields=fields)


def test_rows_read_before_the_first_that_has_tools_go_without(tmp_path):
    write(tmp_path, [*ABC, {"prompt": "d", "tools": [CLOCK]}])
    seeds = load(tmp_path / "s.jsonl", needed=WITH_TOOLS, tools=("tools",), num_records=2)
    assert seeds.table["tools"].to_pylist() == [None, None]


# The Hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hub with datasets in three shards of two lines, and a process that knows no other Hub."""
    hub = Hub()
    shell = Shell(hub, tmp_path_factory.mktemp("home"))
    rows = [b'{"prompt": "%d", "chosen": "a %d", "rejected": "b"}\n' % (n, n) for n in range(6)]
    files = {f"data/train-{n}.jsonl": b"".join(rows[2 * n : 2 * n + 2]) for n in range(3)}
    for name in ("user/shards", "user/pairs"):
        hub.make(name, files)
    yield hub, shell
    shell.close()
    hub.close()


LOADED = """
from prefdata.recipe.schema import SeedDataset
from prefdata.seeds.seeds import load_seeds
config = SeedDataset(path="{0}", {1})
value = load_seeds(config, ["{0}"], needed=dict(), num_records=None, seed=0)
value = value.table["prompt"].to_pylist()
"""


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("user/shards", ""),
        ("user/pairs", 'candidates=dict(prompt="prompt", chosen="chosen", rejected="rejected")'),
    ],
)
def test_a_limit_reads_no_more_shards_of_a_hub_dataset_than_it_needs(hub, name, more):
    stub, shell = hub
    assert shell.value(LOADED.format(name, f"limit=2, {more}")) == ["0", "1"]
    assert stub.count("GET", f"{name}/.*train-0") >= 1
    assert stub.count("GET", f"{name}/.*train-2") == 0
    assert shell.value(LOADED.format(name, more)) == list("012345")


def test_pairs_are_made_of_a_hub_dataset_by_its_layout(hub, tmp_path):
    _, shell = hub
    done = shell.run("pairs", "user/shards", "--layout", "trl", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "6 train from 6 prompts" in done.out
    done = shell.run("pairs", "user/shards", "--out", tmp_path / "out")
    assert "user/shards: not found; give a run folder" in done.err
