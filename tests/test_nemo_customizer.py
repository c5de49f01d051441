"""Training on NeMo Customizer: what is sent, and that whatever happens it is sent once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from customizer_stub import Platform
from forks import FORKS
from pydantic import ValidationError
from waiting import PATIENCE, wait_until

from prefdata.errors import PrefdataError
from prefdata.train.nemo_customizer.payloads import NOT_IDENTITY, TrainingFiles, plan_training
from prefdata.train.nemo_customizer.settings import CustomizerSettings, Hyperparameters
from prefdata.train.nemo_customizer.train import cancel_customizer, train_customizer

CREATE_JOB = "POST /v1/customization/jobs$"
STATUS = "GET /v1/customization/jobs/[^/]+/status"
CREATE_DEPLOYMENT = "POST /v1/deployment/model-deployments"
LOOK_AT_DEPLOYMENT = "GET /v1/deployment/model-deployments"
SECRET = "nv-0123456789-a-secret"
LOGIN = "hf_login-of-the-user"


@pytest.fixture(autouse=True)
def logged_in(monkeypatch):
    """The user is logged in on the Hub, which is nobody else's business."""
    monkeypatch.setenv("HF_TOKEN", LOGIN)
    monkeypatch.delenv("NEMO_TOKEN", raising=False)


@pytest.fixture
def platform():
    platform = Platform()
    yield platform
    platform.close()


class Time:
    """A clock that only sleeping moves, and what it may do besides."""

    def __init__(self):
        self.seconds, self.slept, self.at_sleep = 0.0, [], None

    def now(self):
        return self.seconds

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.seconds += seconds
        if self.at_sleep:
            self.at_sleep()


class Training:
    """Files, settings and a folder; `run` trains, `said` is what was said."""

    def __init__(self, folder, platform):
        self.platform, self.out, self.said, self.time = platform, folder / "run", [], Time()
        self.files = TrainingFiles(folder / "training_file.jsonl", folder / "validation_file.jsonl")
        self.files.train.write_text('{"prompt": "1+1", "chosen_response": "2"}\n' * 3)
        self.files.validation.write_text('{"prompt": "2+2", "chosen_response": "4"}\n')
        self.given = {
            "entity_host": platform.address,
            "datastore_host": platform.address,
            "namespace": "team",
            "customization_config": "meta/tiny@v1+A100",
        }

    def deploys(self, **fields):
        image = {"image_name": "nvcr.io/nim/meta/tiny"}
        self.given |= {"deploy_on_completion": True, "deployment": image | fields}
        return self

    def settings(self, **fields):
        return CustomizerSettings.model_validate(self.given | fields)

    def run(self, dry_run=False, **fields):
        return train_customizer(
            self.files, self.settings(**fields), self.out, dry_run=dry_run,
            say=self.said.append, sleep=self.time.sleep, clock=self.time.now,
        )  # fmt: skip

    def fails(self, **fields):
        with pytest.raises(PrefdataError) as caught:
            self.run(**fields)
        return str(caught.value)

    def cancel(self, **fields):
        return cancel_customizer(self.settings(**fields), self.out, say=self.said.append)

    @property
    def record(self):
        return json.loads((self.out / "train.json").read_text())

    @property
    def heard(self):
        return "\n".join(self.said)


@pytest.fixture
def training(tmp_path, platform):
    return Training(tmp_path, platform)


def test_a_training_goes_from_files_to_a_ready_deployment(training, platform):
    record = training.deploys(gpu=2).run(output_model="team/tiny-dpo@v1")

    assert record == training.record
    assert platform.repos == {
        record["dataset"]: {
            "training/training_file.jsonl": training.files.train.read_bytes(),
            "validation/validation_file.jsonl": training.files.validation.read_bytes(),
        }
    }
    assert len(platform.commits) == 1
    (dataset,) = platform.datasets.values()
    assert dataset["files_url"] == f"hf://datasets/{record['dataset']}"
    (job,) = platform.sent(CREATE_JOB)
    assert job["dataset"] == {"namespace": "team", "name": record["dataset"].split("/")[1]}
    assert job["config"] == "meta/tiny@v1+A100"
    assert job["output_model"] == "team/tiny-dpo@v1"
    assert job["hyperparameters"] == {
        "training_type": "dpo", "finetuning_type": "all_weights", "epochs": 1, "batch_size": 16,
        "learning_rate": 9e-6,
        "dpo": {"ref_policy_kl_penalty": 0.1, "preference_loss_weight": 1.0,
                "preference_average_log_probs": False, "sft_loss_weight": 0.0},
    }  # fmt: skip
    (config,) = platform.deployment_configs.values()
    assert config["model"] == "team/tiny-dpo@v1"
    assert config["nim_deployment"] == {
        "image_name": "nvcr.io/nim/meta/tiny", "image_tag": "latest", "gpu": 2,
    }  # fmt: skip
    ((_, deployment),) = platform.deployments
    assert record["deployment"]["name"] == deployment
    assert record["deployment"]["status"] == "ready"
    assert record["deployment"]["url"]
    assert record["job"]["id"] == "cust-1"
    assert record["job"]["status"] == "completed"
    assert {"namespace", "store_namespace", "upload", "dataset"} == record["steps"].keys()


