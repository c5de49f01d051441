# ruff: noqa: E501 (messages stand in one piece beside what causes them)
import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml
from conftest import ROOT

from prefdata.errors import PrefdataError
from prefdata.recipe.columns import AnyColumn
from prefdata.recipe.loader import load_recipe, validate_pair_rules
from prefdata.recipe.projection import DpoPreference, PreferencePairs
from prefdata.recipe.reads import columns_made, columns_needed
from prefdata.recipe.schema import InferenceParameters, Model, Recipe, SeedDataset

RECIPE = """\
output_dir: ${oc.env:PREFDATA_TEST_OUT,runs}/one
output_path: ${output_dir}/pairs.jsonl
num_records: 100
seed_dataset:
  path: seeds.jsonl
  fields: [prompt, answer]
models:
  - alias: hot
    model: org/lm
    inference_parameters:
      temperature: 0.9
      max_tokens: 32
  - alias: cool
    model: org/lm
    inference_parameters: {temperature: 0.3, max_tokens: 32}
  - {alias: grader, model: org/rm}
columns:
  - name: drafts
    type: candidates
    model_alias: [hot, cool]
    samples: 4
    prompt: "Answer: {{ prompt }}"
  - {name: reward, type: reward_model, model_alias: grader, candidates: drafts, prompt: "{{ prompt }}"}
  - {name: right, type: verifier, method: number, reference: answer, candidates: drafts}
output_projection:
  type: preference_pairs
  candidates: drafts
  score: reward
  strategy: best_vs_worst
"""

JUDGED = """\
output_dir: runs
seed_dataset: {path: seeds.jsonl, fields: [prompt, reference]}
models:
  - {alias: hot, model: org/lm, inference_parameters: {temperature: 0.9, max_tokens: 32}}
columns:
  - {name: response_a, type: llm_text, model_alias: hot, prompt: "{{ prompt }}"}
  - {name: response_b, type: llm_text, model_alias: hot, prompt: "{{ prompt }}"}
  - name: judge
    type: llm_judge
    model_alias: hot
    prompt: "{{ prompt }} A: {{ response_a }} B: {{ response_b }}"
    output_format: {type: object, properties: {winner: {type: string, enum: [A, B]}}}
output_projection: {type: dpo_preference}
"""

# The example of the design, in its own keys and our words.
RL_PREF = """\
output_dir: ${oc.env:SDG_OUTPUT_DIR,${oc.env:NEMO_RUN_DIR,${oc.env:PWD}/output}/sdg}
output_path: ${output_dir}/rl_pref.jsonl
num_records: 100
seed_dataset: {path: prompts.jsonl, strategy: shuffle, fields: [prompt]}
models:
  - {alias: nvidia-text, model: nvidia/nemotron-3-nano-30b-a3b, provider: nvidia, skip_health_check: false,
     inference_parameters: {temperature: 0.9, top_p: 1.0, max_tokens: 1024}}
  - {alias: nvidia-text-precise, model: nvidia/nemotron-3-nano-30b-a3b, provider: nvidia, skip_health_check: false,
     inference_parameters: {temperature: 0.3, top_p: 1.0, max_tokens: 1024}}
columns:
  - {name: response_a, type: llm_text, model_alias: nvidia-text,         prompt: "Help with: {{ prompt }}"}
  - {name: response_b, type: llm_text, model_alias: nvidia-text-precise, prompt: "Help with: {{ prompt }}"}
  - name: judge
    type: llm_judge
    model_alias: nvidia-text
    prompt: |
      Two answers to: {{ prompt }}
      A: {{ response_a }}
      B: {{ response_b }}
      Which one is right?
    output_format: {type: object, properties: {winner: {type: string, enum: [A, B]}}, required: [winner]}
output_projection: {type: dpo_preference, prompt_field: prompt, response_a_field: response_a, response_b_field: response_b,
                    judge_field: judge, winner_field: winner}
"""

HEAVY = ("torch", "transformers", "datasets", "pyarrow", "vllm", "numpy")
COLUMNS = get_args(get_args(AnyColumn)[0])
PARTS = [
    SeedDataset, InferenceParameters, Model, Recipe, DpoPreference, PreferencePairs, *COLUMNS,
]  # fmt: skip


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load a recipe text that lies in `<tmp>/recipes`, from the current folder `<tmp>/here`."""
    for name in ("recipes", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def load(*overrides, text=RECIPE):
        (tmp_path / "recipes" / "r.yaml").write_text(text, encoding="utf-8")
        return load_recipe(Path("../recipes/r.yaml"), overrides)

    return load


@pytest.fixture
def complaint(load):
    """The message about a recipe that may not load, without the recipe's folder."""

    def complaint(*overrides, text=RECIPE):
        with pytest.raises(PrefdataError) as caught:
            load(*overrides, text=text)
        return str(caught.value).replace("../recipes/", "")

    return complaint


def changed(old, new, text=RECIPE):
    assert old in text
    return text.replace(old, new, 1)


# Interpolation


def test_an_environment_variable_is_filled_in_or_its_default(load, monkeypatch):
    assert load().recipe.output_dir == "runs/one"
    monkeypatch.setenv("PREFDATA_TEST_OUT", "/data")
    assert load().recipe.output_dir == "/data/one"


