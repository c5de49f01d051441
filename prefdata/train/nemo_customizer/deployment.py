"""The deployment of a trained model: made once, watched until it is ready. Knows no file."""

from prefdata.errors import PrefdataError
from prefdata.train.nemo_customizer.payloads import (
    Body,
    Plan,
    deployment_body,
    deployment_config_body,
)
from prefdata.train.nemo_customizer.platform import Answer, Platform
from prefdata.train.nemo_customizer.record import now
from prefdata.train.nemo_customizer.watch import (
    CONFLICT,
    Failure,
    Work,
    create_once,
    if_there,
    wait_for,
)

READY = "ready"
BROKEN = ("failed", "error", "cancelled", "canceled")


def deploy_model(work: Work, plan: Plan) -> bool:
    """Deploy the job's model and wait until it is ready; whether it is.

    Raises:
        PrefdataError: there is no model, the deployment failed, or time is up.
    """
    job = work.record.job
    if not job.get("output_model"):
        raise PrefdataError(
            f"job {job['name']} ({job['id']}) names no output model, so there is none to deploy; "
            "set output_model (namespace/name@version), or deploy_on_completion=false"
        )
    config = deployment_config_body(plan, job["name"], job["output_model"])
    _create(work, config, deployment_body(plan, config))
    return wait_for(
        lambda: _look(work),
        f"deployment {work.record.deployment['name']}",
        work,
        limit="deployment_timeout_seconds",
        state=lambda: work.record.deployment.get("status", "not there"),
    )


def _create(work: Work, config: Body, body: Body) -> None:
    platform, record = work.platform, work.record
    known, names = record.deployment, {key: body[key] for key in ("name", "namespace", "config")}
    is_meant = {key: known.get(key) for key in names} == names
    if is_meant and known.get("created_at"):
        return
    found = _find(platform, body) if is_meant else None
    if not is_meant:
        record.start("deployment", **names)
    if found is None:
        _create_config(work, config)
        create_once(lambda: platform.create_deployment(body), lambda: _find(platform, body), work)
    record.note("deployment", created_at=now())
    work.say(
        f"deployment {body['name']}: {'created' if found is None else 'found, created before'}"
    )


def _create_config(work: Work, config: Body) -> None:
    try:
        work.platform.create_deployment_config(config)
    except Failure as err:
        if err.status != CONFLICT:  # its name holds its content
            raise
        work.say(f"deployment config {config['name']}: existed already ({err.status})")


def _find(platform: Platform, body: Body) -> Answer | None:
    """The deployment of this name, if it is there and of this config."""
    there = if_there(lambda: platform.deployment(body["namespace"], body["name"]))
    if there is None:
        return None
    config = there.get("config")
    if isinstance(config, dict):
        config = f"{config.get('namespace')}/{config.get('name')}"
    if config != body["config"]:
        raise PrefdataError(
            f"deployment {body['name']} exists with config {config}, but {body['config']} is "
            "wanted; choose another deployment.deployment_name, or delete that deployment"
        )
    return there


def _look(work: Work) -> bool:
    """Whether the deployment is ready."""
    platform, record, known = work.platform, work.record, work.record.deployment
    there = if_there(lambda: platform.deployment(known["namespace"], known["name"]))
    if there is None:  # a new one does not show at once
        return False
    details = there.get("status_details") or {}
    state = str(details.get("status")).lower()
    if state != known.get("status"):
        work.say(f"deployment {known['name']}: {state}")
    ready = {"ready_at": now()} if state == READY else {}
    facts = {key: there[key] for key in ("url", "models") if there.get(key)}
    record.note("deployment", status=state, **facts, **ready)
    if state in BROKEN:
        said = platform.cut(str(details.get("description") or "the platform does not say why"))
        raise PrefdataError(
            f"deployment {known['name']} is {state}: {said}; fix the cause and run the same "
            "command again: it checks this deployment again. Another deployment.deployment_name "
            "makes a new one"
        )
    return state == READY
