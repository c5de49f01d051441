"""The arrows of the tree: a package imports only from those below it."""

from pathlib import Path

import pytest
from import_graph import arrows_of, circles_of, files_of, imports_of, room_of

PACKAGE = Path(__file__).resolve().parent.parent / "prefdata"
ORDER = (
    "__main__", "cli", "api", "cluster", "train", "hub", "report", "export", "pipeline", "run",
    "pairs", "workers", "seeds", "stages", "storage", "engines", "fingerprint", "recipe",
    "inference", "rows", "errors",
)  # fmt: skip
"""Packages and the modules beside them: each imports only from those behind it."""

ONLY_IN = {
    "torch": {"engines", "train"},
    "transformers": {"engines", "train"},
    "vllm": {"engines"},
    "llguidance": {"engines"},
    "typer": {"cli"},
    "trl": {"train"},
    "peft": {"engines", "train"},
    "huggingface_hub": {"hub", "train"},
    "nemo_microservices": {"train"},
    "multiprocessing": {"workers", "stages"},
    "subprocess": {"workers", "stages", "cluster", "train"},
    "omegaconf": {"recipe"},
}
"""Libraries that one place owns."""

FILES = files_of(PACKAGE)


def own_imports(file):
    return {
        name.split(".")[1] for name in imports_of(file, "prefdata") if name.startswith("prefdata.")
    }


def test_every_package_has_its_place():
    assert {room_of(file, PACKAGE) for file in FILES} == set(ORDER)


def test_the_root_has_seven_modules_at_most():
    assert len([*PACKAGE.glob("*.py")]) <= 7


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_down(file):
    here = room_of(file, PACKAGE)
    for name in own_imports(file) - {here}:
        assert ORDER.index(name) > ORDER.index(here), f"{here} imports {name}, which stands higher"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_library_is_imported_only_by_its_owner(file):
    for name in imports_of(file, "prefdata"):
        owners = ONLY_IN.get(name.split(".")[0])
        assert owners is None or room_of(file, PACKAGE) in owners, f"{name} belongs to {owners}"


def test_no_circle_of_packages():
    assert circles_of(arrows_of(PACKAGE)) == []


def test_a_circle_is_found_and_named(tmp_path):
    texts = {"a": "import p.b", "b": "def f():\n    from p.c import x", "c": "from p import a", "d": "import p.a"}  # fmt: skip  # noqa: E501
    (tmp_path / "p").mkdir()
    for name, text in texts.items():
        (tmp_path / "p" / f"{name}.py").write_text(text)
    assert circles_of(arrows_of(tmp_path / "p")) == [{"a", "b", "c"}]
