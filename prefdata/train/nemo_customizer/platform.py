"""The platform: each request that it gets, and what its errors mean. Knows no train.json.

Alone in importing the SDK, and imported only when something is to be sent.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from json import JSONDecodeError
from typing import Any
from urllib.parse import urlencode

from nemo_microservices import (
    APIConnectionError,
    APIError,
    APIStatusError,
    BaseModel,
    NeMoMicroservices,
)

from prefdata.train.nemo_customizer.payloads import Body
from prefdata.train.nemo_customizer.settings import CustomizerSettings
from prefdata.train.nemo_customizer.watch import Failure

Answer = dict[str, Any]
LONGEST = 400
"""Characters of a server's message that are repeated."""
PAGE = 100
REFUSED = (401, 403)


class Platform:
    """Both hosts of one platform. Every method raises Failure."""

    def __init__(self, settings: CustomizerSettings, token: str | None) -> None:
        self.settings, self.token = settings, token
        headers = {"Authorization": f"Bearer {token}"} if token else None
        self._entity = NeMoMicroservices(base_url=settings.entity_host, default_headers=headers)
        self._store = NeMoMicroservices(base_url=settings.datastore_host, default_headers=headers)
        # what must not be done twice is not sent twice, nor are looks that are repeated anyway
        self._once = self._entity.with_options(max_retries=0)

    def close(self) -> None:
        """Close the connections."""
        self._entity.close()
        self._store.close()

    def create_namespace(self, body: Body) -> Answer:
        """409 where it is there."""
        return self._ask("create the namespace", self._entity.namespaces.create, **body)

    def create_store_namespace(self, name: str) -> Answer:
        """409 or 422 where it is there."""
        form = urlencode({"namespace": name}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        with self.errors("create the namespace", "datastore_host"):
            self._store.post(
                "/v1/datastore/namespaces", cast_to=str, body=form, options={"headers": headers}
            )
        return {"id": name}

    def create_dataset(self, body: Body) -> Answer:
        """409 where it is there."""
        return self._ask("create the dataset entity", self._entity.datasets.create, **body)

    def create_job(self, body: Body) -> Answer:
        """Sent once: a failure does not say that no job was made."""
        return self._ask("submit the job", self._once.customization.jobs.create, **body)

    def jobs(self) -> Iterator[Answer]:
        """All jobs, the newest first."""
        seen: set[str] = set()
        for number in count(1):
            jobs = self._entity.customization.jobs
            page = self._ask(
                "list the jobs", jobs.list, page=number, page_size=PAGE, sort="-created_at"
            )
            fresh = [job for job in page.get("data") or () if job.get("id") not in seen]
            yield from fresh
            seen.update(str(job.get("id")) for job in fresh)
            last = (page.get("pagination") or {}).get("total_pages")
            if not fresh or (last is not None and number >= last):
                return

    def job(self, job_id: str) -> Answer:
        """The job, with its output model."""
        return self._ask("read the job", self._entity.customization.jobs.retrieve, job_id=job_id)

    def job_status(self, job_id: str) -> Answer:
        """Sent once: whoever waits looks again."""
        return self._ask("look at the job", self._once.customization.jobs.status, job_id=job_id)

    def cancel_job(self, job_id: str) -> Answer:
        """Cancel it; the job as it is then."""
        return self._ask("cancel the job", self._entity.customization.jobs.cancel, job_id=job_id)

    def create_deployment_config(self, body: Body) -> Answer:
        """409 where it is there."""
        configs = self._entity.deployment.configs
        return self._ask("create the deployment's config", configs.create, **body)

    def create_deployment(self, body: Body) -> Answer:
        """Sent once: a failure does not say that no deployment was made."""
        deployments = self._once.deployment.model_deployments
        return self._ask("create the deployment", deployments.create, **body)

    def deployment(self, namespace: str, name: str) -> Answer:
        """404 where there is none; sent once."""
        deployments = self._once.deployment.model_deployments
        return self._ask(
            "look at the deployment", deployments.retrieve, namespace=namespace,
            deployment_name=name,
        )  # fmt: skip

    def _ask(self, doing: str, call: Callable[..., Any], /, **body: Any) -> Answer:
        with self.errors(doing, "entity_host"):
            answer = call(**body)
        if not isinstance(answer, BaseModel):
            raise self.unreadable(doing, "entity_host", repr(answer))
        return answer.to_dict(mode="json", warnings=False)

    @contextmanager
    def errors(self, doing: str, host: str) -> Iterator[None]:
        """Turn the SDK's errors into failures.

        `doing`: what was meant to happen, as in "asked to …".
        """
        try:
            yield
        except APIStatusError as err:
            raise self.refusal(doing, host, err.status_code, _message(err)) from err
        except APIConnectionError as err:
            raise self.silence(doing, host, str(err.__cause__ or err)) from err
        except (APIError, JSONDecodeError) as err:
            raise self.unreadable(doing, host, str(err)) from err

    def refusal(self, doing: str, host: str, status: int, said: str) -> Failure:
        """An answer that says no."""
        remedy = "the same command continues from here"
        if status in REFUSED:
            remedy = self._about_token()
        elif status < 500 and status not in (408, 429):
            remedy = "fix what it names; the same command then continues from here"
        return Failure(
            f"{self._address(host)}, asked to {doing}, returned {status}: {self.cut(said)}; "
            f"{remedy}", status,
        )  # fmt: skip

    def silence(self, doing: str, host: str, cause: str) -> Failure:
        """No answer."""
        return Failure(
            f"{self._address(host)} cannot be reached to {doing} ({self.cut(cause)}); check "
            "the address and that the service runs; the same command then continues from here",
            None,
        )

    def cut(self, text: str) -> str:
        """A server's words on one short line, without the token, which it may repeat."""
        text = " ".join(text.split())
        if self.token:
            text = text.replace(self.token, "***")
        return text if len(text) <= LONGEST else text[:LONGEST] + "…"

    def unreadable(self, doing: str, host: str, said: str) -> Failure:
        """An answer that is none of this platform's."""
        return Failure(
            f"{self._address(host)}, asked to {doing}, returned an answer that cannot be read: "
            f"{self.cut(said)}; check that it is the address of NeMo Microservices and not of a "
            "login page", None,
        )  # fmt: skip

    def _about_token(self) -> str:
        name = self.settings.token
        if name is None:
            return "no token was sent; name the environment variable that holds one with 'token'"
        if self.token is None:
            return f"no token was sent, because {name} is not set; export it"
        return f"see that {name} holds a token for this platform"

    def _address(self, host: str) -> str:
        return f"{host} {getattr(self.settings, host)}"


def _message(err: APIStatusError) -> str:
    body = err.body
    for key in ("detail", "message", "error"):
        if isinstance(body, dict) and body.get(key):
            return str(body[key])
    return str(body or err)
