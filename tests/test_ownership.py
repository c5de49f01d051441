"""What is the user's stays: nothing that prefdata did not write is replaced."""

import os
import shutil
import signal
import sys
from dataclasses import replace

import pytest
from datasets import load_dataset
from forks import FORKS
from runs import FIELDS, make_run, read_lines
from typer.testing import CliRunner
from waiting import PATIENCE

from prefdata.cli import app
from prefdata.errors import PrefdataError
from prefdata.pipeline import build
from prefdata.recipe.loader import load_recipe
from prefdata.report.page import make_report
from prefdata.run.finished import open_run
from prefdata.storage.disk import hold, sweep, temporary_name
from prefdata.storage.ownership import claim_folder, write_own

PAIRS = [(f"question {n}", f"good {n}", f"bad {n}") for n in range(10)]


def run(*words, code=0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    told = done.stdout + done.stderr
    assert done.exit_code == code, told
    return told


def refused(*words):
    (line,) = run(*words, code=2).splitlines()
    return line


def make(loaded, out, **more):
    return build(loaded, out, rehearse=True, say=lambda line: None, **more)


def contents(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != ".lock"
    }


def inputs(project):
    """Everything that a recipe can read on this machine, each a place for the copy of pairs."""
    folder = project.folder
    (folder / "prompt.md").write_text("Answer: {{ prompt }}")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "check.py").write_text("def score(text, row):\n    return len(text)\n")
    (folder / "hard.jsonl").hardlink_to(folder / "seeds.jsonl")
    (folder / "soft.jsonl").symlink_to(folder / "seeds.jsonl")
    (folder / "mine.jsonl").write_text('{"mine": 1}\n')
    column = project.recipe["columns"][0]
    column["prompt_file"] = str(folder / "prompt.md")
    del column["prompt"]
    project.recipe["models"][0]["model"] = str(folder / "model")
    project.recipe["columns"].append({
        "name": "long", "type": "verifier", "method": "function", "function": "check:score",
        "candidates": "candidates",
    })  # fmt: skip


READ = (
    "seeds.jsonl", "hard.jsonl", "soft.jsonl", "recipe.yaml", "prompt.md", "model/config.json",
    "model/new.jsonl", "check.py", "nothing/../seeds.jsonl",
)  # fmt: skip


@pytest.mark.parametrize("force", [False, True], ids=["", "forced"])
@pytest.mark.parametrize("place", READ)
def test_a_copy_of_the_pairs_never_replaces_what_the_recipe_reads(project, place, force):
    inputs(project)
    (project.folder / "nothing").mkdir()
    loaded = project.load(f"output_path={project.folder / place}")
    before = contents(project.folder)
    with pytest.raises(PrefdataError, match="choose another place"):
        make(loaded, project.folder / "run", force=force)
    assert contents(project.folder) == before


def test_a_copy_of_the_pairs_replaces_a_file_of_the_users_by_force_alone(project):
    inputs(project)
    place, out = project.folder / "mine.jsonl", project.folder / "run"
    loaded = project.load(f"output_path={place}")
    with pytest.raises(PrefdataError, match="did not write it as it is; .*--force"):
        make(loaded, out)
    assert place.read_text() == '{"mine": 1}\n' and not out.exists()
    make(loaded, out, force=True)
    assert {*read_lines(place)[0]} == {"prompt", "chosen", "rejected"}
    make(project.load(f"output_path={place}", "output_projection.min_margin=0.5"), out)
    place.write_text("edited\n")
    with pytest.raises(PrefdataError, match="did not write it as it is"):
        make(project.load(f"output_path={place}", "output_projection.min_margin=0.6"), out)
    assert place.read_text() == "edited\n"


def test_a_copy_of_the_pairs_is_not_written_among_the_seeds(project):
    folder = project.folder / "data"
    folder.mkdir()
    shutil.copy(project.folder / "seeds.jsonl", folder)
    for path in (folder, folder / "*.jsonl"):
        loaded = project.load(f"seed_dataset.path={path}", f"output_path={folder / 'pairs.jsonl'}")
        with pytest.raises(PrefdataError, match="lies among the seeds"):
            make(loaded, project.folder / "run")


