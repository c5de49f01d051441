"""The arrows of the tree: a package imports only from those below it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "prefdata"
ORDER = (
    "__main__", "cli", "slurm", "train", "hub", "report", "export", "pipeline", "run", "pairs",
    "workers", "seeds", "stages", "storage", "engines", "fingerprint", "recipe", "inference",
    "rows", "errors",
)  # fmt: skip
"""Packages and the modules beside them: each imports only from those behind it."""

ONLY_IN = {
    "torch": {"engines", "train"},
    "transformers": {"engines", "train"},
    "vllm": {"engines"},
    "llguidance": {"engines"},
    "typer": {"cli"},
    "trl": {"train"},
    "peft": {"train"},
    "huggingface_hub": {"hub", "train"},
    "nemo_microservices": {"train"},
    "multiprocessing": {"workers"},
    "subprocess": {"workers", "slurm"},
    "omegaconf": {"recipe"},
}
"""Libraries that one place owns."""

FILES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def part(file):
    """The module or package of the first level that a file belongs to."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            if node.module == "prefdata":
                yield from (f"prefdata.{alias.name}" for alias in node.names)
            else:
                yield node.module


def own_imports(file):
    return {name.split(".")[1] for name in imports(file) if name.startswith("prefdata.")}


def test_every_package_has_its_place():
    assert {part(file) for file in FILES} == set(ORDER)


def test_the_root_has_seven_modules_at_most():
    assert len([*PACKAGE.glob("*.py")]) <= 7


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_down(file):
    here = part(file)
    for name in own_imports(file) - {here}:
        assert ORDER.index(name) > ORDER.index(here), f"{here} imports {name}, which stands higher"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_library_is_imported_only_by_its_owner(file):
    for name in imports(file):
        owners = ONLY_IN.get(name.split(".")[0])
        assert owners is None or part(file) in owners, f"{name} belongs to {owners}"
