import orjson
import pytest
from datasets import load_dataset
from typer.testing import CliRunner

from prefdata.cli import app
from prefdata.errors import PrefdataError
from prefdata.pairs.repick import pairs_of_file, pairs_of_run
from prefdata.pipeline import build
from prefdata.recipe.layout import Layout
from prefdata.storage.folders import read_rows, read_schema

FIELDS = Layout(group_by=("turn",), prompt="question", text="answer", score="reward")


def write(folder, *lines):
    file = folder / "scored.jsonl"
    texts = [line if isinstance(line, bytes) else orjson.dumps(line) for line in lines]
    file.write_bytes(b"\n".join(texts) + b"\n")
    return file


def line(turn, answer, reward, question="2+2?", **more):
    return {"turn": turn, "question": question, "answer": answer, "reward": reward, **more}


def pick(file, out, *overrides, said=None):
    say = (said if said is not None else []).append
    return pairs_of_file(file, FIELDS, overrides, out, seed=0, say=say)


def rows(out, folder):
    return list(read_rows(out / folder))


def texts(out):
    return [(row["prompt"], row["chosen"], row["rejected"]) for row in rows(out, "pairs")]


def test_lines_of_one_group_become_one_prompt(tmp_path):
    file = write(tmp_path, line(1, "4", 0.9), line(2, "no", 0.1), line(1, "5", 0.2), line(2, "yes", 0.8))  # fmt: skip  # noqa: E501
    record = pick(file, tmp_path / "out")
    assert texts(tmp_path / "out") == [("2+2?", "4", "5"), ("2+2?", "yes", "no")]
    assert (record["seeds"], record["prompts"], record["candidates"]) == (2, 2, 4)


def test_rules_are_given_as_overrides(tmp_path):
    file = write(tmp_path, *(line(1, f"text {n}", n / 10) for n in range(4)))
    record = pick(file, tmp_path / "out", "strategy=exhaustive", "max_pairs_per_prompt=3")
    assert record["pairs"]["train"] == 3
    assert record["drops"] == {"over_max_pairs_per_prompt": 3}


def test_a_margin_bound_is_inclusive(tmp_path):
    file = write(tmp_path, line(1, "a", 0.9), line(1, "b", 0.8))
    assert pick(file, tmp_path / "out", "min_margin=0.1")["pairs"]["train"] == 1


def test_every_bad_line_is_a_reject_with_its_place(tmp_path):
    file = write(
        tmp_path,
        line(1, "4", 0.9),
        b"{broken",
        b"[1]",
        {"turn": 1, "question": "2+2?", "reward": 1},
        line(1, 5, 0.1),
        line(1, "5", 0.1, question="3+3?"),
        line(1, "5", 0.1),
    )
    said = []
    record = pick(file, tmp_path / "out", said=said)
    found = {row["source"]: row["reason"] for row in rows(tmp_path / "out", "rejects")}
    assert found == {
        "scored.jsonl:2": "bad_line",
        "scored.jsonl:3": "bad_line",
        "scored.jsonl:4": "missing_field",
        "scored.jsonl:5": "field_type",
        "scored.jsonl:6": "prompt_differs",
    }
    assert "name the prompt's field in group_by, too" in said[-1]
    assert record["seeds"] == 6 == record["prompts"] + sum(record["rejects"].values())
    assert len(said) == 5


@pytest.mark.parametrize("score", [None, "high", float("nan")])
def test_a_candidate_without_a_score_takes_no_part(tmp_path, score):
    file = write(tmp_path, line(1, "a", 0.9), line(1, "b", score), line(1, "c", 0.1))
    record = pick(file, tmp_path / "out")
    assert texts(tmp_path / "out") == [("2+2?", "a", "c")]
    assert record["drops"] == {"no_score": 1}


def test_a_prompt_may_be_a_chat(tmp_path):
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    file = write(tmp_path, line(1, "a", 0.9, question=chat), line(1, "b", 0.1, question=chat))
    pick(file, tmp_path / "out")
    assert texts(tmp_path / "out") == [(chat, "a", "b")]


@pytest.mark.parametrize("prompt", [["a", "b"], [], 5, [{"role": "user"}], [{"content": None}]])
def test_a_prompt_that_is_neither_text_nor_chat_is_a_reject(tmp_path, prompt):
    file = write(tmp_path, line(1, "a", 0.9), line(1, "b", 0.1), line(2, "c", 1, question=prompt))
    record = pick(file, tmp_path / "out")
    assert record["rejects"] == {"seeds: field_type": 1}


