import asyncio
import re
from types import SimpleNamespace

import orjson
import pyarrow as pa
import pytest
import yaml

from prefdata.engines.scripted import Scripted
from prefdata.errors import PrefdataError
from prefdata.inference import Completion
from prefdata.pipeline import build, build_shard, merge
from prefdata.report.biases import judges_cell
from prefdata.run.checking import check_loaded
from prefdata.run.gold import measure, read_known, tell, write_known
from prefdata.run.shards import Shard
from prefdata.stages import Tools, fields_of, make_stage
from prefdata.storage.folders import RowsWriter, read_rows, read_schema
from prefdata.storage.record import read_record

JUDGE = {"name": "judged", "type": "llm_judge", "model_alias": "hot", "candidates": "candidates"}
RUBRIC = {
    "name": "rated", "type": "rubric_judge", "model_alias": "hot", "candidates": "candidates",
    "scale": [1, 5], "criteria": {"right": "is it?"},
    "prompt": "{{ response }}",
}  # fmt: skip
TWO = "{{ response_a }} {{ response_b }}"
KNOWN = [
    {"prompt": f"q{n}", "chosen": f"{50 + n}", "rejected": f"{n}" + "." * (n % 2 * 5), "note": "n"}
    for n in range(24)
]


def answered(project, column, reply, known=KNOWN):
    """What a judge who answers by `reply` makes of known preferences, and all that it is asked."""
    project.write_seeds(known, "known.jsonl")
    fields = {"gold": {"path": "known.jsonl", "min_accuracy": 0.9}}
    project.recipe["columns"] = [*project.recipe["columns"], *column[:-1], column[-1] | fields]
    loaded = project.load()
    [judge] = [one for one in loaded.recipe.columns if one.known]
    folders = project.folder / "known", project.folder / "judged"
    test = write_known(judge, judge.known, loaded, folders[0])
    asked = []
    engine = Scripted(lambda request: asked.append(request) or reply(request))
    models = {model.alias: model for model in loaded.recipe.models}
    tools = Tools(0, models, {"hot": engine}, {}, columns=test.loaded.recipe.columns)
    stage = make_stage(test.judge, tools)
    rows = [row | asyncio.run(stage(row)) for row in read_rows(folders[0])]
    schema = pa.schema([*read_schema(folders[0]), *fields_of(test.judge)])
    with RowsWriter(folders[1], schema) as writer:
        writer.write(pa.Table.from_pylist(rows, schema=schema))
    return measure(test, folders[1], failed=0), asked


def says(pick):
    def reply(request):
        first, second = re.findall(r"\S+", request.messages[-1]["content"])[:2]
        return orjson.dumps({"winner": pick(first, second)}).decode()

    return reply


def number(text):
    return int(text.rstrip("."))


knows = says(lambda a, b: "A" if number(a) > number(b) else "B")
first = says(lambda a, b: "A")
longest = says(lambda a, b: "tie" if len(a) == len(b) else "A" if len(a) > len(b) else "B")


def compared(**fields):
    """A judge of two columns."""
    asks = {"type": "llm_text", "model_alias": "hot", "prompt": "{{ prompt }}"}
    schema = {"type": "object", "properties": {"winner": {"enum": ["A", "B", "tie"]}}}
    judge = {"name": "v", "type": "llm_judge", "model_alias": "hot", "output_format": schema}
    texts = [{"name": name, **asks} for name in ("x", "y")]
    return [*texts, judge | {"prompt": "{{ x }} {{ y }}"} | fields]


JUDGES = {
    "round_robin": [JUDGE | {"tournament": {"type": "round_robin"}, "prompt": TWO}],
    "against": [JUDGE | {"tournament": {"type": "against", "reference": "prompt"}, "prompt": TWO}],
    "one order": [JUDGE | {"tournament": {"type": "swiss"}, "prompt": TWO, "both_orders": False}],
    "two columns": compared(),
    "two columns, one order": compared(both_orders=False),
}


