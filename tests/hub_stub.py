"""A Hub on loopback: the parts of its HTTP API that the real clients use here, and its faults.

Repositories are commits, each a tree of files, in memory. `Shell` is a process in which the real
`huggingface_hub` and `datasets` talk to it: they read HF_ENDPOINT when they are imported.
"""

import hashlib
import json
import os
import re
import secrets
import socket
import struct
import subprocess
import sys
import threading
from base64 import b64decode
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from waiting import PATIENCE

WRITE, READ, OTHER, FINE, NONE = "hf_write", "hf_read", "hf_other", "hf_fine", ""
TOKENS = {WRITE: ("user", "write"), READ: ("user", "read"), OTHER: ("other", "write"),
          FINE: ("user", "fineGrained")}  # fmt: skip
DATE = "2026-01-01T00:00:00.000Z"
LFS = (".parquet",)


class Refusal(Exception):
    def __init__(self, status, message, code=None, headers=None):
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}


@dataclass
class Fault:
    """What happens to the next requests of a kind: a status, or one of

    `reset`: the connection ends in the middle of the body, the request's or else the reply's;
    `page`: 503 and a page of HTML;
    `lost`: the request is carried out and the connection ends before the reply;
    `hang`: the body stops in its middle until `free` is set.
    """

    method: str
    path: str
    what: int | str
    times: int = 1
    headers: dict = field(default_factory=dict)
    reached: threading.Event = field(default_factory=threading.Event)
    free: threading.Event = field(default_factory=threading.Event)


@dataclass
class File:
    data: bytes
    is_lfs: bool

    @property
    def sha256(self):
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self):
        data = self.data
        if self.is_lfs:
            told = f"oid sha256:{self.sha256}\nsize {len(self.data)}\n"
            data = f"version https://git-lfs.github.com/spec/v1\n{told}".encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Commit:
    parent: str | None
    title: str
    tree: dict


@dataclass
class Repository:
    name: str
    private: bool
    commits: dict = field(default_factory=dict)
    refs: dict = field(default_factory=dict)
    requests: list = field(default_factory=list)

    def add(self, parent, title, tree):
        oid = secrets.token_hex(20)  # caches of clients know commits by it
        self.commits[oid] = Commit(parent, title, tree)
        return oid

    def find(self, revision):
        revision = unquote(revision)
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in self.refs:
                return self.refs[name]
        if revision in self.commits:
            return revision
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def log(self, revision="main"):
        oid, found = self.find(revision), []
        while oid:
            found.append(oid)
            oid = self.commits[oid].parent
        return found

    def tree(self, revision="main"):
        return self.commits[self.find(revision)].tree


