"""A real Slurm on this host, with nodes of its own: what becomes of a run when things go wrong."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from itertools import chain
from pathlib import Path

import orjson
import pytest
from conftest import ROOT
from gated import make_recipe

from prefdata.run.shard_status import look_at_shards
from prefdata.storage.folders import read_rows
from prefdata.storage.journal import read_values

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="Slurm is not installed here"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a cluster of one's own takes root"),
]
CLUSTER = ROOT / "tests" / "slurm_cluster.sh"
PATIENCE = 600


class Cluster:
    """Three nodes; `environment` makes Slurm's commands ask them."""

    def __init__(self, folder, recipe):
        self.folder, self.recipe = folder, recipe
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

    def submit(self, out, *words, gate=None):
        """Submit a run; where there is a `gate`, it lasts until that file is there."""
        if gate is not None:
            self.environment["GATE"] = str(gate)
        return self.tell(out, *words, "--gpus", "0", "--nodes", "3", "--submit")

    def tell(self, out, *words):
        """What `prefdata slurm` says."""
        return self.prefdata("slurm", self.recipe, *folder_options(out), *words)

    def status(self, out):
        """The lines of --status."""
        return self.tell(out, "--status").splitlines()

    def jobs(self, out):
        return orjson.loads((out / "slurm" / "jobs.json").read_bytes())

    def queue(self):
        return self.run("squeue", "--noheader", "--array", "--format=%i %T").splitlines()

    def node_of(self, job):
        """Number of the node on which a job runs."""
        name = self.run("squeue", "--noheader", "--format=%N", f"--jobs={job}").strip()
        return name.removeprefix("fn")

    def processes_of(self, node):
        """Ids of all processes of a node."""
        found = [int((self.folder / "run" / f"slurmd-fn{node}.pid").read_text())]
        for pid in found:
            told = Path(f"/proc/{pid}/task").glob("*/children")
            found += [int(child) for file in told for child in file.read_text().split()]
        return found

    def wait(self, is_so, what):
        until = time.monotonic() + PATIENCE
        while not is_so():
            assert time.monotonic() < until, (what, self.queue())
            time.sleep(0.3)

    def wait_for_merge(self, out):
        self.wait(lambda: (out / "run.json").is_file() and not self.queue(), "the merge")

    def wait_for_journal(self, out, shard, count):
        folder = out / "shards" / f"{shard:05d}-of-{count:05d}" / "journal"
        self.wait(lambda: any(f.stat().st_size for f in folder.glob("*.jsonl")), "a journal")


@pytest.fixture(scope="module")
def started(recipe, tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("slurm"), recipe)
    cluster.control("start")
    yield cluster
    cluster.control("stop")


@pytest.fixture
def cluster(started):
    """The cluster, with the environment that it had at first."""
    before = dict(started.environment)
    yield started
    started.environment = before


def folder_options(out):
    """The options that make `out` the run folder; a rehearsal's has a name of its own."""
    given = out.name.removesuffix("-rehearsal")
    return ["--out", out.with_name(given), *["--rehearse"] * (given != out.name)]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(params=["run-rehearsal"])
def out(request, tmp_path):
    """The run folder. What Slurm does to a task is the same without models, and takes less."""
    return tmp_path / request.param


@pytest.fixture
def gate(tmp_path):
    return tmp_path / "gate"


@pytest.fixture(scope="module")
def wholes(recipe, tmp_path_factory):
    """The runs in one piece, by the names of their folders; each is made when it is asked for."""
    folder = tmp_path_factory.mktemp("whole")

    def make(name):
        if not (folder / name).exists():
            command = [sys.executable, "-m", "prefdata", "build", recipe, *MORE]
            command += folder_options(folder / name)
            subprocess.run(command, check=True, capture_output=True)
        return folder / name

    return make


@pytest.fixture
def whole(wholes, out):
    """The same run in one piece."""
    return wholes(out.name)


