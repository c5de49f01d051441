"""The batch scripts, without a cluster."""

import os
import subprocess
import sys

import pytest
from conftest import QUICKSTART
from typer.testing import CliRunner

from prefdata.cli import app
from prefdata.slurm.scripts import as_ranges

RECIPE = QUICKSTART / "recipe.yaml"


def slurm(*words, code=0):
    done = CliRunner().invoke(app, ["slurm", *map(str, words)])
    assert done.exit_code == code, done.output
    return done.output


def scripts(out):
    return [(out / "slurm" / f"{name}.sbatch").read_text() for name in ("array", "merge")]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([0, 1, 2], "0-2"), ([5], "5"), ([9, 0, 1, 7], "0-1,7,9"), ([], "")],
)
def test_numbers_are_written_as_slurm_does(numbers, text):
    assert as_ranges(numbers) == text


def test_what_is_asked_of_slurm_is_in_the_scripts(tmp_path):
    told = slurm(RECIPE, "num_records=50", "--nodes", 4, "--gpus", 8, "--shards", 10, "--out",
                 tmp_path, "--partition", "long", "--time", "4:00:00", "--account", "lab",
                 "--sbatch-extra=--exclusive", "--sbatch-extra=--qos=high")  # fmt: skip
    assert "look at the scripts, then submit them with the same command and --submit" in told
    array, merge = scripts(tmp_path)
    for line in ("--array=0-9%4", "--gres=gpu:8", "--signal=B:USR1@120", "--requeue", "--exclusive",
                 "--partition=long", "--time=4:00:00", "--account=lab", "--qos=high"):  # fmt: skip
        assert f"\n#SBATCH {line}\n" in array
    assert f"{RECIPE} num_records=50 --out {tmp_path} --gpus 8 \\\n  --shard" in array
    assert f"merge {RECIPE} num_records=50 --out {tmp_path} --shards 10\n" in merge
    assert "--gres" not in merge
    assert "\n#SBATCH --partition=long\n" in merge


def test_the_merge_asks_for_no_gpu_and_may_have_a_partition_of_its_own(tmp_path):
    slurm(RECIPE, "--out", tmp_path, "--partition", "gpu", "--merge-partition", "cpu",
          "--sbatch-extra=--gres=gpu:h100:8", "--sbatch-extra=--cpus-per-gpu=8",
          "--sbatch-extra=--gpus-per-node=8", "--sbatch-extra=--mem=0")  # fmt: skip
    array, merge = scripts(tmp_path)
    assert "--gres=gpu:h100:8" in array
    assert "gpu:" not in merge
    assert "-gpu=" not in merge
    assert "--gpus" not in merge
    assert "\n#SBATCH --mem=0\n" in merge
    assert "--partition=gpu" not in merge
    assert "\n#SBATCH --partition=cpu\n" in merge
    assert "--partition=cpu" not in array


def test_a_job_has_a_name_that_slurm_takes(tmp_path):
    slurm(RECIPE, "--out", tmp_path / "it's 100% mine")
    for script in scripts(tmp_path / "it's 100% mine"):
        assert "\n#SBATCH --job-name=prefdata-it-s-100-mine" in script
        assert "100%% mine" in next(line for line in script.splitlines() if "--output=" in line)


def test_the_scripts_are_sound_shell_whatever_the_folder_is_called(tmp_path):
    out = tmp_path / "it's a $HOME"
    slurm(RECIPE, "--out", out)
    for name in ("array", "merge"):
        script = out / "slurm" / f"{name}.sbatch"
        subprocess.run(["bash", "-n", script], check=True)
        assert os.access(script, os.X_OK)


def test_a_task_runs_in_its_container_with_the_folders_that_it_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    for folder in ("cache", "copies"):
        (tmp_path / folder).mkdir()
    out, copies = tmp_path / "new" / "run", tmp_path / "copies"
    slurm(RECIPE, f"output_path={copies}/pairs.jsonl", "--out", out,
          "--container", "registry#lab/prefdata:1")  # fmt: skip
    for script in scripts(out):
        assert "srun --ntasks=1 '--container-image=registry#lab/prefdata:1'" in script
        mounts = script.split("--container-mounts=")[1].split()[0].split(",")
        assert {f"{p}:{p}" for p in (out.parent, copies, tmp_path / "cache")} <= set(mounts)
        assert f"\nexport HF_HOME={tmp_path}/cache\n" in script
        assert "--container-env=HF_HOME,HF_HUB_OFFLINE,HF_TOKEN " in script
        assert f"{QUICKSTART}:{QUICKSTART}" in mounts
        assert not any("models" in mount for mount in mounts)  # within the recipe's folder
        assert sys.executable not in script


def test_the_merge_leaves_the_hub_alone_where_it_is_told_to(tmp_path):
    slurm(RECIPE, "--out", tmp_path, "--no-publish")
    array, merge = scripts(tmp_path)
    assert "--no-publish" in merge
    assert "--no-publish" not in array


def test_without_slurm_there_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    told = slurm(RECIPE, "--out", tmp_path, "--submit", code=2)
    assert (
        "sbatch was not found: this is not a node of a Slurm cluster, or its module is not loaded"
        in told
    )
    assert (tmp_path / "slurm" / "array.sbatch").is_file()


def test_a_recipe_of_the_hub_is_brought_here_first():
    told = slurm("hf://datasets/somebody/pairs/recipe.yaml", code=2)
    assert "hf download" in told


def test_a_recipe_that_cannot_run_is_told_before_anything_is_queued(tmp_path):
    told = slurm(RECIPE, "columns.0.model_alias=nobody", "--out", tmp_path, "--submit", code=2)
    assert "nobody" in told
    assert not (tmp_path / "slurm").exists()


def test_a_finished_run_of_another_recipe_is_told_before_it_is_replaced(tmp_path):
    from prefdata.cli import app as prefdata

    made = CliRunner().invoke(prefdata, ["build", str(RECIPE), "num_records=20", "--rehearse",
                                         "--out", str(tmp_path / "run")])  # fmt: skip
    assert made.exit_code == 0, made.output
    told = slurm(RECIPE, "num_records=20", "--rehearse", "--out", tmp_path / "run")
    assert "nothing to do" in told
    told = slurm(RECIPE, "--rehearse", "--out", tmp_path / "run")
    assert "there is a finished run of 20 rows, of another recipe or pair rule" in told


def test_status_before_anything_is_submitted(tmp_path):
    slurm(RECIPE, "--out", tmp_path)
    assert "nothing was submitted for" in slurm(RECIPE, "--out", tmp_path, "--status")
    assert "--status does not submit anything" in slurm(
        RECIPE, "--out", tmp_path, "--status", "--submit", code=2
    )


def test_a_file_in_the_place_of_the_run_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    told = slurm(RECIPE, "--out", tmp_path / "file", "--status", code=2)
    assert "a file stands where a folder is needed" in " ".join(told.split())