def test_a_key_refers_to_another_after_overrides(load):
    assert load("output_dir=elsewhere").recipe.output_path == "elsewhere/pairs.jsonl"


def test_a_number_may_come_from_the_environment(load, monkeypatch):
    monkeypatch.setenv("PREFDATA_TEST_N", "7")
    text = changed("num_records: 100", "num_records: ${oc.env:PREFDATA_TEST_N}")
    assert load(text=text).recipe.num_records == 7


def test_home_is_filled_in(load, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert load("output_dir=~/runs").recipe.output_path == "/home/ada/runs/pairs.jsonl"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("${oc.env:PREFDATA_TEST_NOWHERE}", "PREFDATA_TEST_NOWHERE"),
        ("${nothing_of_the_kind}", "nothing_of_the_kind"),
        ("${", "output_path"),
    ],
    ids=["variable", "key", "broken"],
)
def test_an_interpolation_that_leads_nowhere_says_where_and_what_to_do(complaint, value, why):
    message = complaint(text=changed("${output_dir}/pairs.jsonl", f'"{value}"'))
    assert message.startswith("r.yaml:2: output_path: ")
    assert why in message and "${oc.env:NAME,default}" in message and "\\${" in message
    assert "\n" not in message


def test_a_literal_dollar_brace_survives_the_copy_of_the_recipe(load, tmp_path):
    loaded = load(
        text=changed('"Answer: {{ prompt }}"', r"'cost: \${x} and a\\\${y} {{ prompt }}'")
    )
    [before, *_] = loaded.recipe.columns
    assert before.prompt == r"cost: ${x} and a\${y} {{ prompt }}"
    (tmp_path / "copy.yaml").write_text(loaded.resolved)
    assert load_recipe(tmp_path / "copy.yaml").recipe == loaded.recipe


def test_three_question_marks_must_be_set(complaint, load):
    text = changed("num_records: 100", "num_records: ???")
    assert complaint(text=text).startswith("r.yaml:3: num_records: '???' marks a value")
    assert load("num_records=3", text=text).recipe.num_records == 3


# Overrides


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("models.0.model=other/lm", ("models", 0, "model"), "other/lm"),
        ("models[0].model=other/lm", ("models", 0, "model"), "other/lm"),
        ("columns.0.samples=8", ("columns", 0, "samples"), 8),
        ("seed_dataset.limit=5", ("seed_dataset", "limit"), 5),
        ("output_projection.test_size=5e-2", ("output_projection", "test_size"), 0.05),
        ("num_records=null", ("num_records",), None),
        ("output_path=", ("output_path",), None),
        ("columns.0.model_alias=[cool]", ("columns", 0, "model_alias"), ("cool",)),
        ("models.0.engine={dtype: float32}", ("models", 0, "engine"), {"dtype": "float32"}),
        ("models.0.engine.max_num_seqs=4", ("models", 0, "engine"), {"max_num_seqs": 4}),
        ("models.0.model=a=b", ("models", 0, "model"), "a=b"),
        ('models.0.system_prompt="1"', ("models", 0, "system_prompt"), "1"),
        ("output_path=2026-01-02", ("output_path",), "2026-01-02"),
        ("output_path=${seed_dataset.path}.out", ("output_path",), "seeds.jsonl.out"),
        ('columns.0.prompt="Q: {{ prompt }}"', ("columns", 0, "prompt"), "Q: {{ prompt }}"),
        (" num_records =3", ("num_records",), 3),
    ],
    ids=lambda value: value if isinstance(value, str) and "=" in value else "",
)
def test_an_override_sets_a_value_written_as_yaml(load, override, path, value):
    found = load(override).recipe
    for part in path:
        found = found[part] if isinstance(part, int) else getattr(found, part)
    assert found == value


def test_a_later_override_wins(load):
    assert load("num_records=1", "num_records=2").recipe.num_records == 2


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("models.3.model=x", "models is a list of 3 items, and '3' is not one of them (0 to 2)"),
        ("models.-1.model=x", "'-1' is not one of them"),
        ("models.first.model=x", "'first' is not one of them"),
        ("num_records.x=1", "override 'num_records.x': num_records is 100, which has no keys"),
        ("num_records", "'num_records' is not an override; write key=value"),
        ("=3", "is not an override"),
        ("models..model=3", "is not an override"),
        ("seed=[1", "override 'seed=[1': the value is not valid YAML"),
        ("columns.0.prompt={{ prompt }}", "put it in quotes: 'columns.0.prompt=\"…\"'"),
    ],
)
def test_an_override_that_cannot_be_done_is_explained(complaint, override, expected):
    message = complaint(override)
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("num_record=3", "command line: num_record: there is no key 'num_record' here; did you mean 'num_records'?"),
        ("models.0.modle=x", "command line: models.0.modle: there is no key 'modle' here; did you mean 'model'?"),
        ("seed_datasets.path=x", "command line: seed_datasets: there is no key 'seed_datasets' here; did you mean 'seed_dataset'?"),
        ("columns.0.sample=8", "command line: columns.0.sample: there is no key 'sample' here; did you mean 'samples'?"),
        ("num_records=many", "command line: num_records: "),
        ("models.0={alias: hot}", "command line: models.0.model: this key is missing; add it"),
        ("columns.0.model_alias=hott", "command line: columns.0.model_alias: there is no model 'hott'; did you mean 'hot'?"),
    ],
    ids=lambda value: value.split(":")[0] if value.startswith("command") else value,
)  # fmt: skip
def test_what_the_command_line_did_wrong_is_said_to_come_from_there(complaint, override, expected):
    assert complaint(override).startswith(expected)