@pytest.mark.parametrize("kind", JUDGES)
def test_a_judge_who_knows_finds_all(project, kind):
    told, asked = answered(project, JUDGES[kind], knows)
    assert (told["rows"], told["accuracy"], told["ties"]) == (24, 1.0, 0)
    assert told["calibration"] == [{"confidence": 1.0, "rows": 24, "accuracy": 1.0}]
    assert told["calibration_error"] == 0
    assert len(asked) == (24 if "one order" in kind else 48)
    if "one order" in kind:
        assert min(told["first"], told["second"]) > 0  # which is shown first is drawn


def test_a_judge_who_names_a_place_finds_half_and_is_told_so(project):
    told, _ = answered(project, JUDGES["round_robin"], first)
    assert (told["accuracy"], told["ties"], told["first"], told["second"]) == (0.5, 24, 48, 0)
    assert dict(tell(told))["… by place"].startswith("100.0%")


def test_a_place_that_is_named_in_one_order_is_confident_and_wrong(project):
    told, _ = answered(project, JUDGES["one order"], first)
    assert told["ties"] == 0
    assert told["calibration_error"] == pytest.approx(1 - told["accuracy"])


def test_a_judge_who_likes_length_finds_what_is_longer(project):
    told, _ = answered(project, JUDGES["round_robin"], longest)
    longer = sum(len(one["chosen"]) > len(one["rejected"]) for one in KNOWN)
    assert told["longer"] == {"rows": longer, "accuracy": 1.0}
    assert told["shorter"] == {"rows": 12, "accuracy": 0.0}
    assert "0.0% where chosen is shorter (12)" in dict(tell(told))["… by length"]


def test_report_and_summary_tell_what_a_judge_has_found(project):
    told, _ = answered(project, JUDGES["round_robin"], longest)
    counts = {"rows": 3, "agreed": 0, "ties": 0, "first": 1, "second": 2, "neither": 0}
    record = {"judges": {}, "one_order": {"v": counts | {"alpha": 0.5}}, "gold": {"judged": told}}
    cell = judges_cell(SimpleNamespace(record=record))
    assert "v: its judges agree to 0.50" in cell.summary
    known, calibration = (table for _, table in cell.tables)
    assert known.rows[0] == ("judged", "known preferences", "35.4% of 24 found, 7 ties")
    assert [row[1] for row in calibration.rows] == ["50.0%", "100.0%"]
    assert not cell.is_empty


def test_a_rubric_is_as_confident_as_its_ratings_are_apart(project):
    def rate(request):
        return "4" if number(request.messages[-1]["content"]) >= 50 else "2"

    told, asked = answered(
        project, [RUBRIC], lambda request: Completion(rate(request), "stop", 1, 1)
    )
    assert (told["accuracy"], len(asked), told["first"]) == (1.0, 48, 0)
    assert [one["confidence"] for one in told["calibration"]] == [0.75]
    assert told["calibration_error"] == 0.25


def test_chats_and_other_columns_of_the_file_are_read(project):
    known = [
        {
            "prompt": [{"role": "user", "content": "q"}],
            "chosen": [{"role": "assistant", "content": "9"}],
            "rejected": [{"role": "assistant", "content": "1"}],
            "answer": 9,
        }
    ]
    prompt = "{{ response_a }} {{ response_b }} {{ answer }} {{ asked | transcript }}"
    judge = [JUDGE | {"tournament": {"type": "swiss"}, "prompt": prompt}]
    told, asked = answered(project, judge, knows, known)
    assert told["accuracy"] == 1.0
    assert asked[0].messages[-1]["content"].endswith("9 User: q")


def test_a_column_that_the_file_lacks_is_named(project):
    judge = [JUDGE | {"tournament": {"type": "swiss"}, "prompt": TWO + "{{ answer }}"}]
    with pytest.raises(PrefdataError, match="there is no field 'answer', which the judge needs"):
        answered(project, judge, knows)