def test_every_step_is_noted_before_the_next_is_taken(training, platform):
    seen = []
    answer = platform.handle

    def handle(request):
        file = training.out / "train.json"
        seen.append((request.path, json.loads(file.read_text()) if file.exists() else {}))
        answer(request)

    platform.handle = handle
    training.deploys().run()
    first = {}
    for path, record in seen:
        first.setdefault(path.split("?")[0], record)
    assert "upload" not in first["/v1/datastore/namespaces"].get("steps", {})
    assert first["/v1/datasets"]["steps"]["upload"]["commit"]
    assert first["/v1/customization/jobs"]["job"].keys() == {"name", "namespace", "meant_at"}
    assert first["/v1/customization/jobs/cust-1/status"]["job"]["id"] == "cust-1"
    assert first["/v1/deployment/configs"]["job"]["status"] == "completed"
    assert "created_at" not in first["/v1/deployment/model-deployments"]["deployment"]


def test_run_again_after_its_end_it_sends_nothing(training, platform):
    training.deploys().run()
    sent = len(platform.asked)
    training.run()
    assert len(platform.asked) == sent
    assert "nothing to do" in training.said[-1]


def test_a_finished_job_is_deployed_later_without_training_again(training, platform):
    training.run()
    assert platform.deployments == {}
    training.deploys().run()
    assert len(platform.jobs) == 1
    assert len(platform.deployments) == 1
    training.deploys(deployment_name="second").run()
    assert len(platform.jobs) == 1
    assert ("team", "second") in platform.deployments


def test_what_is_there_already_is_used_and_said(training, platform):
    training.deploys().run()
    training.out = training.out.with_name("elsewhere")
    training.said.clear()
    record = training.run()
    for what in ("entity store", "data store", "dataset team/", "deployment config"):
        (line,) = [line for line in training.said if what in line and "409" in line]
        assert "existed already" in line
    assert len(platform.jobs) == len(platform.deployments) == 1
    assert record["job"]["id"] == "cust-1"


@pytest.mark.parametrize(
    "match",
    ["POST /v1/namespaces", "POST /v1/datastore", "POST /v1/datasets", "/repos/create",
     "/preupload/", "/commit/", CREATE_JOB, STATUS, "jobs/cust-1$", "POST /v1/deployment/configs",
     CREATE_DEPLOYMENT, LOOK_AT_DEPLOYMENT],
)  # fmt: skip
@pytest.mark.parametrize("fault", [500, "drop"])
def test_a_fault_that_passes_is_survived(training, platform, match, fault):
    platform.fail(fault, match)
    record = training.deploys().run()
    assert platform.faults[0][2] == 0
    assert record["deployment"]["status"] == "ready"
    assert len(platform.jobs) == len(platform.deployments) == 1


@pytest.mark.parametrize("fault", ["accept, drop", "accept, 504"])
@pytest.mark.parametrize("unique_names", [True, False])
def test_a_submission_whose_answer_is_lost_is_not_repeated(training, platform, fault, unique_names):
    platform.unique_names = unique_names
    platform.fail(fault, CREATE_JOB)
    platform.fail(fault, CREATE_DEPLOYMENT)
    record = training.deploys().run()
    assert len(platform.jobs) == len(platform.deployments) == 1
    assert record["job"]["id"] == "cust-1"
    assert len(platform.sent(CREATE_JOB)) == 1
    assert len(platform.sent(CREATE_DEPLOYMENT)) == 1


