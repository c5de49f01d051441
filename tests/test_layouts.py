"""Scored and labelled data as public datasets have it: what becomes of a file of each layout."""

import gzip
import json
import lzma
from functools import reduce
from random import Random

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from layout_rows import (
    LAYOUTS,
    assistant,
    llama3_ultrafeedback,
    trl_implicit_texts,
    trl_texts,
    turns,
    user,
)
from trl import extract_prompt, is_conversational
from typer.testing import CliRunner

from prefdata.cli import app
from prefdata.errors import PrefdataError
from prefdata.export import ExportOptions, export_run
from prefdata.pairs.repick import pairs_of_file, pairs_of_run
from prefdata.pipeline import build
from prefdata.recipe.layout import layout_names, load_preset
from prefdata.recipe.loader import load_layout, load_recipe
from prefdata.seeds.files import Line
from prefdata.seeds.recognition import recognise
from prefdata.seeds.turns import Turns
from prefdata.storage.folders import read_rows

TABLE = {
    # layout: rows, pairs, rejects by reason, margins, prompts that are chats, loaded by TRL
    "ultrafeedback": (10, 9, {"tie": 1}, "3", 0, 9),
    "ultrafeedback-binarized-preferences-cleaned": (10, 8, {"empty": 1, "tie": 1}, "2.5", 8, 8),
    "ultrafeedback_binarized": (8, 7, {"tie": 1}, "2", 7, 7),
    "helpsteer2": (16, 8, {}, "1.05 to 2.2", 8, 8),
    "helpsteer3": (10, 8, {"tie": 2}, "1 to 3", 8, 8),
    "nectar": (8, 8, {}, "6", 8, 8),
    "hh-rlhf": (12, 10, {"empty": 1, "no_shared_prompt": 1}, "none", 10, 10),
    "pku-saferlhf": (10, 10, {}, "none", 0, 10),
    "chatbot_arena_conversations": (12, 6, {"tie": 6}, "none", 6, 6),
    "llama-3.1-tulu-3-8b-preference-mixture": (10, 9, {"identical": 1}, "none", 9, 9),
    "llama3-ultrafeedback-armorm": (8, 6, {"identical": 1, "tie": 1}, "0.4", 0, 6),
    "distilabel": (8, 6, {"lengths_differ": 1, "no_score": 1}, "2 to 4", 0, 6),
    "openai": (8, 8, {}, "2 to 3", 8, 8),
    "trl": (8, 8, {}, "none", 8, 8),
    "trl-implicit": (8, 8, {}, "none", 8, 8),
}
BY_HAND = {"prefdata", "prefdata-pairs"}
"""Layouts of our own files, which tests make by runs."""


def write(place, rows):
    place.parent.mkdir(parents=True, exist_ok=True)
    raw = b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
    match place.suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), place)
        case ".gz":
            place.write_bytes(gzip.compress(raw))
        case ".xz":
            place.write_bytes(lzma.compress(raw))
        case ".zst":
            place.write_bytes(pa.compress(raw, "zstd", asbytes=True))
        case _:
            place.write_bytes(raw)
    return place


def in_form(folder, form, rows):
    """The rows in a file of this form, or in a folder that is like a clone of a Hub dataset."""
    if form != "folder":
        return write(folder / f"rows.{form}", rows), None
    half = len(rows) // 4 * 2
    write(folder / "clone/data/train-00000-of-00002.parquet", rows[:half])
    write(folder / "clone/data/train-00001-of-00002.parquet", rows[half:])
    write(folder / "clone/data/test-00000-of-00001.parquet", rows[:1])
    return folder / "clone", "train"


def choose(place, out, layout, *rules, changes=(), split=None, seed=0):
    mapping = load_layout(layout, changes)
    return pairs_of_file(place, mapping, rules, out, seed=seed, say=lambda line: None, split=split)


def pairs(out):
    return list(read_rows(out / "pairs"))


def spread(values):
    told = sorted({f"{value:g}" for value in values if value is not None}, key=float)
    return "none" if not told else told[0] if len(told) == 1 else f"{told[0]} to {told[-1]}"


def loaded_by_trl(out):
    """Pairs that TRL reads from an export as a prompt with two answers."""
    exported = export_run(out, "trl", ExportOptions(test_size=0), say=lambda line: None)
    rows = load_dataset("json", data_files=str(exported.folder / "train.jsonl"), split="train")
    fitting = [
        row
        for row in map(dict, rows)
        if is_conversational(row)
        and extract_prompt({"chosen": row["prompt"] + row["chosen"],
                            "rejected": row["prompt"] + row["rejected"]})["prompt"]
        == row["prompt"]
    ]  # fmt: skip
    return len(fitting)