STRANGE = (
    "pairs/mine.parquet", "candidates/x", "rejects/x", "stages/x", "journal/x", "exports/x",
    "shards/x", "slurm/x", "logs/x", "trained/x", "recipe.yaml", "README.md", "report.html",
    "run.json",
)  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_a_folder_with_a_name_that_a_run_has_is_refused(project, name):
    out = project.folder / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    before = contents(out)
    for act in (
        lambda: make(project.load(), out),
        lambda: make_pairs(project, out),
    ):
        with pytest.raises(PrefdataError, match="prefdata did not write it"):
            act()
        assert contents(out) == before


def make_pairs(project, out):
    source = make_run(project.folder / "source", PAIRS).parent / "scored.jsonl"
    told = ["--group", FIELDS.group_by[0], "--out", out]
    done = CliRunner().invoke(app, [str(w) for w in ("pairs", source, *told)])
    if done.exit_code == 2:
        raise PrefdataError(done.stderr)
    assert done.exit_code == 0, done.output


def test_a_folder_of_the_users_with_other_names_may_be_the_run_folder(project):
    project.recipe["output_dir"] = "."
    recipe = project.write().rename(project.folder / "mine.yaml")
    loaded = load_recipe(recipe)
    make(loaded, project.folder)
    assert "seeds.jsonl" in contents(project.folder)
    assert make(loaded, project.folder)["rows"] == 20


def test_the_run_folder_may_not_replace_the_recipe_itself(project):
    file = project.write()
    before = file.read_bytes()
    for force in (False, True):
        with pytest.raises(PrefdataError, match=r"recipe\.yaml"):
            make(load_recipe(file), project.folder, force=force)
    assert file.read_bytes() == before


def test_the_recipe_of_a_run_may_be_built_again_but_not_after_an_edit(project):
    out = project.folder / "run"
    make(project.load(f"seed_dataset.path={project.folder / 'seeds.jsonl'}"), out)
    make(load_recipe(out / "recipe.yaml"), out)
    text = (out / "recipe.yaml").read_text()
    (out / "recipe.yaml").write_text(text.replace("best_vs_worst", "exhaustive"))
    with pytest.raises(PrefdataError, match="would be replaced"):
        make(load_recipe(out / "recipe.yaml"), out)


def test_strangers_files_in_a_runs_pairs_are_not_replaced(project):
    out = project.folder / "run"
    make(project.load(), out)
    (out / "pairs" / "notes.txt").write_text("mine")
    with pytest.raises(PrefdataError, match=r"notes\.txt"):
        make(project.load("output_projection.min_margin=0.5"), out)
    assert "notes.txt" in refused("pairs", out, "min_margin=0.5")
    assert (out / "pairs" / "notes.txt").read_text() == "mine"


def test_a_run_is_not_made_in_a_models_folder_nor_over_its_seeds(project):
    inputs(project)
    with pytest.raises(PrefdataError, match="would be made in the folder of the model 'hot'"):
        make(project.load(), project.folder / "model" / "run")
    out = project.folder / "run"
    make(project.load(), out)
    seeds = sorted((out / "pairs").glob("*.parquet"))[0]
    with pytest.raises(PrefdataError, match="a file of the seeds is in there"):
        make(project.load(f"seed_dataset.path={seeds}"), out)


def test_pairs_of_elsewhere_do_not_take_the_place_of_a_run(project):
    out = project.folder / "run"
    make(project.load(), out)
    with pytest.raises(PrefdataError, match="its candidates would be replaced"):
        make_pairs(project, out)


def test_a_run_that_the_first_versions_left_goes_on(project):
    out = project.folder / "run"
    make(project.load(), out)
    (out / ".prefdata.json").unlink()
    make(project.load("output_projection.min_margin=0.5"), out)


def test_a_report_replaces_reports_alone(tmp_path):
    out = make_run(tmp_path, PAIRS)
    page = tmp_path / "page.html"
    page.write_text("<p>mine")
    assert "is not a report of prefdata" in refused("report", out, "--out", page)
    assert page.read_text() == "<p>mine"
    run("report", out, "--out", page, "--force")
    run("report", out, "--out", page)


def test_an_export_replaces_its_own_files_alone(tmp_path):
    out, place = make_run(tmp_path, PAIRS), tmp_path / "files"
    run("export", out, "--format", "trl", "--out", place)
    run("export", out, "--format", "trl", "--out", place)
    (place / "model").mkdir()
    (place / "model" / "weights").write_text("mine")
    line = refused("export", out, "--format", "trl", "--out", place)
    assert "files that are not part of an export (model" in line
    assert (place / "model" / "weights").read_text() == "mine"


