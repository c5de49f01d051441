"""The array's batch script, with stand-ins for Slurm and the task: what it makes of each end."""

import os
import signal
import subprocess

import pytest
from waiting import PATIENCE, wait_until

from prefdata.cluster.slurm_scripts import Cluster, write_scripts


class Task:
    """One task of an array of two; `run` plays an attempt whose command is some lines of shell."""

    def __init__(self, folder):
        self.folder, self.out = folder, folder / "out"
        self.shard = self.out / "shards" / "00001-of-00002"
        self.scontrol("echo JobId=70 JobState=RUNNING Reason=None Requeue=1 Restarts=$RESTARTS X=1")

    def scontrol(self, show):
        """Let `scontrol show job` do this; requeues are noted."""
        (self.folder / "bin").mkdir(exist_ok=True)
        program = self.folder / "bin" / "scontrol"
        program.write_text(
            f'#!/bin/bash\nif [ "$1" = show ]; then {show}\n'
            f'else echo "$2" >> {self.folder}/queue; fi\n'
        )
        program.chmod(0o755)

    def start(self, command, *, restarts=0, max_requeues=2):
        scripts = write_scripts(
            ["recipe"], self.out, Cluster(1, 0, 2, max_requeues=max_requeues), [1]
        )
        text = scripts.array.read_text()
        start = text.index("\n", text.index("GPUs ${CUDA")) + 1
        line = next(line for line in text[start:].splitlines() if " -m prefdata build " in line)
        (self.folder / "stub").write_text(command)
        script = text.replace(line, f"bash {self.folder}/stub \\")
        environment = {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "RESTARTS": str(restarts),
            "SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_ID": "72",
            "SLURM_RESTART_COUNT": str(restarts), "SHARD": str(self.shard),
        }  # fmt: skip
        return subprocess.Popen(
            ["bash", "-c", script], env=environment, stdout=subprocess.PIPE, text=True
        )

    def run(self, command, **more):
        process = self.start(command, **more)
        self.told = process.communicate(timeout=PATIENCE)[0]
        return process.returncode

    @property
    def requeued(self):
        file = self.folder / "queue"
        return file.read_text().split() if file.is_file() else []

    @property
    def failed(self):
        file = self.shard / "failed"
        return file.read_text().strip() if file.is_file() else None


@pytest.fixture
def task(tmp_path):
    return Task(tmp_path)


def test_a_task_that_ends_well_is_done(task):
    assert task.run('touch "$SHARD/shard.json"; echo "$@"') == 0
    assert "--shard 1/2 --attempt 72.0\n" in task.told
    assert task.requeued == []
    assert task.failed is None


def test_a_task_that_ends_well_but_somewhere_else_has_failed(task):
    assert task.run("exit 0") == 1
    assert task.failed.startswith("it ended well, but left no shard.json")


@pytest.mark.parametrize("code", [134, 137, 139, 143])
def test_a_task_that_is_killed_goes_back(code, task):
    assert task.run(f"exit {code}") == 0
    assert task.requeued == ["70_1"]
    assert task.failed is None


@pytest.mark.parametrize("code", [1, 2, 3])
def test_a_task_that_fails_by_itself_is_tried_once_more(code, task):
    assert task.run(f"exit {code}") == 0
    assert task.requeued == ["70_1"]
    (task.out / "slurm" / "logs" / "shard-1.log").write_text("some\nerror: no such model\n")
    assert task.run(f"exit {code}", restarts=1) == 1
    assert task.requeued == ["70_1"]
    assert task.failed == f"exit code {code}, twice: error: no such model"


def test_a_task_that_failed_once_and_then_made_its_shard_may_fail_once_more(task):
    task.run("exit 2")
    assert task.run('touch "$SHARD/shard.json"', restarts=1) == 0
    assert task.run("exit 2", restarts=1) == 0
    assert task.failed is None


@pytest.mark.parametrize("code", [126, 127])
def test_a_command_that_is_not_there_is_not_tried_again(code, task):
    assert task.run(f"exit {code}") == 1
    assert task.requeued == []
    assert f"exit code {code}: the command is not there" in task.failed


def test_restarts_have_an_end(task):
    assert task.run("exit 137", restarts=1) == 0
    assert task.run("exit 137", restarts=2) == 1
    assert task.failed == "exit code 137, restart 2"
    assert task.run("exit 0", restarts=3) == 1  # nodes that die, which only Slurm counts
    assert task.failed == "started again 3 times"
    assert task.requeued == ["70_1"]


def test_an_attempt_that_another_has_overtaken_leaves_it_alone(task):
    assert task.run("exit 130") == 1
    assert "a later attempt has taken over" in task.told
    assert task.requeued == []
    assert task.failed is None


@pytest.mark.parametrize(
    "show",
    [
        "echo JobState=CANCELLED Reason=None Restarts=0",
        "echo JobState=RUNNING Requeue=1 Restarts=1",
    ],
    ids=["cancelled", "started again"],
)
def test_what_slurm_has_ended_itself_is_not_put_back(show, task):
    task.scontrol(show)
    assert task.run("exit 137") == 137
    assert task.requeued == []
    assert task.failed is None


@pytest.mark.parametrize("sign", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize("code", [130, 2, 137])
def test_a_task_that_is_told_to_end_hears_of_it_and_goes_back(code, sign, task):
    process = task.start(
        f"trap 'touch {task.folder}/heard; exit {code}' USR1\n"
        f"touch {task.folder}/begun\nwhile :; do sleep 0.05; done"
    )
    wait_until((task.folder / "begun").exists, process)
    process.send_signal(sign)
    assert process.wait(PATIENCE) == 0
    assert (task.folder / "heard").exists()
    assert task.requeued == ["70_1"]
    assert task.failed is None


def test_a_signal_at_the_last_moment_takes_nothing_from_a_task_that_is_done(task):
    process = task.start(
        f'trap "" USR1\ntouch {task.folder}/begun\n'
        f"while [ ! -e {task.folder}/told ]; do sleep 0.05; done\n"
        'touch "$SHARD/shard.json"'
    )
    wait_until((task.folder / "begun").exists, process)
    process.send_signal(signal.SIGUSR1)
    (task.folder / "told").touch()
    assert process.wait(PATIENCE) == 0
    assert task.requeued == []
