"""The batch scripts, without a cluster."""

import json
import os
import subprocess
import sys

import pytest
from conftest import QUICKSTART
from typer.testing import CliRunner

from prefdata.cli import app
from prefdata.cluster.checks import read_time
from prefdata.cluster.slurm_scripts import CACHES, as_ranges

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
        handed_on = script.split("--container-env=")[1].split()[0].split(",")
        assert {"HF_HOME", "HF_HUB_OFFLINE", "HF_TOKEN"} <= set(handed_on)
        assert f"{QUICKSTART}:{QUICKSTART}" in mounts
        assert not any("models" in mount for mount in mounts)  # within the recipe's folder
        assert sys.executable not in script


TYPO, FIXED = "models.2.engine={max_modle_len: 9}", "models.2.provider=transformers"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("models.2.engine={tensor_parallel_size: 3}",),
            "3 GPUs (tensor_parallel_size x pipeline_parallel_",
        ),
        ((TYPO, FIXED), "model 'grader': unknown engine option 'max_modle_len' of "),
        ((TYPO, FIXED), "did you mean 'max_model_len'?"),
        (("--time", "soon"), "--time 'soon': Slurm reads minutes, minutes:seconds, hours"),
        (("--time", "4:70:00"), "give 4:00:00 for four hours"),
        (("--time", "2"), "--time 2 is 2 min to Slurm, and a task is told of its end 2 min before"),
        (("--time", "1:30"), "--time 1:30 is 1.5 min to Slurm"),
        (("--shards", 300), "there are 300 shards, but the seeds have only 240 rows"),
        (("--nodes", 300), "give at most --shards 240"),
        (("--sbatch-extra=--array=0-3",), "the shards are the array; use --shards and --nodes"),
        (("--sbatch-extra=-N2",), "a task runs on one node"),
        (("--sbatch-extra=--no-requeue",), "a task that is told to end goes back into the queue"),
        (("--sbatch-extra=--signal=TERM",), "a task is told 120 s before its end"),
        (("--merge-extra=--output=x",), "--merge-extra '--output=x': the scripts set this"),
        (
            ("--sbatch-extra=qos=high",),
            "it is not one option of sbatch; write one in one line",
        ),
        *(
            ((option, value, *more), "it is not one option of sbatch")
            for option in ("--partition", "--account", "--mem", "--merge-partition")
            for value, *more in (("a\n#SBATCH --x",), ("a\r#S", "--rehearse"), ("a --x",), ("a'",))
        ),
        (("--sbatch-extra=--qos=a\n#SBATCH -N 2",), "it is not one option of sbatch"),
        (("--merge-extra=--comment=a\u2028b",), "it is not one option of sbatch"),
        (("--json",), "--json and --watch are for --status"),
    ],
)
def test_what_would_fail_in_the_queue_is_refused_before_it(words, told, tmp_path):
    message = " ".join(slurm(RECIPE, *words, "--out", tmp_path, code=2).split())
    assert told in message
    assert not (tmp_path / "slurm").exists()


def test_a_folder_whose_name_has_two_lines_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a\nrm -rf b").mkdir()
    monkeypatch.chdir(tmp_path / "a\nrm -rf b")
    assert "it has more; choose another folder" in slurm(RECIPE, "--out", tmp_path / "run", code=2)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("8:00", 480), ("8:00:00", 28800), ("1-0", 86400), ("1-2:30", 95400),
     ("1-2:30:10", 95410), ("UNLIMITED", None)],
)  # fmt: skip
def test_time_limits_are_read_as_slurm_reads_them(text, seconds):
    assert read_time(text) == seconds


def test_a_short_time_limit_is_told_in_minutes(tmp_path):
    assert "--time 8 gives a task 8 minutes" in slurm(RECIPE, "--out", tmp_path, "--time", 8)


def test_a_task_and_the_merge_are_asked_for_apart(tmp_path):
    slurm(RECIPE, "--out", tmp_path, "--cpus-per-task", 64, "--mem", "400G",
          "--sbatch-extra=--qos=a", "--merge-extra=--mem=32G", "--merge-extra=--qos=b")  # fmt: skip
    array, merge = scripts(tmp_path)
    for script, has, lacks in (
        (array, ("--cpus-per-task=64", "--mem=400G", "--qos=a"), ("--mem=32G", "--qos=b")),
        (
            merge,
            ("--mem=32G", "--qos=a\n#SBATCH --mem=32G\n#SBATCH --qos=b"),
            ("--mem=400G", "--cpus-per-task"),
        ),
    ):
        assert all(f"\n#SBATCH {line}\n" in script for line in has)
        assert not any(line in script for line in lacks)