def test_an_export_leaves_temporary_names_of_others_alone(tmp_path):
    out = make_run(tmp_path / "made", PAIRS)
    folder = tmp_path / "shared"
    folder.mkdir()
    others = [folder / ".theirs.tmp", temporary_name(folder / "other"), folder / ".x@y-1-2.tmp"]
    for file in others:
        file.write_text("mine")
    run("export", out, "--format", "trl", "--out", folder / "trl")
    assert all(file.exists() for file in others) and not (folder / ".lock").exists()


def test_a_sweep_takes_only_what_prefdata_left_in_its_own_places(tmp_path):
    sibling = tmp_path / "sibling"
    sibling.mkdir()
    (tmp_path / "stages").mkdir()
    left = [temporary_name(tmp_path / "pairs"), temporary_name(tmp_path / "stages" / "1-x")]
    kept = [tmp_path / ".mine.tmp", temporary_name(sibling / "pairs"), tmp_path / ".a@b.tmp"]
    for file in (*left, *kept):
        file.write_text("x")
    sweep(tmp_path, is_alone=True)
    assert not any(file.exists() for file in left) and all(file.exists() for file in kept)


def test_what_a_kill_took_out_of_its_place_goes_back(tmp_path):
    aside = temporary_name(tmp_path / "pairs").with_suffix(".old")
    aside.mkdir()
    (aside / "rows").write_text("whole")
    sweep(tmp_path, is_alone=True)
    assert (tmp_path / "pairs" / "rows").read_text() == "whole" and not aside.exists()


@pytest.mark.parametrize("words", [["report"], ["export", "--format", "trl"]])
def test_what_is_written_in_a_run_waits_for_its_lock(tmp_path, words):
    out = make_run(tmp_path, PAIRS)
    command = [words[0], out, *words[1:]]
    with hold(out):
        assert "is writing there" in refused(*command)
        run(*command, "--out", tmp_path / "elsewhere")  # reads alone
    run(*command)


def test_a_batch_script_that_was_edited_is_not_replaced(project):
    words = ["slurm", project.write(), "--rehearse"]
    run(*words)
    run(*words)
    script = project.folder / "run-rehearsal" / "slurm" / "array.sbatch"
    script.write_text(script.read_text() + "# mine\n")
    assert "array.sbatch: it is there already" in refused(*words)
    assert script.read_text().endswith("# mine\n")


def test_a_card_that_was_edited_is_not_replaced(project):
    out = project.folder / "run"
    make(project.load(), out)
    (out / "README.md").write_text("# mine")
    with pytest.raises(PrefdataError, match=r"README\.md"):
        make(project.load("output_projection.min_margin=0.5"), out)
    assert "README.md" in refused("pairs", out)


def test_a_kill_between_the_note_and_the_file_leaves_it_prefdatas(tmp_path):
    claim_folder(tmp_path)
    file = tmp_path / "recipe.yaml"
    write_own(file, tmp_path, "a: 1")
    old = file.read_bytes()
    write_own(file, tmp_path, "a: 2")
    file.write_bytes(old)  # as if the second had been noted and not renamed
    out = tmp_path / ".prefdata.json"
    assert out.is_file()
    from prefdata.storage.ownership import check_file

    check_file(file, tmp_path)


# ---- seeds


@pytest.mark.parametrize("path", [".", "**/*.jsonl", "*.jsonl"])
def test_a_run_inside_its_seeds_folder_does_not_read_its_own_files(project, path):
    path = project.folder / path if path != "." else project.folder
    (project.folder / "run.yaml").write_text(project.write().read_text())
    (project.folder / "recipe.yaml").unlink()
    words = (f"seed_dataset.path={path}", f"output_path={project.folder}/run/copy.jsonl")
    loaded = load_recipe(project.folder / "run.yaml", words)
    out = project.folder / "run"
    first = make(loaded, out)
    run("export", out, "--format", "trl")
    again = load_recipe(project.folder / "run.yaml", [*words, "output_projection.min_margin=0.2"])
    second = make(again, out)
    assert first["seeds"] == second["seeds"] == 20
    assert second["requests"]["generated"] == 0
    beside = make(again.changed(output_path=None), project.folder / "other")
    assert beside["seeds"] == 20


def test_files_of_a_run_that_are_named_are_seeds(project):
    out = project.folder / "run"
    make(project.load(), out)
    loaded = project.load(f"seed_dataset.path={out / 'candidates'}", "seed_dataset.fields=[prompt]")
    assert make(loaded, project.folder / "other")["seeds"] == 20


# ---- copies