def test_what_the_file_did_wrong_is_not_blamed_on_the_command_line(complaint):
    text = changed("    samples: 4", "    sampels: 4")
    assert complaint("num_records=3", text=text).startswith(
        "r.yaml:18: columns.0.samples: this key"
    )


# Paths


def test_paths_in_the_file_are_sought_beside_it_first_and_then_here(load, tmp_path):
    (tmp_path / "here" / "seeds.jsonl").touch()
    loaded = load()
    assert loaded.locate(loaded.recipe.seed_dataset.path[0]) == str(
        tmp_path / "here" / "seeds.jsonl"
    )
    (tmp_path / "recipes" / "seeds.jsonl").touch()
    assert loaded.locate("seeds.jsonl") == str(tmp_path / "here" / "../recipes/seeds.jsonl")
    assert loaded.locate("org/lm") == "org/lm"


@pytest.mark.parametrize("key", ["seed_dataset.path", "models.0.model"])
def test_paths_on_the_command_line_are_sought_here_first(load, tmp_path, key):
    for folder in ("here", "recipes"):
        (tmp_path / folder / "thing").mkdir()
    recipe = load(f"{key}=thing").recipe
    found = recipe.seed_dataset.path[0] if key.startswith("seed") else recipe.models[0].model
    assert found == str(tmp_path / "here" / "thing")


def test_a_path_on_the_command_line_that_is_not_here_is_sought_beside_the_recipe(load, tmp_path):
    (tmp_path / "recipes" / "thing").mkdir()
    loaded = load("models.0.model=thing")
    assert Path(loaded.locate(loaded.recipe.models[0].model)).samefile(
        tmp_path / "recipes" / "thing"
    )


def test_a_glob_is_a_path_too(load, tmp_path):
    (tmp_path / "here" / "a.jsonl").touch()
    (tmp_path / "recipes" / "b.jsonl").touch()
    assert load("seed_dataset.path=a*.jsonl").recipe.seed_dataset.path[0] == str(
        tmp_path / "here/a*.jsonl"
    )
    assert load().locate("b*.jsonl").endswith("recipes/b*.jsonl")


def test_a_recipe_is_found_from_any_folder(load, tmp_path, monkeypatch):
    loaded = load()
    (tmp_path / "recipes" / "seeds.jsonl").touch()
    monkeypatch.chdir("/")
    assert Path(loaded.locate("seeds.jsonl")).is_absolute()
    assert Path(loaded.locate("seeds.jsonl")).exists()


# The file itself


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RECIPE + "seed: 1\nseed: 2\n", "r.yaml:31: not valid YAML: found duplicate key seed"),
        (changed("    samples: 4", "\tsamples: 4"), "r.yaml:21: not valid YAML"),
        ("models: [", "r.yaml:1: not valid YAML"),
        ("", "r.yaml: a recipe must be a mapping of keys to values, but this file is empty"),
        (
            "- a\n- b\n",
            "r.yaml: a recipe must be a mapping of keys to values, but this file is a list",
        ),
        (
            "hello",
            "r.yaml: a recipe must be a mapping of keys to values, but this file is a single value",
        ),
        (
            "5",
            "r.yaml: a recipe must be a mapping of keys to values, but this file is a single value",
        ),
    ],
    ids=["duplicate", "tab", "cut", "empty", "list", "word", "number"],
)
def test_what_is_no_recipe_at_all_is_one_line(complaint, text, expected):
    message = complaint(text=text)
    assert message.startswith(expected)
    assert "\n" not in message


def test_a_recipe_that_is_not_there_or_not_a_text_is_said_to_be_so(tmp_path):
    with pytest.raises(PrefdataError, match=r"nope.yaml: recipe not found"):
        load_recipe(tmp_path / "nope.yaml")
    with pytest.raises(PrefdataError, match=r"the recipe cannot be read"):
        load_recipe(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("é: 1".encode("latin-1"))
    with pytest.raises(PrefdataError, match=r"the recipe cannot be read"):
        load_recipe(tmp_path / "latin.yaml")


def test_a_byte_order_mark_does_no_harm(load):
    assert load(text="\ufeff" + RECIPE).recipe == load().recipe


# Unknown keys


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("num_records:", "num_record:", "r.yaml:3: num_record: there is no key 'num_record' here; did you mean 'num_records'? Known: columns, inputs, max_gpu_hours, max_requests, max_tokens_total, min_yield, models, num_records, output_dir,"),
        ("  fields: [", "  field: [", "r.yaml:6: seed_dataset.field: there is no key 'field' here; did you mean 'fields'? Known: candidates, fields, limit,"),
        ("    model: org/lm", "    modell: org/lm", "r.yaml:9: models.0.modell: there is no key 'modell' here; did you mean 'model'? Known: "),
        ("      temperature", "      temprature", "r.yaml:11: models.0.inference_parameters.temprature: there is no key 'temprature' here; did you mean 'temperature'? Known: "),
        ("  score: reward", "  scores: reward", "r.yaml:28: output_projection.scores: there is no key 'scores' here; did you mean 'score'? Known: "),
    ],
    ids=["top", "seed_dataset", "models", "inference_parameters", "projection"],
)  # fmt: skip
def test_an_unknown_key_is_one_line_with_place_known_keys_and_nearest_match(
    complaint, old, new, expected
):
    lines = complaint(text=changed(old, new)).splitlines()
    [line] = [line for line in lines if "there is no key" in line]
    assert line.startswith(expected)


