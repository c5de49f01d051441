"""Scored candidates from elsewhere: recipes/agent_turns.yaml, and how lines become turns."""

import json
import re
from pathlib import Path

import orjson
import pytest

from prefdata.errors import PrefdataError
from prefdata.pipeline import build
from prefdata.recipe.loader import load_recipe
from prefdata.storage.folders import read_rows

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "agent_turns.yaml"
NAMES = ("example_id", "turn_id", "candidate_index", "score", "output")


def line(example, turn, index, score, output, prompt="p"):
    named = dict(zip(NAMES, (example, turn, index, score, output), strict=True))
    return named | {"input": f"{prompt} {example} {turn}" if isinstance(prompt, str) else prompt}


def write(folder, *lines, name="moves.jsonl"):
    (folder / name).write_bytes(b"\n".join(orjson.dumps(one) for one in lines))
    return folder / name


def run(folder, *overrides, paths=("moves.jsonl",)):
    places = ", ".join(f'"{folder / path}"' for path in paths)
    given = [f"seed_dataset.path=[{places}]", "output_projection.test_size=0", *overrides]
    return build(load_recipe(RECIPE, given), folder / "run", say=lambda line: None)


def pairs(folder):
    return list(read_rows(folder / "run" / "pairs"))


def sides(folder):
    return [(pair["chosen"], pair["rejected"]) for pair in pairs(folder)]


ABC = [line("e", "t", n, score, text) for n, (score, text) in enumerate([(0.9, "a"), (0.8, "b"), (0.1, "c")])]  # noqa: E501  # fmt: skip


def test_the_shipped_recipe_makes_pairs_of_two_rounds(tmp_path):
    record = build(load_recipe(RECIPE), tmp_path / "run", say=lambda line: None)
    assert (record["seeds"], record["candidates"]) == (60, 480)
    made = pairs(tmp_path)
    assert len(made) > 60
    assert all(pair["margin"] >= 0.1 - 1e-9 and pair["reward"] == pair["margin"] for pair in made)
    assert {tuple(turn) for pair in made for turn in pair["prompt"]} == {("role", "content")}


def test_all_pairs_of_a_turn_or_only_the_best_over_the_worst(tmp_path):
    write(tmp_path, *ABC)
    run(tmp_path)
    assert sides(tmp_path) == [("a", "c"), ("b", "c"), ("a", "b")]
    run(tmp_path, "output_projection.strategy=best_vs_worst")
    assert sides(tmp_path) == [("a", "c")]


@pytest.mark.parametrize(("bound", "count"), [(0.1, 3), (0.11, 2), (0.8, 1), (0.81, 0)])
def test_the_smallest_score_difference_is_inclusive(tmp_path, bound, count):
    write(tmp_path, *ABC)
    run(tmp_path, f"output_projection.min_margin={bound}")
    assert len(pairs(tmp_path)) == count


def test_a_turn_gives_so_many_pairs_at_most(tmp_path):
    write(tmp_path, *ABC)
    run(tmp_path, "output_projection.max_pairs_per_prompt=2")
    assert sides(tmp_path) == [("a", "c"), ("b", "c")]


@pytest.mark.parametrize(("of", "rewards"), [("margin", [0.8, 0.7, 0.1]), ("chosen_score", [0.9, 0.8, 0.9])])  # noqa: E501  # fmt: skip
def test_the_reward_of_a_pair(tmp_path, of, rewards):
    write(tmp_path, *ABC)
    run(tmp_path, f"output_projection.reward={of}")
    assert [pair["reward"] for pair in pairs(tmp_path)] == pytest.approx(rewards)


def test_rounds_are_pooled_by_turn_and_told_apart_where_lines_are_bad(tmp_path):
    for number, (score, text) in enumerate([(0.9, "good"), (0.2, "bad")]):
        (tmp_path / str(number)).mkdir()
        write(tmp_path / str(number), line("e", "t", 0, score, text), {"turn_id": 1})
    record = run(tmp_path, paths=("0/moves.jsonl", "1/moves.jsonl"))
    assert sides(tmp_path) == [("good", "bad")]
    refused = list(read_rows(tmp_path / "run" / "rejects"))
    assert [row["source"] for row in refused] == ["0/moves.jsonl:2", "1/moves.jsonl:2"]
    assert record["seeds"] == 3