def test_delta_reads_the_alias_of_a_line(tmp_path):
    file = write(tmp_path, line(1, "a", None, alias="big"), line(1, "b", None, alias="small"))
    rules = ["strategy=delta", "strong=big", "weak=small", "score=null"]
    pick(file, tmp_path / "out", *rules)
    assert texts(tmp_path / "out") == [("2+2?", "a", "b")]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["min_margn=1"], "did you mean 'min_margin'"),
        (["strategy=best"], "best_vs_worst"),
        (["min_margin=.nan"], "finite"),
        (["type=dpo_preference"], "expected 'preference_pairs'"),
    ],
)
def test_a_wrong_rule_is_one_message(tmp_path, overrides, message):
    with pytest.raises(PrefdataError, match=message):
        pick(write(tmp_path, line(1, "a", 1)), tmp_path / "out", *overrides)


def test_a_missing_file_and_an_empty_one_are_named(tmp_path):
    with pytest.raises(
        PrefdataError, match="not found; give a run folder or a file of scored candidates"
    ):
        pick(tmp_path / "none.jsonl", tmp_path / "out")
    with pytest.raises(PrefdataError, match="no usable line; the first: scored.jsonl:1"):
        pick(write(tmp_path, b"{"), tmp_path / "out")


def test_a_run_is_picked_again_without_its_models(project):
    first = build(project.load(), project.folder / "run", rehearse=True)
    again = pairs_of_run(project.folder / "run", ["strategy=exhaustive"], project.folder / "run")
    assert first["pairs"]["train"] == 20
    assert again["pairs"]["train"] == 120
    assert again["requests"] == first["requests"]
    assert "strategy: exhaustive" in (project.folder / "run" / "recipe.yaml").read_text()


def test_picking_again_equals_building_with_that_rule(project, tmp_path):
    rules = ["strategy=mu_minus_2sigma", "min_margin=1", "test_size=0.25"]
    build(project.load(), project.folder / "run", rehearse=True)
    pairs_of_run(project.folder / "run", rules, tmp_path / "again")
    whole = [f"output_projection.{rule}" for rule in rules]
    built = build(project.load(*whole), tmp_path / "built", rehearse=True)
    for folder in ("pairs", "rejects"):
        assert rows(tmp_path / "again", folder) == rows(tmp_path / "built", folder)
    # and the build knows that a run picked again is finished
    pairs_of_run(project.folder / "run", rules, project.folder / "run")
    said = []
    build(project.load(*whole), project.folder / "run", rehearse=True, say=said.append)
    assert said == ["nothing to do: this run is finished"]
    assert built["prompts"] > 0


def test_rejects_of_earlier_stages_stay_when_a_run_is_picked_again(project):
    project.write_seeds([{"prompt": "p", "answer": 1}, b"{broken"])
    build(project.load(), project.folder / "run", rehearse=True)
    again = pairs_of_run(project.folder / "run", ["min_chosen_score=100"], project.folder / "run")
    assert again["rejects"] == {"pairs: below_min_chosen_score": 1, "seeds: bad_line": 1}


def test_columns_may_be_called_as_the_pairs_own(project):
    project.recipe["columns"][1]["name"] = "score"
    record = build(
        project.load("output_projection.score=score"), project.folder / "run", rehearse=True
    )
    [pair, *_] = rows(project.folder / "run", "pairs")
    assert pair["chosen_scores"] == {"score": pair["chosen_score"]}
    assert record["means"].keys() == {"score"}


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(PrefdataError, match="no finished run"):
        pairs_of_run(tmp_path, [], tmp_path)


