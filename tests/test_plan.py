import json
from pathlib import Path

import pytest
from conftest import QUICKSTART, ROOT

from prefdata.engines.checkpoints import active_parameters
from prefdata.recipe.loader import load_recipe
from prefdata.recipe.plan import plan_passes
from prefdata.run.estimate import estimate_pass, tokens_of

SEEDS = {"path": "x.jsonl", "fields": ["prompt"]}
PAIRS = {"type": "preference_pairs", "candidates": "c", "score": "s", "strategy": "best_vs_worst"}


def alias(name, model="org/lm", **fields):
    sampling = {"temperature": 0.5, "max_tokens": 10}
    return {"alias": name, "model": model, "inference_parameters": sampling, **fields}


def text(name, model_alias="lm", prompt="{{ prompt }}"):
    return {"name": name, "type": "llm_text", "model_alias": model_alias, "prompt": prompt}


def upper(name, of):
    return {"name": name, "type": "expression", "expression": f"{{{{ {of} | upper }}}}"}


JUDGE = {
    "name": "judge",
    "type": "llm_judge",
    "model_alias": "lm",
    "prompt": "{{ prompt }} {{ response_a }} {{ response_b }}",
    "output_format": {"type": "object", "properties": {"winner": {"enum": ["A", "B"]}}},
}
VERDICT = {"type": "dpo_preference"}


@pytest.fixture
def recipe(project):
    def recipe(columns, models=None, projection=None):
        project.recipe |= {"seed_dataset": SEEDS, "models": models or [alias("lm")]}
        two = [text("response_a"), text("response_b"), JUDGE]
        names = {column["name"] for column in columns}
        project.recipe["columns"] = columns + [c for c in two if c["name"] not in names]
        if projection:
            project.recipe["columns"] = columns
        project.recipe["output_projection"] = projection or VERDICT
        return project.load().recipe

    return recipe


def outline(recipe):
    """Columns by pass and level, and the models that each pass holds."""
    return [
        (
            [[column.name for column in level] for level in step.levels],
            sorted(checkpoint.model.model for checkpoint in step.checkpoints.values()),
        )
        for step in plan_passes(recipe)
    ]


def test_two_temperatures_and_their_judge_are_one_pass_over_one_loaded_model():
    recipe = load_recipe(
        ROOT / "recipes" / "rl_pref.yaml", [f"models.{n}.provider=auto" for n in range(2)]
    ).recipe
    [(levels, models)] = outline(recipe)
    assert levels == [["response_a", "response_b"], ["judge"]]
    assert len(models) == 1


def test_the_quickstart_is_two_passes_one_for_each_of_its_models():
    recipe = load_recipe(QUICKSTART / "recipe.yaml").recipe
    assert outline(recipe) == [
        ([["candidates"]], ["models/lm"]),
        ([["reward", "right"]], ["models/rm"]),
    ]


def test_a_recipe_without_columns_has_no_pass(project):
    project.recipe |= {"columns": [], "output_projection": VERDICT, "seed_dataset": {"path": "x"}}
    assert plan_passes(project.load().recipe) == []


def test_columns_keep_their_order_so_models_that_take_turns_make_passes(recipe):
    models = [alias("lm"), alias("other", "org/other")]
    columns = [text("response_a"), text("response_b", "other"), JUDGE]
    assert outline(recipe(columns, models)) == [
        ([["response_a"]], ["org/lm"]),
        ([["response_b"]], ["org/other"]),
        ([["judge"]], ["org/lm"]),
    ]


def test_work_without_a_model_joins_the_pass_it_stands_in(recipe):
    models = [alias("lm"), alias("other", "org/other")]
    columns = [
        upper("loud", "prompt"), text("response_a"), upper("x", "response_a"),
        text("response_b", "other"), upper("y", "prompt"),
    ]  # fmt: skip
    columns = [*columns, {**JUDGE, "model_alias": "other"}]
    assert outline(recipe(columns, models)) == [
        ([["loud", "response_a"], ["x"]], ["org/lm"]),
        ([["response_b", "y"], ["judge"]], ["org/other"]),
    ]