def test_a_job_is_found_among_hundreds(training, platform):
    others = [{"id": f"other-{n}", "config": "meta/tiny@v1+A100", "dataset": "team/other",
               "hyperparameters": {"finetuning_type": "lora"}, "namespace": "team",
               "looks": 0, "course": ["completed"]} for n in range(250)]  # fmt: skip

    def others_come():
        if len(platform.jobs) == 1:
            platform.jobs += others

    platform.fail("accept, drop", CREATE_JOB)
    training.time.at_sleep = others_come
    assert training.run()["job"]["id"] == "cust-1"
    assert len(platform.requests("GET /v1/customization/jobs\\?")) == 3
    assert len(platform.jobs) == 251


def test_a_submission_that_is_refused_for_good_leaves_no_job_and_can_be_mended(training, platform):
    said = training.fails(customization_config="meta/tin@v1+A100")
    assert "404" in said
    assert "no customization_config 'meta/tin@v1+A100'" in said
    assert platform.jobs == []
    training.run()
    assert len(platform.jobs) == 1
    assert len(platform.commits) == 1, "the same data were uploaded again"


def test_a_name_that_another_job_has_is_an_error(training, platform):
    training.run(job_name="mine")
    training.out = training.out.with_name("elsewhere")
    said = training.fails(job_name="mine", hyperparameters={"epochs": 2})
    assert "choose another job_name (now 'mine')" in said
    assert len(platform.jobs) == 1


def test_a_status_without_progress_is_a_normal_one(training):
    training.run()
    lines = [line for line in training.said if line.startswith("job ")]
    assert [line.split(": ")[1] for line in lines[1:]] == [
        "pending", "running, 50 %", "completed, 100 %",
    ]  # fmt: skip


def test_looks_that_fail_in_a_row_end_the_wait_but_not_the_job(training, platform):
    platform.course = ["running"]
    platform.fail(503, STATUS, times=3)
    said = training.fails(max_consecutive_status_failures=3)
    assert "3 times in a row" in said
    assert "the same command continues" in said
    assert len(platform.requests(STATUS)) == 3
    platform.jobs[0]["course"] = ["completed"]
    assert training.run()["job"]["status"] == "completed"
    assert len(platform.jobs) == 1


def test_a_look_that_works_counts_failures_from_the_start(training, platform):
    platform.course = ["running"] * 3 + ["completed"]
    for what in (503, 503, None, 503, 503, None):
        platform.fail(what, STATUS)
    assert training.run(max_consecutive_status_failures=3)["job"]["status"] == "completed"
    assert len(platform.requests(STATUS)) == 8


def test_a_page_in_the_place_of_an_answer_is_said_to_be_one(training, platform):
    platform.fail("page", "POST /v1/namespaces")
    assert "returned an answer that cannot be read: '<html>welcome</html>'" in training.fails()


def test_the_wait_ends_by_the_clock_and_goes_on_when_run_again(training, platform):
    platform.course = ["running"]
    said = training.fails(poll_interval_seconds=40, timeout_seconds=100)
    assert training.time.slept == [40, 40, 20]
    assert "is running after 100 s (timeout_seconds)" in said
    assert "the same command waits for it again" in said
    platform.jobs[0]["course"] = ["completed"]
    training.run()
    assert len(platform.jobs) == 1


def test_time_that_looks_take_counts_too(training, platform):
    platform.course = ["running"]
    ticks = iter(range(0, 10_000, 60))
    training.time.now = lambda: next(ticks)
    training.fails(poll_interval_seconds=1, timeout_seconds=100)
    assert len(platform.requests(STATUS)) == 2


def test_a_failed_job_is_told_with_its_last_words_and_may_be_tried_again(training, platform):
    logs = [{"updated_at": "2026-01-01T00:00:00Z", "message": f"step {n}", "detail": f"line {n}"}
            for n in range(5)]  # fmt: skip
    platform.course = ["running", {"status": "failed", "status_logs": logs}]
    said = training.fails()
    assert "(cust-1) has failed" in said
    assert said.endswith("step 2 line 2\n  step 3 line 3\n  step 4 line 4")
    assert training.record["job"]["status"] == "failed"
    platform.course = ["completed"]
    record = training.run()
    assert [job["id"] for job in platform.jobs] == ["cust-1", "cust-2"]
    assert record["job"]["name"] == f"{platform.jobs[0]['name']}-2"
    assert record["earlier"][0]["job"]["id"] == "cust-1"
    assert len(platform.commits) == 1


