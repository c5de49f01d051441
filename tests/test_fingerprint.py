from dataclasses import fields, replace

import pytest
from conftest import ROOT
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from prefdata.fingerprint import (
    EXCLUDED,
    FORMAT,
    ScoreKeys,
    TextKeys,
    copy_id,
    digest,
    model_identity,
    pairs_fingerprint,
    row_id,
    sampling_seed,
    stage_fingerprint,
)
from prefdata.inference import Sampling, ScoreRequest, TextRequest
from prefdata.recipe.messages import Turn
from prefdata.recipe.projection import Chosen, Side
from prefdata.recipe.schema import Model, Publish, Recipe
from prefdata.recipe.tournament import Tournament
from prefdata.recipe.values import Retry
from prefdata.seeds.seeds import load_seeds

SCHEMA = {"type": "object", "properties": {"winner": {"type": "string", "enum": ["A", "B"]}}}

RECIPE = {
    "output_dir": "out",
    "seed_dataset": {"path": "seeds.jsonl"},
    "models": [
        {"alias": "a", "model": "m", "inference_parameters": {"temperature": 1, "max_tokens": 8}},
    ],
    "columns": [
        {"name": "text", "type": "llm_text", "model_alias": "a", "prompt": "p"},
        {"name": "answer", "type": "llm_structured", "model_alias": "a", "prompt": "p",
         "output_format": SCHEMA},
        {"name": "judge", "type": "llm_judge", "model_alias": "a", "prompt": "p",
         "output_format": SCHEMA},
        {"name": "c", "type": "candidates", "model_alias": "a", "prompt": "p", "samples": 2},
        {"name": "reward", "type": "reward_model", "model_alias": "a", "prompt": "p",
         "candidates": "c"},
        {"name": "rating", "type": "rubric_judge", "model_alias": "a", "prompt": "{{ response }}",
         "criteria": {"clear": "is it?"}, "scale": [1, 5], "candidates": "c"},
        {"name": "item", "type": "expand", "column": "text", "separator": ","},
        {"name": "parts", "type": "extract", "column": "text", "pattern": "(?P<part>.*)"},
        {"name": "right", "type": "verifier", "method": "regex", "pattern": "x", "candidates": "c"},
        {"name": "loud", "type": "expression", "expression": "x"},
        {"name": "mood", "type": "category", "values": ["x", "y"]},
    ],
    "output_projection": {
        "type": "preference_pairs", "candidates": "c", "score": "reward",
        "strategy": "best_vs_worst",
    },
}  # fmt: skip
VERDICTS = {"type": "dpo_preference"}

# Another value for every field that a stage, the pairs or the seeds are to notice. A field of a
# column is set in every column that has it.
OTHER_MODEL = {
    "alias": "b", "model": "n", "revision": "v2", "engine": {"dtype": "float32"},
    "adapter": "a", "chat_template": "{{ messages }}", "tool_parser": "hermes",
    "system_prompt": "Be kind.", "system_prompt_mode": "prepend", "system_role": "merge",
    "chat_template_kwargs": {"thinking": True}, "reasoning": "none",
    "inference_parameters": {
        "temperature": 0.5, "max_tokens": 9, "top_p": 0.5, "top_k": 3, "min_p": 0.1,
        "repetition_penalty": 1.1, "stop": ("x",), "seed": 3, "max_reasoning_tokens": 5,
    },
}  # fmt: skip
OTHER_COLUMN = {
    "name": "other", "type": "other", "model_alias": "b", "prompt": "q",
    "messages": (Turn(chat="prompt"),),
    "tools": "answer", "output_format": {**SCHEMA, "title": "x"}, "compare": ("x", "y"),
    "winner_field": "best",
    "both_orders": False, "samples": 3, "candidates": "d", "responses": ("x", "y"),
    "method": "number", "timeout": 5.0, "reference": "answer", "pattern": "y", "function": "m:f",
    "per": "row",
    "skip_when": "{{ answer }}", "expression": "y", "dtype": "int", "values": ("x",),
    "max_retries": 5, "weights": (1.0, 2.0),
    "criteria": {"short": "is it?"}, "scale": (1, 3), "column": "loud", "separator": ";",
    "regex": "x", "lines": True, "json_list": True, "max_items": 3,
    "models_per_row": 1, "always": ("b",), "judge": "pairwise-v9",
    "writes": "user", "turns": True,
    "gold": {"path": "g"}, "checks": ("x",), "panel": "mean",
    "tournament": Tournament(type="swiss"),
    "max_samples": 9, "retry": Retry(when="truncated", max_tokens=99),
}  # fmt: skip
OTHER_PROJECTION = {
    "type": "other", "ties": "keep", "truncated_rejected": True, "max_length_ratio": 2.0,
    "dedupe": "none", "max_pairs": 5, "test_size": 0.1, "prompt_field": "q",
    "response_a_field": "x", "response_b_field": "y", "judge_field": "j", "winner_field": "best",
    "candidates": "d", "score": "right", "strategy": "exhaustive", "k": 2, "strong": "a",
    "weak": "b", "min_margin": 0.5, "margin_unit": "z_score", "min_chosen_score": 0.5,
    "max_pairs_per_prompt": 2, "group_by": ("turn",), "responses": ("x", "y"), "agree": True,
    "margin": "m", "pick": "m:f", "otherwise": "right",
    "keep": ("text",), "reward": "margin", "order_by": "margin", "order_group": "text",
    "better": "lower", "max_length_advantage": 100, "chosen": Chosen(shortest_within=0.5),
    "rejected": Side(model_alias=("a",)), "one_side": ("a",), "keep_fraction": 0.1,
    "select_by": "random", "select_group": "topic",
    "combine": "min", "calibrate_length": ("right",),
    "reasoning": "keep",
}  # fmt: skip


