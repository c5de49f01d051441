"""The documents name what is there, and what they name is there."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest
import yaml
from conftest import QUICKSTART, ROOT
from pydantic import BaseModel
from typer.main import get_command

from prefdata.cli import app
from prefdata.export import FORMATS
from prefdata.recipe.layout import Layout
from prefdata.recipe.loader import load_recipe, load_settings
from prefdata.recipe.mix import Mix
from prefdata.recipe.projection import Chosen, DpoPreference, PreferencePairs
from prefdata.recipe.schema import (
    AnyColumn,
    InferenceParameters,
    Model,
    Publish,
    Recipe,
    SeedDataset,
)
from prefdata.train.trl_settings import Evaluation, Lora, TrlSettings

README = (ROOT / "README.md").read_text()
COMMANDS = (ROOT / "docs" / "cli.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
REFERENCE = (ROOT / "docs" / "recipe.md").read_text()
COLUMNS = get_args(get_args(AnyColumn)[0])
PARTS = [
    Recipe, SeedDataset, Model, InferenceParameters, DpoPreference, PreferencePairs, Chosen, Mix,
    Publish, *COLUMNS,
]  # fmt: skip
TRAINING = (ROOT / "docs" / "training.md").read_text()
SETTINGS = [ROOT / "recipes" / "quickstart" / "train.yaml"]
LAYOUTS = sorted((ROOT / "recipes" / "layouts").glob("*.yaml"))
RECIPES = sorted(set((ROOT / "recipes").rglob("*.yaml")) - {*SETTINGS, *LAYOUTS})


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_recipe_field_is_in_the_reference(part: type[BaseModel]):
    missing = [name for name in part.model_fields if f"`{name}`" not in REFERENCE]
    assert not missing


@pytest.mark.parametrize("part", [TrlSettings, Lora, Evaluation], ids=lambda part: part.__name__)
def test_every_setting_of_a_training_is_in_its_page(part: type[BaseModel]):
    missing = [name for name in part.model_fields if f"`{name}`" not in TRAINING]
    assert not missing


def test_every_key_and_every_preset_of_a_layout_is_in_its_page():
    page = (ROOT / "docs" / "layouts.md").read_text()
    assert [name for name in Layout.model_fields if f"`{name}`" not in page] == []
    assert [file.stem for file in LAYOUTS if f"`{file.stem}`" not in page] == []
    assert [file.name for file in LAYOUTS if len(file.read_text().splitlines()) > 15] == []


def test_every_example_of_a_layout_is_one():
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "layouts.md").read_text(), re.DOTALL)
    read = [Layout.model_validate(yaml.safe_load(block)["candidates"]) for block in blocks]
    assert {layout.kind for layout in read} == {"candidates", "labelled", "pairs"}


@pytest.mark.parametrize("file", SETTINGS, ids=lambda file: file.name)
def test_settings_that_ship_load_and_find_their_files(file):
    path = load_settings(TrlSettings, file, ()).evaluation.path
    assert path
    assert Path(path).is_file()


def test_every_format_and_reason_is_in_the_page_of_training():
    assert [name for name in FORMATS if f"| `{name}` |" not in TRAINING] == []
    source = "".join(file.read_text() for file in (ROOT / "prefdata" / "export").glob("*.py"))
    reasons = set(re.findall(r'RowError\(\s*"(\w+)"', source))
    assert len(reasons) > 5
    assert [reason for reason in reasons if f"`{reason}`" not in TRAINING] == []


@pytest.mark.parametrize("choice", ["type", "strategy", "method"])
def test_every_choice_of_a_field_is_in_the_reference(choice):
    for part in PARTS:
        if choice in part.model_fields:
            for value in get_args(part.model_fields[choice].annotation):
                assert f"`{value}`" in REFERENCE, f"{part.__name__}.{choice}: {value}"


def test_every_command_and_option_is_in_the_page_of_commands():
    general = COMMANDS.split("\n## ")[0]
    for name, command in get_command(app).commands.items():
        assert re.search(f"`prefdata {name}[ `]", README)
        section = COMMANDS.split(f"\n## {name}\n")[1].split("\n## ")[0]
        flags = [flag for option in command.params for flag in option.opts if flag[:2] == "--"]
        assert [flag for flag in flags if f"`{flag}" not in general + section] == [], name


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_the_architecture_has_a_line_for_every_package():
    packages = [file.parent.name for file in (ROOT / "prefdata").glob("*/__init__.py")]
    assert [name for name in packages if f"| `prefdata/{name}/` | " not in ARCHITECTURE] == []
    listed = re.findall(r"^\| `(prefdata/\w+)/` \|", ARCHITECTURE, flags=re.MULTILINE)
    assert sorted(listed) == sorted(f"prefdata/{name}" for name in packages)


def test_every_install_line_names_extras_that_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "prefdata").rglob("*.py")]
    for file in files:
        text = file.read_text()
        assert "pip install prefdata" not in text, file
        assert "'prefdata[" not in text, file  # the name is on no index
        named = re.findall(r"pip install '[^'\[]*\[([\w,]+)\]'", text)
        named += re.findall(r"install_command\([\"'](\w+)", text)
        assert {extra for group in named for extra in group.split(",")} <= set(extras), file


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_recipe_is_short_explained_and_loads(file):
    text = file.read_text()
    assert text.startswith("# ")
    assert len(text.splitlines()) <= 40
    count = text.count("provider: nvidia, ")  # remote by default; any checkpoint will do here
    load_recipe(file, [f"models.{n}.provider=auto" for n in range(count)])


def test_local_links_of_the_documents_lead_somewhere():
    for file in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", file.read_text()):
            if "://" not in target:
                assert (file.parent / target).exists(), f"{file.name}: {target}"


def test_the_quickstart_has_200_prompts_of_its_own():
    assert len((QUICKSTART / "prompts.jsonl").read_text().splitlines()) >= 200


def test_every_test_that_the_threat_model_names_is_there():
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "security.md").read_text())
    tests = "".join(file.read_text() for file in (ROOT / "tests").glob("test_*.py"))
    assert len(named) > 20
    assert [name for name in named if f"def {name}(" not in tests] == []
