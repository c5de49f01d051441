"""The pages that a reader leafs through: generated, run from top to bottom, built as a site."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from typer.testing import CliRunner

from prefdata import rows
from prefdata.cli import app
from prefdata.hub.card_columns import NESTED

DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def test_the_page_of_columns_is_what_the_code_makes():
    spec = importlib.util.spec_from_file_location(
        "write_columns", ROOT / "scripts/write_columns.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (DOCS / "columns.md").read_text()
    assert page == module.columns_page(), "python scripts/write_columns.py writes it anew"


def test_every_part_of_a_nested_column_has_a_meaning():
    metas = (rows.STRUCTURED_META, rows.PANEL_META, rows.TOURNAMENT_META, rows.EXPAND_META)
    structs = (rows.CANDIDATE, *metas, rows.LEFT_OUT)
    assert {field.name for kind in structs for field in kind.fields} | {"turns"} == set(NESTED)


def test_every_answer_works_as_it_stands(quickstart_run, tmp_path, monkeypatch):
    page = (DOCS / "how.md").read_text()
    assert len(re.findall(r"^## … ", page, flags=re.MULTILINE)) >= 20
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    shutil.copytree(quickstart_run, tmp_path / "output" / "quickstart")
    for language, text in BLOCK.findall(page):
        if language == "":
            for command in text.splitlines():
                program, *words = shlex.split(command)
                assert program == "prefdata"
                done = CliRunner().invoke(app, words)
                assert done.exit_code == 0, (command, done.output)
        elif language == "python":
            exec(text, {})
        else:
            name, rest = text.split("\n", 1)
            (tmp_path / re.sub(r"^(#|//) ", "", name)).write_text(rest)


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("material", reason="mkdocs-material is missing: the extra docs")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        tmp_path,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = {file.parent.name for file in tmp_path.glob("*/index.html")}
    assert built >= {file.stem for file in DOCS.glob("*.md")} - {"index"}