def test_turns_of_two_examples_stay_apart(tmp_path):
    write(tmp_path, line("a::b", "c", 0, 0.9, "x"), line("a", "b::c", 0, 0.1, "y"))
    record = run(tmp_path)
    assert record["rejects"] == {"pairs: single_candidate": 2}


def test_pairs_go_from_easy_to_hard_with_examples_together(tmp_path):
    turns = [("hard", 0, 0.5, 0.4), ("easy", 0, 0.9, 0.0), ("hard", 1, 0.9, 0.2), ("mid", 0, 0.9, 0.3)]  # noqa: E501  # fmt: skip
    write(
        tmp_path,
        *(line(e, t, 0, high, f"{e}{t} good") for e, t, high, _ in turns),
        *(line(e, t, 1, low, f"{e}{t} bad") for e, t, _, low in turns),
    )
    run(tmp_path)
    order = [(pair["example_id"], pair["turn_id"]) for pair in pairs(tmp_path)]
    assert order == [("easy", 0), ("mid", 0), ("hard", 1), ("hard", 0)]


def test_a_sample_of_pairs_is_drawn_by_seed(tmp_path):
    write(tmp_path, *(line(f"e{n}", "t", k, k, f"{n} {k}") for n in range(30) for k in range(2)))
    drawn = []
    for seed in (0, 0, 1):
        run(tmp_path, "output_projection.max_pairs=10", f"seed={seed}")
        drawn.append({pair["example_id"] for pair in pairs(tmp_path)})
    assert len(drawn[0]) == 10
    assert drawn[0] == drawn[1] != drawn[2]


CHAT = [
    {"role": "system", "content": "You play."},
    {"role": "user", "content": [{"type": "text", "text": "Your move"}, {"type": "image", "url": "x"}]},  # noqa: E501
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look", "arguments": "{\"at\": 1}"}}]},  # noqa: E501
    {"role": "tool", "name": "look", "content": "X at 1 \u00e9\n"},
]  # fmt: skip


def test_message_lists_keep_everything(tmp_path):
    write(
        tmp_path,
        *(line("e", "t", k, k, f"move {k}", prompt=CHAT) for k in range(2)),
        *(line("f", "t", k, k, f"move {k}", prompt="a text") for k in range(2)),
    )
    run(tmp_path, f"output_path={tmp_path / 'pairs.jsonl'}")
    assert [pair["prompt"] for pair in pairs(tmp_path)] == [
        CHAT,
        [{"role": "user", "content": "a text f t"}],
    ]
    told = [orjson.loads(line)["prompt"] for line in (tmp_path / "pairs.jsonl").open("rb")]
    assert told == [CHAT, [{"role": "user", "content": "a text f t"}]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"output": None}, "missing_field"),
        ({"output": [7]}, "field_type"),
        ({"turn_id": None}, "missing_field"),
        ({"input": 7}, "field_type"),
        ({"input": []}, "field_type"),
        ({"input": [{"content": "no role"}]}, "field_type"),
        ({"input": [{"role": "user"}]}, "field_type"),
        ({"input": "another prompt"}, "prompt_differs"),
    ],
)
def test_a_line_that_cannot_be_used_is_a_reject_with_its_place(tmp_path, change, reason):
    write(tmp_path, *ABC, ABC[0] | change)
    record = run(tmp_path)
    assert record["rejects"] == {f"seeds: {reason}": 1}
    [refused] = read_rows(tmp_path / "run" / "rejects")
    assert refused["source"] == "moves.jsonl:4"
    assert len(pairs(tmp_path)) == 3