def test_a_column_waits_only_for_the_level_that_makes_what_it_reads(recipe):
    columns = [
        text("response_a"), text("response_b"), upper("late", "response_a"), text("free"),
        upper("later", "late"), upper("meta", "response_a__meta.model"),
    ]  # fmt: skip
    [(levels, _)] = outline(recipe(columns))
    assert levels == [
        ["response_a", "response_b"], ["late", "free"], ["later", "meta", "judge"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "loads"),
    [
        ({"alias": "cool"}, 1),
        ({"alias": "cool", "system_prompt": "Be brief."}, 1),
        ({"alias": "cool", "chat_template_kwargs": {"thinking": True}}, 1),
        ({"alias": "cool", "skip_health_check": True}, 1),
        ({"alias": "cool", "revision": "v2"}, 2),
        ({"alias": "cool", "engine": {"dtype": "float32"}}, 2),
        ({"alias": "cool", "trust_remote_code": True}, 2),
        ({"alias": "cool", "model": "org/other"}, 2),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_aliases_share_a_load_unless_they_need_other_weights_or_another_engine(
    recipe, change, loads
):
    columns = [text("response_a"), text("response_b", "cool")]
    steps = plan_passes(recipe(columns, [alias("lm"), alias("lm") | change]))
    assert len({key for step in steps for key in step.checkpoints}) == loads


def test_only_a_column_that_names_two_checkpoints_needs_both_at_once(recipe):
    models = [alias("lm"), alias("small", "org/small"), {"alias": "rm", "model": "org/lm"}]
    columns = [
        {"name": "c", "type": "candidates", "model_alias": ["lm", "small"], "samples": 3, "prompt": "{{ prompt }}"},  # noqa: E501
        {"name": "s", "type": "reward_model", "model_alias": "rm", "candidates": "c", "prompt": "{{ prompt }}"},  # noqa: E501
    ]  # fmt: skip
    found = recipe(columns, models, PAIRS)
    assert outline(found) == [([["c"]], ["org/lm", "org/small"]), ([["s"]], ["org/lm"])]
    assert [column.requests(found.columns) for column in found.columns] == [6, 6]


def test_a_pass_has_a_name_that_fits_a_file_system(recipe):
    steps = plan_passes(recipe([text(f"a_rather_long_name_{n}") for n in range(9)]))
    assert [len(step.name) for step in steps] == [80]


# What a pass costs


def cost(recipe, rows, sample, path):
    [step] = plan_passes(recipe)
    return estimate_pass(step, recipe, rows, sample, {"lm": str(path)})


def test_a_pass_is_estimated_from_samples_orders_and_max_tokens(recipe):
    found = recipe([text("response_a"), text("response_b")])
    assert [column.requests(found.columns) for column in found.columns] == [1, 1, 2]
    estimate = cost(found, 50, [], Path("org/lm"))
    assert (estimate.requests, estimate.completion_tokens) == (200, 2000)
    assert estimate.prompt_tokens is None  # the judge reads what only the run makes
    assert estimate.gpu_hours is None


def test_prompts_are_measured_with_the_models_own_tokenizer_template_included(recipe):
    columns = [text("response_a")]
    found = recipe(
        columns, [alias("lm")], VERDICT | {"response_b_field": "prompt", "judge_field": "prompt"}
    )
    sample = [{"prompt": "Add 2 and 3."}] * 2
    estimate = cost(found, 10, sample, QUICKSTART / "models" / "lm")
    assert 50 <= estimate.prompt_tokens <= 400
    assert estimate.parameters > 100_000
    assert estimate.gpu_hours > 0


def test_a_row_that_does_not_fit_the_template_does_not_stop_the_estimate(recipe):
    columns = [text("response_a", prompt="{{ prompt.text }}")]
    found = recipe(
        columns, [alias("lm")], VERDICT | {"response_b_field": "prompt", "judge_field": "prompt"}
    )
    good, bad = {"prompt": {"text": "Add 2 and 3."}}, {"prompt": {"txt": "?"}}
    model = QUICKSTART / "models" / "lm"
    whole = cost(found, 10, [good, good], model).prompt_tokens
    assert cost(found, 10, [good, bad], model).prompt_tokens == whole
    assert cost(found, 10, [bad], model).prompt_tokens is None


def test_a_tokenizer_that_is_not_to_be_had_leaves_a_question_mark(recipe, tmp_path):
    columns = [text("response_a")]
    found = recipe(
        columns, [alias("lm")], VERDICT | {"response_b_field": "prompt", "judge_field": "prompt"}
    )
    (tmp_path / "empty").mkdir()
    assert cost(found, 10, [{"prompt": "x"}], tmp_path / "empty").prompt_tokens is None


LLAMA_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256,
    "num_attention_heads": 32, "num_key_value_heads": 8, "architectures": ["LlamaForCausalLM"],
}  # fmt: skip
QWEN_30B_A3B = {
    "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "head_dim": 128,
    "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4,
    "num_experts_per_tok": 8, "vocab_size": 151936,
}  # fmt: skip
QWEN_15_A27B = {
    "hidden_size": 2048, "intermediate_size": 5632, "moe_intermediate_size": 1408,
    "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 16,
    "num_experts_per_tok": 4, "shared_expert_intermediate_size": 5632, "vocab_size": 151936,
}  # fmt: skip
DEEPSEEK_V3 = {
    "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128,
    "num_experts_per_tok": 8, "n_shared_experts": 1, "vocab_size": 129280,
}  # fmt: skip
LLAMA_4_SCOUT = {
    "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
    "head_dim": 128, "num_hidden_layers": 48, "num_attention_heads": 40,
    "num_key_value_heads": 8, "num_experts_per_tok": 1, "vocab_size": 202048,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "billions"),
    [
        (LLAMA_8B, 8.03), ({"text_config": LLAMA_8B}, 8.03), (QWEN_30B_A3B, 3.35),
        (QWEN_15_A27B, 2.69), (DEEPSEEK_V3, 38.6), ({"text_config": LLAMA_4_SCOUT}, 17.2),
    ],
    ids=["dense", "with vision", "experts", "Qwen2", "DeepSeek", "Llama 4"],
)  # fmt: skip
def test_a_config_alone_tells_the_parameters_that_a_token_passes_through(config, billions):
    assert active_parameters(config) / 1e9 == pytest.approx(billions, rel=0.02)
    assert active_parameters({"model_type": "mamba", "hidden_size": 8}) is None