@pytest.mark.parametrize("kind", COLUMNS, ids=lambda kind: kind.__name__)
def test_an_unknown_key_of_a_column_is_explained_with_the_keys_of_its_type(complaint, kind):
    [tag] = get_args(kind.model_fields["type"].annotation)
    text = changed(
        "output_projection:", f"  - {{name: x, type: {tag}, nmae: y}}\noutput_projection:"
    )
    lines = complaint(text=text).splitlines()
    known = ", ".join(sorted(kind.model_fields))
    assert lines[-1] == (
        "r.yaml:25: columns.3.nmae: there is no key 'nmae' here; did you mean 'name'? "
        f"Known: {known}"
    )


def test_several_problems_are_reported_together(complaint):
    text = changed("num_records: 100", "num_record: 100")
    text = changed("    samples: 4", "    samples: 0", text)
    text = changed("  strategy: best_vs_worst", "  strategy: best_vs_wurst", text)
    assert [line.split(": ")[1] for line in complaint(text=text).splitlines()] == [
        "columns.0.samples", "output_projection.strategy", "num_record",
    ]  # fmt: skip


def test_several_problems_between_the_parts_are_reported_together(complaint):
    text = changed("candidates: drafts, prompt", "candidates: draft, prompt")
    text = changed("reference: answer", "reference: anwser", text)
    text = changed("[hot, cool]", "[hot, cold]", text)
    assert [line.split(": ")[1] for line in complaint(text=text).splitlines()] == [
        "columns.0.model_alias", "columns.1.candidates", "columns.2.reference",
        "output_projection.score",
    ]  # fmt: skip


# Values


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("type: candidates", "type: candidate", "r.yaml:19: columns.0.type: there is no type 'candidate'; did you mean 'candidates'? Known: llm_text,"),
        ("    type: candidates\n", "", "r.yaml:18: columns.0: the key 'type' is missing"),
        ("[hot, cool]", "[hot, warm]", "r.yaml:20: columns.0.model_alias: there is no model 'warm'; Known: hot, cool, grader"),
        ("[hot, cool]", "[hot, hot]", "r.yaml:20: columns.0.model_alias: name at least one alias, and each only once"),
        ("[hot, cool]", "[]", "r.yaml:20: columns.0.model_alias: name at least one alias, and each only once"),
        ("      temperature: 0.9\n", "", "r.yaml:10: models.0.inference_parameters.temperature: texts are sampled from 'hot', and this parameter has no default; set temperature"),
        ("      max_tokens: 32\n", "", "r.yaml:10: models.0.inference_parameters.max_tokens: texts are sampled from 'hot', and this parameter has no default; set max_tokens"),
        ("temperature: 0.9", "temperature: .nan", "r.yaml:11: models.0.inference_parameters.temperature: Input should be a finite number"),
        ("temperature: 0.9", "temperature: .inf", "r.yaml:11: models.0.inference_parameters.temperature: Input should be a finite number"),
        ("temperature: 0.9", "temperature: 0.9\n      top_k: many", "r.yaml:12: models.0.inference_parameters.top_k: expected a whole number (found 'many')"),
        ("  path: seeds.jsonl", "  rows: []", "r.yaml:5: seed_dataset.rows: the list is empty; name one at least"),
        ("    samples: 4", "    samples: 4\n    max_samples: 3", "r.yaml:18: columns.0: max_samples is 3, but every row begins with 4 samples; raise it"),
        ("    samples: 4", "    samples: 4\n    skip_when: '{{ drafts }}'", "r.yaml:22: columns.0.skip_when: column 'drafts' is made here, and is not there yet; Known: "),
        ("num_records: 100", "target_pairs: 0", "r.yaml:3: target_pairs: Input should be greater than or equal to 1 (found 0)"),
        ("score: reward", "score: reward\n  responses: [drafts]", "r.yaml:29: output_projection.responses: name 2 at least (found 1)"),
        ("  - {name: reward,", "  - {name: f, type: filter, candidates: drafts, refusals: maybe}\n  - {name: reward,", "r.yaml:23: columns.1.refusals: expected true (found 'maybe')"),
        ("  - {name: reward,", "  - {name: j, type: llm_judge, model_alias: [hot, hot], prompt: '{{ prompt }}', output_format: {}}\n  - {name: reward,", "r.yaml:23: columns.1.model_alias: name at least one alias, and each only once"),
        ("temperature: 0.9", "temperature: -1", "r.yaml:11: models.0.inference_parameters.temperature: "),
        ("temperature: 0.9", "temperature: 0.9\n      stop: ['']", "r.yaml:12: models.0.inference_parameters.stop.0: it must not be empty"),
        ("temperature: 0.9", f"temperature: 0.9\n      seed: {2**63}", "r.yaml:12: models.0.inference_parameters.seed: "),
        ("  strategy: best", "  min_margin: .inf\n  strategy: best", "r.yaml:29: output_projection.min_margin: Input should be a finite number"),
        ("  strategy: best", "  test_size: .nan\n  strategy: best", "r.yaml:29: output_projection.test_size: Input should be a finite number"),
        ("  strategy: best", "  k: 3\n  strategy: best", "r.yaml:25: output_projection: strategy is best_vs_worst and k is 3"),
        ("  path: seeds.jsonl", "  path: ''", "r.yaml:5: seed_dataset.path: it must not be empty"),
        ("  path: seeds.jsonl", "  path: 5", "r.yaml:5: seed_dataset.path: expected a string: put the value in quotes (found 5)"),
        ("[prompt, answer]", "prompt", "r.yaml:6: seed_dataset.fields: expected a list (found 'prompt')"),
        ("[prompt, answer]", "[id, source_id]", "r.yaml:6: seed_dataset.fields: the seed column 'id' is renamed 'source_id'"),
        ("name: drafts", "name: my drafts", "r.yaml:18: columns.0.name: a name begins with a letter and has only letters, digits and '_'"),
        ("name: drafts", "name: id", "r.yaml:18: columns.0.name: the name 'id' is reserved"),
        ("name: drafts", "name: drafts__meta", "r.yaml:18: columns.0.name: the name 'drafts__meta' is reserved"),
        ("name: drafts", "name: prompt", "r.yaml:18: columns.0.name: there are two columns 'prompt'"),
        ("name: reward", "name: drafts", "r.yaml:23: columns.1.name: there are two columns 'drafts'"),
        ("alias: cool", "alias: hot", "r.yaml:13: models.1.alias: models.0 is called 'hot', too"),
        ("num_records: 100", "num_records: 0", "r.yaml:3: num_records: "),
        ("num_records: 100", "min_yield: 1.5", "r.yaml:3: min_yield: "),
        ("num_records: 100", f"seed: {2**64}", "r.yaml:3: seed: "),
        ("output_dir: ${oc.env:PREFDATA_TEST_OUT,runs}/one", "output_dir: ''", "r.yaml:1: output_dir: it must not be empty"),
        ("models:\n", "models:\n  - word\n", "r.yaml:8: models.0: expected a mapping of keys to values"),
    ],
    ids=lambda value: value.split(":")[2].strip() if value.startswith("r.yaml") else "",
)  # fmt: skip
def test_a_wrong_value_is_explained_at_its_place(complaint, old, new, expected):
    assert complaint(text=changed(old, new)).splitlines()[0].startswith(expected)


