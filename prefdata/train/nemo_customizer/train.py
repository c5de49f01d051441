"""Training on NeMo Customizer, the whole story: upload, submit, wait, deploy.

Each step is noted in train.json before the next begins, so the same command goes on after any end.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefdata.errors import PrefdataError, Say, install_command
from prefdata.storage.disk import hold_file
from prefdata.train.nemo_customizer.payloads import (
    Plan,
    TrainingFiles,
    deployment_body,
    deployment_config_body,
    describe,
    plan_training,
)
from prefdata.train.nemo_customizer.record import (
    COMPLETED,
    OVER,
    TrainRecord,
    open_record,
    read_record,
)
from prefdata.train.nemo_customizer.settings import CustomizerSettings
from prefdata.train.nemo_customizer.watch import Clock, Work

if TYPE_CHECKING:
    from prefdata.train.nemo_customizer.platform import Platform

LOCK = ".train.lock"


def train_customizer(
    files: TrainingFiles,
    settings: CustomizerSettings,
    out: Path,
    *,
    dry_run: bool = False,
    say: Say = print,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Train on files that are on the disk; run again, go on where it ended.

    `dry_run`: print what would be sent; connect to nothing, write nothing. `sleep`: lets seconds
    pass. `clock`: tells seconds that never run back.

    Returns:
        What train.json holds.

    Raises:
        PrefdataError: the platform refuses or is not there, the job or the deployment failed, time
            is up, or an unfinished job of other files or settings is noted.
    """
    plan = plan_training(files, settings)
    if dry_run:
        parts = describe(plan)
        say("\n\n".join(parts))
        return {"fingerprint": plan.fingerprint, "dry_run": True, "requests": parts}
    with hold_file(out / LOCK):  # two processes would submit two jobs
        record = open_record(out, plan)
        if _is_done(record, plan):
            say(f"job {record.job['name']} ({record.job['id']}) has completed; nothing to do")
            return record.data
        with _platform(settings, say) as platform:
            _train(Work(platform, record, Clock(clock, sleep), say), plan)
        return record.data


def _is_done(record: TrainRecord, plan: Plan) -> bool:
    """Whether all is done that this plan asks for; the deployment may have been asked for since."""
    if record.fingerprint != plan.fingerprint or "finished_at" not in record.data:
        return False
    if not plan.settings.deploy_on_completion:
        return True
    job = record.job
    config = deployment_config_body(plan, job["name"], job.get("output_model", ""))
    wanted = deployment_body(plan, config)
    return all(record.deployment.get(key) == wanted[key] for key in ("name", "config"))


def _train(work: Work, plan: Plan) -> None:
    from prefdata.train.nemo_customizer.deployment import deploy_model
    from prefdata.train.nemo_customizer.job import make_room, submit_job, wait_for_job
    from prefdata.train.nemo_customizer.upload import prepare_dataset

    make_room(work, plan)
    if not work.record.job.get("id"):
        prepare_dataset(work, plan)
    submit_job(work, plan)
    if wait_for_job(work) and (not plan.settings.deploy_on_completion or deploy_model(work, plan)):
        work.record.finish()


def cancel_customizer(
    settings: CustomizerSettings, out: Path, *, say: Say = print
) -> dict[str, Any]:
    """Cancel the job that train.json names; a process that waits for it ends by itself.

    Raises:
        PrefdataError: no job is noted, it is on another platform, or the platform refuses.
    """
    record = read_record(out)
    if record is None or not record.job:
        raise PrefdataError(f"{out}: no job was submitted from here; there is nothing to cancel")
    if record.data["entity_host"] != settings.entity_host:
        raise PrefdataError(
            f"{record.file}: the job is on {record.data['entity_host']}, and entity_host is "
            f"{settings.entity_host}; give the settings that it was submitted with"
        )
    job = record.job
    if job.get("status") in OVER:
        did = "has completed" if job["status"] == COMPLETED else f"is {job['status']}"
        say(f"job {job['name']} ({job['id']}) {did}; there is nothing to cancel")
        return record.data
    with _platform(settings, say) as platform:
        from prefdata.train.nemo_customizer.job import cancel_job

        cancel_job(Work(platform, record, Clock(time.monotonic, time.sleep), say))
    return record.data


@contextmanager
def _platform(settings: CustomizerSettings, say: Say) -> Iterator["Platform"]:
    """The platform, with the token from the environment."""
    try:
        from prefdata.train.nemo_customizer.platform import Platform
    except ImportError as err:
        raise PrefdataError(
            "the backend nemo_customizer needs NVIDIA's SDK, which is not installed; run "
            f"{install_command('nemo')}"
        ) from err
    # a header of 'Bearer ' and nothing else is not a legal one
    token = os.environ.get(settings.token, "").strip() if settings.token else ""
    if settings.token and not token:
        say(f"{settings.token} is not set; no token is sent")
    with closing(Platform(settings, token or None)) as platform:
        yield platform