def line_of_the_table(record, out):
    made = pairs(out)
    rejects = {name.partition(": ")[2]: count for name, count in record["rejects"].items()}
    chats = sum(not isinstance(pair["prompt"], str) for pair in made)
    margins = spread(pair["margin"] for pair in made)
    return len(made), dict(sorted(rejects.items())), margins, chats


@pytest.mark.parametrize("form", ["jsonl", "parquet", "jsonl.gz", "folder"])
@pytest.mark.parametrize("layout", TABLE)
def test_a_file_of_each_layout_becomes_pairs_by_its_name_alone(tmp_path, layout, form):
    rows, count, rejects, margins, chats, loaded = TABLE[layout]
    made = LAYOUTS[layout]()
    assert len(made) == rows
    place, split = in_form(tmp_path, form, made)
    record = choose(place, tmp_path / "out", layout, split=split)
    assert line_of_the_table(record, tmp_path / "out") == (count, rejects, margins, chats)
    assert record["prompts"] + sum(record["rejects"].values()) == record["seeds"]
    if form == "jsonl":
        assert loaded_by_trl(tmp_path / "out") == loaded


def test_every_preset_is_in_the_table():
    assert set(layout_names()) == TABLE.keys() | BY_HAND


@pytest.mark.parametrize("layout", TABLE)
def test_a_layout_is_recognised_by_its_first_lines(layout):
    assert recognise(LAYOUTS[layout]()).file == layout


def command(*words):
    done = CliRunner().invoke(app, ["pairs", *map(str, words)])
    return done.exit_code, " ".join(done.output.split())


def test_a_file_that_looks_like_a_preset_is_told_so(tmp_path):
    place = write(tmp_path / "ranked.jsonl", LAYOUTS["nectar"]())
    code, said = command(place, "--out", tmp_path / "out")
    assert code == 2
    assert "there is no field 'text'" in said
    assert said.endswith("the file looks like Nectar: add --layout nectar")
    code, said = command(place, "--layout", "trl", "--out", tmp_path / "out")
    assert "ranked.jsonl: chosen: there is no field 'chosen'" in said
    assert "looks like Nectar" in said
    assert command(place, "--layout", "berkeley-nest/NECTAR", "--out", tmp_path / "out")[0] == 0


def test_a_name_that_no_layout_has_is_told_with_those_there_are(tmp_path):
    place = write(tmp_path / "ranked.jsonl", LAYOUTS["nectar"]())
    code, said = command(place, "--layout", "nectr", "--out", tmp_path / "out")
    assert (code, "there is no layout 'nectr'; did you mean 'nectar'?" in said) == (2, True)


def test_keys_of_a_preset_can_be_replaced(tmp_path):
    place = write(tmp_path / "pku.jsonl", LAYOUTS["pku-saferlhf"]())
    choose(place, tmp_path / "out", "pku-saferlhf", changes=["label=safer_response_id"])
    assert {pair["chosen"][:8] for pair in pairs(tmp_path / "out")} == {"Answer 1"}