def test_a_long_wrong_value_is_not_repeated_in_full(complaint):
    assert len(complaint(f"num_records={'x' * 5000}")) < 300


def test_a_missing_parameter_is_asked_for_once_however_many_columns_need_it(complaint):
    text = changed("temperature: 0.9, ", "", JUDGED)
    assert len(complaint(text=text).splitlines()) == 1


# Templates and columns, in the order of the file


def with_prompt(template):
    return changed('"Answer: {{ prompt }}"', repr(template))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (with_prompt("{{ promt }}"), "r.yaml:22: columns.0.prompt: there is no column 'promt' before this point; did you mean 'prompt'? Known: answer, prompt"),
        (with_prompt("{{ reward }}"), "r.yaml:22: columns.0.prompt: column 'reward' is made further down; move it above this one. Known here: answer, prompt"),
        (with_prompt("{{ drafts }}"), "r.yaml:22: columns.0.prompt: column 'drafts' is made here, and is not there yet"),
        (with_prompt("{% if answer %}{{ x }}{% endif %}"), "r.yaml:22: columns.0.prompt: there is no column 'x'"),
        (with_prompt("{{ prompt"), "r.yaml:22: columns.0.prompt: the template is not valid Jinja: unexpected end of template"),
        (with_prompt("{{ prompt | upcase }}"), "r.yaml:22: columns.0.prompt: the template is not valid Jinja: No filter named 'upcase'"),
        (with_prompt("{% include 'other' %}"), "r.yaml:22: columns.0.prompt: the template includes"),
        (changed('candidates: drafts, prompt: "{{ prompt }}"', 'candidates: drafts, prompt: "{{ drafts__meta }}"'), "r.yaml:23: columns.1.prompt: there is no column 'drafts__meta'"),
        (changed("reference: answer", "reference: answers"), "r.yaml:24: columns.2.reference: there is no column 'answers' before this point; did you mean 'answer'?"),
        (changed("candidates: drafts, prompt", "candidates: prompt, prompt"), "r.yaml:23: columns.1.candidates: column 'prompt' has no candidates"),
        (changed("candidates: drafts, prompt", "responses: [drafts], prompt"), "r.yaml:23: columns.1.responses.0: column 'drafts' contains candidates; write 'candidates: drafts'"),
        (changed("candidates: drafts, prompt", "responses: [prompt, prompt], prompt"), "r.yaml:23: columns.1: 'responses' names a column twice"),
        (changed("candidates: drafts, prompt", "prompt"), "r.yaml:23: columns.1: it is not clear what is scored"),
        (changed("  score: reward", "  score: rewards"), "r.yaml:28: output_projection.score: there is no column 'rewards' before this point; did you mean 'reward'?"),
        (changed("  score: reward", "  score: drafts"), "r.yaml:28: output_projection.score: column 'drafts' does not score 'drafts'; Known: reward, right"),
        (changed("  candidates: drafts\n  score", "  candidates: reward\n  score"), "r.yaml:27: output_projection.candidates: column 'reward' has no candidates; name a column of type 'candidates'"),
        (changed("  score: reward\n  strategy: best_vs_worst", "  strategy: delta\n  strong: hot\n  weak: grader"), "r.yaml:30: output_projection.weak: 'grader' is not an alias of column 'drafts'; Known: hot, cool"),
        (changed("  score: reward\n", "  score: reward\n  rejected: {score: rigth}\n"), "r.yaml:29: output_projection.rejected.score: there is no column 'rigth' before this point; did you mean 'right'?"),
        (changed("  score: reward\n", "  score: reward\n  chosen: {score: answer}\n"), "r.yaml:29: output_projection.chosen.score: column 'answer' does not score 'drafts'; Known: reward, right"),
        (changed("  score: reward\n", "  score: reward\n  chosen: {model_alias: hott}\n"), "r.yaml:29: output_projection.chosen.model_alias: 'hott' is not an alias of column 'drafts'; did you mean 'hot'?"),
        (changed("  score: reward\n", "  score: reward\n  one_side: grader\n"), "r.yaml:29: output_projection.one_side: 'grader' is not an alias of column 'drafts'"),
        (changed("  score: reward\n", "  score: reward\n  chosen: {shortest: 1}\n"), "r.yaml:29: output_projection.chosen.shortest: there is no key 'shortest' here; did you mean 'shortest_within'?"),
        (changed("  score: reward\n", "  score: reward\n  group_by: turn\n"), "r.yaml:29: output_projection.group_by: there is no column 'turn'"),
        (changed("  score: reward\n", "  score: reward\n  prompt_field: question\n"), "r.yaml:29: output_projection.prompt_field: there is no column 'question'"),
    ],
    ids=lambda value: value.split(": ", 2)[2][:40] if value.startswith("r.yaml") else "",
)  # fmt: skip
def test_a_name_that_stands_for_nothing_there_is_explained(complaint, text, expected):
    assert complaint(text=text).splitlines()[0].startswith(expected)