with_models = pytest.mark.parametrize("out", ["run"], indirect=True, ids=["models"])


MORE = ["num_records=400", "columns.0.samples=2"]


def assert_same(out, whole):
    for name in ("pairs", "candidates", "rejects"):
        assert list(read_rows(out / name)) == list(read_rows(whole / name)), name


def log(out, shard):
    file = out / "slurm" / "logs" / f"shard-{shard}.log"
    return file.read_text() if file.is_file() else ""


def attempts(out, shard):
    """How often a task has begun: Slurm starts one again, too, that a busy node has not taken."""
    return log(out, shard).count(", restart ")


def asked_again(out):
    """Requests to which two attempts at a shard have an answer: the second has not read it."""
    found = []
    for journal in (out / "shards").glob("*/journal"):
        attempts = [{key for key, _ in read_values(file)} for file in journal.glob("*.jsonl")]
        assert any(attempts), journal
        found += [key for key, count in Counter(chain(*attempts)).items() if count > 1]
    return found


@with_models
def test_an_array_and_its_merge_are_the_run_in_one_piece(cluster, whole, out):
    cluster.submit(out, *MORE, "--shards", "5")
    cluster.wait_for_merge(out)
    assert_same(out, whole)
    (told,) = cluster.status(out)
    assert told.startswith("finished and merged: 400 rows, ")


def test_tasks_have_the_gpus_of_their_node(cluster, out):
    asked = ["--nodes", "3", "--gpus", "8", "--shards", "6", "--submit"]
    cluster.tell(out, *asked, "--sbatch-extra", "--cpus-per-task=2")
    cluster.wait_for_merge(out)
    for shard in range(6):
        assert "GPUs 0,1,2,3,4,5,6,7" in log(out, shard)


@with_models
def test_a_task_that_is_told_to_end_goes_back_into_the_queue_and_on_from_its_journal(
    cluster, whole, out, gate
):
    cluster.submit(out, *MORE, "--shards", "2", gate=gate)
    array = cluster.jobs(out)["arrays"][-1]
    for shard in (0, 1):
        cluster.wait_for_journal(out, shard, 2)
    begun = attempts(out, 1)
    cluster.run("scancel", "--signal=TERM", "--batch", f"{array}_0")
    cluster.wait(lambda: "restart 1" in log(out, 0), "a restart")
    gate.touch()
    cluster.wait_for_merge(out)
    assert "goes back into the queue (exit code 130, asked to end: yes)" in log(out, 0)
    assert "restart 1" in log(out, 0)
    assert attempts(out, 1) == begun
    assert not asked_again(out)
    assert_same(out, whole)


def test_a_task_that_somebody_cancels_stays_away_until_it_is_submitted_again(
    cluster, whole, out, gate
):
    cluster.submit(out, *MORE, "--shards", "2", gate=gate)
    (array,) = cluster.jobs(out)["arrays"]
    cluster.wait_for_journal(out, 0, 2)
    cluster.run("scancel", f"{array}_0")
    cluster.wait(lambda: not any(f"{array}_0 " in line for line in cluster.queue()), "its end")
    gate.touch()
    cluster.wait(lambda: not cluster.queue(), "an empty queue")  # the merge is gone as well
    assert "goes back" not in log(out, 0)
    assert not (out / "run.json").exists()
    told = cluster.status(out)  # though its files are fresh
    assert told[0] == "2 shards: 1 done, 0 running, 1 waiting, 0 failed"
    assert told[-1].startswith("not in the queue: 1 shard: 0; see ")
    cluster.submit(out, *MORE)
    assert "#SBATCH --array=0%3" in (out / "slurm" / "array.sbatch").read_text()
    cluster.wait_for_merge(out)
    assert_same(out, whole)