def test_a_layout_of_ones_own_is_a_yaml_file(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("{dataset: me/mine, layout: helpsteer3, a: left}\n")
    rows = [{"context": "q", "left": "a", "response2": "b", "overall_preference": -2}]
    choose(write(tmp_path / "x.jsonl", rows), tmp_path / "out", str(mine))
    assert [(p["chosen"], p["margin"]) for p in pairs(tmp_path / "out")] == [("a", 2.0)]


@pytest.mark.parametrize(
    ("more", "kept"), [("", {"p0", "p1"}), (", ties: keep", {"p0", "p1", "p2"})]
)
def test_a_vote_for_neither_is_a_tie_in_a_recipe_too(tmp_path, more, kept):
    votes = ["A", "B", "tie"]
    rows = [{"prompt": f"p{n}", "a": "x", "b": "y", "vote": one} for n, one in enumerate(votes)]
    write(tmp_path / "votes.jsonl", rows)
    (tmp_path / "r.yaml").write_text(
        "output_dir: out\ncolumns: []\nseed_dataset:\n  path: votes.jsonl\n"
        "  candidates: {prompt: prompt, a: a, b: b, label: vote, winner: {A: A, B: B, tie: tie}}\n"
        "output_projection: {type: preference_pairs, candidates: candidates, strategy: given"
        f"{more}}}\n"
    )
    build(load_recipe(tmp_path / "r.yaml"), tmp_path / "out", say=lambda line: None)
    found = pairs(tmp_path / "out")
    assert {pair["prompt"] for pair in found} == kept
    assert {pair["prompt"] for pair in found if pair["is_tie"]} == kept - {"p0", "p1"}


def test_a_recipe_names_a_layout_and_ranks_are_better_low(tmp_path):
    write(tmp_path / "ranked.jsonl", LAYOUTS["nectar"]())
    (tmp_path / "r.yaml").write_text(
        "output_dir: out\n"
        "seed_dataset: {path: ranked.jsonl, candidates: nectar}\n"
        "columns: [{name: first, type: verifier, method: regex, pattern: 'Answer 0',"
        " candidates: candidates}]\n"
        "output_projection: {type: preference_pairs, candidates: candidates, score: score,"
        " strategy: best_vs_worst}\n"
    )
    build(load_recipe(tmp_path / "r.yaml"), tmp_path / "out", say=lambda line: None)
    assert {pair["chosen"][:8] for pair in pairs(tmp_path / "out")} == {"Answer 0"}
    mix = "{type: mix, of: {a: {type: preference_pairs, candidates: candidates, score: score,"
    mix += " strategy: exhaustive, max_pairs_per_prompt: 1}, b: {type: preference_pairs,"
    mix += " candidates: candidates, score: first, strategy: best_vs_worst}}}"
    whole = load_recipe(tmp_path / "r.yaml", [f"output_projection={mix}"]).recipe
    assert [one.better for one in whole.output_projection.of.values()] == ["lower", "higher"]
    # what a column scores anew is not a rank
    again = ["output_projection.score=first"]
    build(load_recipe(tmp_path / "r.yaml", again), tmp_path / "out", say=lambda line: None)
    assert {pair["chosen"][:8] for pair in pairs(tmp_path / "out")} == {"Answer 0"}


def test_a_recipe_pairs_what_is_labelled(tmp_path):
    write(tmp_path / "votes.jsonl", LAYOUTS["helpsteer3"]())
    (tmp_path / "r.yaml").write_text(
        "output_dir: out\n"
        "seed_dataset: {path: votes.jsonl, candidates: {layout: helpsteer3, group_by: domain}}\n"
        "columns: []\n"
        "output_projection: {type: preference_pairs, candidates: candidates, strategy: given,"
        " margin: margin, min_margin: 2, keep: [domain], order_by: margin}\n"
    )
    record = build(load_recipe(tmp_path / "r.yaml"), tmp_path / "out", say=lambda line: None)
    made = [(pair["margin"], pair["domain"]) for pair in pairs(tmp_path / "out")]
    assert made == [(3.0, "general")] * 2 + [(2.0, "general")] * 3
    assert record["rejects"] == {"pairs: below_min_margin": 3, "pairs: tie": 2}


def test_ties_are_kept_where_they_are_asked_for(tmp_path):
    place = write(tmp_path / "votes.jsonl", LAYOUTS["chatbot_arena_conversations"]())
    choose(place, tmp_path / "out", "chatbot_arena_conversations", "ties=keep")
    made = pairs(tmp_path / "out")
    assert [pair["is_tie"] for pair in made].count(True) == 6
    assert {pair["margin"] for pair in made if pair["is_tie"]} == {0.0}
    assert {pair["chosen"][:4] for pair in made if pair["is_tie"]} == {"Left", "Righ"}


def test_conversations_that_part_keep_the_turns_of_each_side(tmp_path):
    place = write(tmp_path / "votes.jsonl", LAYOUTS["chatbot_arena_conversations"]())
    choose(place, tmp_path / "out", "chatbot_arena_conversations")
    [long] = [pair for pair in pairs(tmp_path / "out") if pair["chosen"] == "Left 8 2"]
    assert long["prompt"] == [user("Ask 8 0")]
    between = turns("Left 8 0", "Ask 8 1", "Left 8 1", "Ask 8 2")
    mine = [one | {"role": ("assistant", "user")[n % 2]} for n, one in enumerate(between)]
    assert orjson.loads(long["chosen_turns"]) == mine
    exported = export_run(tmp_path / "out", "trl", ExportOptions(test_size=0), say=str)
    lines = [orjson.loads(line) for line in (exported.folder / "train.jsonl").open("rb")]
    assert [*mine, assistant("Left 8 2")] in [line["chosen"] for line in lines]
    told = export_run(tmp_path / "out", "llama_factory", ExportOptions(test_size=0), say=str)
    assert told.left_out == {"turns": 4}


SCORED = [
    {"q": "a", "meta": {"n": 1}, "out": f"text {k}", "marks": {"good": k, "short": -k}}
    for k in range(4)
]


def test_several_scores_are_summed_by_weight_or_ranked(tmp_path):
    place = write(tmp_path / "x.jsonl", SCORED)
    base = ["prompt=q", "text=out", "group_by=[meta.n]"]
    base += ["score={good: marks.good, short: marks.short}"]
    choose(place, tmp_path / "sum", None, changes=[*base, "weights={good: 1, short: 3}"])
    [pair] = pairs(tmp_path / "sum")
    assert (pair["chosen"], pair["margin"]) == ("text 0", 6.0)
    assert pair["chosen_scores"] == {"good": 0.0, "short": 0.0, "score": 0.0}
    choose(place, tmp_path / "rank", None, "score={good: 0.9, short: 0.1}", changes=base)
    [pair] = pairs(tmp_path / "rank")
    assert (pair["chosen"], pair["rejected"]) == ("text 3", "text 0")
    (tmp_path / "r.yaml").write_text(
        "output_dir: out\n"
        "seed_dataset: {path: x.jsonl, candidates: {prompt: q, text: out,"
        " score: {good: marks.good, short: marks.short}}}\n"
        "columns: []\n"
        "output_projection: {type: preference_pairs, candidates: candidates,"
        " score: {good: 0.1, short: 0.9}, strategy: best_vs_worst}\n"
    )
    build(load_recipe(tmp_path / "r.yaml"), tmp_path / "built", say=lambda line: None)
    assert [pair["chosen"] for pair in pairs(tmp_path / "built")] == ["text 0"]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"prompt": "p"}, "give 'text' for candidates"),
        ({"prompt": "p", "text": "t", "chosen": "c"}, "only one of the three"),
        ({"prompt": "p", "a": "a", "b": "b", "label": "l"}, "'winner' is missing"),
        ({"prompt": "p", "text": "t", "margin": "m"}, "'margin' is not read where there is 'text'"),
        ({"text": "t"}, "'prompt' is missing"),
        ({"prompt": "p", "text": "t", "score": ["a", "b"], "weights": {"a": 1}}, "gives? .*weight"),
        ({"prompt": "p", "text": "t", "score": ["prompt"]}, "which rows already have"),
        ({"prompt": "p", "text": "t", "group_by": []}, "the list is empty"),
        ({"prompt": "p", "text": "t", "scores": "s"}, "no key 'scores' here; did you mean 'score'"),
    ],
    ids=str,
)
def test_a_mapping_that_does_not_fit_is_one_sentence(tmp_path, mapping, message):
    (tmp_path / "mine.yaml").write_text(json.dumps(mapping))
    with pytest.raises(PrefdataError, match=message) as caught:
        load_layout(str(tmp_path / "mine.yaml"), ())
    assert str(caught.value).startswith(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("rows", "chat", "texts"),
    [
        (trl_texts, False, (" blue 0.", " green 0.")),
        (trl_implicit_texts, True, ("blue.", "green.")),
    ],
    ids=["explicit", "implicit"],
)
def test_pairs_may_be_texts(tmp_path, rows, chat, texts):
    layout = "trl-implicit" if chat else "trl"
    choose(write(tmp_path / "x.jsonl", rows()), tmp_path / "out", layout)
    first = pairs(tmp_path / "out")[0]
    assert first["prompt"] == ([user("The sky 0 is")] if chat else "The sky 0 is")
    assert (first["chosen"], first["rejected"]) == texts


