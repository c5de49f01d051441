"""A real Slurm on this host, with nodes of its own: what becomes of a run when things go wrong."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest
from conftest import QUICKSTART, ROOT

from prefdata.runtime.folders import read_rows
from prefdata.runtime.slurm_jobs import look_at_shards

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="Slurm is not installed here"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a cluster of one's own takes root"),
]
CLUSTER = ROOT / "tests" / "slurm_cluster.sh"
RECIPE = QUICKSTART / "recipe.yaml"
PATIENCE = 240


class Cluster:
    """Three nodes; `environment` makes Slurm's commands ask them."""

    def __init__(self, folder):
        self.environment = os.environ | {
            "SLURM_ROOT": str(folder), "SLURM_NODES": "3", "NETNS": "1",
            "SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": str(ROOT),
        }  # fmt: skip

    def control(self, *words):
        subprocess.run(["bash", CLUSTER, *words], env=self.environment, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip

    def run(self, *words):
        done = subprocess.run(
            [str(word) for word in words], env=self.environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def prefdata(self, *words):
        return self.run(sys.executable, "-m", "prefdata", *words)

    def submit(self, out, *words, recipe=RECIPE):
        told = ["--gpus", "0", "--nodes", "3", "--out", out, "--submit"]
        return self.prefdata("slurm", recipe, *words, *told)

    def jobs(self, out):
        return orjson.loads((out / "slurm" / "jobs.json").read_bytes())

    def queue(self):
        return self.run("squeue", "--noheader", "--array", "--format=%i %T").split("\n")

    def wait(self, is_so, what):
        until = time.monotonic() + PATIENCE
        while not is_so():
            assert time.monotonic() < until, (what, self.queue())
            time.sleep(0.3)

    def wait_for_merge(self, out):
        self.wait((out / "run.json").is_file, "the merge")

    def wait_for_journal(self, out, shard, count):
        folder = out / "shards" / f"{shard:05d}-of-{count:05d}" / "journal"
        self.wait(lambda: any(f.stat().st_size for f in folder.glob("*.jsonl")), "a journal")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    cluster.control("start")
    yield cluster
    cluster.control("stop")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The quickstart with some more rows, in one piece."""
    out = tmp_path_factory.mktemp("whole") / "run"
    command = [sys.executable, "-m", "prefdata", "build", RECIPE, *MORE, "--out", out]
    subprocess.run(command, check=True, capture_output=True)
    return out


MORE = ["num_records=600", "columns.0.samples=2"]


def assert_same(out, whole):
    for name in ("pairs", "candidates", "rejects"):
        assert list(read_rows(out / name)) == list(read_rows(whole / name)), name


def log(out, shard):
    return (out / "slurm" / "logs" / f"shard-{shard}.log").read_text()


def test_an_array_and_its_merge_are_the_run_in_one_piece(cluster, whole, tmp_path):
    cluster.submit(tmp_path, *MORE, "--shards", "5")
    cluster.wait_for_merge(tmp_path)
    assert_same(tmp_path, whole)
    told = cluster.prefdata("slurm", RECIPE, "--shards", "5", "--out", tmp_path, "--status")
    assert "5 done, 0 running, 0 waiting, 0 failed" in told


@pytest.mark.parametrize("signal", ["USR1", "TERM"])
def test_a_task_that_is_told_to_end_drains_and_goes_back_into_the_queue(
    signal, cluster, whole, tmp_path
):
    cluster.submit(tmp_path, *MORE, "--shards", "2")
    array = cluster.jobs(tmp_path)["array"]
    cluster.wait_for_journal(tmp_path, 0, 2)
    cluster.run("scancel", f"--signal={signal}", "--batch", f"{array}_0")
    cluster.wait_for_merge(tmp_path)
    assert "goes back into the queue (exit code 130)" in log(tmp_path, 0)
    assert "restart 1" in log(tmp_path, 0)
    assert "restart 1" not in log(tmp_path, 1)
    assert_same(tmp_path, whole)


def test_a_task_that_is_killed_is_started_again(cluster, whole, tmp_path):
    cluster.submit(tmp_path, *MORE, "--shards", "2")
    cluster.wait_for_journal(tmp_path, 1, 2)
    _kill_build(tmp_path, "1/2")
    cluster.wait_for_merge(tmp_path)
    assert "exit code 137" in log(tmp_path, 1)
    assert_same(tmp_path, whole)


def test_a_node_that_dies_costs_its_shard_alone_a_restart(cluster, whole, tmp_path):
    cluster.submit(tmp_path, *MORE, "--shards", "2")
    array = cluster.jobs(tmp_path)["array"]
    cluster.wait_for_journal(tmp_path, 0, 2)
    node = cluster.run("squeue", "--noheader", "--format=%N", f"--jobs={array}_0").strip()
    cluster.control("kill-node", node.removeprefix("fn"))
    cluster.wait_for_merge(tmp_path)
    cluster.control("start-node", node.removeprefix("fn"))
    assert "restart 1" in log(tmp_path, 0)
    assert "restart 1" not in log(tmp_path, 1)
    assert_same(tmp_path, whole)


def test_a_task_beyond_its_time_limit_goes_on_later(cluster, whole, tmp_path):
    # Slurm counts limits in minutes, and the signal comes 120 s before the end: at once
    cluster.submit(tmp_path, *MORE, "--shards", "1", "--time", "1", "--max-requeues", "3")
    cluster.wait(lambda: "restart 1" in _read(tmp_path, 0), "a restart")
    array = cluster.jobs(tmp_path)["array"]
    cluster.run("scontrol", "update", f"JobId={array}", "TimeLimit=30")
    cluster.wait_for_merge(tmp_path)
    assert_same(tmp_path, whole)


def test_what_fails_for_good_is_told_and_is_not_merged(cluster, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.read_text().replace("models/lm", str(QUICKSTART / "models" / "lm"))
                      .replace("models/rm", str(QUICKSTART / "models" / "rm"))
                      .replace("prompts.jsonl", "seeds.jsonl"))  # fmt: skip
    shutil.copy(QUICKSTART / "prompts.jsonl", tmp_path / "seeds.jsonl")
    out = tmp_path / "run"
    cluster.submit(out, "--shards", "2", recipe=recipe)
    (tmp_path / "seeds.jsonl").rename(tmp_path / "gone.jsonl")
    cluster.wait(lambda: {s.state for s in look_at_shards(out, 2)} == {"failed"}, "failures")
    cluster.wait(lambda: not any(cluster.queue()), "an empty queue")
    assert not (out / "run.json").exists()
    told = cluster.prefdata("slurm", RECIPE, "--shards", "2", "--out", out, "--status")
    assert "shard 0 failed: exit code 2" in told
    (tmp_path / "gone.jsonl").rename(tmp_path / "seeds.jsonl")
    cluster.submit(out, "--shards", "2", recipe=recipe)
    cluster.wait_for_merge(out)


def test_only_what_is_missing_is_submitted_again(cluster, whole, tmp_path):
    cluster.submit(tmp_path, *MORE, "--shards", "4")
    cluster.wait_for_merge(tmp_path)
    shutil.rmtree(tmp_path / "shards" / "00002-of-00004")
    (tmp_path / "run.json").unlink()
    cluster.submit(tmp_path, *MORE, "--shards", "4")
    assert "#SBATCH --array=2%3" in (tmp_path / "slurm" / "array.sbatch").read_text()
    cluster.wait_for_merge(tmp_path)
    assert_same(tmp_path, whole)


def test_a_task_is_not_started_again_for_ever(cluster, tmp_path):
    cluster.submit(tmp_path, *MORE, "--shards", "1", "--max-requeues", "1")
    for restart in range(2):
        cluster.wait(lambda r=restart: f"restart {r}," in _read(tmp_path, 0), "a start")
        cluster.wait(lambda: _pids(tmp_path, "0/1"), "a process")
        _kill_build(tmp_path, "0/1")
    cluster.wait(lambda: look_at_shards(tmp_path, 1)[0].state == "failed", "the failure")
    assert look_at_shards(tmp_path, 1)[0].reason == "exit code 137 after 1 requeues"


def _read(out, shard):
    file = out / "slurm" / "logs" / f"shard-{shard}.log"
    return file.read_text() if file.is_file() else ""


def _pids(out, shard):
    """Processes of `prefdata build` for this shard of this run."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode().split("\0")
        except OSError:
            continue
        if "prefdata" in words and str(out) in words and shard in words:
            found.append(int(file.parent.name))
    return found


def _kill_build(out, shard):
    for pid in _pids(out, shard):
        os.kill(pid, 9)