def with_fields(part: BaseModel, **values):
    return part.model_copy(update=values)


def recipe(**values):
    return with_fields(Recipe.model_validate(RECIPE), **values)


def prints(found: Recipe):
    """The fingerprints of the recipe's one stage and of its pairs."""
    checkpoints = {model.alias: "weights" for model in found.models}
    stage = stage_fingerprint("parent", found.columns, found, checkpoints)
    return stage, pairs_fingerprint("parent", found)


def is_excluded(path):
    parts = path.split(".")
    return any(".".join(parts[: n + 1]) in EXCLUDED for n in range(len(parts)))


def changed_model(path, value):
    """The recipe with one field of its model changed; a new alias is used by every column."""
    model = recipe().models[0]
    *above, name = path.split(".")
    if above == ["inference_parameters"]:
        value = with_fields(model.inference_parameters, **{name: value})
        name = "inference_parameters"
    found = recipe(models=(with_fields(model, **{name: value}),))
    if name == "alias":
        renamed = [
            with_fields(c, model_alias=value if isinstance(c.model_alias, str) else (value,))
            if c.aliases else c
            for c in found.columns
        ]  # fmt: skip
        found = with_fields(found, columns=tuple(renamed))
    return found


# The table of excluded fields


def test_every_field_of_the_recipe_is_excluded_or_noticed():
    noticed = {"models", "columns", "output_projection", "seed"}
    for name in Recipe.model_fields:
        assert (name in EXCLUDED) != (name in noticed), name
    assert prints(recipe(seed=1))[0] != prints(recipe())[0]
    assert prints(recipe(seed=1))[1] != prints(recipe())[1]


@pytest.mark.parametrize("name", [name for name in EXCLUDED if "." not in name])
def test_an_excluded_field_of_the_recipe_changes_no_fingerprint(name):
    other = {
        "inputs": {"n": 3}, "providers": (),
        "output_dir": "there", "output_path": "x.jsonl", "min_yield": 0.5,
        "num_records": 7, "publish": Publish(repo_id="user/name"), "variables": {"n": 1},
        "target_pairs": 5, "max_requests": 5, "max_tokens_total": 5, "max_gpu_hours": 1.5,
        "seed_dataset": with_fields(recipe().seed_dataset, limit=3, strategy="shuffle"),
    }  # fmt: skip
    assert prints(recipe(**{name: other[name]})) == prints(recipe())


@pytest.mark.parametrize("name", Model.model_fields)
def test_every_field_of_a_model_is_excluded_or_changes_the_stage(name):
    if name == "inference_parameters":
        return  # field by field below
    if f"models.{name}" in EXCLUDED:
        other = {"provider": "transformers"}.get(name, True)
        assert prints(changed_model(name, other)) == prints(recipe())
    else:
        assert prints(changed_model(name, OTHER_MODEL[name]))[0] != prints(recipe())[0]