def test_objects_and_csv_have_scores_and_labels_at_any_depth_and_as_texts(tmp_path):
    layout = ["each=completions", "prompt=instruction", "text=response", "alias=model"]
    layout += ["score=annotations.helpfulness.Rating | annotations.helpfulness.0.Rating"]
    rows = LAYOUTS["ultrafeedback"]()
    for completion in rows[0]["completions"]:
        completion["annotations"]["helpfulness"] = [completion["annotations"]["helpfulness"]]
    record = choose(write(tmp_path / "x.jsonl", rows), tmp_path / "out", None, changes=layout)
    assert line_of_the_table(record, tmp_path / "out") == (9, {"no_score": 1}, "3", 0)
    (tmp_path / "x.csv").write_text("prompt,left,right,vote\nq,a,b,2\nr,a,b,0.0\ns,a,b,x\n")
    layout = ["prompt=prompt", "a=left", "b=right", "label=vote"]
    layout += ["winner={A: 1, B: 2, tie: 0}"]
    choose(tmp_path / "x.csv", tmp_path / "csv", None, "ties=keep", changes=layout)
    assert [(p["prompt"], p["chosen"]) for p in pairs(tmp_path / "csv")][0] == ("q", "b")
    assert [pair["is_tie"] for pair in pairs(tmp_path / "csv")] == [False, True]
    assert reject_reasons(tmp_path / "csv") == ["bad_label"]