def test_a_task_that_is_preempted_goes_on_when_the_others_are_gone(cluster, whole, out, gate):
    cluster.submit(out, *MORE, "--shards", "2", "--partition", "preemptible", gate=gate)
    for shard in range(2):
        cluster.wait_for_journal(out, shard, 2)
    cluster.run("sbatch", "--partition=batch", "--nodes=3", "--exclusive", "--output=/dev/null",
                "--wrap", "sleep 1")  # fmt: skip
    cluster.wait(lambda: all("restart 1" in log(out, shard) for shard in range(2)), "restarts")
    gate.touch()
    cluster.wait_for_merge(out)
    for shard in range(2):
        assert "restart 1" in log(out, shard)
    assert_same(out, whole)


def test_a_task_that_is_killed_is_started_again(cluster, whole, out, gate):
    cluster.submit(out, *MORE, "--shards", "2", gate=gate)
    cluster.wait_for_journal(out, 1, 2)
    _kill(out, "1/2")
    cluster.wait(lambda: "exit code 137" in log(out, 1), "the end of the task")
    gate.touch()
    cluster.wait_for_merge(out)
    assert "exit code 137" in log(out, 1)
    assert not asked_again(out)
    assert_same(out, whole)


def test_a_node_that_dies_costs_its_shard_alone_a_restart(cluster, whole, out, gate):
    cluster.submit(out, *MORE, "--shards", "2", "--sbatch-extra=--exclusive", gate=gate)
    (array,) = cluster.jobs(out)["arrays"]
    for shard in (0, 1):
        cluster.wait_for_journal(out, shard, 2)
    begun = [attempts(out, shard) for shard in (0, 1)]
    node = cluster.node_of(f"{array}_0")
    cluster.control("kill-node", node)
    cluster.wait(lambda: attempts(out, 0) > begun[0], "a restart")
    gate.touch()
    cluster.wait_for_merge(out)
    cluster.control("start-node", node)
    assert attempts(out, 1) == begun[1]
    assert not asked_again(out)
    assert_same(out, whole)


def test_a_node_that_was_only_asleep_lets_the_later_attempt_be(cluster, whole, out, gate):
    cluster.submit(out, *MORE, "--shards", "1", gate=gate)
    (array,) = cluster.jobs(out)["arrays"]
    cluster.wait_for_journal(out, 0, 1)
    node = cluster.node_of(array)
    asleep = cluster.processes_of(node)
    for pid in asleep:
        os.kill(pid, signal.SIGSTOP)
    cluster.run("scontrol", "update", f"nodename=fn{node}", "state=down", "reason=asleep")
    cluster.wait(lambda: "restart 1" in log(out, 0), "a restart")
    cluster.wait(lambda: set(_pids(out, "0/1")) - set(asleep), "the later attempt")
    said = "shard 0: a later attempt has taken over"
    for pid in (pid for pid in asleep if not _is_of_slurm(pid)):
        os.kill(pid, signal.SIGCONT)  # first the task: Slurm, once awake, would end it
    cluster.wait(lambda: said in log(out, 0), "the end of the earlier attempt")
    gate.touch()
    for pid in asleep:
        with suppress(ProcessLookupError):  # the task has ended
            os.kill(pid, signal.SIGCONT)
    cluster.wait_for_merge(out)
    cluster.control("kill-node", node)
    cluster.control("start-node", node)
    assert "has taken over; attempt" in log(out, 0)
    assert "restart 2" not in log(out, 0)
    assert_same(out, whole)


def test_an_array_that_was_submitted_twice_makes_the_same_rows(cluster, whole, out, gate):
    cluster.submit(out, *MORE, "--shards", "2", gate=gate)
    cluster.wait_for_journal(out, 0, 2)
    cluster.run("sbatch", out / "slurm" / "array.sbatch")
    said = "a later attempt has taken over"
    cluster.wait(lambda: all(said in log(out, shard) for shard in range(2)), "both ends")
    gate.touch()
    cluster.wait(lambda: not cluster.queue(), "an empty queue")
    assert not (out / "run.json").exists()  # the merge was of the first array
    assert "submitted the merge" in cluster.submit(out, *MORE)
    cluster.wait_for_merge(out)
    assert_same(out, whole)


