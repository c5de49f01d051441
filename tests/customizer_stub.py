"""NeMo Microservices on loopback: entity store, data store, customizer, deployments, and faults.

What is sent is held against the SDK's own parameter types; answers are made of its own models, so
they have no field that the service's own description lacks (a job, say, has no name).
"""

import base64
import hashlib
import json
import re
import socket
import threading
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from nemo_microservices.types import Dataset, DeploymentConfig, Namespace
from nemo_microservices.types.customization import (
    CustomizationJob,
    CustomizationStatusDetails,
    JobCreateParams,
)
from nemo_microservices.types.dataset_create_params import DatasetCreateParams
from nemo_microservices.types.deployment import ModelDeployment
from nemo_microservices.types.deployment.config_create_params import ConfigCreateParams
from nemo_microservices.types.deployment.model_deployment_create_params import (
    ModelDeploymentCreateParams,
)
from nemo_microservices.types.namespace_create_params import NamespaceCreateParams
from nemo_microservices.types.shared import PaginationData
from pydantic import TypeAdapter, ValidationError
from waiting import PATIENCE

EARLY = "2026-01-01T00:00:00Z"
HUB = "/v1/hf"
R = r"(?P<repo>[^/]+/[^/]+?)"


class Refusal(Exception):
    def __init__(self, status, detail):
        self.status, self.detail = status, detail