ODD = [
    None, "", 0, -1, 2**64 - 1, float("nan"), True, [], {}, [1], [None], [[]], [{}], {"a": 1},
    {"role": "user"}, [user("x")], {"role": "odd", "content": "x"}, "\n\nHuman:",
    [{"role": "assistant", "content": None, "tool_calls": [1]}],
    [{"role": "assistant", "content": [{"type": "image"}]}],
    [{"from": "gpt", "value": "x"}], {"role": "assistant", "content": "c", "tool_calls": "no"},
    [{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}],
]  # fmt: skip


def is_list(value):
    return isinstance(value, list)


def spots(value, at=()):
    """The ways to all that a row holds."""
    yield at
    for key in value if isinstance(value, dict) else range(len(value) if is_list(value) else 0):
        yield from spots(value[key], (*at, key))


@pytest.mark.parametrize("layout", TABLE)
def test_whatever_a_field_holds_is_a_row_or_a_reject(layout):
    draw, gathered = Random(layout), Turns(load_preset(layout))
    for number in range(300):
        row = {"line": draw.choice(LAYOUTS[layout]())}
        way = draw.choice([at for at in spots(row) if len(at) > 1])
        inside = reduce(lambda part, key: part[key], way[:-1], row)
        inside[way[-1]] = draw.choice(ODD)
        gathered.read([Line(f"line {number}", row["line"])])
    assert gathered.table().num_rows == len(gathered.rows)
    assert gathered.rejects


def reject_reasons(out):
    return [row["reason"] for row in read_rows(out / "rejects")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": [user("a")], "rejected": [user("a")]}, "no_answer"),
        ({"chosen": turns("a", "b"), "rejected": turns("c", "d")}, "no_shared_prompt"),
        ({"chosen": turns("a", "b"), "rejected": "text"}, "field_type"),
        ({"chosen": turns(" ", "b"), "rejected": turns(" ", "c")}, "empty_prompt"),
        ({"chosen": "yes it is", "rejected": "no"}, "no_shared_prompt"),
        ({"chosen": turns("a", "b")}, "missing_field"),
        ({"chosen": 7, "rejected": [user("a")]}, "field_type"),
    ],
    ids=str,
)
def test_a_pair_that_is_none_is_a_reject(tmp_path, row, reason):
    good = {"chosen": turns("q", "a"), "rejected": turns("q", "b")}
    choose(write(tmp_path / "x.jsonl", [good, row]), tmp_path / "out", "trl-implicit")
    assert len(pairs(tmp_path / "out")) == 1
    assert reject_reasons(tmp_path / "out") == [reason]


def test_a_comparison_may_include_its_bound(tmp_path):
    (tmp_path / "x.csv").write_text("prompt,left,right,p\nq,a,b,0.75\nr,a,b,0.5\ns,a,b,0.25\n")
    layout = ["prompt=prompt", "a=left", "b=right", "label=p"]
    layout += ["winner={A: '> 0.5', B: '<= 0.5'}"]
    choose(tmp_path / "x.csv", tmp_path / "out", None, changes=layout)
    told = {pair["prompt"]: (pair["chosen"], pair["margin"]) for pair in pairs(tmp_path / "out")}
    assert told == {"q": ("a", 0.25), "r": ("b", None), "s": ("b", 0.25)}