def test_the_hours_of_a_checkpoint_without_weights_follow_from_the_measured_rates(recipe, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    estimate = cost(recipe([text("response_a"), text("response_b")]), 22_444 * 3600, [], tmp_path)
    written = estimate.completion_tokens / 22_444
    read = estimate.requests * 512 / 44_900
    assert estimate.gpu_hours == pytest.approx((written + read) / 3600, rel=0.01)


def test_a_tiny_model_is_not_faster_than_what_is_done_for_each_token_besides(recipe, tmp_path):
    hours = []
    for layers in (1, 2):
        (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B | {"num_hidden_layers": layers}))
        hours.append(cost(recipe([text("response_a")]), 1000, [], tmp_path).gpu_hours)
    assert hours[0] == hours[1] > 0


def test_what_a_checkpoint_writes_is_counted_by_the_lengths_of_all_its_aliases(recipe):
    short, long = ({"temperature": 0.5, "max_tokens": most} for most in (10, 1000))
    models = [
        alias("judge", inference_parameters=short), alias("writer", inference_parameters=long),
        {"alias": "rm", "model": "org/rm"},
    ]  # fmt: skip
    columns = [
        {"name": "c", "type": "candidates", "model_alias": ["judge", "writer"], "samples": 4, "prompt": "{{ prompt }}"},  # noqa: E501
        {"name": "s", "type": "reward_model", "model_alias": "rm", "candidates": "c", "prompt": "{{ prompt }}"},  # noqa: E501
    ]  # fmt: skip
    found = recipe(columns, models, PAIRS)
    written, scored = tokens_of(plan_passes(found), found, 100).values()
    assert written == 100 * 4 * (10 + 1000)
    assert scored == 100 * 8 * 64