@pytest.mark.parametrize("name", type(recipe().models[0].inference_parameters).model_fields)
def test_every_sampling_parameter_changes_the_stage(name):
    assert not is_excluded(f"models.inference_parameters.{name}")
    other = OTHER_MODEL["inference_parameters"][name]
    assert prints(changed_model(f"inference_parameters.{name}", other))[0] != prints(recipe())[0]


@pytest.mark.parametrize("option", ["dtype", "quantization", "max_model_len", "brand_new_option"])
def test_an_engine_option_changes_keys_and_stage_unless_the_table_has_it(option):
    changed = changed_model("engine", {option: "x"})
    assert prints(changed)[0] != prints(recipe())[0]
    assert model_identity(changed.models[0], "w") != model_identity(recipe().models[0], "w")


@pytest.mark.parametrize("path", [path for path in EXCLUDED if path.startswith("models.engine.")])
def test_an_excluded_engine_option_changes_neither_keys_nor_stage(path):
    changed = changed_model("engine", {path.rsplit(".", 1)[1]: 2})
    assert prints(changed) == prints(recipe())
    assert model_identity(changed.models[0], "w") == model_identity(recipe().models[0], "w")


COLUMN_FIELDS = [
    (at, name) for at, column in enumerate(recipe().columns) for name in type(column).model_fields
]


@pytest.mark.parametrize(
    ("at", "name"),
    COLUMN_FIELDS,
    ids=[f"{recipe().columns[at].type}.{name}" for at, name in COLUMN_FIELDS],
)
def test_every_field_of_a_column_changes_the_stage_unless_the_table_has_it(at, name):
    base = recipe(models=(*recipe().models, with_fields(recipe().models[0], alias="b")))
    columns, value = list(base.columns), OTHER_COLUMN[name]
    if isinstance(getattr(columns[at], name), tuple) and isinstance(value, str):
        value = (value,)
    columns[at] = with_fields(columns[at], **{name: value})
    is_same = prints(with_fields(base, columns=tuple(columns)))[0] == prints(base)[0]
    assert is_same == is_excluded(f"columns.{name}")


PROJECTIONS = [
    Recipe.model_validate(RECIPE | {"output_projection": rule}).output_projection
    for rule in (RECIPE["output_projection"], VERDICTS)
]
RULES = [(rule, name) for rule in PROJECTIONS for name in type(rule).model_fields]


@pytest.mark.parametrize(("rule", "name"), RULES, ids=[f"{r.type}.{name}" for r, name in RULES])
def test_every_field_of_the_projection_changes_the_pairs_and_no_stage(rule, name):
    assert not is_excluded(f"output_projection.{name}")
    before, after = (
        prints(recipe(output_projection=projection))
        for projection in (rule, with_fields(rule, **{name: OTHER_PROJECTION[name]}))
    )
    assert before[1] != after[1]
    assert before[0] == after[0]


def test_fields_that_came_later_leave_finished_runs_finished():
    assert FORMAT == 3  # another one gives other fingerprints on purpose
    before = ("b87d20fa7f2e5222b37b873299560476", "398e380ccc8ff586b880188a8d2c9522")
    assert prints(recipe()) == before


@pytest.mark.parametrize(
    "change",
    [
        {"path": ["more.jsonl"]}, {"path": ["saved"], "split": "train"},
        {"path": ["saved"], "split": "test"}, {"path": ["seeds.jsonl", "more.jsonl"]},
        {"fields": ["prompt"]}, {"limit": 2},
        {"strategy": "shuffle"}, {"num_records": 9}, {"num_records": 3},
    ],
    ids=lambda change: " ".join(map(str, change.values())),
)  # fmt: skip
def test_what_seed_dataset_and_num_records_say_is_in_the_ids_of_the_seeds(project, change):
    rows = [{"prompt": str(n), "answer": n} for n in range(6)]
    project.write_seeds(rows)
    project.write_seeds([*rows, {"prompt": "new", "answer": 1}], "more.jsonl")
    splits = {"train": Dataset.from_list(rows[:4]), "test": Dataset.from_list(rows[:5])}
    DatasetDict(splits).save_to_disk(project.folder / "saved")

    def fingerprint(num_records=None, **config):
        config = with_fields(recipe().seed_dataset, **config)
        paths = [str(project.folder / path) for path in config.path]
        return load_seeds(config, paths, needed={}, num_records=num_records, seed=0).fingerprint

    assert fingerprint(**change) != fingerprint()
    assert fingerprint() == fingerprint()


