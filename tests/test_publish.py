"""The real `huggingface_hub` and `datasets`, in a process whose Hub is the stub."""

import hashlib
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import orjson
import pyarrow.parquet as pq
import pytest
import yaml
from hub_stub import FINE, NONE, OTHER, READ, WRITE, File, Hub, Shell, environment
from runs import DIALOGUE, FIELDS, make_run
from waiting import PATIENCE, wait_until

from prefdata.errors import PrefdataError
from prefdata.storage.folders import read_rows

NAME = "user/pairs"
PAIRS = [(f"question {n}", f"a good answer to {n}", f"bad {n}") for n in range(30)]
EQUAL = ("nothing to choose", "same", "same")


@pytest.fixture(scope="module")
def server():
    server = Hub()
    yield server
    server.close()


@pytest.fixture
def hub(server):
    server.reset()
    return server


@pytest.fixture(scope="module")
def shell(server, tmp_path_factory):
    shell = Shell(server, tmp_path_factory.mktemp("home"))
    yield shell
    shell.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with 30 pairs, some in test, and a reject."""
    return make_run(tmp_path_factory.mktemp("made"), [*PAIRS, EQUAL], "test_size=0.2")


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def hashes(folder):
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name not in ("README.md", "report.html", ".prefdata.json"):
            found[str(file.relative_to(folder))] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def published(shell, *args, token=WRITE):
    done = shell.run("publish", *args, token=token)
    assert done.code == 0, done.err
    return done


def refused(shell, *args, token=WRITE):
    """The one line of a command that the user can fix."""
    done = shell.run(*args, token=token)
    assert done.code == 2, done.err
    *before, line = done.err.splitlines()
    assert line.startswith("error: ")
    assert not any(one.startswith("error: ") for one in before)
    return line


def load(shell, name, config=None, revision="main"):
    """Rows by split, as `load_dataset` gives them."""
    code = f"from datasets import load_dataset; found = load_dataset({name!r}, {config!r}, revision={revision!r})"  # noqa: E501
    return shell.value(code + "; value = {split: found[split].to_list() for split in found}")


def rows(run, config, stem=None):
    return list(read_rows(run / config, stem=stem))


# What is there afterwards


def test_a_published_run_loads_as_it_was_built(hub, shell, run):
    before = hashes(run)
    done = published(shell, run, "--repo-id", NAME)
    assert "24 train, 6 test, read back and equal" in done.out
    assert load(shell, NAME) == {s: rows(run, "pairs", s) for s in ("train", "test")}
    assert load(shell, NAME, "candidates") == {"train": rows(run, "candidates")}
    assert load(shell, NAME, "rejects") == {"train": rows(run, "rejects")}
    repository = hub.repositories[NAME]
    assert repository.private
    assert {"README.md", "run.json"} <= set(repository.tree())
    (tag,) = [ref for ref in repository.refs if ref.startswith("refs/tags/run-")]
    assert repository.refs[tag] == repository.refs["refs/heads/main"]
    assert len(repository.log()) == 2
    assert hashes(run) == before
    assert (run / "README.md").read_bytes() == repository.tree()["README.md"].data


def test_publishing_twice_changes_nothing(hub, shell, run):
    published(shell, run, "--repo-id", NAME)
    before, asked = dict(hub.repositories[NAME].refs), len(hub.asked)
    assert "nothing has changed" in published(shell, run, "--repo-id", NAME).out
    assert hub.repositories[NAME].refs == before
    assert {method for method, _ in hub.asked[asked:]} <= {"GET", "HEAD"}


def test_a_changed_run_replaces_its_rows_and_what_is_stale_goes(hub, shell, run, tmp_path):
    hub.make(NAME, {})
    published(shell, run, "--repo-id", NAME)
    first = hub.repositories[NAME].find("main")
    other = make_run(tmp_path / "other", PAIRS[:3])
    published(shell, other, "--repo-id", NAME)
    assert load(shell, NAME) == {"train": rows(other, "pairs")}
    tree = hub.repositories[NAME].tree()
    assert not any(path.startswith("rejects/") or "test-" in path for path in tree)
    assert [c["config_name"] for c in metadata(tree)["configs"]] == ["pairs", "candidates"]
    tags = {ref: oid for ref, oid in hub.repositories[NAME].refs.items() if "/tags/" in ref}
    assert first in tags.values() and len(tags) == 2
    assert len(load(shell, NAME, revision=first)["train"]) == 24


def test_a_second_version_tells_on_its_card_what_has_changed(hub, shell, run, tmp_path):
    published(shell, run, "--repo-id", NAME)
    repository = hub.repositories[NAME]
    (tag,) = [ref.split("/")[2] for ref in repository.refs if "/tags/" in ref]
    assert "## Changes" not in repository.tree()["README.md"].data.decode()
    rows = [*PAIRS[1:20], ("question 20", "a good answer to 20", "worse"), ("new", "a", "b")]
    other = make_run(tmp_path / "other", [("nothing", "same", "same"), *rows])
    published(shell, other, "--repo-id", NAME)
    card = repository.tree()["README.md"].data.decode().split("## Changes")[1].split("##")[0]
    assert f"Since [`{tag}`]" in card
    told = {"| pairs | 30 -> 21 |", "| kept | 19 |", "| … another text is rejected | 1 |"}
    assert told <= {*card.splitlines()}
    assert "nothing has changed" in published(shell, other, "--repo-id", NAME).out
    done = shell.run("diff", f"hf://datasets/{NAME}@{tag}", f"hf://datasets/{NAME}", "--json")
    assert orjson.loads(done.out)["kept"] == 19


def metadata(tree):
    return yaml.safe_load(tree["README.md"].data.decode().split("---\n")[1])


def test_files_of_others_stay(hub, shell, run):
    published(shell, run, "--repo-id", NAME)
    repository = hub.repositories[NAME]
    tree = repository.tree() | {
        "LICENSE": File(b"mine", False),
        "README.md": File(b"edited", False),
    }
    repository.refs["refs/heads/main"] = repository.add(repository.find("main"), "by hand", tree)
    published(shell, run, "--repo-id", NAME)
    assert repository.tree()["LICENSE"].data == b"mine"
    assert repository.tree()["README.md"].data == (run / "README.md").read_bytes()


def test_the_report_goes_along_and_is_made_where_it_is_missing_or_older_than_the_run(
    hub, shell, run
):
    published(shell, run, "--repo-id", NAME)
    page = hub.repositories[NAME].tree()["report.html"].data
    assert page == (run / "report.html").read_bytes()
    assert page.startswith(b"<!DOCTYPE html>")
    (run / "report.html").unlink()
    published(shell, run, "--repo-id", NAME)
    assert (run / "report.html").read_bytes().startswith(b"<!DOCTYPE html>")


def test_a_page_of_the_users_is_not_published_as_the_report(hub, shell, run):
    (run / "report.html").write_text("<html></html>")
    assert "report.html: it exists already and is not a report" in refused(
        shell, "publish", run, "--repo-id", NAME
    )
    assert (run / "report.html").read_text() == "<html></html>"


TOLD = [*DIALOGUE, {"role": "tool", "name": "add", "content": "6"}]


@pytest.mark.parametrize("prompt", [DIALOGUE, TOLD], ids=["messages", "json"])
def test_prompts_that_are_messages_come_back_as_they_are(hub, shell, tmp_path, prompt):
    run = make_run(
        tmp_path, [(prompt, "yes", "no"), ([{"role": "user", "content": "1"}], "2", "3")]
    )
    published(shell, run, "--repo-id", NAME)
    told = pq.read_table(run / "pairs").to_pylist()
    assert load(shell, NAME)["train"] == told


def test_a_branch_is_made_and_main_stays_empty(hub, shell, run):
    published(shell, run, "--repo-id", NAME, "--revision", "trial")
    repository = hub.repositories[NAME]
    assert set(repository.tree("main")) == {".gitattributes"}
    assert len(load(shell, NAME, revision="trial")["train"]) == 24
    published(shell, run, "--repo-id", NAME, "--revision", "trial")
    assert len(repository.log("trial")) == 2


def test_a_pull_request_is_opened_once_and_tagged_when_it_is_merged(hub, shell, run):
    hub.make(NAME, {"LICENSE": b"mine"})
    done = published(shell, run, "--repo-id", NAME, "--create-pr")
    repository = hub.repositories[NAME]
    assert "discussions/1" in done.out
    assert set(repository.tree("main")) == {".gitattributes", "LICENSE"}
    assert load(shell, NAME, revision="refs/pr/1")["test"] == rows(run, "pairs", "test")
    published(shell, run, "--repo-id", NAME, "--create-pr")
    assert len(repository.requests) == 1 and len(repository.log("refs/pr/1")) == 3
    assert not any("/tags/" in ref for ref in repository.refs)
    repository.requests[0].status = "merged"
    repository.refs["refs/heads/main"] = repository.refs["refs/pr/1"]
    assert "nothing has changed" in published(shell, run, "--repo-id", NAME).out
    assert repository.refs["refs/heads/main"] in [
        o for r, o in repository.refs.items() if "tags" in r
    ]
    published(shell, run, "--repo-id", NAME, "--create-pr")
    assert len(repository.requests) == 1


def test_a_tag_keeps_naming_the_same_rows_and_moves_with_other_rows(hub, shell, run, tmp_path):
    record = orjson.loads((run / "run.json").read_bytes())
    (run / "run.json").write_bytes(orjson.dumps(record | {"fingerprint": "f" * 32}))
    tag = "refs/tags/run-" + "f" * 32
    published(shell, run, "--repo-id", NAME)
    repository = hub.repositories[NAME]
    first = repository.refs[tag]
    record |= {"fingerprint": "f" * 32, "seconds": record["seconds"] | {"total": 99.0}}
    (run / "run.json").write_bytes(orjson.dumps(record))
    published(shell, run, "--repo-id", NAME)
    assert repository.refs[tag] == first != repository.find("main")
    other = make_run(tmp_path / "other", PAIRS[:5])
    record = orjson.loads((other / "run.json").read_bytes())
    (other / "run.json").write_bytes(orjson.dumps(record | {"fingerprint": "f" * 32}))
    done = published(shell, other, "--repo-id", NAME)
    assert "it is moved" in done.err
    assert repository.refs[tag] == repository.find("main")


def test_no_token_is_in_any_file(hub, shell, run):
    published(shell, run, "--repo-id", NAME)
    written = [file.read_bytes() for file in run.rglob("*") if file.is_file()]
    sent = [file.data for file in hub.repositories[NAME].tree().values()]
    assert not any(WRITE.encode() in data for data in [*written, *sent])


def test_the_token_that_hf_auth_login_has_saved_is_enough(hub, shell, run):
    saved = shell.folder / "hf" / "token"
    saved.write_text(WRITE)
    try:
        published(shell, run, "--repo-id", NAME, token=NONE)
    finally:
        saved.unlink()


# Who may see it


def test_a_dataset_is_public_only_where_that_is_said(hub, shell, run):
    published(shell, run, "--repo-id", NAME, "--public")
    assert not hub.repositories[NAME].private
    line = refused(shell, "publish", run, "--repo-id", NAME)
    assert "is public, but the recipe asks for a private one" in line
    hub.make("user/hidden", {})
    assert "stays private" in published(shell, run, "--repo-id", "user/hidden", "--public").err
    assert hub.repositories["user/hidden"].private


# Faults that pass

PASSING = {
    "rate limit": ("GET", "whoami", 429, {"Retry-After": "1"}),
    "rate limit, the Hub's own header": ("GET", "whoami", 429, {"RateLimit": '"api";r=0;t=1'}),
    "repository, 503": ("POST", "/repos/create", 503),
    "listing, reset": ("GET", "/tree/", "reset"),
    "before the upload, 500": ("POST", "/preupload/", 500),
    "card, 503": ("POST", "/validate-yaml", 503),
    "card, a page in place of an answer": ("POST", "/validate-yaml", "page"),
    "upload, 429": ("PUT", "/_lfs/", 429, {"Retry-After": "1"}),
    "upload, 500": ("PUT", "/_lfs/", 500),
    "upload, reset in the middle of a file": ("PUT", "/_lfs/", "reset"),
    "commit, 500": ("POST", "/commit/", 500),
    "commit, 412": ("POST", "/commit/", 412),
    "commit, 409": ("POST", "/commit/", 409),
    "commit, its reply is lost": ("POST", "/commit/", "lost"),
    "read back, reset in the middle of a file": ("GET", r"\.parquet", "reset"),
    "read back, 500": ("GET", r"\.parquet", 500),
    "read back, card 503": ("HEAD", r"resolve/.*README", 503),
    "tag, 502": ("POST", "/tag/", 502),
    "tag, its reply is lost": ("POST", "/tag/", "lost"),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
def test_a_fault_that_passes_leaves_one_commit_and_the_right_rows(hub, shell, run, fault):
    method, path, what, *headers = fault
    spent = hub.fault(method, path, what, headers=headers[0] if headers else {})
    published(shell, run, "--repo-id", NAME)
    assert spent.reached.is_set()
    repository = hub.repositories[NAME]
    assert len(repository.log()) == 2
    assert repository.find("main") in [
        oid for ref, oid in repository.refs.items() if "/tags/" in ref
    ]
    assert load(shell, NAME)["train"] == rows(run, "pairs", "train")


def test_the_hub_is_not_asked_before_the_time_it_names(hub, shell, run):
    hub.fault("GET", "whoami", 429, times=2, headers={"Retry-After": "1"})
    start = time.monotonic()
    done = published(shell, run, "--repo-id", NAME)
    assert time.monotonic() - start >= 2
    assert "429" in done.err and "trying again in 1 s (1 of 5)" in done.err


def test_a_commit_of_somebody_else_in_between_is_kept(hub, shell, run):
    def intrude(repository):
        hub.before_commit = lambda repository: None
        tree = repository.tree() | {"NOTES": File(b"note", False)}
        repository.refs["refs/heads/main"] = repository.add(repository.find("main"), "note", tree)

    hub.before_commit = intrude
    done = published(shell, run, "--repo-id", NAME)
    assert "412" in done.err
    assert len(hub.repositories[NAME].log()) == 3
    assert hub.repositories[NAME].tree()["NOTES"].data == b"note"
    assert load(shell, NAME)["train"] == rows(run, "pairs", "train")


# Faults that do not pass

IMPATIENT = """
from pathlib import Path
from prefdata.errors import PrefdataError
from prefdata.hub.publish import publish_run
from prefdata.hub.access import Patience
try:
    patience = Patience(tries=3, first_wait=0.05, longest_wait=5)
    publish_run(Path({run!r}), repo_id={name!r}, patience=patience, say=lambda line: None)
