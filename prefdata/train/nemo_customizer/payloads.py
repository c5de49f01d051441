"""What is sent to NeMo Customizer, and under which names. Pure: knows no network and no SDK."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefdata.errors import PrefdataError
from prefdata.fingerprint import digest
from prefdata.train.nemo_customizer.settings import CustomizerSettings, Deployment, Hyperparameters

Body = dict[str, Any]
FORMAT = 1
"""Raised when the same settings come to mean another job."""

NOT_IDENTITY = {
    "description": "a text for people",
    "create_namespace_if_missing": "done before there is a job",
    "use_full_message_history": "shows in the files, which are hashed",
    "token": "who asks, not what is asked",
    "wait": "how the job is watched",
    "poll_interval_seconds": "how the job is watched",
    "timeout_seconds": "how the job is watched",
    "max_consecutive_status_failures": "how the job is watched",
    "deploy_on_completion": "what becomes of the model",
    "deployment": "what becomes of the model; the deployment's own name holds it",
    "deployment_timeout_seconds": "how the deployment is watched",
}
"""Settings that may change while a job runs, each with the reason."""


@dataclass(frozen=True)
class TrainingFiles:
    """The files to train on, whole and on the disk."""

    train: Path
    validation: Path


@dataclass(frozen=True)
class Upload:
    """One file of the dataset."""

    path_in_repo: str
    file: Path
    size: int
    sha256: str


@dataclass(frozen=True)
class Plan:
    """One training: all that is known of it before the first request.

    Attributes:
        fingerprint: of the files and of every setting outside of NOT_IDENTITY.
    """

    settings: CustomizerSettings
    uploads: tuple[Upload, ...]
    content: str
    fingerprint: str

    @property
    def dataset(self) -> str:
        """The dataset's name inside the namespace."""
        return self.settings.dataset_name or f"prefdata-{self.content[:16]}"

    @property
    def repo_id(self) -> str:
        """The dataset's repository in the data store."""
        return f"{self.settings.namespace}/{self.dataset}"

    def job_name(self, attempt: int) -> str:
        """Equal for equal files and settings; attempts count from 1."""
        name = self.settings.job_name or f"prefdata-{self.fingerprint[:16]}"
        return name if attempt == 1 else f"{name}-{attempt}"


def plan_training(files: TrainingFiles, settings: CustomizerSettings) -> Plan:
    """Hash the files and name everything.

    Raises:
        PrefdataError: a file is empty.
    """
    uploads = (
        _upload("training/training_file.jsonl", files.train),
        _upload("validation/validation_file.jsonl", files.validation),
    )
    content = digest([(one.path_in_repo, one.sha256) for one in uploads])
    identity = settings.model_dump(exclude={*NOT_IDENTITY, "hyperparameters"})
    fingerprint = digest(FORMAT, content, identity, _hyperparameters(settings.hyperparameters))
    return Plan(settings, uploads, content, fingerprint)


def _upload(path_in_repo: str, file: Path) -> Upload:
    size = file.stat().st_size
    if not size:
        raise PrefdataError(
            f"{file}: it has no rows, and the service needs some; build more pairs, or give a "
            "larger test_size where it is the validation file"
        )
    with file.open("rb") as opened:
        return Upload(path_in_repo, file, size, hashlib.file_digest(opened, "sha256").hexdigest())


def namespace_body(settings: CustomizerSettings) -> Body:
    """Of `POST /v1/namespaces`."""
    return {"id": settings.namespace}


def dataset_body(plan: Plan) -> Body:
    """Of `POST /v1/datasets`."""
    return {
        "name": plan.dataset,
        "namespace": plan.settings.namespace,
        "files_url": f"hf://datasets/{plan.repo_id}",
        "description": plan.settings.description,
    }


def job_body(plan: Plan, name: str) -> Body:
    """Of `POST /v1/customization/jobs`.

    The custom fields are what a job is known by later: a job that is read back has no name.
    """
    settings = plan.settings
    body = {
        "name": name,
        "namespace": settings.namespace,
        "description": settings.description,
        "config": settings.customization_config,
        "dataset": {"name": plan.dataset, "namespace": settings.namespace},
        "hyperparameters": _hyperparameters(settings.hyperparameters),
        "custom_fields": job_mark(name, plan.fingerprint),
    }
    return body | ({"output_model": settings.output_model} if settings.output_model else {})


def job_mark(name: str, fingerprint: str) -> dict[str, str]:
    """Custom fields that no other job has."""
    return {"prefdata_job": name, "prefdata_fingerprint": fingerprint}


def _hyperparameters(given: Hyperparameters) -> Body:
    body = given.model_dump(mode="json", exclude_none=True)
    if given.training_type != "dpo":
        del body["dpo"]
    if given.finetuning_type != "lora" or not body["lora"]:
        del body["lora"]
    return body


def deployment_config_body(plan: Plan, job: str, model: str) -> Body:
    """Of `POST /v1/deployment/configs`; equal names mean equal content."""
    deployment = _deployment(plan)
    nim = deployment.model_dump(exclude={"deployment_name", "description"}, exclude_none=True)
    return {
        "name": f"{deployment.deployment_name or job}-{digest(model, nim, size=4)}",
        "namespace": plan.settings.namespace,
        "description": deployment.description,
        "model": model,
        "nim_deployment": nim,
    }


def deployment_body(plan: Plan, config: Body) -> Body:
    """Of `POST /v1/deployment/model-deployments`, given the body of its config."""
    deployment = _deployment(plan)
    return {
        "name": deployment.deployment_name or config["name"],
        "namespace": config["namespace"],
        "description": deployment.description,
        "config": f"{config['namespace']}/{config['name']}",
    }


def _deployment(plan: Plan) -> Deployment:
    if plan.settings.deployment is None:
        raise AssertionError("the settings' validator asks for it")
    return plan.settings.deployment


def describe(plan: Plan) -> list[str]:
    """Every request in its order, as `--dry-run` prints it."""
    settings = plan.settings
    entity, store = settings.entity_host, settings.datastore_host
    parts = []
    if settings.create_namespace_if_missing:
        parts += [
            _request(f"{entity}/v1/namespaces", namespace_body(settings)),
            f"POST {store}/v1/datastore/namespaces\nnamespace={settings.namespace}",
        ]
    files = [
        f"{one.path_in_repo} <- {one.file} ({one.size:,} bytes, sha256 {one.sha256})"
        for one in plan.uploads
    ]
    job = job_body(plan, plan.job_name(1))
    parts += [
        "\n".join([f"commit to {store}/v1/hf/datasets/{plan.repo_id}", *files]),
        _request(f"{entity}/v1/datasets", dataset_body(plan)),
        _request(f"{entity}/v1/customization/jobs", job),
    ]
    if settings.deploy_on_completion:
        model = settings.output_model or "<the job's output model>"
        config = deployment_config_body(plan, job["name"], model)
        parts += [
            _request(f"{entity}/v1/deployment/configs", config),
            _request(f"{entity}/v1/deployment/model-deployments", deployment_body(plan, config)),
        ]
    return parts


def _request(address: str, body: Body) -> str:
    return f"POST {address}\n{json.dumps(body, indent=2, ensure_ascii=False)}"
