"""Several projections of one recipe as one set of pairs."""

from collections import Counter

import orjson
import pytest

from prefdata.errors import PrefdataError
from prefdata.pairs.repick import pairs_of_run
from prefdata.pipeline import build
from prefdata.recipe.loader import load_recipe
from prefdata.report.page import make_report
from prefdata.run.oddities import find_oddities
from prefdata.storage.folders import read_rows

RECIPE = """
output_dir: run
seed_dataset: {path: seeds.jsonl}
models:
  - {alias: hot, model: m, inference_parameters: {temperature: 0.9, max_tokens: 64}}
  - {alias: cool, model: m, inference_parameters: {temperature: 0.3, max_tokens: 64}}
  - {alias: grader, model: m}
columns:
  - {name: candidates, type: candidates, model_alias: [hot, cool], samples: 3, prompt: "{{ prompt }}"}
  - {name: reward, type: reward_model, model_alias: grader, candidates: candidates}
output_projection:
  type: mix
  of:
    judged: {type: preference_pairs, candidates: candidates, score: reward, strategy: exhaustive, keep: [topic],
      chosen: {model_alias: hot}, rejected: {model_alias: hot}}
    delta: {type: preference_pairs, candidates: candidates, strategy: delta, strong: hot, weak: cool}
  test_size: 0.1
"""  # noqa: E501


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of 40 prompts: 3 pairs of each by the judge, 3 by the models."""
    folder = tmp_path_factory.mktemp("mix")
    lines = [{"prompt": f"question {n}", "topic": "ab"[n % 2]} for n in range(40)]
    (folder / "seeds.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    (folder / "recipe.yaml").write_text(RECIPE)
    build(load_recipe(folder / "recipe.yaml"), folder / "run", rehearse=True, say=lambda line: None)
    return folder


def again(folder, tmp_path, *rules):
    [run] = folder.glob("run*")
    record = pairs_of_run(run, rules, tmp_path / "again")
    return record, list(read_rows(tmp_path / "again" / "pairs"))


def test_pairs_of_all_projections_are_one_set_that_names_their_source(folder):
    [run] = folder.glob("run*")
    pairs = list(read_rows(run / "pairs"))
    sources = Counter(pair["source"] for pair in pairs)
    assert set(sources) == {"judged", "delta"}
    assert len({pair["id"] for pair in pairs}) == len(pairs)
    assert {pair["topic"] for pair in pairs if pair["source"] == "judged"} == {"a", "b"}
    assert {pair["topic"] for pair in pairs if pair["source"] == "delta"} == {None}
    assert all((pair["margin"] is None) == (pair["source"] == "delta") for pair in pairs)
    prompts = [
        {pair["prompt"] for pair in read_rows(run / "pairs", stem=s)} for s in ("train", "test")
    ]  # noqa: E501
    assert not prompts[0] & prompts[1]
    assert len(prompts[1]) == 4


def test_a_pair_that_two_projections_make_is_there_once_and_an_opposite_one_not_at_all(
    folder, tmp_path
):
    record, pairs = again(folder, tmp_path, "of.judged.chosen={}", "of.judged.rejected={}")
    claims = [frozenset((pair["prompt"], pair["chosen"], pair["rejected"])) for pair in pairs]
    assert len(set(claims)) == len(claims)
    assert {pair["source"] for pair in pairs} == {"judged"}
    assert record["drops"]["duplicate"] > 0 < record["drops"]["contradiction"]


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (1, 4)])
def test_the_shares_of_the_sources_are_the_weights(folder, tmp_path, weights):
    told = f"weights={{judged: {weights[0]}, delta: {weights[1]}}}"
    record, pairs = again(folder, tmp_path, told, "dedupe=none")
    count = Counter(pair["source"] for pair in pairs)
    assert count == record["sources"]
    assert count["judged"] * weights[1] == pytest.approx(count["delta"] * weights[0], abs=4)
    assert record["drops"].get("over_weight", 0) == 240 - len(pairs)
    record, pairs = again(folder, tmp_path, told, "max_pairs=20")
    assert Counter(p["source"] for p in pairs) == {
        "judged": 20 * weights[0] / sum(weights),
        "delta": 20 * weights[1] / sum(weights),
    }


def test_a_source_without_a_pair_leaves_the_others_their_shares(folder, tmp_path):
    none = ["of.judged.min_margin=1000", "weights={judged: 1, delta: 1}"]
    record, pairs = again(folder, tmp_path, *none)
    assert record["sources"] == {"judged": 0, "delta": 120}
    [told] = [one for one in find_oddities(record | {"rehearsed": False}) if "source" in one]
    assert told.startswith("The source 'judged' of the mix has no pair")
    record, pairs = again(folder, tmp_path, *none, "max_pairs=20")
    assert record["sources"] == {"judged": 0, "delta": 20}


def test_sources_may_have_quotas_and_projections_rules_of_their_own(folder, tmp_path):
    quotas = ["select_group=source", "max_pairs={judged: 7, delta: 5}"]
    record, pairs = again(folder, tmp_path, *quotas)
    assert Counter(pair["source"] for pair in pairs) == {"judged": 7, "delta": 5}
    record, pairs = again(folder, tmp_path, "max_pairs=20")
    assert len(pairs) == 20  # in all: quotas are there where `select_group` says so
    record, pairs = again(folder, tmp_path, "of.judged.keep_fraction=0.1")
    assert record["sources"] == {"judged": 12, "delta": 120}
    assert record["drops"]["over_keep_fraction"] == 108


@pytest.mark.parametrize("rule", ["of.judged.min_margin=1e9", "of.delta.max_length_ratio=1.00001"])
def test_every_row_is_in_a_pair_or_in_a_reject(folder, tmp_path, rule):
    record, pairs = again(folder, tmp_path, rule)
    rejects = [row["id"] for row in read_rows(tmp_path / "again" / "rejects")]
    assert len(rejects) == len(set(rejects))
    assert {pair["row_id"] for pair in pairs}.isdisjoint(rejects)
    assert record["prompts"] + len(rejects) == 40


def test_a_mix_has_a_report(folder, tmp_path):
    [run] = folder.glob("run*")
    assert make_report(run, tmp_path / "report.html").shown[0] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "of.judged.score=rewrd",
            "of.judged.score: column 'rewrd' does not score 'candidates'; did you mean 'reward'?",
        ),
        ("of.judged.strategi=x", "output_projection.of.judged.strategi: there is no key"),
        ("of.judged.chosen={shortest: 1}", "of.judged.chosen.shortest: there is no key"),
        ("of.delta.strong=warm", "output_projection.of.delta.strong: 'warm' is not an alias"),
        ("of.delta.test_size=3", "of.delta.test_size is given, but it is said of all pairs"),
        ("of.delta.keep=[source]", "the pairs have a column 'source' of their own"),
        ("weights={judged: 1}", "write one weight for each"),
        ("keep_fraction=0.1", "these pairs have no margin"),
    ],
)
def test_what_is_wrong_with_a_part_of_a_mix_is_told_with_its_place(folder, change, message):
    with pytest.raises(PrefdataError) as caught:
        load_recipe(folder / "recipe.yaml", [f"output_projection.{change}"])
    assert message in str(caught.value)
