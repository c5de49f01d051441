"""The dataset on the platform: namespaces, files in the data store, entity. Knows no job."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from prefdata.train.nemo_customizer.payloads import Plan, dataset_body, namespace_body
from prefdata.train.nemo_customizer.platform import Answer, Platform
from prefdata.train.nemo_customizer.watch import CONFLICT, TRIES, Failure, Work

# the base of all its errors, of whichever HTTP library this release uses
HTTP_ERROR = cast(type[Exception], HfHubHTTPError.__mro__[1])
PAUSE = 5.0
"""Seconds before the upload is tried again."""
UNPROCESSABLE = 422


def prepare_dataset(work: Work, plan: Plan) -> None:
    """Do what has not been done: namespaces, upload, entity; note each as it is done."""
    platform, record, say = work.platform, work.record, work.say

    def ensure(step: str, what: str, create: Callable[[], Answer], *there: int) -> None:
        """Create what the platform must have, unless an answer says that it is there."""
        if record.step(step):
            return
        try:
            made, state = create(), "created"
        except Failure as err:
            if err.status not in there:
                raise
            made, state = {}, f"existed already ({err.status})"
        say(f"{what}: {state}")
        record.note_step(step, state=state, **{k: v for k, v in made.items() if k == "id"})

    name, body, dataset = plan.settings.namespace, namespace_body(plan.settings), dataset_body(plan)
    if plan.settings.create_namespace_if_missing:
        ensure(
            "namespace", f"namespace {name} of the entity store",
            lambda: platform.create_namespace(body), CONFLICT,
        )  # fmt: skip
        ensure(
            "store_namespace", f"namespace {name} of the data store",
            lambda: platform.create_store_namespace(name), CONFLICT, UNPROCESSABLE,
        )  # fmt: skip
    if record.step("upload").get("content") != plan.content:
        oid = _upload(work, plan)
        record.note_step("upload", repo=plan.repo_id, content=plan.content, commit=oid)
        say(f"uploaded both files to {plan.repo_id} (commit {oid})")
    ensure("dataset", f"dataset {plan.repo_id}", lambda: platform.create_dataset(dataset), CONFLICT)


def _upload(work: Work, plan: Plan) -> str:
    for left in reversed(range(TRIES)):
        try:
            return _commit(work.platform, plan)
        except Failure as err:
            if not err.is_passing or not left:
                raise
            work.say(f"{err} (tried again in {PAUSE:g} s)")
            work.clock.sleep(PAUSE)
    raise AssertionError("the last try returns or raises")


def _commit(platform: Platform, plan: Plan) -> str:
    """Both files in one commit; its id."""
    endpoint = f"{plan.settings.datastore_host}/v1/hf"
    # False: no token at all. None would send the one of the user's login on the Hub
    api = HfApi(endpoint=endpoint, token=platform.token or False)
    with _errors(platform), _plain_hub():
        _create_repo(api, plan.repo_id)
        commit = api.create_commit(
            plan.repo_id,
            [CommitOperationAdd(one.path_in_repo, str(one.file)) for one in plan.uploads],
            commit_message=f"Preference data {plan.content[:16]}",
            repo_type="dataset",
        )
    return commit.oid


def _create_repo(api: HfApi, repo_id: str) -> None:
    try:  # exist_ok=True would read an address from the refusal, which only the Hub's has
        api.create_repo(repo_id, repo_type="dataset")
    except HfHubHTTPError as err:
        if err.response.status_code != CONFLICT:
            raise


@contextmanager
def _plain_hub() -> Iterator[None]:
    """The Hub's client as it may talk to a server that is not the Hub.

    Its large-file upload sends the user's login where it was told to send no token, and Xet, which
    only the Hub itself speaks. Both have switches, which are read from the environment once.
    """
    before = constants.HF_HUB_DISABLE_IMPLICIT_TOKEN, constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_IMPLICIT_TOKEN = constants.HF_HUB_DISABLE_XET = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_IMPLICIT_TOKEN, constants.HF_HUB_DISABLE_XET = before


@contextmanager
def _errors(platform: Platform) -> Iterator[None]:
    try:
        yield
    except (HTTP_ERROR, OSError, RuntimeError, ValueError, KeyError) as err:
        raise _failure(platform, err) from err


def _failure(platform: Platform, err: Exception) -> Failure:
    doing, host = "take the files", "datastore_host"
    # a large file's error comes wrapped
    cause = err.__cause__ or err if isinstance(err, RuntimeError) else err
    if isinstance(cause, HfHubHTTPError):
        said = cause.server_message or str(cause)
        return platform.refusal(doing, host, cause.response.status_code, said)
    if isinstance(cause, ValueError | KeyError):
        return platform.unreadable(doing, host, repr(cause))
    return platform.silence(doing, host, str(cause) or type(cause).__name__)
