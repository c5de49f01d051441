"""The job: submitted once, never twice; watched; cancelled. Knows no file and no deployment."""

from prefdata.errors import PrefdataError
from prefdata.train.nemo_customizer.payloads import Plan, job_body, job_mark
from prefdata.train.nemo_customizer.platform import Answer, Platform
from prefdata.train.nemo_customizer.record import COMPLETED, LOST, OVER, Facts, TrainRecord, now
from prefdata.train.nemo_customizer.watch import (
    CONFLICT,
    NOT_FOUND,
    Failure,
    Work,
    create_once,
    if_there,
    wait_for,
)

LAST_LOGS = 3
"""Status logs of a failed job that are shown."""
PROGRESS = ("percentage_done", "epochs_completed", "steps_completed", "train_loss", "val_loss")


def make_room(work: Work, plan: Plan) -> None:
    """Let the record be about this plan, unless a job of another one is unfinished.

    Raises:
        PrefdataError: it is; which, and what to do.
    """
    record = work.record
    if record.fingerprint == plan.fingerprint:
        return
    job = record.job
    if job and job.get("status") not in OVER:
        state = _state_of_other(work.platform, record)
        if state is not None and state not in OVER:
            raise PrefdataError(
                f"{record.file}: job {job['name']} ({job.get('id', 'id not known')}), of other "
                f"files or other settings, is {state}; cancel it with --cancel, wait for it with "
                "the former settings, or train elsewhere with --out DIR"
            )
        record.note("job", status=state or "gone")
    record.begin(plan)


def _state_of_other(platform: Platform, record: TrainRecord) -> str | None:
    """What the platform says of a job that has another fingerprint; None where it has none."""
    if record.data["entity_host"] != platform.settings.entity_host:
        return f"{record.job.get('status', 'meant to run')} on {record.data['entity_host']}"
    job_id = record.job.get("id") or (_find(platform, record) or {}).get("id")
    status = if_there(lambda: platform.job_status(job_id)) if job_id else None
    return None if status is None else _state(status)


def submit_job(work: Work, plan: Plan) -> None:
    """Submit the job unless it has been, with or without our knowing.

    What is meant is noted before it is sent, so that whoever comes after a kill looks among the
    platform's jobs before submitting.
    """
    record = work.record
    if record.job.get("status") in LOST:
        work.say(f"job {record.job['name']}: {record.job['status']} before; submitting a new one")
        record.forget_job()
    if record.job.get("id"):
        return
    found = _find(work.platform, record) if record.job else None
    if not record.job:
        name = plan.job_name(record.attempt)
        record.start("job", name=name, namespace=plan.settings.namespace)
    made = found or _create(work, plan)
    record.note("job", **_facts(made), submitted_at=now())
    how = "found, submitted before" if found else "submitted"
    work.say(f"job {record.job['name']} ({record.job['id']}): {how}")


def _create(work: Work, plan: Plan) -> Answer:
    platform, body = work.platform, job_body(plan, work.record.job["name"])
    try:
        return create_once(
            lambda: platform.create_job(body), lambda: _find(platform, work.record), work
        )
    except Failure as err:
        if err.status == NOT_FOUND:
            raise PrefdataError(
                f"{err}. It may know no customization_config {body['config']!r}; "
                "GET /v1/customization/configs lists those it has"
            ) from err
        if err.status == CONFLICT:
            raise PrefdataError(
                f"{err}. No job of these files and settings is there, so something else has the "
                f"name: choose another job_name (now {body['name']!r}) or output_model (now "
                f"{body.get('output_model')!r})"
            ) from err
        raise


def _find(platform: Platform, record: TrainRecord) -> Answer | None:
    """The record's job among those of the platform."""
    mark = job_mark(record.job["name"], record.fingerprint).items()
    return next(
        (j for j in platform.jobs() if mark <= (j.get("custom_fields") or {}).items()), None
    )


def _facts(job: Answer) -> Facts:
    if not job.get("id"):
        raise PrefdataError(
            "entity_host answers with a job that has no id; see that it is the address of NeMo "
            "Customizer, then run the same command again: it looks for the job first"
        )
    known = {name: job.get(name) for name in ("id", "status", "output_model")}
    return {name: value for name, value in known.items() if value is not None}


def wait_for_job(work: Work) -> bool:
    """Watch the job, or look once; whether it has completed.

    Raises:
        PrefdataError: it failed or was cancelled, or time is up, or it cannot be watched.
    """
    record = work.record
    is_over = wait_for(
        lambda: _look(work),
        f"job {record.job['name']} ({record.job['id']})",
        work,
        limit="timeout_seconds",
        state=lambda: record.job.get("status"),
        ends=", and --cancel ends the job",
    )
    if not is_over:
        return False
    if model := work.platform.job(record.job["id"]).get("output_model"):
        record.note("job", output_model=model)
    return True


def _look(work: Work) -> bool:
    """Whether the job has completed."""
    record = work.record
    job, status = record.job, _status(work.platform, record)
    state, done = _state(status), status.get("percentage_done")  # None until an epoch is done
    if (state, done) != (job.get("status"), job.get("percentage_done")):
        work.say(f"job {job['name']}: {state}{'' if done is None else f', {done:g} %'}")
    facts = {name: status[name] for name in PROGRESS if status.get(name) is not None}
    ended = {"ended_at": now()} if state in OVER else {}
    record.note("job", status=state, **facts, **ended)
    if state in LOST:
        raise _lost(work.platform, record, status)
    return state == COMPLETED


def _status(platform: Platform, record: TrainRecord) -> Answer:
    try:
        return platform.job_status(record.job["id"])
    except Failure as err:
        if err.status != NOT_FOUND:
            raise
        raise PrefdataError(
            f"{err}. The job is gone from there; move {record.file} away to submit it anew"
        ) from err


def _state(answer: Answer) -> str:
    return str(answer.get("status")).lower()


def _lost(platform: Platform, record: TrainRecord, status: Answer) -> PrefdataError:
    logs = [
        " ".join(str(log[part]) for part in ("message", "detail") if log.get(part))
        for log in (status.get("status_logs") or ())[-LAST_LOGS:]
    ]
    said = "".join(f"\n  {platform.cut(line)}" for line in logs if line)
    did = "has failed" if record.job["status"] == "failed" else "was cancelled"
    return PrefdataError(
        f"job {record.job['name']} ({record.job['id']}) {did}; the same command submits a new one"
        f"{said and '. The last lines of its log:'}{said}"
    )


def cancel_job(work: Work) -> None:
    """Cancel the record's job, also one of which only the intent is known."""
    platform, record = work.platform, work.record
    if not record.job.get("id"):
        found = _find(platform, record)
        if found is None:
            work.say(f"job {record.job['name']} was never accepted; there is nothing to cancel")
            record.forget_job()
            return
        record.note("job", **_facts(found))
    job = record.job
    try:
        state = _state(platform.cancel_job(job["id"]))
    except Failure as err:
        if err.is_passing:
            raise
        state = _state(_status(platform, record))
        if state not in OVER:
            raise
    record.note("job", status=state)
    work.say(f"job {job['name']} ({job['id']}): {state}")