ASSISTANT = {"role": "assistant", "content": "7"}
UNUSABLE = {
    "identical": {"chosen": "7", "rejected": " 7\n"},
    "empty_prompt": {"prompt": " "},
    "empty_answer": {"rejected": "\u200b"},
    "missing_field": {"rejected": None},
    "bad_line": b"{no JSON",
    "field_type": {"chosen": [ASSISTANT]},
    "chat": {"chosen": [ASSISTANT | {"role": "nobody"}]},
    "role": {"chosen": [ASSISTANT, {"role": "user", "content": "thanks"}]},
}


@pytest.mark.parametrize("reason", UNUSABLE)
def test_a_line_that_measures_nothing_is_left_out_and_told(project, reason):
    bad = UNUSABLE[reason]
    bad = bad if isinstance(bad, bytes) else KNOWN[2] | bad
    told, asked = answered(
        project, JUDGES["round_robin"], knows, [*KNOWN[:2], bad, *KNOWN[3:5], bad]
    )
    assert (told["rows"], told["failed"], told["accuracy"], len(asked)) == (4, 0, 1.0, 8)
    assert told["left_out"].keys() == {reason}
    assert told["left_out"][reason]["rows"] == 2
    line = dict(tell(told))[f"… left out, {reason}"]
    assert line.startswith("2, the first known.jsonl:3: ")


@pytest.mark.parametrize("reason", UNUSABLE)
def test_a_file_without_a_line_that_measures_is_one_error_at_its_place(project, reason):
    bad = UNUSABLE[reason]
    bad = bad if isinstance(bad, bytes) else KNOWN[2] | bad
    if reason == "field_type":
        bad["chosen"] = 7
    found = (
        r"^column 'judged': gold.path: .*known.jsonl has no usable row; the first: known.jsonl:1: "
    )
    with pytest.raises(PrefdataError, match=found):
        answered(project, JUDGES["round_robin"], knows, [bad])


def test_what_is_told_of_a_file_names_no_field_that_gold_lacks(project):
    with pytest.raises(PrefdataError, match="take it out of the file") as told:
        answered(project, JUDGES["round_robin"], knows, [KNOWN[0] | {"note": 2**64 - 1}])
    assert "seed_dataset" not in str(told.value)


def test_known_preferences_are_read_as_seeds_are(project):
    folder = project.folder / "hub"
    folder.mkdir()
    configs = [{"config_name": name, "data_files": f"{name}.jsonl"} for name in ("plain", "hard")]
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    project.write_seeds(KNOWN, "hub/plain.jsonl")
    project.write_seeds(KNOWN[:3], "hub/hard.jsonl")

    def known(**gold):
        [*_, judge] = project.recipe["columns"]
        project.recipe["columns"][-1] = judge | {"gold": {"path": "hub", **gold}}
        [judge] = [one for one in project.load().recipe.columns if one.known]
        return read_known(judge, judge.known, project.load())

    project.recipe["columns"] += JUDGES["round_robin"]
    test, table = known(name="hard", revision="main")
    assert table.num_rows == 3
    [note] = test.notes
    assert note.startswith("column 'judged': gold.revision: ignored")
    with pytest.raises(PrefdataError, match="^column 'judged': gold.name: it has several config"):
        known()
    with pytest.raises(PrefdataError, match="^column 'judged': gold.split: there is no split 'x'"):
        known(name="hard", split="x")


def test_check_looks_at_known_preferences(project):
    (project.folder / "checkpoint").mkdir()
    (project.folder / "checkpoint" / "config.json").write_text("{}")
    project.recipe["columns"].append(JUDGES["round_robin"][0] | {"gold": {"path": "known.jsonl"}})
    with pytest.raises(PrefdataError, match="^column 'judged': gold.path: file not found"):
        check_loaded(project.load())
    project.write_seeds([{"prompt": "q", "chosen": "a"}], "known.jsonl")
    with pytest.raises(PrefdataError, match="there is no field 'rejected', which 'gold' needs"):
        check_loaded(project.load())
    project.write_seeds([*KNOWN, {"prompt": "q", "chosen": "a"}], "known.jsonl")
    first, second = (line for line in check_loaded(project.load()) if "gold" in line)
    assert first == "column 'judged': gold: the first 24 known preferences can be judged"
    assert "left out, missing_field: 1, the first known.jsonl:25: " in second
    with pytest.raises(PrefdataError, match=r"a file of columns\.\d\.gold, and would be replaced"):
        check_loaded(project.load(f"output_path={project.folder / 'known.jsonl'}"))
    project.recipe["columns"][-1]["gold"]["path"] = "owner/name"
    assert "owner/name is not looked at" in "".join(check_loaded(project.load()))


