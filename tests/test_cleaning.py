"""`prefdata clean`: what a run needs stays, and a build after it asks nothing again."""

import os
import shutil

import pytest
from typer.testing import CliRunner

from prefdata.cli import app
from prefdata.errors import PrefdataError
from prefdata.pairs.repick import pairs_of_run
from prefdata.pipeline import build
from prefdata.run.cleaning import clean_run
from prefdata.storage.journal import Journal


def run(project, *overrides):
    return build(
        project.load(*overrides), project.folder / "run", rehearse=True, say=lambda line: None
    )


def clean(project, given=None, *, is_meant=True):
    place = project.folder / "run"
    return clean_run(place, given, is_meant=is_meant, say=lambda line: None, progress=False)


def records(project):
    with Journal(project.folder / "run" / "journal") as journal:
        return len(journal)


def stages(project):
    return {folder.name for folder in (project.folder / "run" / "stages").iterdir()}


OTHER = 'columns.0.prompt="Say: {{ prompt }}"'


def test_an_earlier_recipe_goes_and_nothing_of_the_present_one(project):
    run(project)
    first = stages(project)
    asked = run(project, OTHER)["requests"]
    before = records(project)
    found = clean(project)
    assert {folder.name for folder in found.stages} == first - stages(project)
    assert found.note is None
    # the scripted answers are the same, so the present recipe reads the scores of the first one
    assert sum(count for count, _ in found.journals.values()) == 80
    assert records(project) == before - 80 == 80 + asked["replayed"]
    assert clean(project).bytes == 0


def test_what_is_made_again_after_it_asks_nothing_again(project):
    project.recipe["columns"].append(
        {"name": "calls", "type": "expression", "expression": "{{ 1 / (answer - 3) }}"}
    )  # a row that is rejected has its answers in the journal too
    run(project)
    run(project, OTHER)
    clean(project)
    asked = run(project, OTHER, "columns.0.samples=5")["requests"]
    assert (asked["generated"], asked["replayed"] > 0) == (20, True)


def test_it_only_tells_what_it_would_remove(project):
    run(project)
    run(project, OTHER)
    before = stages(project), records(project)
    assert clean(project, is_meant=False).bytes > 0
    assert (stages(project), records(project)) == before
    place = str(project.folder / "run")
    assert "--yes removes it" in CliRunner().invoke(app, ["clean", place]).output
    assert (stages(project), records(project)) == before
    assert CliRunner().invoke(app, ["clean", place, "--yes"]).exit_code == 0
    assert stages(project) < before[0]


def test_a_recipe_that_is_not_finished_keeps_its_stages_and_the_journal(project):
    run(project)
    first = stages(project)
    run(project, OTHER)
    second = stages(project)
    given = project.load(OTHER)
    run(project)
    found = clean(project, given)
    assert (found.stages, found.journals) == ({}, {})
    assert "may need any answer" in found.note
    assert stages(project) == second > first


def test_a_build_that_was_begun_later_must_be_named(project):
    run(project)
    folder = project.folder / "run" / "stages" / "1-candidates-0123abcd"
    folder.mkdir()
    os.utime(folder, (2**32, 2**32))
    with pytest.raises(PrefdataError, match="a build was begun there"):
        clean(project)


def test_answers_that_are_missing_keep_the_journal(project):
    run(project)
    run(project, OTHER)
    files = sorted((project.folder / "run" / "journal").iterdir())
    files[-1].write_bytes(files[-1].read_bytes()[:-100])
    found = clean(project)
    assert "rows ask for what is not in it" in found.note
    assert (len(found.stages) > 0, found.journals) == (True, {})


def test_a_folder_with_pairs_alone_has_nothing_to_clean(project, tmp_path):
    run(project)
    pairs_of_run(project.folder / "run", ["max_pairs=2"], tmp_path / "pairs")
    told = CliRunner().invoke(app, ["clean", str(tmp_path / "pairs")])
    assert (told.exit_code, "nothing to clean" in told.output) == (0, True)


def test_a_journal_whose_stages_are_elsewhere_stays_as_it_is(project):
    run(project)
    shutil.rmtree(project.folder / "run" / "stages")
    found = clean(project)
    assert (found.journals, found.note) == (
        {}, "the stages of the run are not there, so what it asks for is not known",
    )  # fmt: skip


def test_what_prefdata_did_not_write_stays(project):
    run(project)
    run(project, OTHER)
    for folder in (project.folder / "run" / "stages").iterdir():
        (folder / "notes.txt").write_text("mine")
    (project.folder / "run" / "stages" / "mine").mkdir()
    assert clean(project).stages == {}


def test_a_folder_without_a_run_is_refused(project, tmp_path):
    for place in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(PrefdataError, match="made no run there"):
            clean_run(place, is_meant=True, say=print)
