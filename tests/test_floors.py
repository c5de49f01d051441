"""The arrows of the tree: a module imports only from floors below its own."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "prefdata"
FLOORS = {
    "errors": 0,
    "inference": 0,
    "rows": 0,
    "projection": 1,
    "publication": 1,
    "recipe": 1,
    "prompts": 1,
    "recipe_columns": 1,
    "recipe_values": 1,
    "column_types": 1,
    "recipe_checks": 1,
    "recipe_messages": 1,
    "recipe_loader": 1,
    "fingerprint": 2,
    "engines": 2,
    "plan": 3,
    "pairs": 3,
    "ranking": 3,
    "selection": 3,
    "split": 3,
    "seed_files": 3,
    "seeds": 3,
    "turns": 3,
    "stages": 3,
    "shards": 3,
    "chain": 4,
    "estimate": 4,
    "runtime": 4,
    "record": 5,
    "parts": 5,
    "verdicts": 5,
    "pair_files": 5,
    "preferences": 5,
    "finished": 5,
    "export": 5,
    "train": 5,
    "repick": 6,
    "slurm": 6,
    "build": 6,
    "building": 6,
    "terminal": 6,
    "pager": 6,
    "summary": 6,
    "cli": 7,
    "__main__": 8,
}
"""Floor of each module or package; inside one floor imports may not form a circle."""

ONLY_IN = {
    "torch": {"engines", "train"},
    "transformers": {"engines", "train"},
    "vllm": {"engines"},
    "llguidance": {"engines"},
    "typer": {"cli"},
    "trl": {"train"},
    "peft": {"train"},
    "huggingface_hub": {"export", "train"},
    "nemo_microservices": {"train"},
    "multiprocessing": {"runtime"},
    "subprocess": {"runtime"},
    "omegaconf": {"recipe_loader"},
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


def test_every_module_has_a_floor():
    assert {part(file) for file in FILES} == FLOORS.keys()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_down(file):
    here = part(file)
    for name in own_imports(file) - {here}:
        assert FLOORS[name] <= FLOORS[here], f"{here} imports {name}, which stands higher"


def test_modules_of_one_floor_do_not_import_in_circles():
    graph = {}
    for file in FILES:
        same = {n for n in own_imports(file) if FLOORS[n] == FLOORS[part(file)]}
        graph.setdefault(part(file), set()).update(same - {part(file)})
    while graph:
        free = [name for name, needs in graph.items() if not needs & graph.keys()]
        assert free, f"a circle among {sorted(graph)}"
        for name in free:
            del graph[name]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_library_is_imported_only_by_its_owner(file):
    for name in imports(file):
        owners = ONLY_IN.get(name.split(".")[0])
        assert owners is None or part(file) in owners, f"{name} belongs to {owners}"