def test_a_copy_that_is_asked_for_later_is_written(project):
    out, place = project.folder / "run", project.folder / "pairs.jsonl"
    record = make(project.load("output_projection.test_size=4"), out)
    again = make(project.load("output_projection.test_size=4", f"output_path={place}"), out)
    assert again["requests"] == record["requests"]
    assert len(read_lines(place)) == record["pairs"]["train"]
    assert len(read_lines(project.folder / "pairs.test.jsonl")) == record["pairs"]["test"]
    place.unlink()
    make(project.load("output_projection.test_size=4", f"output_path={place}"), out)
    assert len(read_lines(place)) == record["pairs"]["train"]
    run("pairs", out, "max_pairs=8")
    assert len(read_lines(place)) == 8 - len(read_lines(project.folder / "pairs.test.jsonl"))


# ---- load_dataset


def load(out, cache, *names):
    """Rows by configuration and split; the features of each are known even where it has none."""
    found = {}
    for name in names or ("pairs", "candidates", "rejects"):
        read = load_dataset(str(out), name, cache_dir=str(cache), streaming=True)
        assert all("id" in split.features for split in read.values())
        found[name] = {split: len([*rows]) for split, rows in read.items()}
    for name, splits in found.items():
        if all(splits.values()):  # `datasets` makes no table of a split without rows
            read = load_dataset(str(out), name, cache_dir=str(cache))
            assert {split: rows.num_rows for split, rows in read.items()} == splits
    return found


EMPTY = {"pairs": {"train": 0}, "candidates": {"train": 0}, "rejects": {"train": 0}}


def test_a_run_can_be_loaded_from_its_start_with_all_its_configurations(project, tmp_path):
    out = project.folder / "run"
    seen = []

    class Look(Exception):
        pass

    def look(line):  # the last thing that is said before the first pass ends the run there
        if line == "now":
            seen.append(load(out, tmp_path / "a"))
            raise Look

    loaded = project.load("seed_dataset.path=[seeds.jsonl,seeds.jsonl]")
    with pytest.raises(Look):
        build(replace(loaded, notes=("now",)), out, rehearse=True, say=look)
    assert seen == [EMPTY]
    make(project.load("output_projection.test_size=4"), out)
    whole = load(out, tmp_path / "b")
    assert whole == {
        "pairs": {"train": whole["pairs"]["train"], "test": 4},
        "candidates": {"train": 20},
        "rejects": {"train": whole["rejects"]["train"]},
    }
    assert load_dataset(str(out), cache_dir=str(tmp_path / "b"))["train"].num_rows > 0
    make(project.load(), out)
    assert {*load(out, tmp_path / "c")["pairs"]} == {"train"}


def test_pairs_of_a_file_can_be_loaded(tmp_path):
    out = make_run(tmp_path / "x", PAIRS)
    assert load(out, tmp_path / "a") == EMPTY | {
        "pairs": {"train": 10}, "candidates": {"train": 10},
    }  # fmt: skip


def test_a_sharded_run_can_be_loaded_before_its_merge(project, tmp_path):
    out = project.folder / "run-rehearsal"
    run("build", project.write(), "--rehearse", "--shard", "0/2")
    assert load(out, tmp_path / "a") == EMPTY
    run("build", project.write(), "--rehearse", "--shard", "1/2")
    run("merge", project.write(), "--rehearse")
    assert load(out, tmp_path / "b")["candidates"] == {"train": 20}


# ---- pairs, cut short


def test_a_choice_that_ends_with_an_error_leaves_the_run_finished(project):
    out = project.folder / "run"
    make(project.load(), out)
    before = contents(out)
    assert "test_size is 400 prompts" in refused("pairs", out, "test_size=400")
    assert contents(out) == before
    open_run(out)


CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "ctypes.dlsym")


def killed_at(number, words):
    """The command, killed at that change of a name, link or folder that it makes."""
    import ctypes  # noqa: F401 - so that its own first look-ups do not count

    count = 0

    def watch(event, args):
        nonlocal count
        if event in CHANGES:
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    app(words)