def test_a_job_that_somebody_cancelled_is_told(training, platform):
    platform.course = ["running", "cancelling", "cancelled"]
    assert "(cust-1) was cancelled" in training.fails()


def test_a_job_that_is_gone_is_told(training, platform):
    platform.course = ["running"]
    training.time.at_sleep = platform.jobs.clear
    assert "move" in (said := training.fails()) and "train.json away" in said


def test_ctrl_c_leaves_the_job_running_and_says_how_to_go_on(training, platform):
    platform.course = ["running"]

    def interrupt():
        raise KeyboardInterrupt

    training.time.at_sleep = interrupt
    with pytest.raises(KeyboardInterrupt):
        training.run()
    assert "continues; the same command waits for it again" in training.said[-1]
    assert "--cancel" in training.said[-1]
    assert platform.jobs[0]["course"] == ["running"]


def test_without_waiting_the_command_looks_once(training, platform):
    platform.course = ["running"]
    training.deploys().run(wait=False)
    assert "continues" in training.said[-1]
    assert training.time.slept == []
    platform.jobs[0]["course"] = ["completed"]
    platform.deployment_course = ["pending"]
    training.run(wait=False)
    assert len(platform.jobs) == len(platform.deployments) == 1
    assert "the same command looks again" in training.said[-1]


def test_other_settings_do_not_replace_an_unfinished_job(training, platform):
    platform.course = ["running"]
    training.fails(timeout_seconds=1)
    said = training.fails(hyperparameters={"epochs": 9})
    assert "job " + training.record["job"]["name"] in said
    assert "is running; cancel it with --cancel" in said
    assert "--out" in said
    training.files.train.write_text("{}\n")
    assert "is running; cancel it with --cancel" in training.fails()
    assert len(platform.jobs) == 1


def test_other_settings_make_a_new_job_once_the_former_is_over(training, platform):
    platform.course = ["running"]
    training.fails(timeout_seconds=1)
    platform.jobs[0]["course"] = platform.course = ["completed"]
    record = training.run(hyperparameters={"epochs": 9})
    assert record["job"]["id"] == "cust-2"
    assert record["earlier"][0]["job"] | {"status": "completed"} == record["earlier"][0]["job"]


def test_settings_that_only_watch_may_change_while_it_runs(training, platform):
    platform.course = ["running"]
    training.fails(timeout_seconds=1)
    platform.jobs[0]["course"] = ["completed"]
    training.run(timeout_seconds=2, description="other words", max_consecutive_status_failures=1)
    assert len(platform.jobs) == 1


def test_a_running_job_is_cancelled(training, platform):
    platform.course = ["running"]
    training.fails(timeout_seconds=1)
    assert training.cancel()["job"]["status"] == "cancelling"
    assert platform.jobs[0]["course"] == ["cancelling", "cancelled"]
    assert "was cancelled" in training.fails()
    training.cancel()
    assert "nothing to cancel" in training.said[-1]


def test_a_job_that_is_over_before_it_is_cancelled_stays_as_it_is(training, platform):
    platform.course = ["running"]
    training.fails(timeout_seconds=1)
    platform.jobs[0]["course"] = ["completed"]
    assert training.cancel()["job"]["status"] == "completed"


def test_a_job_whose_id_was_never_heard_is_found_and_cancelled(training, platform):
    platform.course = ["running"]
    platform.fail("accept, drop", CREATE_JOB)
    platform.fail(503, "GET /v1/customization/jobs", times=3)
    training.fails()
    assert "id" not in training.record["job"]
    training.cancel()
    assert platform.jobs[0]["course"] == ["cancelling", "cancelled"]


def test_a_job_that_was_never_accepted_needs_no_cancelling(training, platform):
    platform.fail(400, CREATE_JOB)
    training.fails()
    assert "job" not in training.cancel()
    assert "never accepted" in training.said[-1]


def test_where_nothing_was_submitted_there_is_nothing_to_cancel(training):
    with pytest.raises(PrefdataError, match="nothing to cancel"):
        training.cancel()


def test_a_failed_deployment_is_told_and_looked_at_again(training, platform):
    platform.deployment_course = ["pending", {"status": "failed", "description": "no such image"}]
    said = training.deploys().fails()
    assert "is failed: no such image" in said
    next(iter(platform.deployments.values()))["course"] = ["ready"]
    assert training.run()["deployment"]["status"] == "ready"
    assert len(platform.jobs) == len(platform.deployments) == 1