def test_a_text_column_has_a_column_that_tells_how_it_was_made(load):
    assert columns_made(load(text=JUDGED).recipe) == {
        "response_a": "columns.0", "response_a__meta": "columns.0",
        "response_b": "columns.1", "response_b__meta": "columns.1",
        "judge": "columns.2", "judge__meta": "columns.2",
    }  # fmt: skip


def test_a_judge_may_not_read_who_wrote_what(load):
    text = changed(
        "A: {{ response_a }}", "A: {{ response_a }} {{ response_a__meta.model }}", JUDGED
    )
    with pytest.raises(PrefdataError, match="a judge must not see which model wrote a text, and"):
        load(text=text)


def test_without_fields_seed_columns_are_left_to_the_seeds_to_check(load):
    text = changed("  fields: [prompt, answer]\n", "")
    assert columns_needed(load(text=text).recipe) == {
        "prompt": "columns.0.prompt",
        "answer": "columns.2.reference",
    }


def test_a_seed_column_called_id_is_known_by_its_new_name(load):
    text = changed("fields: [prompt, answer]", "fields: [prompt, answer, id]")
    load(text=changed('"Answer: {{ prompt }}"', '"{{ source_id }} {{ prompt }}"', text))


def test_responses_and_verdicts_that_no_column_makes_are_needed_of_the_seeds(load):
    text = "output_dir: x\nseed_dataset: {path: x.jsonl}\ncolumns: []\noutput_projection: {type: dpo_preference}"
    assert list(columns_needed(load(text=text).recipe)) == [
        "prompt", "response_a", "response_b", "judge",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("method: regex", "method 'regex' needs 'pattern'"),
        ("method: regex, pattern: '('", "the pattern is not a valid regular expression"),
        ("method: regex, pattern: x, reference: answer", "method 'regex' does not read 'reference'"),
        ("method: number", "method 'number' needs 'reference'"),
        ("method: exact_match, pattern: x", "method 'exact_match' needs 'reference'"),
        ("method: function", "method 'function' needs 'function'"),
        ("method: number, reference: answer, function: 'a:b'", "method 'number' does not read 'function'"),
        ("method: regexp, pattern: x", "there is no method 'regexp'; did you mean 'regex'?"),
    ],
)  # fmt: skip
def test_a_verifier_takes_the_parameter_of_its_method_and_no_other(complaint, fields, expected):
    text = changed("method: number, reference: answer", fields)
    [line] = complaint(text=text).splitlines()
    assert line.startswith("r.yaml:24: columns.2") and expected in line


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ("{type: string}", "the answer is read as a dict, so the schema needs 'type: object'"),
        ("{type: object, properties: [winner]}", "not a valid JSON schema: properties: ['winner'] is not of type 'object'"),
        ("{type: object, properties: {winner: A}}", "not a valid JSON schema: properties.winner: 'A' is not of type 'object'"),
        ("{type: object, properties: {winner: {type: string, enum: A}}}", "not a valid JSON schema: properties.winner.enum: 'A' is not of type 'array'"),
        ("{type: object, properties: {winner: {type: string, enum: [yes, no]}}}", "put them in quotes"),
        ("{type: object, properties: {a: {type: string}}, required: [b]}", "'required' is ['b']; list only keys"),
        ("{type: object, properties: {a: {type: string}}, required: [[a]]}", "not a valid JSON schema: required.0: ['a'] is not of type 'string'"),
        ("{type: object, properties: {a: {type: strin}}}", "not a valid JSON schema: properties.a.type: 'strin'"),
        ("{type: object, minProperties: x}", "not a valid JSON schema: minProperties: 'x'"),
    ],
)  # fmt: skip
def test_a_schema_that_binds_nothing_is_refused(complaint, schema, expected):
    old = "{type: object, properties: {winner: {type: string, enum: [A, B]}}}"
    line = complaint(text=changed(old, schema, JUDGED)).splitlines()[0]
    assert line.startswith("r.yaml:12: columns.2.output_format: ") and expected in line