@pytest.mark.parametrize(
    ("winner", "message"),
    [
        ({"A": "> 0", "B": "> 2"}, "A: '> 0' and B: '> 2' have values in common"),
        ({"A": ">= 0", "B": "<= 0"}, "have values in common"),
        ({"A": "< 0", "B": "> 0", "tie": [0, -1]}, "A: '< 0' and tie: -1"),
        ({"A": 1, "B": 2, "tie": 1.0}, "have values in common"),
        ({"A": "1", "B": 1}, "have values in common"),
        ({"A": "x", "B": "x"}, "have values in common"),
        ({"A": "!= 0", "B": 0}, "'!= 0' is no comparison"),
        ({"A": "== 1", "B": 0}, "'== 1' is no comparison"),
        ({"A": "> 1e-3", "B": 0}, "'> 1e-3' is no comparison"),
    ],
    ids=str,
)
def test_meanings_that_cannot_be_told_apart_are_a_mistake(tmp_path, winner, message):
    mapping = {"prompt": "p", "a": "a", "b": "b", "label": "l", "winner": winner}
    (tmp_path / "mine.yaml").write_text(json.dumps(mapping))
    with pytest.raises(PrefdataError, match=message):
        load_layout(str(tmp_path / "mine.yaml"), ())


@pytest.mark.parametrize(
    "winner",
    [
        {"A": "< 0", "B": "> 0", "tie": 0},
        {"A": ["A", ">"], "B": ["B", "<"], "tie": "="},
        {"A": True, "B": False, "tie": "1"},
        {"A": "> 0.5", "B": "<= 0.5"},
    ],
    ids=str,
)
def test_meanings_that_have_nothing_in_common_are_taken(tmp_path, winner):
    mapping = {"prompt": "p", "a": "a", "b": "b", "label": "l", "winner": winner}
    (tmp_path / "mine.yaml").write_text(json.dumps(mapping))
    assert load_layout(str(tmp_path / "mine.yaml"), ()).winner is not None


@pytest.mark.parametrize(
    ("begun", "texts", "made"),
    [
        ("Sure, here", (" is x", " are y"), ("Sure, here is x", "Sure, here are y")),
        ("Sure, here ", ("is x", "are y"), ("Sure, here is x", "Sure, here are y")),
        ("Sure", ("Sure, x", "Sure, y"), ("Sure, x", "Sure, y")),
        ("", ("x", "y"), ("x", "y")),
    ],
)
def test_what_a_transcript_begins_stands_in_front_of_both_texts(tmp_path, begun, texts, made):
    answers = [{"answer": text, "rank": n, "model": "m"} for n, text in enumerate(texts, 1)]
    row = {"prompt": f"\n\nHuman: q\n\nAssistant: {begun}", "answers": answers}
    choose(write(tmp_path / "x.jsonl", [row]), tmp_path / "out", "nectar")
    [pair] = pairs(tmp_path / "out")
    assert pair["prompt"] == [user("q")]
    assert (pair["chosen"], pair["rejected"]) == made


def test_transcripts_that_begin_the_answer_differently_do_not_contradict(tmp_path):
    def row(begun, *texts):
        answers = [{"answer": text, "rank": n, "model": "m"} for n, text in enumerate(texts)]
        return {"prompt": f"\n\nHuman: q\n\nAssistant: {begun}", "answers": answers}

    rows = [row("Yes,", " a", " b"), row("No,", " b", " a")]
    choose(write(tmp_path / "x.jsonl", rows), tmp_path / "out", "nectar")
    assert [pair["chosen"] for pair in pairs(tmp_path / "out")] == ["Yes, a", "No, b"]


def test_messages_that_end_with_an_answer_of_nobody_are_a_reject(tmp_path):
    rows = [
        {"prompt": turns("q", "Sure"), "chosen": "a", "rejected": "b"},
        {"prompt": turns("r", "Sure"), "chosen": "Sure, a", "rejected": "Sure, b"},
        {"prompt": turns("s", "a"), "chosen": "a", "rejected": "b"},
    ]
    choose(write(tmp_path / "x.jsonl", rows), tmp_path / "out", "trl")
    assert [pair["prompt"] for pair in pairs(tmp_path / "out")] == [[user("r")], [user("s")]]
    assert reject_reasons(tmp_path / "out") == ["answer_in_prompt"]


def test_a_label_without_a_meaning_is_a_reject(tmp_path):
    rows = LAYOUTS["helpsteer3"]()[:2]
    rows[1]["overall_preference"] = "unsure"
    choose(write(tmp_path / "x.jsonl", rows), tmp_path / "out", "helpsteer3")
    assert reject_reasons(tmp_path / "out") == ["bad_label"]