def test_a_deployment_that_takes_too_long_is_waited_for_again(training, platform):
    platform.deployment_course = ["pending"]
    said = training.deploys().fails(deployment_timeout_seconds=60)
    assert "is pending after 60 s (deployment_timeout_seconds)" in said
    next(iter(platform.deployments.values()))["course"] = ["ready"]
    training.run()
    assert len(platform.jobs) == len(platform.deployments) == 1


def test_a_deployment_of_another_model_is_not_taken_for_ours(training, platform):
    training.deploys(deployment_name="front").run()
    training.out = training.out.with_name("elsewhere")
    said = training.fails(hyperparameters={"epochs": 2})
    assert "deployment front exists with config" in said
    assert "deployment_name" in said


def test_a_job_without_a_model_cannot_be_deployed(training, platform):
    platform.names_models = False
    assert "set output_model" in training.deploys().fails()


@pytest.mark.parametrize("mode", ["regular", "lfs"])
def test_without_a_token_none_is_sent_nor_the_users_login(training, platform, mode):
    platform.upload_mode = mode
    training.deploys().run()
    assert len(platform.asked) > 10
    for method, path, headers, _ in platform.asked:
        assert "authorization" not in {name.lower() for name in headers}, f"{method} {path}"
    assert "xet" not in " ".join(path for _, path, _, _ in platform.asked)


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_token_is_none(training, platform, monkeypatch, value):
    monkeypatch.setenv("NEMO_TOKEN", value)
    training.run(token="NEMO_TOKEN")
    assert not any("Authorization" in headers for _, _, headers, _ in platform.asked)
    assert "NEMO_TOKEN is not set; no token is sent" in training.heard


@pytest.mark.parametrize("mode", ["regular", "lfs"])
def test_a_token_is_sent_and_written_nowhere(training, platform, monkeypatch, mode):
    monkeypatch.setenv("NEMO_TOKEN", SECRET)
    platform.token, platform.upload_mode = SECRET, mode
    platform.fail(500, STATUS)
    training.deploys().run(token="NEMO_TOKEN")
    assert SECRET not in (training.out / "train.json").read_text() + training.heard
    assert "Bearer ***" in training.heard
    assert LOGIN not in str(platform.asked)


@pytest.mark.parametrize("match", ["POST /v1/namespaces", "/repos/create", "/commit/", CREATE_JOB])
@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_told_by_its_name(training, platform, monkeypatch, match, status):
    monkeypatch.setenv("NEMO_TOKEN", SECRET)
    platform.fail(status, match)
    said = training.fails(token="NEMO_TOKEN")
    assert f"returned {status}" in said
    assert "see that NEMO_TOKEN holds a token for this platform" in said
    assert SECRET not in said
    assert platform.jobs == []


def test_a_missing_token_is_told(training, platform):
    platform.token = SECRET
    assert "no token was sent; name the environment variable" in training.fails()
    assert "no token was sent, because NEMO_TOKEN is not set" in training.fails(token="NEMO_TOKEN")


@pytest.mark.parametrize("host", ["entity_host", "datastore_host"])
def test_a_host_that_is_not_there_is_told_and_everything_before_is_kept(training, platform, host):
    silent = Platform()
    silent.close()
    said = training.fails(**{host: silent.address})
    assert f"{host} {silent.address} cannot be reached" in said
    assert platform.jobs == []


def test_an_error_of_the_dataset_entity_is_not_swallowed(training, platform):
    platform.fail(422, "POST /v1/datasets")
    assert "asked to create the dataset entity, returned 422" in training.fails()
    assert platform.jobs == []


def test_an_interrupted_upload_is_repeated_and_nothing_before_it(training, platform):
    platform.fail(500, "/commit/", times=3)
    assert "asked to take the files, returned 500" in training.fails()
    assert platform.commits == []
    training.run()
    assert len(platform.commits) == 1
    assert len(platform.requests("POST /v1/namespaces")) == 1


def test_large_files_arrive_whole(training, platform):
    platform.upload_mode = "lfs"
    training.files.train.write_bytes(b'{"prompt": "x"}\n' * 100_000)
    record = training.run()
    tree = platform.repos[record["dataset"]]
    assert tree["training/training_file.jsonl"] == training.files.train.read_bytes()