# The judge


def test_a_judge_compares_the_two_answers_in_the_order_in_which_it_shows_them(load):
    recipe = load(text=JUDGED).recipe
    assert recipe.columns[2].compared(recipe.columns) == ("response_a", "response_b")


def test_a_judge_that_shows_b_first_must_not_feed_pairs_that_take_a_first(complaint, load):
    text = changed("A: {{ response_a }} B: {{ response_b }}", "A: {{ response_b }} B: {{ response_a }}", JUDGED)  # fmt: skip
    assert complaint(text=text) == (
        "r.yaml:13: output_projection.response_a_field: the judge 'judge' compares ['response_b', "
        "'response_a'], but the pairs are made of ['response_a', 'response_b']; "
        "name the same columns in the same order (the first is A)"
    )
    swapped = "{type: dpo_preference, response_a_field: response_b, response_b_field: response_a}"
    load(text=changed("{type: dpo_preference}", swapped, text))
    load("columns.2.compare=[response_a, response_b]", text=text)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("A: {{ response_a }} B: {{ response_b }}", "{{ response_a }}", "columns.2: both_orders is true, but the prompt does not name exactly two llm_text columns; add 'compare: [first, second]'"),
        ("B: {{ response_b }}", "B: {{ reference }}", "columns.2: both_orders is true"),
        ("    model_alias: hot\n", "    model_alias: hot\n    compare: [response_a, prompt, response_b]\n", "columns.2.compare: "),
        ("    model_alias: hot\n", "    model_alias: hot\n    compare: [response_a, response_a]\n", "columns.2.compare: a column cannot be compared with itself"),
        ("    model_alias: hot\n", "    model_alias: hot\n    compare: [response_a, reference]\n", "columns.2.compare.1: the prompt does not contain column 'reference'"),
        ("    model_alias: hot\n", "    model_alias: hot\n    compare: [response_a, response_c]\n", "columns.2.compare.1: there is no column 'response_c'"),
        ("    model_alias: hot\n", "    model_alias: hot\n    compare: [response_b, response_a]\n", "output_projection.response_a_field: the judge 'judge' compares ['response_b', 'response_a']"),
        ("{type: dpo_preference}", "{type: dpo_preference, winner_field: win}", "output_projection.winner_field: the verdict of 'judge' has no key 'win'; did you mean 'winner'?"),
        ("    model_alias: hot\n", "    model_alias: hot\n    winner_field: best\n", "columns.2.output_format: the schema does not allow A and B as values of 'best', so the verdicts"),
        ("enum: [A, B]", "enum: [first, second]", "output_projection.winner_field: the verdict of 'judge' is one of ['FIRST', 'SECOND']"),
        (", enum: [A, B]", "", "output_projection.winner_field: the verdict of 'judge' is free text"),
        ("{type: dpo_preference}", "{type: dpo_preference, judge_field: response_a}", "output_projection.judge_field: column 'response_a' is not a judge; name an llm_judge column"),
        ("{type: dpo_preference}", "{type: dpo_preference, judge_field: judges}", "output_projection.judge_field: there is no column 'judges'"),
        ("{type: dpo_preference}", "{type: dpo_preference, response_b_field: response_a}", "output_projection.response_b_field: both responses are column 'response_a'"),
        ("{type: dpo_preference}", "{type: dpo_preference, response_b_field: judge}", "output_projection.response_b_field: column 'judge' contains no text"),
    ],
    ids=lambda value: value.split(": ", 1)[1][:40] if value.startswith(("columns.2", "output_")) else "",
)  # fmt: skip
def test_a_judge_whose_verdict_could_not_be_read_is_refused(complaint, old, new, expected):
    message = complaint(text=changed(old, new, JUDGED))
    assert any(line.split(": ", 1)[1].startswith(expected) for line in message.splitlines()), (
        message
    )


def test_a_verdict_of_another_name_is_said_in_both_places(complaint, load):
    text = JUDGED.replace("winner:", "best:")
    text = changed("{type: dpo_preference}", "{type: dpo_preference, winner_field: best}", text)
    assert "names the winner in 'winner', but the pairs read 'best'" in complaint(text=text)
    load("columns.2.winner_field=best", text=text)