# Stages


def test_a_stage_depends_on_its_parent_and_on_the_weights_of_its_own_models_alone():
    found = recipe(models=(*recipe().models, with_fields(recipe().models[0], alias="idle")))
    weights = {"a": "1", "idle": "1"}

    def stage(columns=found.columns, parent="p", **changed):
        return stage_fingerprint(parent, columns, found, weights | changed)

    assert stage(parent="q") != stage()
    assert stage(a="2") != stage()
    assert stage(idle="2") == stage()
    assert stage(found.columns[:3]) != stage()
    assert stage(tuple(reversed(found.columns))) != stage()


def test_pairs_depend_on_the_rows_that_were_scored():
    assert pairs_fingerprint("a", recipe()) != pairs_fingerprint("b", recipe())


# Journal keys

REQUEST = TextRequest(({"role": "user", "content": "Hi"},), Sampling(0.5, 10), 7)
OTHER_PART = {
    "messages": [
        ({"role": "user", "content": "Ho"},),
        ({"role": "system", "content": "Hi"},),
        ({"role": "system", "content": ""}, *REQUEST.messages),
        (*REQUEST.messages, *REQUEST.messages),
    ],
    "sampling": [
        replace(REQUEST.sampling, **{name: value})
        for name, value in OTHER_MODEL["inference_parameters"].items()
        if name != "seed" and getattr(REQUEST.sampling, name) != value
    ] + [Sampling(0.6, 10)],
    "seed": [8, 0, 2**63 - 1],
    "schema": [{}, SCHEMA, {**SCHEMA, "required": ["winner"]}],
    "chat_template_kwargs": [{"thinking": True}, {"thinking": False}],
    "top_logprobs": [1, 20],
    "tools": [
        *(({"type": "function", "function": {"name": n}},) for n in ("look", "add")),
        ({"function": {"name": "add"}, "type": "function"},),
    ],
    "continues": [True],
}  # fmt: skip


def test_every_part_of_a_request_changes_its_key():
    assert OTHER_PART.keys() == {field.name for field in fields(TextRequest)} - {
        "adapter",
        "is_seeded",
    }
    assert {field.name for field in fields(Sampling)} == {
        name for name in OTHER_MODEL["inference_parameters"] if name != "seed"
    }
    keys = TextKeys("model")
    others = [replace(REQUEST, **{part: v}) for part, values in OTHER_PART.items() for v in values]
    found = {keys.key(request) for request in [REQUEST, *others]}
    assert len(found) == 1 + len(others)


def test_every_part_of_a_chat_to_score_changes_its_key():
    chat = ScoreRequest(REQUEST.messages)
    assert {field.name for field in fields(ScoreRequest)} == {"messages", "tools"}
    found = {ScoreKeys("model").key(replace(chat, tools=tools)) for tools in [(), *OTHER_PART["tools"]]}  # fmt: skip  # noqa: E501
    found |= {ScoreKeys("model").key(replace(chat, messages=m)) for m in OTHER_PART["messages"]}
    assert len(found) == 1 + len(OTHER_PART["tools"]) + len(OTHER_PART["messages"])


def test_the_page_about_keys_names_every_input():
    page = (ROOT / "docs" / "identity.md").read_text()
    asked, scored = page.split("## Inputs of `score`")
    for kind, part in ((TextRequest, asked), (ScoreRequest, scored)):
        assert [f.name for f in fields(kind) if f"| `{f.name}` |" not in part] == []
    assert [field.name for field in fields(Sampling) if f"`{field.name}`" not in asked] == []


def test_equal_requests_have_equal_keys_whoever_asks():
    same = TextRequest(
        ({"role": "user", "content": "".join(["H", "i"])},), Sampling(0.5, 10), 7, None, {}
    )
    assert TextKeys("model").key(REQUEST) == TextKeys("model").key(same)
    assert TextKeys("model").key(REQUEST) != TextKeys("other").key(REQUEST)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("schema", {"type": "object", "properties": {"winner": {"a": 1, "b": 2}, "reason": {}}}),
        ("chat_template_kwargs", {"profile": {"tone": "dry", "age": 3}}),
    ],
)
def test_the_order_of_keys_in_a_schema_and_in_template_arguments_counts(part, value):
    """A model that is bound to a schema writes its properties in their order."""
    keys = TextKeys("model")
    first, second, again = (
        keys.key(replace(REQUEST, **{part: v})) for v in (value, backwards(value), dict(value))
    )
    assert first != second
    assert first == again