NAMES = [
    "prompt", "id", "score", "candidates", "index", "text", "sample", "alias", "row_id", "chosen",
    "source_id", "a-b", "a b", "a.b", "score__meta", "candidates__meta", "größe", "0", "None",
]  # fmt: skip
"""What a file may call a field."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("role", ["group_by", "prompt", "text", "score"])
def test_a_field_may_have_any_name(tmp_path, name, role):
    fields = {"group_by": "g", "prompt": "p", "text": "t", "score": "s"} | {role: name}
    lines = [(1, "q", "bad", 0.1), (1, "q", "good", 0.9), (2, "r", "good", 0.9), (2, "r", "bad", 0)]
    written = [dict(zip(fields.values(), line, strict=True)) for line in lines]
    if role == "prompt":
        fields["group_by"] = name
    file, out = write(tmp_path, *written), tmp_path / "out"
    given = Layout(**fields | {"group_by": (fields["group_by"],)})
    pairs_of_file(file, given, (), out, seed=0, say=print)
    assert texts(out) == [("q", "good", "bad"), ("r", "good", "bad")]
    names = read_schema(out / "candidates").names
    assert len(set(names)) == len(names)
    if role == "group_by":
        loaded = load_dataset("parquet", data_files=f"{out}/candidates/*", cache_dir=tmp_path)
        assert loaded["train"].num_rows == 2


def test_lines_are_grouped_by_the_prompt_whatever_it_is_called(tmp_path):
    lines = [("q", "a", 1), ("q ", "b", 0), ([{"role": "user", "content": "q"}], "c", 0.5)]
    file = write(tmp_path, *(dict(zip(("question", "text", "score"), line, strict=True)) for line in lines))  # fmt: skip  # noqa: E501
    command = [file, "strategy=exhaustive", "--prompt", "question", "--out", tmp_path / "out"]
    done = CliRunner().invoke(app, ["pairs", *map(str, command)])
    assert done.exit_code == 0, done.output
    assert texts(tmp_path / "out") == [("q", "a", "b"), ("q", "a", "c"), ("q", "c", "b")]


def test_several_fields_make_a_group(tmp_path):
    lines = [{"a": n // 2, "b": 1, "prompt": "q", "text": f"{n}", "score": n} for n in range(4)]
    command = [write(tmp_path, *lines), "--group", "a", "--group", "b", "--out", tmp_path / "out"]
    done = CliRunner().invoke(app, ["pairs", *map(str, command)])
    assert done.exit_code == 0, done.output
    assert texts(tmp_path / "out") == [("q", "1", "0"), ("q", "3", "2")]


@pytest.mark.parametrize("option", ["--prompt", "--text", "--score", "--group"])
def test_a_field_that_is_in_no_line_is_an_error_that_names_those_there_are(tmp_path, option):
    file = write(tmp_path, {"prompt": "q", "text": "a", "score": 1})
    done = CliRunner().invoke(app, ["pairs", str(file), "--out", f"{tmp_path}/out", option, "scor"])
    assert done.exit_code == 2
    said = " ".join(done.output.split())
    assert (
        f"{option}: there is no field 'scor'; did you mean 'score'? Known: prompt, text, score"
        in said
    )  # noqa: E501
    assert not (tmp_path / "out").exists()


RULES = ["keep=[nothing]", "group_by=nothing", "prompt_field=nothing", "score=nothing", "order_by=margin order_group=nothing"]  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_names_no_column_is_a_sentence(tmp_path, rule):
    with pytest.raises(PrefdataError, match="no column 'nothing'.*Known: id, turn, prompt"):
        pick(write(tmp_path, line(1, "a", 1)), tmp_path / "out", *rule.split())


BLANK = ["", "  ", "\u200b", "\n\u3000\ufeff", [{"role": "user", "content": " "}], [{"role": "system", "content": "s"}, {"role": "user", "content": ""}]]  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("prompt", BLANK, ids=repr)
def test_a_blank_prompt_is_a_reject(tmp_path, prompt):
    file = write(tmp_path, line(1, "a", 0.9), line(1, "b", 0.1), line(2, "c", 1, question=prompt))
    record = pick(file, tmp_path / "out")
    assert record["rejects"] == {"seeds: empty_prompt": 1}


PARTS = [
    {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}
]


@pytest.mark.parametrize(
    ("chat", "said_so"),
    [([{"role": "user", "content": "hi"}], "hi"), (PARTS, "h\ni")],
    ids=["plain", "parts, each on a line of its own"],
)
def test_texts_among_chats_become_chats_and_this_is_told(tmp_path, chat, said_so):
    lines = [line(n, text, score, q) for n, q in enumerate(["2+2?", chat]) for text, score in (("a", 1), ("b", 0))]  # fmt: skip  # noqa: E501
    said = []
    pick(write(tmp_path, *lines), tmp_path / "out", said=said)
    prompts = [row["prompt"] for row in rows(tmp_path / "out", "pairs")]
    assert prompts == [[{"role": "user", "content": text}] for text in ("2+2?", said_so)]
    assert ["1 of 2 prompts are texts and the others chats" in one for one in said] == [True]