def test_calls_in_messages_stay_calls(tmp_path):
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": {"at": 1}}}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    rows = [{"prompt": [user("q")], "chosen": [said], "rejected": [assistant("no")]}]
    choose(write(tmp_path / "x.jsonl", rows), tmp_path / "out", "trl")
    [pair] = pairs(tmp_path / "out")
    [made] = orjson.loads(pair["chosen_tool_calls"])
    assert made["function"] == {"name": "look", "arguments": '{"at":1}'}


def test_a_thought_in_a_message_is_kept_beside_its_answer(tmp_path):
    rows = LAYOUTS["openai"]()
    for row in rows:
        for choice in row["response"]["choices"]:
            choice["message"]["reasoning_content"] = "so"
    choose(write(tmp_path / "x.jsonl", rows), tmp_path / "out", "openai")
    assert {pair["chosen_reasoning"] for pair in pairs(tmp_path / "out")} == {"so"}


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("pku-saferlhf", ("response_0_source", "response_1_source")),
        ("nectar", ("model",)),
        ("chatbot_arena_conversations", ("model_a", "model_b")),
        ("ultrafeedback-binarized-preferences-cleaned", ("chosen-model", "rejected-model")),
    ],
)
def test_who_wrote_the_texts_may_be_missing_from_a_file_of_a_preset(tmp_path, layout, names):
    rows = LAYOUTS[layout]()
    for row in [*rows, *(one for each in rows for one in each.get("answers", ()))]:
        for name in names:
            row.pop(name, None)
    choose(write(tmp_path / "x.jsonl", rows), tmp_path / "out", layout)
    assert {pair["chosen_alias"] for pair in pairs(tmp_path / "out")} == {None}
    key = [key for key, _ in load_preset(layout).paths if key.endswith("alias")][0]
    with pytest.raises(PrefdataError, match=f"{key}: there is no field 'writer'"):
        choose(tmp_path / "x.jsonl", tmp_path / "no", layout, changes=[f"{key}=writer"])


def test_a_given_pair_whose_rejected_scores_higher_says_so(tmp_path):
    rows = [
        {"prompt": "q", "chosen": "a", "rejected": "b", "chosen_score": 2, "rejected_score": 1},
        {"prompt": "r", "chosen": "a", "rejected": "b", "chosen_score": 1, "rejected_score": 2},
    ]
    layout = [f"{key}={key}" for key in rows[0]]
    choose(write(tmp_path / "x.jsonl", rows), tmp_path / "out", None, changes=layout)
    [lost] = read_rows(tmp_path / "out" / "rejects")
    assert lost["reason"] == "rejected_scores_higher"
    assert lost["detail"].startswith("the text to be rejected has the higher score")


def test_a_refused_sample_costs_itself_and_not_its_line(tmp_path):
    rows = LAYOUTS["openai"]()[:2]
    refused = assistant(None) | {"refusal": "no"}
    rows[0]["response"]["choices"][3]["message"] = refused
    for choice in rows[1]["response"]["choices"]:
        choice["message"] = refused
    record = choose(write(tmp_path / "x.jsonl", rows), tmp_path / "out", "openai")
    assert [pair["chosen"] for pair in pairs(tmp_path / "out")] == ["Answer 2 to 0."]
    assert (record["candidates"], record["drops"]) == (8, {"refusal": 5})
    assert reject_reasons(tmp_path / "out") == ["refusal"]


def test_of_several_paths_the_first_that_is_not_null_counts(tmp_path):
    rows = LAYOUTS["distilabel"]()
    for row in rows:
        row["input"], row["instruction"] = row["instruction"], None
    record = choose(write(tmp_path / "x.parquet", rows), tmp_path / "out", "distilabel")
    told = line_of_the_table(record, tmp_path / "out")
    assert told == (6, {"lengths_differ": 1, "no_score": 1}, "2 to 4", 0)


def test_a_field_that_is_null_is_told_so(tmp_path):
    rows = [*LAYOUTS["trl"](), {"prompt": [user("q")], "chosen": None, "rejected": None}]
    choose(write(tmp_path / "x.jsonl", rows), tmp_path / "out", "trl")
    [lost] = read_rows(tmp_path / "out" / "rejects")
    assert (lost["reason"], lost["detail"]) == ("missing_field", "'chosen' is null")