def test_one_shard_asks_the_judge_and_the_others_read_what_it_has_found(project):
    project.write_seeds(KNOWN, "known.jsonl")
    judge = JUDGE | {"tournament": {"type": "swiss"}, "gold": {"path": "known.jsonl"}}
    project.recipe["columns"].append(judge)
    out = project.folder / "run"
    for number in (1, 0, 2):
        build_shard(project.load(), out, Shard(number, 3), rehearse=True, say=print)
    told = merge(project.load(), out, rehearse=True, say=print)
    alone = build(project.load(), project.folder / "alone", rehearse=True, say=print)
    assert told["requests"]["generated"] == alone["requests"]["generated"]
    assert told["gold"] == alone["gold"]
    project.recipe["columns"][-1]["prompt"] = TWO
    again = build_shard(project.load(), out, Shard(0, 3), rehearse=True, say=print)
    assert again["requests"]["generated"] >= 2 * len(KNOWN)  # of another judge nothing is known


def test_a_judge_that_compares_nothing_cannot_be_measured(project):
    project.recipe["columns"] += compared(both_orders=False, prompt="{{ x }}", gold={"path": "k"})
    with pytest.raises(PrefdataError, match="this judge compares nothing"):
        project.load()


def test_a_run_measures_its_judge_first_and_stops_before_anything_else_is_asked(
    project, quickstart_models
):
    sampling = {"temperature": 0.3, "max_tokens": 24}
    project.recipe["models"] = [
        {"alias": "hot", "model": str(quickstart_models / "lm"), "inference_parameters": sampling}
    ]
    prompt = "Compare two responses for: {{ prompt }}\nA: {{ response_a }}\nB: {{ response_b }}\nWhich is more helpful and correct?"  # fmt: skip  # noqa: E501
    judge = JUDGE | {"tournament": {"type": "swiss"}, "prompt": prompt}
    project.recipe["columns"] = [
        project.recipe["columns"][0] | {"samples": 2},
        judge | {"gold": {"path": "known.jsonl", "min_accuracy": 0.9}},
    ]
    project.recipe["output_projection"]["score"] = "judged"
    sums = [(31, 12), (22, 17), (40, 9), (25, 14)]
    known = [
        {"prompt": f"What is {a} plus {b}?", "chosen": f"It is {a + b}.", "rejected": f"It is {a}."}
        for a, b in sums
    ]
    wrong = [{**one, "chosen": one["rejected"], "rejected": one["chosen"]} for one in known]
    project.write_seeds([{"prompt": f"What is {a} plus {b}?", "answer": a + b} for a, b in sums])
    project.write_seeds(wrong, "known.jsonl")
    out = project.folder / "run"
    with pytest.raises(
        PrefdataError,
        match="finds 0.0% of 4 known preferences, and min_accuracy is 90.0%, so the run",
    ):
        build(project.load(), out, say=lambda line: None)
    asked = [line for file in (out / "journal").iterdir() for line in file.open()]
    assert len(asked) == 2 * len(known)
    same = known[0] | {"rejected": known[0]["chosen"]}
    project.write_seeds([*known, same], "known.jsonl")
    said = []
    record = build(project.load(), out, say=said.append)
    assert record["gold"]["judged"]["accuracy"] == 1.0
    assert record["gold"]["judged"]["left_out"]["identical"]["rows"] == 1
    assert read_record(out)["gold"] == record["gold"]
    assert "judged, known preferences: 100.0% of 4 found, 0 ties" in said
    assert any(
        line.startswith("judged, … left out, identical: 1, the first known") for line in said
    )