def test_a_judge_whose_properties_change_places_is_asked_again():
    def stage(schema):
        [judge] = [c for c in recipe().columns if c.name == "judge"]
        found = recipe(columns=(with_fields(judge, output_format=schema),))
        return prints(found)[0]

    schema = {"properties": {"winner": {"enum": ["A", "B"]}, "reasoning": {"type": "string"}}}
    assert stage(schema) != stage(backwards(schema))
    assert stage(schema) == stage(dict(schema))


def backwards(value):
    """The same dict with its keys in the opposite order, at every depth."""
    if not isinstance(value, dict):
        return value
    return {name: backwards(value[name]) for name in reversed(value)}


def test_keys_of_requests_without_a_schema_are_those_of_earlier_journals():
    assert TextKeys("model").key(REQUEST) == "bee72da69cf7ec3833a01bf83cdad22f"
    assert (
        ScoreKeys("model").key(ScoreRequest(REQUEST.messages)) == "8f8239769de701f27dc80da5cccc9bcd"
    )


def test_keys_do_not_depend_on_what_was_asked_before():
    fresh = [TextKeys("m").key(replace(REQUEST, schema={"n": n})) for n in range(50)]
    used = TextKeys("m")
    assert [used.key(replace(REQUEST, schema={"n": n})) for n in range(50)] == fresh


def test_a_score_depends_on_the_model_and_the_chat_alone():
    chat = ScoreRequest(REQUEST.messages)
    assert ScoreKeys("m").key(chat) == ScoreKeys("m").key(ScoreRequest(tuple(REQUEST.messages)))
    assert ScoreKeys("m").key(chat) != ScoreKeys("n").key(chat)
    assert ScoreKeys("m").key(chat) != ScoreKeys("m").key(ScoreRequest(REQUEST.messages * 2))
    assert ScoreKeys("m").key(chat) != TextKeys("m").key(REQUEST)


# Sampling seeds and row ids


def test_a_sampling_seed_changes_with_everything_it_belongs_to():
    base = (0, "row", "column", "alias", 0, None)
    others = [
        (1, "row", "column", "alias", 0, None), (0, "row2", "column", "alias", 0, None),
        (0, "row", "column2", "alias", 0, None), (0, "row", "column", "alias2", 0, None),
        (0, "row", "column", "alias", 1, None), (0, "row", "column", "alias", 0, 0),
        (0, "rowcolumn", "", "alias", 0, None), (0, "column", "row", "alias", 0, None),
    ]  # fmt: skip
    found = [sampling_seed(*names) for names in [base, *others]]
    assert len(set(found)) == len(found)
    assert sampling_seed(*base) == found[0]


@given(st.integers(-(2**63), 2**63 - 1), st.text(max_size=20))
def test_a_sampling_seed_fits_63_bits(seed, name):
    assert 0 <= sampling_seed(seed, name) < 2**63


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": "x"}, {"b": "x", "a": 1}),
        ({"a": 1}, {"a": 1, "b": None}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": {"b": 1, "c": None}}, {"a": {"b": 1.0}}),
        ({"a": [{"b": None}]}, {"a": [{}]}),
    ],
    ids=["order", "null", "float", "nested", "in a list"],
)
def test_rows_of_equal_content_have_one_id(one, other):
    assert row_id(one) == row_id(other)


@pytest.mark.parametrize(
    "other",
    [{"a": "1"}, {"a": 2}, {"a": 1.5}, {"b": 1}, {"a": 1, "b": ""}, {"a": [1]}, {"a": True}, {}],
    ids=str,
)
def test_rows_of_other_content_have_other_ids(other):
    assert row_id(other) != row_id({"a": 1})


def test_the_first_copy_keeps_the_id_of_its_content():
    found = [copy_id("row", n) for n in range(5)]
    assert found[0] == "row" and len(set(found)) == 5


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4))
def test_parts_of_a_digest_do_not_run_together(parts):
    assert digest(*parts) != digest(*parts, "")
    assert len(parts) == 1 or digest(*parts) != digest("".join(parts))