@pytest.mark.parametrize(
    "overrides",
    [
        ("columns.2.both_orders=false", "columns.2.prompt='{{ response_a }}'"),
        ("columns.2.compare=[response_a, response_b]",),
        ("columns.2.output_format.properties.winner.enum=[a, b, tie]",),
    ],
    ids=["asked once", "said outright", "ties in small letters"],
)
def test_a_judge_that_says_what_it_compares_is_accepted(load, overrides):
    load(*overrides, text=JUDGED)


def test_an_answer_from_the_seeds_may_be_compared(load):
    load(
        "columns.2.prompt='{{ response_a }} {{ reference }}'",
        "columns.2.compare=[response_a, reference]",
        "output_projection.response_b_field=reference",
        text=JUDGED,
    )


# The example of the design


def test_the_rl_pref_example_loads_when_its_models_run_here(load, monkeypatch):
    for name in ("SDG_OUTPUT_DIR", "NEMO_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PWD", "/here")
    recipe = load(*(f"models.{n}.provider=auto" for n in range(2)), text=RL_PREF).recipe
    assert recipe.output_path == "/here/output/sdg/rl_pref.jsonl"
    monkeypatch.setenv("NEMO_RUN_DIR", "/nemo")
    recipe = load(*(f"models.{n}.provider=auto" for n in range(2)), text=RL_PREF).recipe
    assert recipe.output_dir == "/nemo/sdg"
    assert columns_needed(recipe) == {"prompt": "columns.0.prompt"}
    assert recipe.columns[2].compared(recipe.columns) == ("response_a", "response_b")


def test_a_provider_that_is_not_here_says_how_to_run_the_checkpoint(complaint):
    assert complaint("models.1.provider=auto", text=RL_PREF) == (
        "r.yaml:6: models.0.provider: there is no provider 'nvidia'; Known: auto, transformers, vllm. "
        "Add it to 'providers', or set the environment variable NVIDIA_BASE_URL; to run the checkpoint "
        "on this machine, set models.0.provider=auto"
    )


# Pair rules without a recipe

DEFAULTS = {
    "type": "preference_pairs", "candidates": "c", "score": "s", "strategy": "best_vs_worst",
}  # fmt: skip


def test_pair_rules_are_read_from_overrides_alone():
    rule = validate_pair_rules(DEFAULTS, ["strategy=top_k_bottom_k", "k=2", "test_size=0.1"])
    assert (rule.strategy, rule.k, rule.test_size) == ("top_k_bottom_k", 2, 0.1)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stratgy=x", "command line: output_projection.stratgy: there is no key 'stratgy' here; did you mean 'strategy'?"),
        ("strategy=best", "command line: output_projection.strategy: there is no strategy 'best'"),
        ("k=3", "command line: output_projection: strategy is best_vs_worst and k is 3"),
        ("min_margin=.nan", "command line: output_projection.min_margin: Input should be a finite"),
        ("min_margin=${x", "override 'output_projection.min_margin=${x'"),
        ("min_margin=${x}", "command line: output_projection.min_margin: Interpolation key 'x'"),
    ],
    ids=lambda value: value if not value.startswith(("command", "override")) else "",
)  # fmt: skip
def test_a_wrong_pair_rule_is_one_line(override, expected):
    with pytest.raises(PrefdataError) as caught:
        validate_pair_rules(DEFAULTS, [override])
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


# What a recipe costs before anything runs


def test_nothing_heavy_is_imported_for_a_recipe_error_or_for_help(tmp_path):
    (tmp_path / "r.yaml").write_text(changed("num_records", "num_record"))
    code = (
        "import sys; from prefdata.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: status = end.code\n"
        f"print(status, [name for name in {HEAVY} if name in sys.modules])"
    )
    for command, status in ((["--help"], 0), (["build", "r.yaml"], 2), (["plan", "r.yaml"], 2)):
        done = subprocess.run(
            [sys.executable, "-c", code, *command],
            cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"},
        )  # fmt: skip
        assert done.stdout.splitlines()[-1] == f"{status} []", done.stderr


# Fields


def is_validator(node):
    return any("validator" in ast.unparse(one) for one in getattr(node, "decorator_list", ()))


def reads(file):
    """Names of attributes that a module reads, by a dot, by getattr or in a `model_dump`."""
    tree = ast.parse(file.read_text())
    if file.parent.name == "recipe":  # a check is no use of a field, a property is
        for part in tree.body:
            if isinstance(part, ast.ClassDef):
                part.body = [node for node in part.body if not is_validator(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "getattr":
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))
        if isinstance(node, ast.keyword) and node.arg == "include":
            yield from ast.literal_eval(node.value)


def test_every_recipe_field_is_read_somewhere():
    read = {name for file in (ROOT / "prefdata").rglob("*.py") for name in reads(file)}
    read.add("variables")  # other keys of the recipe do
    assert {
        part.__name__: unread for part in PARTS if (unread := {*part.model_fields} - read)
    } == {}


def test_the_resolved_recipe_is_plain_yaml_of_the_same_recipe(load, tmp_path):
    loaded = load("columns.0.samples=2")
    (tmp_path / "resolved.yaml").write_text(loaded.resolved)
    assert load_recipe(tmp_path / "resolved.yaml").recipe == loaded.recipe
    assert yaml.safe_load(loaded.resolved)["columns"][0]["samples"] == 2