class Platform:
    """All services on one port.

    Attributes:
        asked: (method, path, headers, body) of every request.
        faults: (what, regex, times) spent on the first requests whose "METHOD path" matches. What
            is a status; "drop": the connection is closed; "accept, drop" or "accept, 504": after
            the request has had its effect; "accept, hang": likewise, and no answer comes; "page".
        names_models: whether a job that has completed names a model that nobody has named.
        course: states of every job, one a look, the last one for ever.
        deployment_course: likewise of every deployment.
        unique_names: whether a second job of one name is refused.
    """

    def __init__(self):
        self.asked, self.faults = [], []
        self.course = ["created", "pending", {"status": "running", "percentage_done": 50}]
        self.course.append({"status": "completed", "percentage_done": 100})
        self.deployment_course = ["pending", "ready"]
        self.token = self.upload_mode = None
        self.unique_names, self.names_models, self.configs = True, True, ["meta/tiny@v1+A100"]
        self.namespaces, self.store_namespaces = {}, set()
        self.repos, self.commits, self.blobs = {}, [], {}
        self.datasets, self.jobs, self.deployment_configs, self.deployments = {}, [], {}, {}
        self.hanging = threading.Event()
        self._lock = threading.RLock()
        platform = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_any(self):
                platform.handle(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_any

            def log_message(self, *args):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self._http.server_port}"

    def close(self):
        self._http.shutdown()
        self._http.server_close()

    def fail(self, what, match, times=1):
        self.faults.append([what, match, times])

    def requests(self, match):
        return [one for one in self.asked if re.search(match, f"{one[0]} {one[1]}")]

    def sent(self, match):
        """Bodies of the requests that match, as JSON."""
        return [json.loads(body) for _, _, _, body in self.requests(match)]

    def handle(self, request):
        body = _read(request)
        with self._lock:
            self.asked.append((request.command, request.path, dict(request.headers), body))
            fault = self._fault(f"{request.command} {request.path}")
        if fault == "drop":
            return _drop(request)
        if isinstance(fault, int):
            said = f"told to fail, {request.headers.get('Authorization')}"
            return _send(request, fault, {"detail": said})
        if fault == "page":
            return _send(request, 200, "<html>welcome</html>", "text/html")
        try:
            with self._lock:
                status, answer = self._answer(request, body)
        except Refusal as err:
            status, answer = err.status, {"detail": err.detail, "error": err.detail}
        if fault == "accept, drop":
            return _drop(request)
        if fault == "accept, 504":
            return _send(request, 504, {"detail": "no answer in time"})
        if fault == "accept, hang":
            self.hanging.set()
            threading.Event().wait(PATIENCE)
            return _drop(request)
        return _send(request, status, answer)

    def _fault(self, line):
        for fault in self.faults:
            if fault[2] and re.search(fault[1], line):
                fault[2] -= 1
                return fault[0]
        return None

    def _answer(self, request, body):
        given = request.headers.get("Authorization")
        if self.token and given != f"Bearer {self.token}" and "/_lfs/" not in request.path:
            raise Refusal(401, f"who is {given}?")
        place = urlsplit(request.path)
        for method, path, answer in ROUTES:
            match = re.fullmatch(path, place.path)
            if match and method == request.command:
                return answer(self, body, **match.groupdict(), **_query(place.query))
        raise Refusal(404, f"no route for {request.command} {request.path}")

    # entity store and data store

    def add_namespace(self, body):
        given = _params(NamespaceCreateParams, body)
        if given["id"] in self.namespaces:
            raise Refusal(409, "the namespace exists")
        self.namespaces[given["id"]] = given
        return 201, _model(Namespace, given)

    def add_store_namespace(self, body):
        (name,) = parse_qs(body.decode())["namespace"]
        if name in self.store_namespaces:
            raise Refusal(409, "the namespace exists")
        self.store_namespaces.add(name)
        return 201, {"namespace": name}

    def add_dataset(self, body):
        given = _params(DatasetCreateParams, body)
        key = given["namespace"], given["name"]
        if key in self.datasets:
            raise Refusal(409, "the dataset exists")
        self.datasets[key] = given
        return 200, _model(Dataset, {"id": f"dataset-{len(self.datasets)}", **given})

    # the Hub's API

    def add_repo(self, body):
        given = json.loads(body)
        repo = f"{given['organization']}/{given['name']}"
        if given["organization"] not in self.store_namespaces:
            raise Refusal(404, "no such namespace")
        if repo in self.repos:
            raise Refusal(409, "you already created this repository")
        self.repos[repo] = {}
        return 200, {"url": f"{self.address}{HUB}/datasets/{repo}"}

    def preupload(self, body, repo):
        self._repo(repo)
        mode = self.upload_mode or "regular"
        files = [one["path"] for one in json.loads(body)["files"]]
        return 200, {
            "files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p in files]
        }

    def commit(self, body, repo):
        tree, lines = self._repo(repo), [json.loads(line) for line in body.splitlines()]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                tree[value["path"]] = self.blobs[value["oid"]]
        oid = hashlib.sha1(body).hexdigest()
        self.commits.append((repo, oid))
        return 200, {"commitUrl": f"https://huggingface.co/datasets/{repo}/commit/{oid}",
                     "commitOid": oid}  # fmt: skip

    def lfs_batch(self, body, repo):
        self._repo(repo)
        objects = [
            {**one, "actions": {
                "upload": {"href": f"{self.address}/_lfs/{one['oid']}", "header": {}},
                "verify": {"href": f"{self.address}/_lfs/{one['oid']}/verify", "header": {}},
            }}
            for one in json.loads(body)["objects"]
        ]  # fmt: skip
        return 200, {"transfer": "basic", "objects": objects}

    def lfs_put(self, body, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self.blobs[oid] = body
        return 200, {}

    def lfs_verify(self, body, oid):
        return (200 if oid in self.blobs else 404), {}

    def _repo(self, repo):
        if repo not in self.repos:
            raise Refusal(404, "no such repository")
        return self.repos[repo]

    # customizer

    def add_job(self, body):
        given = _params(JobCreateParams, body)
        if given["config"] not in self.configs:
            raise Refusal(404, f"customization config {given['config']} not found")
        dataset = given["dataset"]["namespace"], given["dataset"]["name"]
        if dataset not in self.datasets or not self.repos.get("/".join(dataset)):
            raise Refusal(404, "no such dataset")
        if self.unique_names and given["name"] in (job["name"] for job in self.jobs):
            raise Refusal(409, "a job of this name exists")
        job = {**given, "id": f"cust-{len(self.jobs) + 1}", "looks": 0, "course": [*self.course]}
        self.jobs.append(job)
        return 200, self._job(job)

    def list_jobs(self, body, page="1", page_size="10", sort=""):
        jobs = self.jobs[::-1] if sort == "-created_at" else self.jobs
        page, size = int(page), int(page_size)
        part = jobs[(page - 1) * size : page * size]
        pages = PaginationData(
            current_page_size=len(part), page=page, page_size=size,
            total_pages=-(-len(jobs) // size), total_results=len(jobs),
        )  # fmt: skip
        return 200, {"data": [self._job(j) for j in part], "pagination": pages.to_dict()}

    def read_job(self, body, job):
        return 200, self._job(self._known(job))

    def job_status(self, body, job):
        job = self._known(job)
        state = _state(job)
        job["looks"] += 1
        return 200, _model(CustomizationStatusDetails, state | {"created_at": EARLY, "updated_at": EARLY})  # fmt: skip  # noqa: E501

    def cancel_job(self, body, job):
        job = self._known(job)
        if _state(job)["status"] in ("completed", "failed", "cancelled"):
            raise Refusal(409, "the job is over")
        job["course"], job["looks"] = ["cancelling", "cancelled"], 0
        return 200, self._job(job)

    def _job(self, job):
        known = {k: v for k, v in job.items() if k not in ("name", "looks", "course")}
        status = _state(job)["status"]
        if self.names_models and status == "completed":
            known.setdefault("output_model", f"{job['namespace']}/tiny-{job['id']}")
        return _model(CustomizationJob, known | {"status": status})

    def _known(self, job_id):
        for job in self.jobs:
            if job["id"] == job_id:
                return job
        raise Refusal(404, "no such job")

    # deployments

    def add_deployment_config(self, body):
        given = _params(ConfigCreateParams, body)
        key = given["namespace"], given["name"]
        if key in self.deployment_configs:
            raise Refusal(409, "the config exists")
        self.deployment_configs[key] = given
        return 200, _model(DeploymentConfig, given)

    def add_deployment(self, body):
        given = _params(ModelDeploymentCreateParams, body)
        key = given["namespace"], given["name"]
        if tuple(given["config"].split("/")) not in self.deployment_configs:
            raise Refusal(404, "no such config")
        if key in self.deployments:
            raise Refusal(409, "the deployment exists")
        self.deployments[key] = {**given, "looks": 0, "course": self.deployment_course}
        return 200, self._deployment(self.deployments[key])

    def read_deployment(self, body, namespace, name):
        there = self.deployments.get((namespace, name))
        if there is None:
            raise Refusal(404, "no such deployment")
        answer = self._deployment(there)
        there["looks"] += 1
        return 200, answer

    def _deployment(self, there):
        known = {k: v for k, v in there.items() if k not in ("looks", "course")}
        details = {"status_details": _state(there), "url": "http://nim.example:8000"}
        return _model(ModelDeployment, known | details)


def _state(thing):
    state = thing["course"][min(thing["looks"], len(thing["course"]) - 1)]
    return {"status": state} if isinstance(state, str) else state


@cache
def _adapter(kind):
    return TypeAdapter(kind)


def _params(kind, body):
    """A body, if the SDK's type has all its fields with values of their types."""
    given = json.loads(body)
    try:
        known = _adapter(kind).validate_json(body)
    except ValidationError as err:
        raise Refusal(422, str(err)) from err
    if known != given:
        raise Refusal(422, f"{kind.__name__} has not all of {given}")
    return given


def _model(kind, values):
    assert not values.keys() - kind.model_fields.keys()
    return kind.model_validate(values).to_dict(mode="json")


def _query(text):
    return {name: values[-1] for name, values in parse_qs(text).items()}


def _read(request):
    if request.headers.get("Transfer-Encoding", "").lower() == "chunked":
        parts = []
        while size := int(request.rfile.readline().split(b";")[0], 16):
            parts.append(request.rfile.read(size))
            request.rfile.readline()
        request.rfile.readline()
        return b"".join(parts)
    return request.rfile.read(int(request.headers.get("Content-Length") or 0))


def _drop(request):
    request.close_connection = True
    request.connection.shutdown(socket.SHUT_RDWR)


def _send(request, status, answer, kind="application/json"):
    data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
    request.send_response(status)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(data)))
    request.send_header("Retry-After-Ms", "10")  # the SDK waits half a second otherwise
    request.end_headers()
    request.wfile.write(data)


