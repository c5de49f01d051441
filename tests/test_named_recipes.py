"""The named recipes: each makes the pairs that its source describes, here with the tiny models."""

import pytest
import yaml
from conftest import QUICKSTART, ROOT

import prefdata
from prefdata.errors import PrefdataError
from prefdata.recipe.loader import load_recipe

LM, RM = (str(QUICKSTART / "models" / name) for name in ("lm", "rm"))


def overrides_of(name):
    """What puts the tiny models and their prompts in the place of the real ones."""
    raw = yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text())
    known = {"prompts": QUICKSTART / "prompts.jsonl", "max_tokens": 32}
    for key in raw["variables"].keys() - known.keys():
        known[key] = RM if "reward_model" in key else LM
    fixed = [n for n, model in enumerate(raw["models"]) if not model["model"].startswith("${")]
    return [f"{key}={value}" for key, value in known.items() if key in raw["variables"]] + [
        f"models.{number}.model={LM}" for number in fixed
    ]


def aliases(pair):
    return pair["chosen_alias"], pair["rejected_alias"]


PROMISES = {
    "simpo": lambda pair, row: (
        len(row["answers"]) == 5
        and pair["chosen_score"] == max(row["reward"])
        and pair["rejected_score"] == min(row["reward"])
    ),
    "ultrafeedback": lambda pair, row: (
        len({answer["alias"] for answer in row["answers"]}) == 4
        and pair["chosen_score"] == max(row["rating"])
    ),
    "tulu3_on_policy": lambda pair, row: (
        aliases(pair).count("policy") == 1 and pair["chosen_score"] == max(row["rating"])
    ),
    "olmo3_delta": lambda pair, row: (
        aliases(pair) == ("strong", "weak")
        and pair["chosen_completion_tokens"] - pair["rejected_completion_tokens"] <= 100
    ),
    "smollm3_apo": lambda pair, row: aliases(pair) == ("strong", "weak"),
    "nemotron_rl_pref": lambda pair, row: (
        pair["chosen"] == row["response_" + row["judge"]["winner"].lower()]
    ),
    "helpsteer3": lambda pair, row: (
        {pair["chosen"], pair["rejected"]} == {row["draft"], row["edited"]}
    ),
    "skywork_agreement": lambda pair, row: (
        all(pair["chosen_scores"][name] >= pair["rejected_scores"][name]
            for name in ("reward", "second_reward"))
    ),
    "rlcf": lambda pair, row: (
        1 <= len(row["checklist"]["items"]) <= 10
        and len(row["answers"]) == 4
        and pair["chosen_score"] == max(row["met"])
    ),
    "magpie": lambda pair, row: (
        len(row["answers"]) == 5
        and row["prompt"]
        and row["prompt__meta"]["finish_reason"] == "stop"
        and pair["chosen_score"] == max(row["reward"])
    ),
    "safety_delta": lambda pair, row: (
        aliases(pair) == ("careful", "careless")
        and pair["prompt"] == row["prompt"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROMISES)
def test_a_recipe_makes_by_name_the_pairs_of_its_source(name, tmp_path):
    run = prefdata.build(
        name, tmp_path, overrides=[*overrides_of(name), "num_records=3"], gpus=0, say=str,
        progress=False,
    )  # fmt: skip
    rows = {row["id"]: row for row in run.candidates}
    pairs = [pair for split in run.pairs.values() for pair in split]
    assert pairs
    for pair in pairs:
        assert PROMISES[name](pair, rows[pair["row_id"]]), pair


@pytest.mark.parametrize("name", PROMISES)
def test_a_named_recipe_is_short_and_says_where_it_comes_from(name):
    text = (ROOT / "recipes" / f"{name}.yaml").read_text()
    about = "".join(line for line in text.splitlines() if line.startswith("#"))
    assert len(text.splitlines()) <= 40
    assert "What differs:" in about
    assert f"prefdata build {name} " in about


def test_a_variable_is_set_by_its_name_and_is_no_column(tmp_path):
    rows = [{"prompt": "2+2?"}]
    loaded = load_recipe("olmo3_delta", ["strong=org/a", f"seed_dataset={{rows: {rows}}}"])
    assert loaded.recipe.model("strong").model == "org/a"
    assert loaded.recipe.model("weak").model == "Qwen/Qwen3-0.6B"
    assert loaded.recipe.seed_fields == {"prompt"}


def test_a_name_that_no_recipe_has_is_told_with_the_nearest():
    with pytest.raises(PrefdataError, match=r"simp0: recipe not found.*did you mean 'simpo'"):
        load_recipe("simp0")
    with pytest.raises(PrefdataError, match=r"'modle': there is no such key; did you mean 'model'"):
        load_recipe("simpo", ["modle=org/a"])