def test_a_choice_of_pairs_that_is_killed_anywhere_goes_on(project):
    """Killed at every eighth change of a name, link or folder that it makes."""
    out = project.folder / "run"
    make(project.load("output_projection.test_size=4"), out)
    whole = project.folder / "whole"
    shutil.copytree(out, whole)
    words = ["strategy=exhaustive", "test_size=3"]
    run("pairs", whole, *words)
    wanted = {name: contents(whole / name) for name in ("pairs", "candidates")}
    kills = 0
    for at in range(1, 400, 8):
        killed = project.folder / f"killed-{at}"
        shutil.copytree(out, killed)
        process = FORKS.Process(target=killed_at, args=(at, ["pairs", str(killed), *words]))
        process.start()
        process.join(PATIENCE)
        assert process.exitcode in (0, -signal.SIGKILL)
        kills += process.exitcode != 0
        run("pairs", killed, *words)
        assert {name: contents(killed / name) for name in wanted} == wanted, at
        assert not [*killed.rglob("*.tmp"), *killed.rglob("*.old")]
        open_run(killed)
        shutil.rmtree(killed)
        if process.exitcode == 0:
            break
    assert process.exitcode == 0 and kills > 3


# ---- earlier states


def test_what_was_made_of_earlier_pairs_is_told_at_each_command(tmp_path):
    out = make_run(tmp_path, PAIRS)
    assert "earlier pairs" not in run("export", out, "--format", "trl") + run("report", out)
    told = run("pairs", tmp_path / "scored.jsonl", "max_pairs=4", "--group", "turn", "--out", out)
    assert "exports/trl: an export of earlier pairs" in told
    assert "report.html: a report on earlier pairs" in told
    told = run("report", out)
    assert "exports/trl: an export of earlier pairs" in told and "a report on" not in told
    assert "earlier pairs" not in run("export", out, "--format", "trl")


def test_a_run_whose_pairs_are_not_those_of_its_record_is_not_opened(tmp_path):
    out = make_run(tmp_path / "a", PAIRS)
    other = make_run(tmp_path / "b", PAIRS[:3])
    shutil.rmtree(out / "pairs")
    shutil.copytree(other / "pairs", out / "pairs")
    with pytest.raises(PrefdataError, match=r"not as run\.json tells"):
        open_run(out)


def test_training_on_new_pairs_does_not_replace_what_was_trained_on_earlier_ones(tmp_path):
    out = make_run(tmp_path, PAIRS, "test_size=2")
    settings = tmp_path / "customizer.yaml"
    settings.write_text(
        "entity_host: http://a.example\ndatastore_host: http://b.example\nnamespace: n\n"
        "dataset_name: d\ncustomization_config: m@v1+A100\n"
    )
    words = ["train", out, "--backend", "nemo_customizer", "--settings", settings, "--dry-run"]
    run(*words)
    run("pairs", tmp_path / "scored.jsonl", "max_pairs=6", "test_size=2", "--group", "turn",
        "--out", out)  # fmt: skip
    told = run(*words, code=2)
    assert "was trained on earlier pairs of the run" in told and "--force" in told
    run(*words, "--force")
    run(*words)


def test_a_training_does_not_replace_a_folder_of_the_users(tmp_path):
    out = make_run(tmp_path / "x", PAIRS)
    place = tmp_path / "mine"
    (place / "model").mkdir(parents=True)
    (place / "model" / "weights").write_text("mine")
    pytest.importorskip("trl")
    assert "no training with TRL has made it" in refused("train", out, "--out", place)
    assert (place / "model" / "weights").read_text() == "mine"


def test_a_run_that_cannot_be_written_can_still_be_read(tmp_path):
    out = make_run(tmp_path / "x", PAIRS)
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    out.chmod(0o555)
    run("report", out, "--out", tmp_path / "page.html")
    out.chmod(0o755)


@pytest.mark.parametrize(
    "name",
    ["pairs/train-00000-of-00001.parquet", "pairs/all.jsonl", "README.md", "run.json",
     "recipe.yaml", "journal/w.jsonl", "exports/x.jsonl", "stages/x.jsonl", ".prefdata.json"],
)  # fmt: skip
def test_a_copy_never_takes_a_name_that_the_run_has_for_itself(project, name):
    out = project.folder / "run"
    loaded = project.load(f"output_path={out / name}")
    with pytest.raises(PrefdataError, match="the run keeps its own"):
        make(loaded, out, force=True)
    assert not out.exists()


@pytest.mark.parametrize("name", ["run.json", "pairs/train-00000-of-00001.parquet"])
def test_a_report_never_takes_a_name_that_the_run_has_for_itself(project, name):
    out = project.folder / "run"
    make(project.load(), out)
    before = (out / name).read_bytes()
    with pytest.raises(PrefdataError, match="the run keeps its own"):
        make_report(out, out / name, is_forced=True)
    assert (out / name).read_bytes() == before