ROUTES = [
    ("POST", "/v1/namespaces", Platform.add_namespace),
    ("POST", "/v1/datastore/namespaces", Platform.add_store_namespace),
    ("POST", "/v1/datasets", Platform.add_dataset),
    ("POST", f"{HUB}/api/repos/create", Platform.add_repo),
    ("POST", f"{HUB}/api/datasets/{R}/preupload/main", Platform.preupload),
    ("POST", f"{HUB}/api/datasets/{R}/commit/main", Platform.commit),
    ("POST", rf"{HUB}/datasets/{R}\.git/info/lfs/objects/batch", Platform.lfs_batch),
    ("PUT", "/_lfs/(?P<oid>[0-9a-f]+)", Platform.lfs_put),
    ("POST", "/_lfs/(?P<oid>[0-9a-f]+)/verify", Platform.lfs_verify),
    ("POST", "/v1/customization/jobs", Platform.add_job),
    ("GET", "/v1/customization/jobs", Platform.list_jobs),
    ("GET", "/v1/customization/jobs/(?P<job>[^/]+)", Platform.read_job),
    ("GET", "/v1/customization/jobs/(?P<job>[^/]+)/status", Platform.job_status),
    ("POST", "/v1/customization/jobs/(?P<job>[^/]+)/cancel", Platform.cancel_job),
    ("POST", "/v1/deployment/configs", Platform.add_deployment_config),
    ("POST", "/v1/deployment/model-deployments", Platform.add_deployment),
    ("GET", "/v1/deployment/model-deployments/(?P<namespace>[^/]+)/(?P<name>[^/]+)",
     Platform.read_deployment),
]  # fmt: skip