def test_caches_and_the_users_setup_stand_in_both_scripts(tmp_path, monkeypatch):
    for name in CACHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("VLLM_CACHE_ROOT", "/shared/it's vllm")
    out = tmp_path / "run"
    slurm(RECIPE, "--out", out, "--setup", "module load cuda", "--setup", "export A=$UNSET",
          "--setup", "echo $A > set")  # fmt: skip
    for name, script in zip(("array", "merge"), scripts(out), strict=True):
        assert "\nexport HF_HOME=/" in script
        assert "hf_secret" not in script
        assert "\nexport VLLM_CACHE_ROOT='/shared/it'\"'\"'s vllm'\n" in script
        assert script.index("module load cuda") < script.index("-m prefdata")
        file = out / "slurm" / f"{name}.sbatch"
        subprocess.run(["bash", "-n", file], check=True)
        done = subprocess.run(
            ["bash", file], cwd=tmp_path, capture_output=True, text=True, check=False,
            env={"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "1", "PATH": os.environ["PATH"]},
        )  # fmt: skip
        assert done.returncode == 1  # there is no module command here
        assert "--setup 'module load cuda' has failed" in done.stdout


def test_an_edited_script_is_replaced_only_if_that_is_wanted(tmp_path):
    slurm(RECIPE, "--out", tmp_path)
    script = tmp_path / "slurm" / "array.sbatch"
    edited = script.read_text() + "# mine\n"
    script.write_text(edited)
    told = slurm(RECIPE, "--out", tmp_path, code=2)
    assert "prefdata did not write it as it is" in told
    assert "--force" in told
    assert script.read_text() == edited
    slurm(RECIPE, "--out", tmp_path, "--force")
    assert "# mine" not in script.read_text()


def test_what_another_option_changes_in_the_scripts_is_told(tmp_path):
    first = slurm(RECIPE, "--out", tmp_path, "--time", "1:00:00")
    again = slurm(RECIPE, "--out", tmp_path, "--time", "1:00:00")
    other = slurm(RECIPE, "--out", tmp_path, "--time", "2:00:00")
    assert "is replaced" not in first + again
    for script in ("array", "merge"):
        assert f"{script}.sbatch is replaced; what changes in it:" in other
    assert "-#SBATCH --time=1:00:00\n  +#SBATCH --time=2:00:00" in other


def test_the_status_can_be_read_by_a_program(tmp_path):
    told = json.loads(slurm(RECIPE, "--out", tmp_path, "--status", "--json"))
    assert told["shards"] == {"done": 0, "running": 0, "waiting": 0, "failed": 0}
    slurm(RECIPE, "--out", tmp_path, "--status", "--watch", code=2)  # there is nothing to wait for


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


def test_a_recipe_that_ships_keeps_its_name(tmp_path):
    slurm("simpo", f"model={QUICKSTART}/models/lm", f"prompts={QUICKSTART}/prompts.jsonl",
          "--rehearse", "--out", tmp_path / "run")  # fmt: skip
    assert " build simpo model=" in scripts(tmp_path / "run-rehearsal")[0]


def test_a_container_sees_every_file_that_the_recipe_reads(project, tmp_path_factory):
    elsewhere, out = tmp_path_factory.mktemp("elsewhere"), project.folder / "cluster"
    (elsewhere / "known.jsonl").write_text('{"prompt": "a question"}\n')
    against = [{"path": str(elsewhere / "known.jsonl"), "column": "prompt"}]
    project.recipe["columns"].append(
        {
            "name": "unseen",
            "type": "filter",
            "column": "prompt",
            "decontaminate": {"against": against},
        }
    )
    slurm(project.write(), "--rehearse", "--out", out, "--container", "i")
    for script in scripts(project.folder / "cluster-rehearsal"):
        assert f"{elsewhere}:{elsewhere}" in script


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
