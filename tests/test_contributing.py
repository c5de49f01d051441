"""Each addition that CONTRIBUTING lists is made in a copy of the tree, where it says."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from import_graph import files_of

from prefdata.recipe.columns import AnyColumn

ROOT = Path(__file__).resolve().parent.parent
GUIDE = {
    what: re.findall(r"`(prefdata/[\w./]+)`", files)
    for what, files in re.findall(
        r"^\| (an? [\w ]+) \| ([^|]+) \|",
        (ROOT / "CONTRIBUTING.md").read_text(),
        flags=re.MULTILINE,
    )
}

ADDITIONS = {
    "a column type": {
        "recipe/columns.py": (
            "\n\nAnyColumn = Annotated[\n",
            '''

class Shout(_Part):
    """A text in capitals."""

    type: Literal["shout"]
    meaning = "{source} in capitals"

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.name,)


AnyColumn = Annotated[
    Shout |
''',
        ),
        "stages/shout.py": (
            "",
            """import pyarrow as pa


def shout_fields(column):
    return [pa.field(column.name, pa.string())]


def shout(column, tools):
    async def stage(row):
        return {column.name: row[column.column].upper()}

    return stage
""",
        ),
        "stages/__init__.py": (
            "STAGES = {\n",
            "from prefdata.stages.shout import shout, shout_fields\n\n"
            'STAGES = {\n    "shout": Kind(shout, shout_fields),\n',
        ),
    },
    "a pair strategy": {
        "recipe/projection.py": (
            "Strategy = Literal[\n",
            'Strategy = Literal[\n    "as_they_come",\n',
        ),
        "pairs/picking.py": (
            '    if rule.strategy in ("exhaustive", "top_k_bottom_k"):\n',
            '    if rule.strategy == "as_they_come":\n'
            "        return _take_all(zip(ranked, ranked[1:]), ranked, rule, drops)\n"
            '    if rule.strategy in ("exhaustive", "top_k_bottom_k"):\n',
        ),
    },
    "an export format": {
        "export/formats.py": (
            "FORMATS: dict[str, Format] = {\n",
            "FORMATS: dict[str, Format] = {\n"
            '    "plain": Format(lambda p, shape: [{"best": p.chosen}], configurations.plain),\n',
        ),
        "export/configurations.py": (
            "def nemo_platform(",
            'def plain(place):\n    return {"plain.txt": "read it"}\n\n\ndef nemo_platform(',
        ),
    },
    "an engine": {
        "recipe/providers.py": (
            "ENGINES = {\n",
            'ENGINES = {\n    "echo": LocalEngine("prefdata.engines.echo", is_embeddable=True),\n',
        ),
        "engines/echo.py": (
            "",
            """from prefdata.inference import Completion


class Echo:
    capacity = 8

    async def ask(self, requests):
        for number in range(len(requests)):
            yield number, Completion(f"echo {number}", "stop", 1, 1)

    def close(self):
        pass


def open_text(model, path, adapters):
    return Echo()
""",
        ),
    },
    "a provider": {
        "recipe/providers.py": (
            "CLIENTS = {",
            'CLIENTS = {"parrot": Client("prefdata.engines.parrot", package="json", extra="x"),\n',
        ),
        "engines/parrot.py": (
            "",
            """from prefdata.inference import Completion


class Parrot:
    async def ask(self, requests):
        for number in range(len(requests)):
            yield number, Completion(f"parrot {number}", "stop", 1, 1)

    def open(self, model, role):
        return self

    def close(self):
        pass


def connect(endpoint):
    return Parrot()
""",
        ),
    },
    "a report panel": {
        "report/panels.py": (
            '            ("funnel", ',
            '            ("toy", "A new panel", "It counts.", lambda run: Cell("4711 seeds")),\n'
            '            ("funnel", ',
        ),
    },
    "a flag": {
        "cli/runs.py": (
            "    force: Force = False,\n    metrics",
            "    force: Force = False,\n    quietly: bool = False,\n    metrics",
        ),
    },
}
"""By what is added: by file, a text that is replaced (of a new file none), and what it becomes."""

RECIPE = f"""
output_dir: out
seed_dataset: {{rows: [{{prompt: one}}, {{prompt: two}}]}}
providers: [{{name: far, endpoint: "http://localhost:1/v1", provider_type: parrot}}]
models:
  - {{alias: near, model: {ROOT / "recipes/quickstart/models/lm"}, provider: echo, skip_health_check: true,
     inference_parameters: &how {{temperature: 1, max_tokens: 8}}}}
  - {{alias: distant, model: any, provider: far, inference_parameters: *how}}
columns:
  - {{name: answers, type: candidates, model_alias: [near, distant], samples: 2, prompt: "{{{{ prompt }}}}"}}
  - {{name: loud, type: shout, column: prompt}}
  - {{name: score, type: verifier, method: regex, pattern: "echo 1", candidates: answers}}
output_projection: {{type: preference_pairs, candidates: answers, score: score, strategy: as_they_come, keep: [loud]}}
"""  # noqa: E501

COLUMN_TYPES = {kind.__name__ for kind in get_args(get_args(AnyColumn)[0])}


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the package with all additions."""
    folder = tmp_path_factory.mktemp("extended")
    ignore = shutil.ignore_patterns("*.pyc")
    package = Path(shutil.copytree(ROOT / "prefdata", folder / "prefdata", ignore=ignore))
    for edits in ADDITIONS.values():
        for name, (old, new) in edits.items():
            file = package / name
            if old:
                assert file.read_text().count(old) == 1, f"{name}: {old!r}"
                new = file.read_text().replace(old, new)
            file.write_text(new)
    return folder


def test_the_guide_lists_the_additions_with_three_files_at_most():
    assert list(GUIDE) == list(ADDITIONS)
    assert all(1 <= len(files) <= 3 for files in GUIDE.values())
    named = [file for files in GUIDE.values() for file in files if "NAME" not in file]
    assert [file for file in named if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("what", ADDITIONS)
def test_an_addition_touches_only_files_of_the_guide(what):
    allowed = [file.replace("NAME", r"\w+") for file in GUIDE[what]]
    for name in ADDITIONS[what]:
        assert any(re.fullmatch(file, f"prefdata/{name}") for file in allowed), name


@pytest.mark.slow
def test_a_run_uses_what_was_added(extended, tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def prefdata(*arguments):
        command = [sys.executable, "-m", "prefdata", *arguments]
        environment = os.environ | {"PYTHONPATH": str(extended)}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    prefdata("build", "recipe.yaml", "--quietly")
    prefdata("export", "out", "--format", "plain")
    prefdata("report", "out")
    exported = (tmp_path / "out/exports/plain/train.jsonl").read_text()
    assert set(re.findall(r"\w+ \d", exported)) == {"echo 1"}
    assert "4711 seeds" in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize(
    "file", files_of(ROOT / "prefdata"), ids=lambda f: str(f.relative_to(ROOT))
)
def test_only_its_own_stage_knows_a_column_type(file):
    tree = ast.walk(ast.parse(file.read_text()))
    homes = {"prefdata.recipe.columns", "prefdata.recipe.judges"}
    froms = (node for node in tree if isinstance(node, ast.ImportFrom) and node.module in homes)
    imported = {alias.name for node in froms for alias in node.names}
    may_know = file.parent.name == "stages" or file.name in ("columns.py", "judges.py")
    assert may_know or imported & COLUMN_TYPES == set()