@pytest.mark.parametrize(
    "odd",
    [
        {"model": {"name": "x"}},
        {"model": 3, "alias": ["a"]},
        {"seed": "abc", "temperature": "0.7"},
        {"seed": 2**64 - 1},
        {"candidate_index": 1_700_000_000_000},
        {"candidate_index": "first"},
        {"score": int("9" * 400)},
    ],
    ids=str,
)
def test_what_is_odd_beside_the_candidate_does_not_stop_the_run(tmp_path, odd):
    lines = [orjson.dumps(one) for one in ABC]
    (tmp_path / "moves.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    with (tmp_path / "moves.jsonl").open("a") as file:
        file.write(json.dumps(line("e", "t", 3, 0.5, "odd") | odd))
    assert run(tmp_path)["seeds"] + len(list(read_rows(tmp_path / "run" / "rejects"))) >= 1
    assert len(pairs(tmp_path)) >= 3


@pytest.mark.parametrize("group", [["input"], ["turn_id", "input"], ["score"], "input"], ids=str)
def test_a_recipe_may_group_by_any_field(tmp_path, group):
    write(tmp_path, *ABC, *(line("f", "t", n, n, f"{n}") for n in range(2)))
    rules = ["output_projection.order_by=null", "output_projection.order_group=null"]
    rules += ["output_projection.keep=[]", f"seed_dataset.candidates.group_by={group}"]
    record = run(tmp_path, *rules)
    rows = len({0.9, 0.8, 0.1, 0, 1}) if group == ["score"] else 2
    assert record["prompts"] + sum(record["rejects"].values()) == rows


def test_rows_that_share_a_prompt_are_grouped_by_it(tmp_path):
    write(tmp_path, *({"prompt": "q" + " " * n, "output": f"{n}", "score": n} for n in range(3)))
    rules = ["output_projection.order_by=null", "output_projection.order_group=null"]
    rules += ["output_projection.keep=[]", "seed_dataset.candidates.group_by=[prompt]"]
    rules += ["seed_dataset.candidates.prompt=prompt", "seed_dataset.candidates.index=null"]
    assert run(tmp_path, *rules)["candidates"] == 3
    assert sorted(sides(tmp_path)) == [("1", "0"), ("2", "0"), ("2", "1")]


@pytest.mark.parametrize("key", ["score", "text", "prompt", "index"])
def test_a_field_of_the_recipe_that_is_in_no_line_is_an_error(tmp_path, key):
    write(tmp_path, *ABC)
    said = f"seed_dataset.candidates.{key}: there is no field 'scor'; did you mean 'score'?"
    with pytest.raises(PrefdataError, match=re.escape(said)):
        run(tmp_path, f"seed_dataset.candidates.{key}=scor")


def test_a_new_round_makes_new_pairs(tmp_path):
    write(tmp_path, *ABC)
    write(tmp_path, line("e", "t", 3, 0.0, "d"), name="more.jsonl")
    run(tmp_path)
    run(tmp_path, paths=("moves.jsonl", "more.jsonl"))
    assert ("a", "d") in sides(tmp_path)


def test_given_candidates_can_be_scored_again(tmp_path):
    write(tmp_path, *(line("e", "t", k, k, f"move {k}") for k in range(3)))
    rated = "{name: long, type: verifier, method: regex, pattern: 'move 0', candidates: candidates}"
    run(tmp_path, f"columns=[{rated}]", "output_projection.score=long")
    assert sides(tmp_path) == [("move 0", "move 1"), ("move 0", "move 2")]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed_dataset.candidates.group_by=[score, source_score]", "two fields the column name"),
        ("seed_dataset.fields=[input]", "remove 'fields'"),
        ("output_projection.keep=[chosen]", "pairs have a column 'chosen' of their own"),
        ("output_projection.keep=[nothing]", "there is no column 'nothing'"),
        ("output_projection.order_by=null", "only order_by uses it"),
        ("output_projection.order_group=nothing", "there is no column 'nothing'"),
        ("seed_dataset.rows=[{a: 1}]", "give either 'path' or 'rows'"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_read(override, message):
    with pytest.raises(PrefdataError) as caught:
        load_recipe(RECIPE, [override])
    assert message in str(caught.value)