def test_lists_that_no_layout_names_cost_no_line(tmp_path):
    rows = [row | {"model": ["x"], "seed": [1, 2, 3, 4, 5]} for row in llama3_ultrafeedback()]
    choose(write(tmp_path / "x.jsonl", rows), tmp_path / "out", "llama3-ultrafeedback-armorm")
    assert reject_reasons(tmp_path / "out") == ["identical", "tie"]


def test_columns_of_objects_as_datasets_has_them_are_a_list_of_objects(tmp_path):
    rows = LAYOUTS["nectar"]()
    for row in rows:
        row["answers"] = {key: [one[key] for one in row["answers"]] for key in row["answers"][0]}
    record = choose(write(tmp_path / "x.parquet", rows), tmp_path / "out", "nectar")
    assert line_of_the_table(record, tmp_path / "out") == (8, {}, "6", 8)


def test_equal_lines_are_rows_of_their_own_and_their_pairs_are_duplicates(tmp_path):
    rows = LAYOUTS["helpsteer3"]()[:1] * 3
    record = choose(write(tmp_path / "x.jsonl", rows), tmp_path / "out", "helpsteer3")
    assert (record["pairs"]["train"], record["rejects"]) == (1, {"pairs: duplicate": 2})


# What we have made ourselves


def test_pairs_of_a_file_are_chosen_again_in_their_folder(tmp_path):
    place = write(tmp_path / "x.jsonl", LAYOUTS["llama3-ultrafeedback-armorm"]())
    first = choose(place, tmp_path / "out", "llama3-ultrafeedback-armorm", seed=3)
    again = pairs_of_run(tmp_path / "out", ["strategy=exhaustive"], tmp_path / "out")
    assert again["pairs"]["train"] > first["pairs"]["train"]
    assert (again["seed"], again["fields"]) == (3, first["fields"])
    other = pairs_of_run(tmp_path / "out", ["strategy=best_vs_worst"], tmp_path / "other")
    assert other["pairs"] == first["pairs"]
    code, said = command(tmp_path / "out", "min_margin=0.35")
    assert (code, "6 train" in said) == (0, True)


def test_candidates_of_a_build_come_back_and_are_recognised(project):
    build(project.load(), project.folder / "run", rehearse=True, say=lambda line: None)
    lines = list(read_rows(project.folder / "run" / "candidates"))
    assert recognise(lines).file == "prefdata"
    assert recognise(read_rows(project.folder / "run" / "pairs")).file == "prefdata-pairs"
    record = choose(project.folder / "run", project.folder / "again", "prefdata")
    told = [
        (pair["prompt"], pair["chosen"], pair["margin"]) for pair in pairs(project.folder / "run")
    ]
    back = [(p["prompt"], p["chosen"], p["margin"]) for p in pairs(project.folder / "again")]
    assert record["candidates"] == sum(len(line["candidates"]) for line in lines)
    assert sorted(back) == sorted(told)


def test_candidates_and_pairs_of_a_run_come_back(tmp_path):
    place = write(tmp_path / "x.jsonl", LAYOUTS["openai"]())
    choose(place, tmp_path / "run", "openai")
    choose(tmp_path / "run", tmp_path / "again", "prefdata")
    choose(tmp_path / "run", tmp_path / "pairs", "prefdata-pairs")
    choose(tmp_path / "run" / "candidates", tmp_path / "part", "prefdata")
    names = ("prompt", "chosen", "rejected", "chosen_score", "rejected_score", "margin")
    first, *others = (
        [{name: pair[name] for name in names} for pair in pairs(tmp_path / out)]
        for out in ("run", "again", "pairs", "part")
    )
    assert len(first) == 8
    assert others == [first, first, first]
    exported = export_run(tmp_path / "run", "trl", ExportOptions(test_size=0), say=str)
    choose(exported.folder / "train.jsonl", tmp_path / "exported", "prefdata-pairs")
    back = [{name: pair[name] for name in names} for pair in pairs(tmp_path / "exported")]
    assert back == first


def test_turns_of_two_layouts_in_one_file_are_stored_in_one():
    gathered = Turns(load_preset("trl"))
    turns = [
        {"role": "user", "content": "two", "from": None, "value": None},
        {"role": None, "content": None, "from": "human", "value": "two"},
    ]
    rows = [{"prompt": [turn], "chosen": "a", "rejected": "b"} for turn in turns]
    gathered.read(Line(f"line {n}", row) for n, row in enumerate(rows))
    assert gathered.table()["prompt"].to_pylist() == [[user("two")]] * 2