def test_a_task_beyond_its_time_limit_goes_on_later(cluster, whole, out, gate):
    # Slurm counts limits in minutes, and the signal comes 120 s before the end: at once
    cluster.submit(out, *MORE, "--shards", "1", "--sbatch-extra=--time=1", gate=gate)
    cluster.wait(lambda: "restart 1" in log(out, 0), "a restart")
    # 142 where the machine is too busy to end by itself within 10 s
    assert re.search(r"the queue \(exit code (130|142), asked to end: yes\)", log(out, 0))
    (array,) = cluster.jobs(out)["arrays"]
    cluster.run("scontrol", "update", f"JobId={array}", "TimeLimit=30")
    gate.touch()
    cluster.wait_for_merge(out)
    assert_same(out, whole)


def test_what_fails_for_good_is_told_and_is_not_merged(cluster, whole, out):
    code = cluster.recipe.parent / "gate.py"
    cluster.submit(out, *MORE, "--shards", "2", "--sbatch-extra=--hold")
    code.rename(code.with_suffix(".away"))
    cluster.run("scontrol", "release", *cluster.jobs(out)["arrays"])
    cluster.wait(lambda: {s.state for s in look_at_shards(out, 2)} == {"failed"}, "failures")
    cluster.wait(lambda: not cluster.queue(), "an empty queue")
    assert not (out / "run.json").exists()
    told = cluster.status(out)
    assert told[0] == "2 shards: 0 done, 0 running, 0 waiting, 2 failed"
    failed = next(line for line in told if line.startswith("shard 0 failed: exit code 2, twice: "))
    assert "'gate:wait' cannot be imported" in failed
    assert failed.endswith(f"; see {out}/slurm/logs/shard-0.log")
    assert "restart 1" in log(out, 0)  # once more, in case a node was to blame
    assert "restart 2" not in log(out, 0)
    code.with_suffix(".away").rename(code)
    cluster.submit(out, *MORE)
    cluster.wait_for_merge(out)
    assert_same(out, whole)


def test_only_what_is_missing_is_submitted_again(cluster, whole, out, gate):
    cluster.submit(out, *MORE, "--shards", "4", gate=gate)
    told = cluster.submit(out, *MORE)
    assert "nothing to submit: the rest is in the queue, and the merge" in told
    gate.touch()
    cluster.wait_for_merge(out)
    shutil.rmtree(out / "shards" / "00002-of-00004")
    (out / "run.json").unlink()
    cluster.submit(out, *MORE)
    assert "#SBATCH --array=2%3" in (out / "slurm" / "array.sbatch").read_text()
    cluster.wait_for_merge(out)
    assert_same(out, whole)
    assert "nothing to do: the run in" in cluster.submit(out, *MORE)


def test_what_is_cancelled_is_submitted_again_while_the_others_run(cluster, whole, out, gate):
    cluster.submit(out, *MORE, "--shards", "3", gate=gate)
    (array,) = cluster.jobs(out)["arrays"]
    cluster.wait_for_journal(out, 1, 3)
    cluster.run("scancel", f"{array}_1")
    cluster.wait(lambda: not any(f"{array}_1 " in line for line in cluster.queue()), "its end")
    told = cluster.tell(out, *MORE, "--gpus", "0", "--submit")
    assert "#SBATCH --array=1%1" in (out / "slurm" / "array.sbatch").read_text()
    assert "submitted the array" in told
    gate.touch()
    cluster.wait_for_merge(out)  # though the first array has failed as a whole
    assert_same(out, whole)