class Hub:
    """The server.

    Attributes:
        faults: spent one a request, the first that fits.
        asked: (method, path) of every request.
        before_commit: called with the repository before a commit is looked at.
        spoil: makes another tree of the one that a commit is to have.
    """

    def __init__(self):
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.handle_error = lambda *about: None  # clients are killed here
        self.lock = threading.RLock()
        self.reset()
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def reset(self):
        self.repositories, self.blobs, self.faults, self.asked = {}, {}, [], []
        self.members = {"user": {"user", "org"}, "other": {"other"}}
        self.before_commit = lambda repository: None
        self.spoil = lambda tree: tree

    @property
    def address(self):
        return f"http://127.0.0.1:{self._http.server_port}"

    def close(self):
        self._http.shutdown()
        self._http.server_close()

    def make(self, name, files, *, private=True):
        """A repository with one more commit, of these files."""
        repository = self.repositories[name] = Repository(name, private)
        tree = {".gitattributes": File(b"*.parquet filter=lfs\n", False)}
        first = repository.add(None, "initial commit", tree)
        repository.refs["refs/heads/main"] = first
        if files:
            new = tree | {path: File(data, path.endswith(LFS)) for path, data in files.items()}
            repository.refs["refs/heads/main"] = repository.add(first, "by hand", new)
        return repository

    def fault(self, *args, **kwargs):
        self.faults.append(Fault(*args, **kwargs))
        return self.faults[-1]

    def count(self, method, pattern):
        return sum(m == method and re.search(pattern, p) is not None for m, p in self.asked)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a reply would wait 40 ms otherwise
    server_hub: Hub

    def log_message(self, *args):
        pass

    def handle_request(self):
        hub, address = self.server_hub, urlsplit(self.path)
        self.query = {k: v[-1] for k, v in parse_qs(address.query, keep_blank_values=True).items()}
        self.body = self.fault = None
        with hub.lock:
            hub.asked.append((self.command, self.path))
            for fault in hub.faults:
                if fault.method == self.command and re.search(fault.path, self.path):
                    fault.times -= 1
                    self.fault = fault
                    hub.faults = [other for other in hub.faults if other.times > 0]
                    break
        try:
            self._answer(address.path)
        except Refusal as refusal:
            self.read_body()
            headers = refusal.headers | {"X-Error-Message": refusal.message}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self.reply({"error": refusal.message}, refusal.status, headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def _answer(self, path):
        if self.fault and isinstance(self.fault.what, int):
            self.read_body()
            self.fault.reached.set()
            raise Refusal(self.fault.what, "told to fail", headers=self.fault.headers)
        if self.fault and self.fault.what == "page":
            self.fault, fault = None, self.fault
            fault.reached.set()
            self.reply(status=503, headers={"Content-Type": "text/html"}, data=b"<html>busy</html>")
            return
        if self.fault and self.command in ("PUT", "POST") and self.fault.what in ("reset", "hang"):
            self._break_off()
            return
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            raise Refusal(401, "Invalid credentials in Authorization header")
        self.user, self.role = TOKENS.get(token, (None, None))
        for method, pattern, route in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method.split("|"):
                route(self, **found.groupdict())
                return
        raise Refusal(404, f"no route for {self.command} {path}")

    def _break_off(self):
        """End, or hold, the connection in the middle of the request's body."""
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length // 2 if length else 1000)
        self.fault.reached.set()
        if self.fault.what == "hang":
            self.fault.free.wait(PATIENCE)
        self._cut()

    def _cut(self):
        linger = struct.pack("ii", 1, 0)  # the other side sees a reset, not an end
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()
        self.close_connection = True

    def read_body(self):
        if self.body is None:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                self.body = b"".join(parts)
            else:
                self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return self.body

    def json(self):
        return json.loads(self.read_body() or b"{}")

    def reply(self, value=None, status=200, headers=None, data=None):
        self.read_body()
        if self.fault and self.fault.what == "lost":
            self.fault.reached.set()
            self._cut()
            return
        if data is None:
            data = json.dumps({} if value is None else value).encode()
        told = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        self.send_response(status)
        for name, text in (told | (headers or {})).items():
            self.send_header(name, text)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault and self.fault.what == "reset":
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.fault.reached.set()
            self._cut()
            return
        self.wfile.write(data)

    # who may what

    def may_write(self, name):
        return self.user is not None and name.split("/")[0] in self.server_hub.members[self.user]

    def repository(self, name, *, write=False):
        found = self.server_hub.repositories.get(unquote(name))
        if found is None or (found.private and not self.may_write(name)):
            raise Refusal(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if write and (not self.may_write(name) or self.role in ("read", "fineGrained")):
            raise Refusal(403, "You don't have the rights to write here")
        return found

    # the routes

    def whoami(self):
        if not self.user:
            raise Refusal(401, "Unauthorized")
        organisations = self.server_hub.members[self.user] - {self.user}
        self.reply({
            "type": "user", "name": self.user,
            "orgs": [{"type": "org", "name": one} for one in sorted(organisations)],
            "auth": {"type": "access_token", "accessToken": {"role": self.role}},
        })  # fmt: skip

    def create(self):
        body = self.json()
        name = f"{body.get('organization') or self.user}/{body['name']}"
        if not self.may_write(name) or self.role in ("read", "fineGrained"):
            raise Refusal(403, f"You don't have the rights to create a dataset under {name}")
        with self.server_hub.lock:
            if name in self.server_hub.repositories:
                raise Refusal(409, "You already created this dataset repo")
            private = body.get("private") or body.get("visibility") == "private"
            self.server_hub.make(name, {}, private=bool(private))
        self.reply({"url": f"{self.server_hub.address}/datasets/{name}", "name": name})

    def info(self, name, revision="main"):
        found = self.repository(name)
        self.reply({
            "id": name, "author": name.split("/")[0], "sha": found.find(revision),
            "lastModified": DATE, "createdAt": DATE, "private": found.private, "gated": False,
            "disabled": False, "tags": [], "downloads": 0, "likes": 0, "cardData": {},
            "siblings": [{"rfilename": path} for path in sorted(found.tree(revision))],
        })  # fmt: skip

    def references(self, name):
        found = {"branches": [], "converts": [], "tags": [], "pullRequests": []}
        for ref, oid in self.repository(name).refs.items():
            kind = {"heads": "branches", "tags": "tags", "pr": "pullRequests"}[ref.split("/")[1]]
            found[kind].append({"name": ref.split("/", 2)[2], "ref": ref, "targetCommit": oid})
        self.reply(found)

    def commits(self, name, revision):
        self.reply([
            {"id": oid, "title": "", "message": "", "authors": [], "date": DATE}
            for oid in self.repository(name).log(revision)
        ])  # fmt: skip

    def branch(self, name, branch):
        with self.server_hub.lock:
            found, ref = self.repository(name, write=True), f"refs/heads/{unquote(branch)}"
            if ref in found.refs:
                raise Refusal(409, "Reference already exists")
            found.refs[ref] = found.find(self.json().get("startingPoint") or "main")
        self.reply()

    def tag(self, name, revision):
        with self.server_hub.lock:
            found = self.repository(name, write=True)
            if self.command == "DELETE":
                if found.refs.pop(f"refs/tags/{unquote(revision)}", None) is None:
                    raise Refusal(404, "tag not found", "RevisionNotFound")
            else:
                ref = f"refs/tags/{self.json()['tag']}"
                if ref in found.refs:
                    raise Refusal(409, "Tag already exists")
                found.refs[ref] = found.find(revision)
        self.reply()

    def listing(self, name, revision, path=""):
        found, path = self.repository(name), unquote(path or "").strip("/")
        tree, prefix = found.tree(revision), f"{path}/" if path else ""
        is_deep = self.query.get("recursive", "").lower() in ("1", "true")
        entries = {}
        for place, file in tree.items():
            if not place.startswith(prefix):
                continue
            parts = place[len(prefix) :].split("/")
            for depth in range(1, len(parts) if is_deep else min(2, len(parts))):
                folder = prefix + "/".join(parts[:depth])
                entries[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
            if is_deep or len(parts) == 1:
                entries[place] = self._entry(place, file)
        if path and not entries:
            raise Refusal(404, f"{path} does not exist", "EntryNotFound")
        self.reply(sorted(entries.values(), key=lambda one: one["path"]))

    def _entry(self, place, file):
        entry = {"type": "file", "path": place, "oid": file.oid, "size": len(file.data)}
        if file.is_lfs:
            entry["lfs"] = {"oid": file.sha256, "size": len(file.data), "pointerSize": 134}
        return entry

    def paths(self, name, revision):
        tree = self.repository(name).tree(revision)
        if "json" in (self.headers.get("Content-Type") or ""):
            wanted = self.json()["paths"]
        else:
            wanted = parse_qs(self.read_body().decode()).get("paths", [])
        self.reply([self._entry(place, tree[place]) for place in wanted if place in tree])

    def resolve(self, name, revision, path):
        found = self.repository(name)
        oid, file = found.find(revision), found.tree(revision).get(unquote(path))
        headers = {"X-Repo-Commit": oid}
        if file is None:
            raise Refusal(404, "Entry not found", "EntryNotFound", headers)
        tag = f'"{file.sha256 if file.is_lfs else file.oid}"'
        headers |= {"ETag": tag, "Accept-Ranges": "bytes", "Content-Type": "application/x-binary"}
        if file.is_lfs:
            headers |= {"X-Linked-Etag": tag, "X-Linked-Size": str(len(file.data))}
        start, end, status = 0, len(file.data), 200
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if wanted and file.data:
            start = int(wanted[1]) if wanted[1] else max(0, end - int(wanted[2]))
            end = min(end, int(wanted[2]) + 1) if wanted[1] and wanted[2] else end
            if start >= end:
                raise Refusal(416, "no such range", headers={"Content-Range": f"bytes */{end}"})
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(file.data)}"
        if self.command == "HEAD":
            headers["Content-Length"] = str(end - start)
        self.reply(status=status, headers=headers, data=file.data[start:end])

    def preupload(self, name, revision):
        found = self.repository(name, write=self.query.get("create_pr") != "1")
        tree, answers = found.tree(revision), []
        for file in self.json()["files"]:
            known = tree.get(file["path"])
            mode = "lfs" if file["path"].endswith(LFS) else "regular"
            answer = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            if known:
                answer["oid"] = known.sha256 if known.is_lfs else known.oid
            answers.append(answer)
        self.reply({"files": answers, "commitOid": found.find(revision)})

    def lfs_batch(self, name):
        self.repository(name)
        objects = []
        for wanted in self.json()["objects"]:
            one = {"oid": wanted["oid"], "size": wanted["size"], "authenticated": True}
            if wanted["oid"] not in self.server_hub.blobs:
                href = f"{self.server_hub.address}/_lfs/{wanted['oid']}"
                one["actions"] = {"upload": {"href": href, "header": {}},
                                  "verify": {"href": href + "/verify", "header": {}}}  # fmt: skip
            objects.append(one)
        told = {"Content-Type": "application/vnd.git-lfs+json"}
        self.reply({"transfer": "basic", "objects": objects, "hash_algo": "sha256"}, headers=told)

    def lfs_put(self, oid):
        data = self.read_body()
        if hashlib.sha256(data).hexdigest() != oid:
            raise Refusal(400, "sha256 mismatch")
        self.server_hub.blobs[oid] = data
        self.reply()

    def lfs_verify(self, oid):
        if oid not in self.server_hub.blobs:
            raise Refusal(404, "no such object")
        self.reply()

    def check_yaml(self):
        metadata = yaml.safe_load(self.json()["content"].split("---\n")[1])
        if metadata.get("license", "mit") not in ("mit", "apache-2.0", "cc-by-4.0"):
            errors = [{"message": '"license" must be one of [apache-2.0, mit, …]'}]
            self.reply({"errors": errors, "warnings": []}, status=400)
        else:
            self.reply({"errors": [], "warnings": []})

    def commit(self, name, revision):
        lines = [json.loads(line) for line in self.read_body().splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        revision, is_request = unquote(revision), self.query.get("create_pr") == "1"
        found = self.repository(name, write=not is_request)
        self.server_hub.before_commit(found)
        with self.server_hub.lock:
            head = found.find(revision)
            ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
            if ref not in found.refs:
                raise Refusal(400, "can only commit to a branch")
            parent = header.get("parentCommit")
            if not is_request and parent and parent != head:
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            tree = self.server_hub.spoil(self._changed(found.commits[head].tree, lines))
            oid = found.add(head, header["summary"], tree)
            made = {"success": True, "commitOid": oid, "hookOutput": ""}
            made["commitUrl"] = f"{self.server_hub.address}/datasets/{name}/commit/{oid}"
            if is_request:
                found.requests.append(SimpleNamespace(title=header["summary"], status="open"))
                number = len(found.requests)
                ref = f"refs/pr/{number}"
                made["pullRequestUrl"] = (
                    f"{self.server_hub.address}/datasets/{name}/discussions/{number}"
                )
            found.refs[ref] = oid
        self.reply(made)

    def _changed(self, tree, lines):
        tree = dict(tree)
        for line in lines:
            if line["key"] == "deletedFile" and tree.pop(line["value"]["path"], None) is None:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = File(b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.server_hub.blobs:
                    raise Refusal(
                        400, f"LFS pointer to a file that does not exist: {value['path']}"
                    )
                tree[value["path"]] = File(self.server_hub.blobs[value["oid"]], True)
        return tree

    def discussions(self, name):
        found = self.repository(name)
        listed = [
            {
                "num": number, "title": one.title, "status": one.status, "isPullRequest": True,
                "createdAt": DATE, "author": {"name": "user"},
                "repo": {"name": name, "type": "dataset"},
            }
            for number, one in enumerate(found.requests, start=1)
            if self.query.get("status") in (None, one.status)
        ]  # fmt: skip
        self.reply({"discussions": listed, "count": len(listed), "start": 0})


NAME = r"/api/datasets/(?P<name>[^/]+/[^/]+)"
REVISION = r"(?P<revision>[^/]+)"
ROUTES = [
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.check_yaml),
    ("GET", NAME, _Handler.info),
    ("GET", f"{NAME}/revision/{REVISION}", _Handler.info),
    ("GET", f"{NAME}/refs", _Handler.references),
    ("GET", f"{NAME}/commits/{REVISION}", _Handler.commits),
    ("GET", f"{NAME}/discussions", _Handler.discussions),
    ("POST", f"{NAME}/branch/(?P<branch>[^/]+)", _Handler.branch),
    ("POST|DELETE", f"{NAME}/tag/{REVISION}", _Handler.tag),
    ("GET", f"{NAME}/tree/{REVISION}(?:/(?P<path>.*))?", _Handler.listing),
    ("POST", f"{NAME}/paths-info/{REVISION}", _Handler.paths),
    ("POST", f"{NAME}/preupload/{REVISION}", _Handler.preupload),
    ("POST", f"{NAME}/commit/{REVISION}", _Handler.commit),
    ("POST", r"/datasets/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/_lfs/(?P<oid>[0-9a-f]{64})", _Handler.lfs_put),
    ("POST", r"/_lfs/(?P<oid>[0-9a-f]{64})/verify", _Handler.lfs_verify),
    ("GET|HEAD", rf"/datasets/(?P<name>[^/]+/[^/]+)/resolve/{REVISION}/(?P<path>.+)",
     _Handler.resolve),
]  # fmt: skip

DRIVER = """
import contextlib, io, json, os, sys, traceback
from typer.testing import CliRunner
from prefdata.cli import app
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    asked = json.loads(line)
    for name, value in asked["env"].items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
    answer = {}
    if "args" in asked:
        os.chdir(asked["folder"])
        done = CliRunner().invoke(app, asked["args"])
        answer = {"code": done.exit_code, "out": done.stdout, "err": done.stderr}
        if done.exception and not isinstance(done.exception, SystemExit):
            answer["err"] += "".join(traceback.format_exception(done.exception))
    else:
        scope = {}
        try:
            exec(asked["python"], scope)
            answer = {"value": scope.get("value")}
        except Exception as err:
            answer = {"error": f"{type(err).__name__}: {err}"}
    print(json.dumps(answer), file=out, flush=True)
"""


class Shell:
    """A process whose Hub is the stub: commands of prefdata, and Python with the real clients."""

    def __init__(self, hub, home):
        self._environment = environment(hub, home)
        self._process = subprocess.Popen(
            [sys.executable, "-c", DRIVER], env=self._environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.folder, self.environment = home, {}

    def run(self, *args, token=WRITE):
        """Exit code, output and errors of a command."""
        return SimpleNamespace(**self._ask(token, args=[str(a) for a in args]))

    def value(self, code, token=WRITE):
        """What Python code leaves in `value`."""
        answer = self._ask(token, python=code)
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def _ask(self, token, **asked):
        env = {"HF_TOKEN": token or None} | self.environment
        line = asked | {"env": env, "folder": str(self.folder)}
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def environment(hub, home):
    """Variables of a process that has this Hub and no other, and a home of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    return kept | {
        "HF_ENDPOINT": hub.address, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "COLUMNS": "200",
    }  # fmt: skip
