"""Before the first run of one's own: `init`, `check`, `schema`, `quickstart`, general options."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from conftest import QUICKSTART, ROOT
from jsonschema.validators import validator_for
from layout_rows import nectar
from typer.testing import CliRunner

from prefdata.cli import app
from prefdata.recipe.json_schema import SHIPPED, recipe_schema
from prefdata.recipe.loader import load_recipe
from prefdata.storage.folders import read_rows

RECIPES = [f for f in sorted((ROOT / "recipes").rglob("*.yaml")) if "columns:" in f.read_text()]


def prefdata(*arguments, code=0, keys=None):
    """Output and errors of a command."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], input=keys)
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_lines(file, *rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


# init


def test_init_writes_a_recipe_that_builds(here):
    seeds = write_lines(here / "mine.jsonl", *({"question": f"{n}?", "n": n} for n in range(3)))
    prefdata("init", seeds, "--model", "some/model", "--reward", "some/reward")
    text = (here / "recipe.yaml").read_text()
    assert text.startswith(f"# yaml-language-server: $schema={SHIPPED}\n")
    recipe = load_recipe(here / "recipe.yaml").recipe
    assert recipe.seed_dataset.path == ("mine.jsonl",)
    assert recipe.seed_dataset.fields == ("question", "n")
    assert recipe.output_projection.prompt_field == "question"
    assert [model.model for model in recipe.models] == ["some/model", "some/reward"]
    prefdata("build", "recipe.yaml", "--rehearse")
    assert (here / "output" / "mine-rehearsal" / "run.json").is_file()
    assert "already" in prefdata("init", "--model", "m", code=2).output
    prefdata("init", "--model", "m", "--force")
    assert len(load_recipe(here / "recipe.yaml").recipe.seed_dataset.rows) == 3


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([{"id": 1, "instruction": "Say: hi", "output": "hi"}], "instruction"),
        ([{"text": "a", "prompt": "b"}], "prompt"),
        ([{"frage": "Wie?", "nummer": 3}], "frage"),
        ([{"messages": [{"role": "user", "content": "hi"}], "tags": ["a"]}], "messages"),
        ([{"prompt": "a"}, {"prompt": None, "query": "b"}, {"query": "c"}], "query"),
        ([{"nummer": 1}, *[{"frage": "Wie?", "nummer": 3}] * 9, {"frage": None}], "frage"),
        ([{"eins": "a", "zwei": "b"}], None),
    ],
    ids=[
        "instruction",
        "prompt before text",
        "the only text",
        "a chat",
        "gaps",
        "odd lines",
        "two texts",
    ],
)
def test_init_guesses_the_prompt_or_asks_for_its_name(here, rows, wanted):
    file = write_lines(here / "seeds.jsonl", *rows)
    done = prefdata("init", file, "--model", "m", code=0 if wanted else 2)
    if wanted is None:
        assert "name one with --prompt-field" in done.output
        assert "--prompt-field" in done.output
        return
    recipe = load_recipe(here / "recipe.yaml").recipe
    assert recipe.output_projection.prompt_field == wanted
    assert (recipe.columns[0].messages is None) == (wanted != "messages")
    assert recipe.columns[1].type == "rubric_judge"


def test_init_lists_fields_of_some_lines_apart_and_offers_a_verifier(here):
    rows = [{"prompt": "1+1?", "answer": "2"}, {"prompt": "1+2?", "answer": "3", "hint": "add"}]
    prefdata("init", write_lines(here / "s.jsonl", *rows), "--model", "m", "--judge", "j")
    text = (here / "recipe.yaml").read_text()
    assert "  fields: [prompt, answer]  #" in text
    assert "# in some lines only: hint" in text
    assert "#   method: number" in text
    assert load_recipe(here / "recipe.yaml").recipe.model("grader").model == "j"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jsonl", "--model", "m"], "none.jsonl: not found"),
        (["empty.jsonl", "--model", "m"], "there is no usable line"),
        (["odd.jsonl", "--model", "m", "--prompt-field", "x"], "the field 'x' is in no line"),
        ([], "give it with --model"),
        (["--model", "m", "--reward", "r", "--judge", "j"], "give one of them"),
    ],
)
def test_init_says_what_it_lacks(here, arguments, message):
    (here / "empty.jsonl").touch()
    write_lines(here / "odd.jsonl", {"my prompt": "a"})
    assert message in prefdata("init", *arguments, code=2).output
    assert not (here / "recipe.yaml").exists()


def test_init_reads_a_field_whose_name_is_none_in_a_template(here):
    write_lines(here / "odd.jsonl", {"my-prompt": "a"}, {"my-prompt": "b"})
    prefdata("init", "odd.jsonl", "--model", "m", "--reward", "r")
    assert (
        '{{ row["my-prompt"] }}'
        in yaml.safe_load((here / "recipe.yaml").read_text())["columns"][0]["prompt"]
    )  # noqa: E501
    prefdata("build", "recipe.yaml", "--rehearse")
    pairs = read_rows(here / "output" / "odd-rehearsal" / "pairs")
    assert {pair["prompt"] for pair in pairs} == {"a", "b"}


def test_init_tells_that_a_file_has_scored_texts_already(here):
    write_lines(here / "ranked.jsonl", *nectar())
    said = prefdata("init", "ranked.jsonl", "--model", "m", "--reward", "r").output
    assert "looks like Nectar" in said
    assert "prefdata pairs ranked.jsonl --layout nectar --out DIR" in said


# check


