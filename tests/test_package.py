"""The package as others get it: what it exports, and what its wheel holds."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from shutil import ignore_patterns

import pytest

import prefdata
from prefdata.errors import PrefdataError
from prefdata.recipe.shipped import shipped

ROOT = Path(__file__).resolve().parent.parent
NAMES = [
    "PrefdataError", "Recipe", "RowError", "Run", "__version__", "build", "load_recipe",
    "open_run", "preview",
]  # fmt: skip


def python(code, *arguments, **options):
    """What a new interpreter prints."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout


def test_importing_the_package_imports_nothing_else_of_it_and_no_library():
    said = python(
        "import sys; before = set(sys.modules); import prefdata; print(*set(sys.modules) - before)"
    )
    libraries = {name.split(".")[0] for name in said.split()} - sys.stdlib_module_names
    assert libraries == {"prefdata"}
    assert [name for name in said.split() if name.startswith("prefdata.")] == []


def test_loading_a_recipe_imports_nothing_heavy():
    recipe = ROOT / "recipes" / "quickstart" / "recipe.yaml"
    said = python(
        "import sys, pathlib, prefdata\n"
        f"prefdata.load_recipe(pathlib.Path({str(recipe)!r}))\n"
        "print(*sys.modules)"
    )
    heavy = {"torch", "transformers", "vllm", "datasets", "pyarrow", "numpy", "huggingface_hub"}
    assert heavy & set(said.split()) == set()


def test_build_is_the_function_whatever_was_imported_and_rehearses_without_torch(tmp_path):
    said = python(
        "import sys, prefdata.pipeline, prefdata\n"
        "prefdata.build('quickstart/recipe.yaml', sys.argv[1], rehearse=True, progress=False)\n"
        "print('torch' in sys.modules)",
        str(tmp_path / "out"),
        cwd=ROOT / "recipes",
    )
    assert (said.strip(), [file.name for file in tmp_path.iterdir()]) == (
        "False",
        ["out-rehearsal"],
    )


def test_the_names_of_the_package_are_listed_and_usable():
    assert set(NAMES) <= set(dir(prefdata))
    assert sorted(prefdata.__all__) == NAMES
    assert all(callable(getattr(prefdata, name)) for name in NAMES if name != "__version__")
    assert prefdata.__version__[0].isdigit()


def test_a_name_that_is_not_there_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="module 'prefdata' has no attribute 'biuld'"):
        _ = prefdata.biuld


def test_recipes_are_found_in_a_clone():
    assert shipped("quickstart/recipe.yaml").samefile(ROOT / "recipes/quickstart/recipe.yaml")
    with pytest.raises(PrefdataError, match="ships no 'topic.yaml'; did you mean 'topics.yaml'"):
        shipped("topic.yaml")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The command of a wheel, installed in an environment that borrows everything else."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    offline = ["--no-deps", "--no-index"]
    source = folder / "source"  # a build leaves files beside what it builds
    shutil.copytree(ROOT / "prefdata", source / "prefdata", ignore=ignore_patterns("*.pyc"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source)
    build = ["wheel", "--no-build-isolation", *offline, "-w", str(folder), str(source)]
    subprocess.run([*pip, *build], check=True)
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    [wheel] = folder.glob("*.whl")
    subprocess.run([*pip, "--python", str(python), "install", *offline, str(wheel)], check=True)
    [site] = (folder / "venv").glob("lib/python*/site-packages")
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed))
    return folder / "venv" / "bin" / "prefdata"


def run(command, *arguments, folder):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [command, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def all_files(folder):
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_the_wheel_brings_all_files_that_commands_read(installed, tmp_path):
    where = "import prefdata; print(prefdata.__file__)"
    place = run(installed.with_name("python"), "-c", where, folder=tmp_path)
    assert Path(place.strip()).is_relative_to(installed.parent.parent)

    where = "from prefdata.recipe.shipped import shipped; print(shipped('.').resolve())"
    recipes = Path(run(installed.with_name("python"), "-c", where, folder=tmp_path).strip())
    assert recipes.is_relative_to(installed.parent.parent)
    assert all_files(recipes) == all_files(ROOT / "recipes")

    recipe = recipes / "quickstart" / "recipe.yaml"
    run(installed, "build", recipe, "--rehearse", "--out", "run", "num_records=8", folder=tmp_path)
    run(installed, "report", "run-rehearsal", "--out", "report.html", folder=tmp_path)
    assert "<script" in (tmp_path / "report.html").read_text()
    run(
        installed, "slurm", recipe, "--out", "array", "--nodes", "2", "--gpus", "1",
        "--partition", "p", "--time", "1:00:00", folder=tmp_path,
    )  # fmt: skip
    assert list((tmp_path / "array").rglob("*.sbatch"))

    seeds = recipes / "quickstart" / "prompts.jsonl"
    run(installed, "init", seeds, "--model", "some/model", folder=tmp_path)
    head = (tmp_path / "recipe.yaml").read_text().splitlines()[0]
    schema = Path(head.partition("$schema=")[2])
    assert schema.is_relative_to(installed.parent.parent)
    assert schema.is_file()
    assert "no error found" in run(installed, "check", "recipe.yaml", folder=tmp_path)