def test_namespaces_are_left_alone_where_they_should_be(training, platform):
    platform.store_namespaces.add("team")
    training.run(create_namespace_if_missing=False)
    assert platform.requests("namespaces$") == []


def test_an_empty_file_is_refused_before_anything_is_sent(training, platform):
    training.files.validation.write_text("")
    assert "it has no rows" in training.fails()
    assert platform.asked == []


def test_a_dry_run_prints_what_a_run_sends_and_connects_to_nothing(training, platform):
    fields = {"output_model": "team/tiny@v1"}
    training.deploys().run(dry_run=True, **fields)
    assert platform.asked == []
    assert not training.out.exists()
    printed = training.heard.split("\n\n")
    training.run(**fields)
    sent = [one for one in platform.asked if one[0] == "POST" and "/hf/" not in one[1]]
    assert len(printed) == len(sent) + 1
    assert printed[2].startswith(f"commit to {platform.address}/v1/hf/datasets/team/prefdata-")
    for part, (method, path, _, body) in zip([*printed[:2], *printed[3:]], sent, strict=True):
        first, _, rest = part.partition("\n")
        assert first == f"{method} {platform.address}{path}"
        if "datastore" in path:
            assert rest.encode() == body
        else:
            assert json.loads(rest) == json.loads(body)


def test_sft_sends_no_dpo_block(training, platform):
    training.run(hyperparameters={"training_type": "sft", "dpo": {"sft_loss_weight": 1}})
    (job,) = platform.sent(CREATE_JOB)
    assert job["hyperparameters"]["training_type"] == "sft"
    assert "dpo" not in job["hyperparameters"]


def test_hyperparameters_without_a_value_are_not_sent(training, platform):
    training.run(hyperparameters={"finetuning_type": "lora", "seed": 0, "weight_decay": 0.01,
                                  "lora": {"adapter_dim": 8, "target_modules": ["*_proj"]}})  # fmt: skip  # noqa: E501
    (job,) = platform.sent(CREATE_JOB)
    assert job["hyperparameters"]["lora"] == {"adapter_dim": 8, "target_modules": ["*_proj"]}
    assert job["hyperparameters"]["seed"] == 0
    unset = {"max_steps", "warmup_steps", "optimizer", "val_check_interval"}
    assert not unset & job["hyperparameters"].keys()
    training.run(hyperparameters={"finetuning_type": "all_weights", "lora": {"alpha": 8}})
    assert "lora" not in platform.sent(CREATE_JOB)[1]["hyperparameters"]


def test_every_setting_names_another_job_or_is_excluded_with_a_reason(training):
    others = {
        "entity_host": "http://other", "datastore_host": "http://other", "token": "OTHER",
        "namespace": "other", "dataset_name": "other", "customization_config": "other",
        "hyperparameters": {"epochs": 2}, "output_model": "a/b", "job_name": "other",
        "create_namespace_if_missing": False, "description": "other", "wait": False,
        "use_full_message_history": False, "poll_interval_seconds": 1, "timeout_seconds": 1,
        "max_consecutive_status_failures": 1, "deploy_on_completion": True,
        "deployment": {"image_name": "x"}, "deployment_timeout_seconds": 1,
    }  # fmt: skip
    assert others.keys() == CustomizerSettings.model_fields.keys()
    training.deploys()
    del training.given["deploy_on_completion"]
    before = plan_training(training.files, training.settings()).fingerprint
    for name, value in others.items():
        after = plan_training(training.files, training.settings(**{name: value})).fingerprint
        assert (after == before) == (name in NOT_IDENTITY), name
    assert NOT_IDENTITY.keys() <= others.keys()


