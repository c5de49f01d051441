"""LoRA adapters as models, over one load of their base; chat templates that a recipe brings."""

import json
import shutil
from pathlib import Path

import pytest
from scripted_models import ANSWER, OTHER, base, gemma, write_adapter, write_reward_model

from prefdata.errors import PrefdataError
from prefdata.pipeline import build
from prefdata.storage.folders import read_rows

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %} A:"
THIRD = "Nobody knows."


@pytest.fixture
def policies(tmp_path):
    """A base with two adapters, each of which says something else."""
    scripts = {("<one>", "\n"): OTHER, ("<two>", "\n"): THIRD}
    model = gemma(tmp_path / "base", scripts=scripts, specials=("<one>", "<two>"))
    return [model, *(write_adapter(tmp_path / f"adapter{n}", model, n) for n in (0, 1))]


def recipe_of(project, *models):
    """One greedy answer of every model, the second seed's prompt apart; the score is its length."""
    parameters = {"temperature": 0.0, "max_tokens": 32}
    project.write_seeds([{"prompt": "What is 2 plus 2?"}, {"prompt": "And 3?"}])
    project.recipe["seed_dataset"] = {"path": "seeds.jsonl"}
    project.recipe["models"] = [
        {"alias": f"m{n}", "provider": "transformers", "inference_parameters": parameters, **model}
        for n, model in enumerate(models)
    ]
    candidates, score = project.recipe["columns"]
    aliases = [f"m{n}" for n in range(len(models))]
    candidates |= {"model_alias": aliases, "samples": 1, "prompt": "{{ prompt }}"}
    del score["model_alias"], score["prompt"]
    score |= {"type": "verifier", "method": "regex", "pattern": "4"}


def answers(project):
    """What every model said to the first seed, and the record of the run."""
    record = build(project.load(), project.folder / "run", say=lambda line: None)
    return [made["text"] for made in first_row(project, record)["candidates"]], record


def first_row(project, record):
    return next(read_rows(project.folder / "run" / "stages" / record["stages"][-1]))


def test_adapters_of_one_base_share_its_load_with_it(project, policies):
    recipe_of(project, *({"model": path} for path in policies))
    texts, record = answers(project)
    assert texts == [ANSWER, OTHER, THIRD]
    assert record["loads"] == [policies[0]]


def test_a_row_names_the_adapter_that_wrote_it(project, policies):
    model, adapter, _ = policies
    recipe_of(project, {"model": model, "adapter": adapter})
    texts, record = answers(project)
    assert texts == [OTHER]
    assert first_row(project, record)["candidates"][0]["model"] == adapter


def test_an_adapter_is_found_beside_its_base_when_both_have_moved(project, policies):
    model, adapter, _ = policies
    config = Path(adapter) / "adapter_config.json"
    told = json.loads(config.read_text())
    config.write_text(json.dumps(told | {"base_model_name_or_path": "../base"}))
    recipe_of(project, {"model": adapter})
    assert answers(project)[0] == [OTHER]
    assert project.load().recipe.models[0].model == str(Path(adapter) / "../base")


def test_answers_stay_known_until_the_adapter_is_trained_further(project, policies):
    model, adapter, other = policies
    recipe_of(project, {"model": model, "adapter": adapter})
    answers(project)
    moved = shutil.move(adapter, project.folder / "moved")
    project.recipe["models"][0]["adapter"] = str(moved)
    assert answers(project)[1]["requests"]["generated"] == 0
    shutil.copy(Path(other) / "adapter_model.safetensors", moved)
    texts, record = answers(project)
    assert (texts, record["requests"]["generated"]) == ([THIRD], 2)


def test_an_adapter_keeps_the_template_that_it_was_trained_under(project, tmp_path):
    model = base(tmp_path / "base", scripts={("<one>", ":"): f" {OTHER}"}, specials=("<one>",))
    adapter = write_adapter(tmp_path / "adapter", model)
    (Path(adapter) / "chat_template.jinja").write_text(TEMPLATE)
    recipe_of(project, {"model": adapter})
    assert answers(project)[0] == [f" {OTHER}"]


def test_an_adapter_of_no_known_base_is_refused_where_it_is_named(project, policies):
    config = Path(policies[1]) / "adapter_config.json"
    told = json.loads(config.read_text())
    config.write_text(json.dumps(told | {"base_model_name_or_path": None}))
    recipe_of(project, {"model": policies[1]})
    with pytest.raises(PrefdataError, match=r"recipe.yaml:\d+: models.0.model: .* names no base"):
        project.load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "is a PROMPT_TUNING adapter, and only LORA"),
        ({"target_modules": ["up_proj"], "r": 3}, "does not fit"),
    ],
    ids=["of another kind", "of another base"],
)
def test_an_adapter_that_cannot_run_is_refused_before_the_first_row(
    project, policies, change, message
):
    config = Path(policies[1]) / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    recipe_of(project, {"model": policies[1]})
    with pytest.raises(PrefdataError, match=message):
        answers(project)


def test_a_base_model_answers_under_the_template_of_the_recipe(project, tmp_path):
    model = base(tmp_path / "base")
    (project.folder / "plain.jinja").write_text(TEMPLATE)
    recipe_of(project, {"model": model, "chat_template": "plain.jinja"})
    texts, record = answers(project)
    assert texts == [f" {ANSWER}"]
    project.recipe["models"][0]["chat_template"] = TEMPLATE  # the same, written out
    assert answers(project)[1]["started"] == record["started"]
    (project.folder / "plain.jinja").write_text("Q: " + TEMPLATE)
    project.recipe["models"][0]["chat_template"] = "plain.jinja"
    assert answers(project)[1]["requests"]["generated"] == 2


def test_a_base_model_without_a_template_is_told_of_the_key(project, tmp_path):
    recipe_of(project, {"model": base(tmp_path / "base")})
    with pytest.raises(PrefdataError, match=r"has no chat template.* give the model a chat_temp"):
        answers(project)


def test_a_template_that_is_not_there_is_refused_where_it_is_named(project, tmp_path):
    recipe_of(project, {"model": base(tmp_path / "base"), "chat_template": "nowhere.jinja"})
    message = r"recipe.yaml:\d+: models.0.chat_template: 'nowhere.jinja' is neither"
    with pytest.raises(PrefdataError, match=message):
        project.load()


def test_a_reward_model_reads_under_the_template_of_the_recipe(project, tmp_path):
    model = gemma(tmp_path / "policy", answer=(ANSWER, OTHER))
    path = write_reward_model(tmp_path / "reward", "4", template=None)
    recipe_of(
        project, {"model": model, "inference_parameters": {"temperature": 1.0, "max_tokens": 9}}
    )
    project.recipe["models"].append({"alias": "grader", "model": path, "chat_template": TEMPLATE})
    candidates, score = project.recipe["columns"]
    candidates["samples"] = 8
    del score["method"], score["pattern"]
    score |= {"type": "reward_model", "model_alias": "grader", "prompt": "{{ prompt }}"}
    texts, record = answers(project)
    found = dict(zip(texts, first_row(project, record)["reward"], strict=True))
    assert found[OTHER] == 0 < found[ANSWER]