def test_check_finds_a_misspelt_field_of_the_seeds_and_says_where(here):
    write_lines(here / "s.jsonl", {"prompt": "a"})
    prefdata("init", "s.jsonl", "--model", "m")
    assert "no error found; columns: candidates, score" in prefdata("check", "recipe.yaml").output
    text = (here / "recipe.yaml").read_text().replace("  fields: [prompt]", "  fields: [promt]")
    (here / "recipe.yaml").write_text(text)
    told = prefdata("check", "recipe.yaml", code=2).output
    assert "there is no column 'prompt' before this point; did you mean 'promt'" in told
    text = text.replace("prompt: '{{ prompt }}'", "prompt: '{{ promt }}'")
    (here / "recipe.yaml").write_text(text.replace("field: prompt", "field: promt"))
    assert "seed_dataset.path: s.jsonl has no usable row" in prefdata(
        "check", "recipe.yaml", code=2
    ).output.replace(str(here) + "/", "")


STAGE = (
    "[{name: candidates, type: stage, function: 'os:walk', returns: {candidates: candidates}}, "
    "{name: score, type: verifier, candidates: candidates, method: regex, pattern: a}]"
)
OWN = "{name: score, type: verifier, method: function, function: 'os:no', candidates: candidates}"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("models.0.model", "./none", "there is no folder './none'"),
        ("models.0.model", "folder", "contains no config.json, so it is not a checkpoint"),
        ("seed_dataset.path", "none.jsonl", "file not found: 'none.jsonl'"),
        ("columns.1", OWN, "'os:no' cannot be imported"),
        ("columns", STAGE, "'os:walk' is not a coroutine function"),
        ("output_dir", "s.jsonl", "a file stands where a folder is needed"),
        ("models.0.provider", "mine", "the environment variable MY_KEY is not set"),
    ],
)
def test_check_finds_what_is_not_there(here, key, value, message):
    (here / "folder").mkdir()
    write_lines(here / "s.jsonl", {"prompt": "a"})
    prefdata("init", "s.jsonl", "--model", "m")
    server = "providers=[{name: mine, endpoint: http://localhost/v1, api_key: MY_KEY}]"
    assert message in prefdata("check", "recipe.yaml", f"{key}={value}", server, code=2).output


def test_check_leaves_datasets_of_the_hub_alone(here):
    write_lines(here / "s.jsonl", {"prompt": "a"})
    prefdata("init", "s.jsonl", "--model", "m")
    told = prefdata("check", "recipe.yaml", "seed_dataset.path=owner/name").output
    assert "owner/name is not looked at" in told
    assert "model writer: m on the Hub, not looked up" in told


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["check", str(QUICKSTART / "recipe.yaml")], {"torch", "transformers", "vllm", "datasets", "huggingface_hub", "jsonschema", "pandas"}),  # noqa: E501
        (["--help"], {"pydantic", "pyarrow", "yaml", "jinja2", "importlib.metadata"}),
    ],
    ids=["check", "help"],
)  # fmt: skip
def test_what_answers_at_once_loads_nothing_heavy(arguments, heavy):
    code = (
        "import sys\nfrom prefdata.cli import app\n"
        f"try: app({arguments}, standalone_mode=False)\n"
        "finally: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert heavy & set(done.stdout.splitlines()[-1].split()) == set()


# schema


def test_the_schema_that_ships_is_that_of_the_models():
    message = "run: prefdata schema > prefdata/recipe/recipe.schema.json"
    assert json.loads(SHIPPED.read_text()) == recipe_schema(), message
    assert prefdata("schema").stdout == SHIPPED.read_text()


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: str(file.relative_to(ROOT)))
def test_recipes_that_ship_satisfy_the_schema(file):
    schema = recipe_schema()
    validator_for(schema)(schema).validate(yaml.safe_load(file.read_text()))


def test_the_schema_knows_short_forms_and_refuses_what_the_loader_refuses(project):
    schema = recipe_schema()
    validator = validator_for(schema)(schema)
    project.recipe["columns"][0]["prompt_file"] = "prompt.md"
    del project.recipe["columns"][0]["prompt"]
    project.recipe["num_records"] = "${oc.env:COUNT,3}"
    validator.validate(project.recipe)
    project.recipe["columns"][0]["sample"] = 3
    assert not validator.is_valid(project.recipe)


def test_every_field_of_a_recipe_is_explained():
    schema = recipe_schema()
    for name, part in [("recipe", schema), *schema["$defs"].items()]:
        fields = {key for key, told in part["properties"].items() if "description" not in told}
        assert fields <= {"type"}, name
        assert part["description"]


# The rest


def test_the_version_and_help():
    assert prefdata("--version").output.strip()[0].isdigit()
    assert prefdata("-h").output == prefdata("--help").output
    assert "--gpus" in prefdata("build", "-h").output


def test_quiet_leaves_results_and_errors(project):
    file = project.write()
    loud = prefdata("build", file, "--rehearse")
    assert "candidates: " in loud.stderr
    calm = prefdata("build", file, "--rehearse", "--quiet", "seed=1")
    assert calm.stderr == ""
    assert "pairs" in calm.stdout
    assert "nope" in prefdata("check", "-q", "nope.yaml", code=2).stderr
    assert "exclude each other" in prefdata("check", "-q", "-v", file, code=2).stderr


def test_verbose_tells_where_an_error_comes_from(here):
    assert "Traceback" not in prefdata("check", "none.yaml", code=2).stderr
    assert "Traceback" in prefdata("check", "none.yaml", "--verbose", code=2).stderr


def test_a_shell_completes_commands():
    asked = {"_PREFDATA_COMPLETE": "complete_bash", "COMP_WORDS": "prefdata ch", "COMP_CWORD": "1"}
    code = "from prefdata.cli import app; app(prog_name='prefdata')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True
    )
    assert done.stdout.split() == ["check"]