@pytest.mark.parametrize(
    ("fields", "about"),
    [
        ({"deploy_on_completion": True}, "image_name"),
        ({"token": SECRET}, "name of an environment variable"),
        ({"namespace": "a/b"}, "pattern"),
        ({"dataset_name": "a--b"}, "pattern"),
        ({"entity_host": "http://me:pw@host"}, "environment variable"),
        ({"hyperparameters": {"epochs": 0}}, "greater than or equal to 1"),
        ({"hyperparameters": {"learning_rate": 0}}, "greater than 0"),
        ({"hyperparameters": {"training_type": "ppo"}}, "'dpo' or 'sft'"),
        ({"hyperparameters": {"dpo": {"beta": 1}}}, "not permitted"),
        ({"poll_interval_seconds": 0}, "greater than 0"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(training, fields, about):
    with pytest.raises(ValidationError, match=about) as caught:
        training.settings(**fields)
    assert SECRET not in str(caught.value)


def test_a_record_of_another_backend_is_kept_among_the_earlier(training):
    training.out.mkdir()
    (training.out / "train.json").write_text('{"backend": "trl", "steps": 7}')
    assert training.run()["earlier"] == [{"backend": "trl", "steps": 7}]


def test_a_damaged_record_stops_before_a_second_job(training, platform):
    training.run()
    (training.out / "train.json").write_text('{"backend": "nemo_cust')
    assert "it is damaged" in training.fails()
    assert len(platform.jobs) == 1


def test_without_the_sdk_the_remedy_is_one_command(training, monkeypatch):
    for name in [n for n in sys.modules if n.startswith("prefdata.train.nemo_customizer.platform")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nemo_microservices", None)
    assert "pip install '.[nemo]'" in training.fails()
    assert "POST" in str(training.run(dry_run=True))


def test_neither_settings_nor_a_dry_run_load_anything_heavy():
    code = (
        "import sys, prefdata.train.nemo_customizer.train; "
        "import prefdata.train.nemo_customizer.settings; "
        "print({'nemo_microservices', 'httpx', 'huggingface_hub', 'torch'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def start(training, **fields):
    given = training.settings(poll_interval_seconds=0.05, **fields)
    process = FORKS.Process(target=train_customizer, args=(training.files, given, training.out))
    process.start()
    return process


def kill_when(process, condition):
    wait_until(lambda: condition() or not process.is_alive())
    assert condition(), "it ended before it had happened"
    process.kill()
    process.join()


def test_a_process_killed_while_it_waits_leaves_one_job_that_the_next_waits_for(training, platform):
    platform.course = ["running"]
    kill_when(start(training), lambda: len(platform.requests(STATUS)) > 2)
    platform.jobs[0]["course"] = ["completed"]
    assert training.run()["job"]["id"] == "cust-1"
    assert len(platform.jobs) == len(platform.commits) == 1


@pytest.mark.parametrize("unique_names", [True, False])
def test_a_process_killed_before_it_heard_of_its_job_leaves_one_that_the_next_finds(
    training, platform, unique_names
):
    platform.unique_names = unique_names
    platform.fail("accept, hang", CREATE_JOB)
    kill_when(start(training), platform.hanging.is_set)
    assert "id" not in training.record["job"]
    assert training.run()["job"]["id"] == "cust-1"
    assert len(platform.jobs) == len(platform.sent(CREATE_JOB)) == 1
    assert "found, submitted before" in training.heard


def test_a_process_killed_before_it_heard_of_its_deployment_leaves_one(training, platform):
    training.deploys()
    platform.fail("accept, hang", CREATE_DEPLOYMENT)
    kill_when(start(training), platform.hanging.is_set)
    assert training.run()["deployment"]["status"] == "ready"
    assert len(platform.jobs) == len(platform.sent(CREATE_DEPLOYMENT)) == 1


def test_a_process_killed_while_it_uploads_uploads_again(training, platform):
    platform.fail("accept, hang", "/commit/")
    kill_when(start(training), platform.hanging.is_set)
    training.run()
    assert len({oid for _, oid in platform.commits}) == 1
    assert len(platform.jobs) == 1


def test_two_processes_in_one_folder_are_one_too_many(training, platform):
    platform.course = ["running"]
    process = start(training)
    try:
        wait_until(lambda: platform.jobs or not process.is_alive())
        assert f"process {process.pid}" in training.fails()
    finally:
        process.kill()
        process.join()
    assert len(platform.jobs) == 1


def test_a_cancelled_job_ends_the_process_that_waits_for_it(training, platform):
    platform.course = ["running"]
    process = start(training)
    wait_until(lambda: len(platform.requests(STATUS)) >= 2 or not process.is_alive())
    training.cancel()
    process.join(PATIENCE)
    assert process.exitcode == 1
    assert training.record["job"]["status"] == "cancelled"


def test_every_setting_is_in_the_document():
    document = Path(ROOT / "docs" / "training.md").read_text()
    names = {*CustomizerSettings.model_fields, *Hyperparameters.model_fields}
    assert not [name for name in names if f"`{name}`" not in document]