except PrefdataError as err:
    value = str(err)
"""


@pytest.mark.parametrize(("what", "headers", "tries", "told"), [
    (503, {}, 3, "the Hub keeps returning 503 Service Unavailable"),
    (429, {"Retry-After": "3600"}, 1, "the Hub keeps returning 429 Too Many Requests"),
    ("reset", {}, 3, "the Hub cannot be reached"),
], ids=["503", "an hour's wait", "no connection"])  # fmt: skip
def test_patience_has_an_end(hub, shell, run, what, headers, tries, told):
    before = hashes(run)
    hub.fault("GET", "whoami", what, times=99, headers=headers)
    line = shell.value(IMPATIENT.format(run=str(run), name=NAME))
    assert line.startswith(f"publish: {NAME}: {told}")
    assert "\n" not in line
    assert hub.count("GET", "whoami") == tries
    assert hashes(run) == before


REFUSED = {
    "no token": (NONE, NAME, "there is no Hub token on this machine; run `hf auth login`"),
    "an unknown token": ("hf_wrong", NAME, "the Hub does not accept this token"),
    "a token that may only read": (READ, NAME, "the Hub token of 'user' is read-only"),
    "a token without rights there": (FINE, NAME, "the token has no permission to write there"),
    "somebody else's name": (OTHER, NAME, "the token has no permission to write there"),
    "an owner that is none": (WRITE, "nobody/pairs", "the token has no permission to write there"),
    "a name that is taken": (WRITE, "user/taken", "user/taken is taken: it holds 'weights.csv'"),
    "a name of somebody's private dataset": (OTHER, "user/taken", "no permission to write there"),
    "no name": (WRITE, "pairs", "'pairs' is not a valid dataset name; write owner/name"),
}


@pytest.mark.parametrize(("token", "name", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_a_refusal_is_one_line_and_the_run_stays_whole(hub, shell, run, token, name, told):
    hub.make("user/taken", {"weights.csv": b"1"})
    before = hashes(run)
    assert told in refused(shell, "publish", run, "--repo-id", name, token=token)
    assert hashes(run) == before
    assert set(hub.repositories) == {"user/taken"}
    assert len(hub.repositories["user/taken"].log()) == 2


def test_offline_mode_is_one_line(hub, run, tmp_path):
    words = [sys.executable, "-m", "prefdata", "publish", str(run), "--repo-id", NAME]
    told = environment(hub, tmp_path) | {"HF_TOKEN": WRITE, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, env=told, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    why = "HF_HUB_OFFLINE is set, so the Hub cannot be used; unset it"
    assert done.stderr == f"error: publish: {NAME}: {why}\n"
    assert not hub.asked


@pytest.mark.parametrize("status", [401, 403])
def test_rights_lost_in_the_middle_are_one_line_too(hub, shell, run, status):
    hub.fault("POST", "/commit/", status)
    before = hashes(run)
    line = refused(shell, "publish", run, "--repo-id", NAME)
    assert ("does not accept this token" if status == 401 else "no permission") in line
    assert hashes(run) == before
    published(shell, run, "--repo-id", NAME)
    assert load(shell, NAME)["train"] == rows(run, "pairs", "train")


def fewer_rows(file):
    table = pq.read_table(io.BytesIO(file.data))
    return as_file(table.slice(1))


def rows_in_another_order(file):
    table = pq.read_table(io.BytesIO(file.data))
    return as_file(table.take([1, 0, *range(2, table.num_rows)]))


def as_file(table):
    out = io.BytesIO()
    pq.write_table(table, out)
    return File(out.getvalue(), True)


SPOILED = {
    "fewer rows": (fewer_rows, "pairs/train, loaded back, has 23 rows instead of 24"),
    "another order": (rows_in_another_order, "pairs/train, loaded back, has other rows"),
    "a file cut short": (lambda file: File(file.data[:-500], True), "cannot be loaded back"),
    "no file": (lambda file: None, "cannot be loaded back"),
}


@pytest.mark.parametrize(("spoil", "told"), SPOILED.values(), ids=SPOILED.keys())
def test_rows_that_come_back_otherwise_are_an_error_and_get_no_tag(hub, shell, run, spoil, told):
    def changed(tree):
        (name,) = [path for path in tree if path.startswith("pairs/train")]
        return {k: v for k, v in (tree | {name: spoil(tree[name])}).items() if v is not None}

    hub.spoil = changed
    assert told in refused(shell, "publish", run, "--repo-id", NAME)
    assert not any("/tags/" in ref for ref in hub.repositories[NAME].refs)
    hub.spoil = lambda tree: tree
    published(shell, run, "--repo-id", NAME)
    assert load(shell, NAME)["train"] == rows(run, "pairs", "train")


def test_a_folder_of_the_same_name_is_not_what_is_read_back(hub, shell, run):
    here = shell.folder / NAME
    here.mkdir(parents=True)
    (here / "rows.jsonl").write_text('{"x": 1}')
    try:
        published(shell, run, "--repo-id", NAME)
    finally:
        shutil.rmtree(here.parent)


def test_after_kill_9_in_the_middle_of_a_file_only_what_is_missing_is_sent(
    hub, shell, run, tmp_path
):
    stuck = hub.fault("PUT", "/_lfs/", "hang")
    words = [sys.executable, "-m", "prefdata", "publish", str(run), "--repo-id", NAME]
    told = environment(hub, tmp_path) | {"HF_TOKEN": WRITE}
    with subprocess.Popen(
        words, env=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert stuck.reached.wait(PATIENCE)
        sizes = 4  # pairs/train, pairs/test, candidates, rejects
        wait_until(lambda: len(hub.blobs) >= sizes - 1, process)
        os.kill(process.pid, signal.SIGKILL)
    stuck.free.set()
    assert len(hub.repositories[NAME].log()) == 1
    before = hub.count("PUT", "/_lfs/")
    assert before == sizes
    published(shell, run, "--repo-id", NAME)
    assert hub.count("PUT", "/_lfs/") == before + 1
    assert len(hub.repositories[NAME].log()) == 2
    assert load(shell, NAME)["train"] == rows(run, "pairs", "train")


# What is not published


def test_a_run_without_pairs_is_not_published(hub, shell, tmp_path):
    run = make_run(tmp_path, [EQUAL])
    assert "no pairs to train on" in refused(shell, "publish", run, "--repo-id", NAME)


def test_a_run_that_names_no_place_asks_for_one(hub, shell, run):
    assert "--repo-id owner/name" in refused(shell, "publish", run)


def test_a_damaged_file_is_not_published(hub, shell, run):
    (file,) = (run / "pairs").glob("train-*")
    file.write_bytes(file.read_bytes()[:-100])
    assert "is not as run.json" in refused(shell, "publish", run, "--repo-id", NAME)
    assert hub.count("POST", "/commit/") == 0


# The recipe's own `publish`, and recipes from the Hub


@pytest.fixture
def recipe(tmp_path):
    """A recipe that needs no model: scored candidates as seeds."""
    make_run(tmp_path / "given", PAIRS)
    shutil.copy(tmp_path / "given" / "scored.jsonl", tmp_path / "scored.jsonl")
    told = {
        "output_dir": str(tmp_path / "built"),
        "output_path": str(tmp_path / "built.jsonl"),
        "seed_dataset": {"path": "scored.jsonl", "candidates": FIELDS.model_dump(exclude_none=True)
                         | {"group_by": ["turn"]}},
        "columns": [],
        "output_projection": {"type": "preference_pairs", "candidates": "candidates",
                              "score": "score", "strategy": "best_vs_worst", "test_size": 0.2},
        "publish": {"repo_id": "org/built", "license": "cc-by-4.0", "languages": "en"},
    }  # fmt: skip
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(told))
    return file


@pytest.mark.parametrize(("settings", "told"), [
    ({"repo_id": "pairs"}, "publish.repo_id: 'pairs' is not a valid dataset name"),
    ({"repo_id": "a/b", "configs": ["candidates"]}, "publish.configs: 'pairs' is missing"),
    ({"repo_id": "a/b", "configs": ["pair"]}, "did you mean 'pairs'?"),
    ({"repo_id": "a/b", "licence": "mit"}, "did you mean 'license'?"),
    ({"private": False}, "publish.repo_id: this key is missing"),
])  # fmt: skip
def test_a_wrong_setting_is_one_line(project, settings, told):
    project.recipe["publish"] = settings
    with pytest.raises(PrefdataError) as caught:
        project.load()
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_build_publishes_at_its_end_and_again_changes_nothing(hub, shell, recipe):
    done = shell.run("build", recipe)
    assert done.code == 0, done.err
    repository = hub.repositories["org/built"]
    assert metadata(repository.tree())["license"] == "cc-by-4.0"
    assert load(shell, "org/built")["test"] == rows(recipe.parent / "built", "pairs", "test")
    before = dict(repository.refs)
    again = shell.run("build", recipe)
    assert again.code == 0, again.err
    assert "nothing to do" in again.err and "nothing has changed" in again.out
    assert repository.refs == before


def test_a_recipe_that_learns_where_to_publish_publishes_what_is_finished(hub, shell, recipe):
    told = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({k: v for k, v in told.items() if k != "publish"}))
    assert shell.run("build", recipe).code == 0
    assert not hub.repositories
    recipe.write_text(yaml.safe_dump(told))
    assert shell.run("build", recipe, "--no-publish").code == 0
    assert not hub.repositories
    published(shell, recipe.parent / "built")
    assert "org/built" in hub.repositories


@pytest.mark.parametrize("flags", [["--no-publish"], ["--rehearse"], ["--preview"]], ids=str)
def test_nothing_is_published_by(hub, shell, recipe, flags):
    assert shell.run("build", recipe, *flags, token=NONE).code == 0
    assert not hub.asked


def test_a_rehearsal_is_not_published(hub, shell, recipe):
    assert shell.run("build", recipe, "--rehearse").code == 0
    assert "rehearsal" in refused(shell, "publish", recipe.parent / "built-rehearsal")


def test_a_card_that_the_hub_refuses_is_one_line(hub, shell, recipe):
    line = refused(shell, "build", recipe, "publish.license=mine")
    assert 'Invalid metadata in README.md.; "license" must be one of' in line
    assert shell.run("build", recipe).code == 0
    assert metadata(hub.repositories["org/built"].tree())["license"] == "cc-by-4.0"


def test_build_looks_for_the_token_before_the_work(hub, shell, recipe):
    line = refused(shell, "build", recipe, token=NONE)
    assert "there is no Hub token" in line and "--no-publish" in line
    assert not (recipe.parent / "built").exists()


def test_a_build_whose_publication_fails_is_whole(hub, shell, recipe):
    hub.fault("POST", "/commit/", 403)
    line = refused(shell, "build", recipe)
    assert f"run `prefdata publish {recipe.parent / 'built'}` to try again" in line
    published(shell, recipe.parent / "built")
    assert "org/built" in hub.repositories


def test_nothing_of_the_machine_is_in_what_is_published(hub, shell, recipe):
    assert shell.run("build", recipe).code == 0
    folder = str(recipe.parent).encode()
    for path, file in hub.repositories["org/built"].tree().items():
        assert folder not in file.data, path
    told = yaml.safe_load(hub.repositories["org/built"].tree()["recipe.yaml"].data)
    assert (told["output_dir"], told["output_path"]) == ("built", "built.jsonl")
    assert "publish" not in told


def test_a_checkpoint_named_by_a_path_of_this_machine_is_told(hub, shell, project):
    project.recipe["models"][0]["model"] = "/data/lm"
    done = shell.run("build", project.write(), "--rehearse", "--out", project.folder / "run")
    assert done.code == 0, done.err
    run = project.folder / "run-rehearsal"
    record = orjson.loads((run / "run.json").read_bytes()) | {"rehearsed": False}
    (run / "run.json").write_bytes(orjson.dumps(record))
    done = published(shell, run, "--repo-id", NAME)
    assert "the rows name /data/lm as this machine does" in done.err
    tree = hub.repositories[NAME].tree()
    assert not any(
        b"/data/lm" in tree[name].data for name in ("README.md", "recipe.yaml", "run.json")
    )
    assert load(shell, NAME, "candidates")["train"] == rows(run, "candidates")


def test_the_command_on_the_card_builds_the_same_rows(hub, shell, recipe):
    assert shell.run("build", recipe).code == 0
    card = (recipe.parent / "built" / "README.md").read_text()
    (line,) = [line for line in card.splitlines() if line.startswith("prefdata build hf://")]
    shutil.copy(recipe.parent / "scored.jsonl", shell.folder)
    asked = len(hub.asked)
    done = shell.run(*shlex.split(line)[1:], "--out", shell.folder / "again")
    assert done.code == 0, done.err
    assert rows(shell.folder / "again", "pairs") == rows(recipe.parent / "built", "pairs")
    assert {method for method, _ in hub.asked[asked:]} <= {"GET", "HEAD"}
    (shell.folder / "scored.jsonl").unlink()
    words = [word for word in shlex.split(line)[1:] if not word.startswith("seed_dataset")]
    error = refused(shell, *words)
    assert "'scored.jsonl' was a file of the author's machine" in error
    assert "seed_dataset.path=" in error


MODEL = {
    "alias": "m",
    "model": "org/m",
    "inference_parameters": {"temperature": 1, "max_tokens": 9},
}
TEXT = {"name": "text", "type": "llm_text", "model_alias": "m", "prompt": "{{ prompt }}"}


class Escaped(str):
    """An interpolation whose sign of the dollar is an escape in YAML."""


yaml.SafeDumper.add_representer(
    Escaped, lambda dumper, text: dumper.represent_scalar("!escaped", f"{{{text}}}", style='"')
)


def as_yaml(recipe):
    return yaml.safe_dump(recipe, width=10**6).replace('!escaped "', '"\\x24').encode()


DANGEROUS = {
    "a function": (
        {"columns": [{"name": "right", "type": "verifier", "method": "function",
                      "function": "os:system", "candidates": "candidates"}]},
        "may call no Python function",
    ),
    "code of a model": (
        {"models": [MODEL | {"trust_remote_code": True}], "columns": [TEXT]},
        "--trust-remote-code allows it",
    ),
    "a server": (
        {"models": [MODEL | {"provider": "there"}], "columns": [TEXT],
         "providers": [{"name": "there", "endpoint": "https://there.example/v1",
                        "api_key": "HF_TOKEN"}]},
        "prompts would be sent to https://there.example/v1 with the key in $HF_TOKEN",
    ),
    "a variable": ({"inputs": {"x": "${oc.env:HF_TOKEN}"}}, "inputs.x: it holds '${…}'"),
    "a variable whose sign is escaped in YAML": (
        {"inputs": {"x": Escaped("oc.env:HF_TOKEN")}}, "inputs.x: it holds '${…}'",
    ),
    "a variable behind two backslashes": (
        {"inputs": {"x": "\\\\${oc.env:HF_TOKEN}"}}, "inputs.x: it holds '${…}'",
    ),
    "a variable inside of another": (
        {"inputs": {"x": "${oc.decode:${oc.env:HF_TOKEN}}"}}, "inputs.x: it holds '${…}'",
    ),
    "a variable in the pairs' rules": (
        {"output_projection": {"type": "preference_pairs", "strategy": "best_vs_worst",
                               "candidates": "candidates", "score": "${oc.env:HF_TOKEN}"}},
        "output_projection.score: it holds '${…}'",
    ),
    "a model's folder": (
        {"models": [MODEL | {"model": "/data/lm"}], "columns": [TEXT]},
        "to decide that yourself, add models.0.model=",
    ),
    "a model in the user's home": (
        {"models": [MODEL | {"model": "~/lm"}], "columns": [TEXT]},
        "would be read on this machine",
    ),
    "a model above": (
        {"models": [MODEL | {"model": "../lm"}], "columns": [TEXT]}, "is not the id of a model",
    ),
    "a model in the current folder": (
        {"models": [MODEL | {"model": "here/lm"}], "columns": [TEXT]},
        "'here/lm' would be read on this machine",
    ),
    "a template's file": (
        {"models": [MODEL | {"chat_template": "/etc/hostname"}], "columns": [TEXT]},
        "models.0.chat_template: it names a file of this machine",
    ),
    "an adapter's folder": (
        {"models": [MODEL | {"adapter": "here/lm"}], "columns": [TEXT]},
        "models.0.adapter: 'here/lm' would be read on this machine",
    ),
    "a revision that is a path": (
        {"models": [MODEL | {"revision": "../../../etc/hostname"}], "columns": [TEXT]},
        "models.0.revision: '../../../etc/hostname' is not a branch",
    ),
    "another tokenizer's folder": (
        {"models": [MODEL | {"engine": {"hf_config_path": "/data/lm"}}], "columns": [TEXT]},
        "add models.0.engine.hf_config_path=",
    ),
    "code by way of the engine": (
        {"models": [MODEL | {"engine": {"worker_cls": "evil.Worker"}}], "columns": [TEXT]},
        "add models.0.engine.worker_cls=",
    ),
    "a file as a plain option": (
        {"models": [MODEL | {"engine": {"dtype": "/etc/hostname"}}], "columns": [TEXT]},
        "add models.0.engine.dtype=",
    ),
    "the user's own server": (
        {"models": [MODEL | {"provider": "mine"}], "columns": [TEXT]},
        "prompts would be sent to your server 'mine'",
    ),
    "known preferences of this machine": (
        {"models": [MODEL], "columns": [
            {"name": "rated", "type": "rubric_judge", "model_alias": "m", "criteria": {"good": "?"},
             "candidates": "candidates", "scale": [1, 5], "gold": {"path": "/etc/hostname"}}]},
        "columns.0.gold.path: '/etc/hostname' would be read on this machine",
    ),
    "a benchmark of this machine": (
        {"columns": [{"name": "new", "type": "filter", "column": "prompt", "decontaminate": {
            "against": [{"path": "here/lm", "column": "text"}]}}]},
        "columns.0.decontaminate.against.0.path: 'here/lm' would be read on this machine",
    ),
    "a file of this machine": (
        {"models": [MODEL], "columns": [{k: v for k, v in TEXT.items() if k != "prompt"}
                                        | {"prompt_file": "/etc/hostname"}]},
        "it names a file of this machine",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "told"), DANGEROUS.values(), ids=DANGEROUS.keys())
def test_a_recipe_from_the_hub_may_not_reach_for(hub, shell, recipe, change, told):
    text = yaml.safe_load(recipe.read_text()) | change
    hub.make("user/bad", {"recipe.yaml": as_yaml(text)})
    (shell.folder / "here" / "lm").mkdir(parents=True, exist_ok=True)
    shell.environment["MINE_BASE_URL"] = "https://mine.example/v1"
    seeds = f"seed_dataset.path={recipe.parent / 'scored.jsonl'}"
    line = refused(shell, "plan", "hf://datasets/user/bad/recipe.yaml", seeds)
    assert told in line


OF_THIS_MACHINE = (
    "scored.jsonl", "./scored.jsonl", "/etc/hostname", "~/x.jsonl", "../x.jsonl", "*.jsonl", "here",
    "https://there.example/x",
)  # fmt: skip


@pytest.mark.parametrize("path", OF_THIS_MACHINE)
def test_a_recipe_from_the_hub_reads_no_seeds_of_this_machine(hub, shell, recipe, path):
    text = yaml.safe_load(recipe.read_text())
    text["seed_dataset"]["path"] = path
    hub.make("user/seeds", {"recipe.yaml": as_yaml(text)})
    shutil.copy(recipe.parent / "scored.jsonl", shell.folder)
    (shell.folder / "here").mkdir(exist_ok=True)
    shutil.copy(recipe.parent / "scored.jsonl", shell.folder / "here")
    line = refused(shell, "plan", "hf://datasets/user/seeds/recipe.yaml")
    assert "seed_dataset.path=" in line
    done = shell.run("plan", "hf://datasets/user/seeds/recipe.yaml", "seed_dataset.path=here")
    assert done.code == 0, done.err


def test_a_recipe_from_the_hub_writes_where_the_user_says(hub, shell, recipe):
    bashrc, profile = shell.folder / "bashrc", shell.folder / "profile"
    text = yaml.safe_load(recipe.read_text()) | {
        "output_dir": str(bashrc), "output_path": str(profile),
    }  # fmt: skip
    hub.make("user/pairs", {"recipe.yaml": as_yaml(text)})
    words = ["build", "hf://datasets/user/pairs/recipe.yaml"]
    seeds = f"seed_dataset.path={recipe.parent / 'scored.jsonl'}"
    for more, folder in (([], "pairs"), (["--out", "mine"], "mine")):
        done = shell.run(*words, seeds, *more)
        assert done.code == 0, done.err
        assert (shell.folder / folder / "run.json").is_file()
    assert not bashrc.exists() and not profile.exists()
    assert "user/pairs" in hub.repositories and "org/built" not in hub.repositories
    done = shell.run(*words, seeds, "--out", "mine", "output_path=mine.jsonl")
    assert done.code == 0, done.err
    assert not profile.exists()


def test_what_was_asked_for_is_given_by_a_flag_or_an_override(hub, shell, recipe):
    text = yaml.safe_load(recipe.read_text()) | DANGEROUS["code of a model"][0]
    hub.make("user/code", {"recipe.yaml": yaml.safe_dump(text).encode()})
    words = [
        "hf://datasets/user/code/recipe.yaml",
        f"seed_dataset.path={recipe.parent / 'scored.jsonl'}",
    ]
    done = shell.run(
        "build", *words, "--trust-remote-code", "--rehearse", "--out", shell.folder / "c"
    )
    assert done.code == 0, done.err
    text = yaml.safe_load(recipe.read_text()) | DANGEROUS["a server"][0]
    hub.make("user/server", {"recipe.yaml": yaml.safe_dump(text).encode()})
    words[0] = "hf://datasets/user/server/recipe.yaml"
    words.append("providers.0.endpoint=https://there.example/v1")
    assert "add providers.0.api_key=HF_TOKEN" in refused(shell, "plan", *words)
    done = shell.run("plan", *words, "providers[0].api_key=HF_TOKEN")
    assert done.code == 0, done.err


def test_a_recipe_is_not_fetched_with_a_token_that_the_hub_does_not_know(hub, shell):
    hub.make("user/there", {"recipe.yaml": b"{}"})
    address = "hf://datasets/user/there/recipe.yaml"
    line = refused(shell, "build", address, token="hf_wrong")
    assert (
        f"{address}: could not download the recipe from the Hub: 401 Unauthorized; check the token"
        in line
    )


def test_a_recipe_that_was_fetched_is_there_without_the_network(hub, recipe, tmp_path):
    hub.make("user/there", {"recipe.yaml": recipe.read_bytes()})
    words = [sys.executable, "-m", "prefdata", "check", "hf://datasets/user/there/recipe.yaml"]
    seeds = f"seed_dataset.path={recipe.parent / 'scored.jsonl'}"
    told = environment(hub, tmp_path) | {"HF_TOKEN": WRITE}
    offline = told | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*words, seeds], env=offline, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert "cannot be reached, and this machine has no copy" in done.stderr
    for place in (told, offline):
        done = subprocess.run([*words, seeds], env=place, capture_output=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("address", "told"), [
    ("hf://datasets/user/none/recipe.yaml", "the dataset does not exist"),
    ("hf://datasets/user/there/other.yaml", "the file does not exist"),
    ("hf://datasets/user/there@v9/recipe.yaml", "the revision does not exist"),
    ("hf://user/there/recipe.yaml", "not the address of a recipe"),
])  # fmt: skip
def test_a_recipe_that_is_not_on_the_hub_is_one_line(hub, shell, address, told):
    hub.make("user/there", {"recipe.yaml": b"{}"})
    assert told in refused(shell, "build", address)