def test_another_recipe_waits_until_the_queue_is_empty(cluster, out):
    cluster.submit(out, *MORE, "--shards", "2", "--sbatch-extra=--begin=now+1hour")
    (array,) = cluster.jobs(out)["arrays"]
    merge = cluster.jobs(out)["merge"]
    asked = [sys.executable, "-m", "prefdata", "slurm", cluster.recipe, *folder_options(out)]
    for other in ("num_records=401", "columns.0.samples=1"):
        done = subprocess.run(
            [*asked, "--submit", other],
            env=cluster.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert f"are in the queue for this folder; wait for them, or cancel them first: scancel {array}" in " ".join(done.stderr.split())  # fmt: skip  # noqa: E501
    cluster.tell(out, *MORE, "output_projection.test_size=0", "--submit")
    assert cluster.jobs(out)["arrays"] == [array]  # other pairs of the same scores
    assert cluster.jobs(out)["merge"] != merge
    cluster.run("scancel", "--user=root")
    cluster.wait(lambda: not cluster.queue(), "an empty queue")


def test_a_folder_may_have_any_name(cluster, tmp_path):
    out = tmp_path / "it's 100% mine-rehearsal"
    cluster.submit(out, "--shards", "2")
    cluster.wait_for_merge(out)


def test_a_task_in_a_container_is_told_to_end_through_srun(cluster, whole, out, gate, tmp_path):
    """The real srun, behind a stand-in that takes the container's options away."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "srun").write_text(
        f"""#!/bin/bash
echo "$@" >> {tmp_path}/asked
for word; do shift; case $word in --container-*) ;; *) set -- "$@" "$word" ;; esac; done
exec {shutil.which("srun")} "$@"
"""
    )
    (tools / "prefdata").write_text(f'#!/bin/bash\nexec {sys.executable} -m prefdata "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    cluster.environment["PATH"] = f"{tools}:{os.environ['PATH']}"
    cluster.submit(out, *MORE, "--shards", "1", "--container", "image", gate=gate)
    (array,) = cluster.jobs(out)["arrays"]
    cluster.wait_for_journal(out, 0, 1)
    cluster.run("scancel", "--signal=USR1", "--batch", f"{array}_0")
    cluster.wait(lambda: "restart 1" in log(out, 0), "a restart")
    gate.touch()
    cluster.wait_for_merge(out)
    assert "--container-image=image" in (tmp_path / "asked").read_text()
    assert "interrupted; run the same command again to continue" in log(out, 0)
    assert "goes back into the queue (exit code 130, asked to end: yes)" in log(out, 0)
    assert not asked_again(out)
    assert_same(out, whole)


def test_a_merge_that_is_killed_is_submitted_alone(cluster, whole, out):
    cluster.submit(out, *MORE, "--shards", "2")
    cluster.wait(lambda: _pids(out, "merge"), "a merge")
    _kill(out, "merge")
    cluster.wait(lambda: not cluster.queue(), "an empty queue")
    assert not (out / "run.json").exists()
    assert "submitted the merge" in cluster.submit(out, *MORE)
    cluster.wait_for_merge(out)
    assert_same(out, whole)


def test_a_task_is_not_started_again_for_ever(cluster, out, gate):
    cluster.submit(out, *MORE, "--shards", "1", "--max-requeues", "1", gate=gate)
    for restart in range(2):
        cluster.wait(lambda r=restart: f"restart {r}," in log(out, 0), "a start")
        cluster.wait(lambda: _pids(out, "0/1"), "a process")
        _kill(out, "0/1")
    cluster.wait(lambda: look_at_shards(out, 1)[0].state == "failed", "the failure")
    assert look_at_shards(out, 1)[0].reason == "exit code 137, restart 1"


def _pids(out, word):
    """Processes of prefdata in this run folder with a word of their own: a shard, a command."""
    given, found = str(folder_options(out)[1]), []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode().split("\0")
        except OSError:
            continue
        if "prefdata" in words and given in words and word in words:
            found.append(int(file.parent.name))
    return found


def _is_of_slurm(pid):
    return Path(f"/proc/{pid}/comm").read_text().split()[0] in ("slurmd", "slurmstepd")


def _kill(out, word):
    for pid in _pids(out, word):
        os.kill(pid, 9)
