"""`prefdata publish`: a finished run becomes one commit of a dataset repository, and is read back.

One commit holds everything, so nobody ever loads new pairs beside old candidates. The run's own
parquet files go as they are: their bytes, and so the commit, do not depend on library versions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import file_digest
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from prefdata.errors import PrefdataError, Say
from prefdata.hub.access import Patience, answers, check_token, refusals
from prefdata.hub.content import read_back
from prefdata.hub.fetched import SCHEME, read_pairs
from prefdata.hub.upload import FOLDERS, REPORT, TAG, Upload, pack
from prefdata.pairs.diff import compare_pairs, read_pairs_of
from prefdata.pairs.readable import add_configs
from prefdata.recipe.publication import Publish, check_repo_id
from prefdata.report import make_report
from prefdata.run.finished import FinishedRun, open_run
from prefdata.run.public import find_local_paths
from prefdata.run.stale import report_pairs
from prefdata.storage.disk import disk_errors
from prefdata.storage.ownership import check_file, hold_run, write_own
from prefdata.storage.record import Record, identify_pairs

MAIN = "main"
MARKS = {"run.json", "pairs"}
"""What stands in a repository that prefdata made."""
IGNORED = {".gitattributes", "README.md"}
PATIENCE = Patience()
Change = CommitOperationAdd | CommitOperationDelete
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Publication:
    """What has been published where.

    Attributes:
        commit: 40 hex digits; it is on the Hub and was read back.
        tag: the commit's name; None in a pull request.
    """

    repo_id: str
    revision: str
    commit: str
    tag: str | None
    url: str
    is_new: bool
    rows: dict[str, dict[str, int]]


def publish_run(
    run: Path,
    *,
    repo_id: str | None = None,
    revision: str | None = None,
    private: bool | None = None,
    create_pr: bool = False,
    settings: Publish | None = None,
    patience: Patience = PATIENCE,
    say: Say = print,
) -> Publication:
    """Bring a run to the Hub, load it back, compare, tag it. Does nothing twice.

    `run`: folder of a finished run; gets README.md and report.html, and is not changed otherwise.
    `repo_id`, `revision`, `private`: None leaves it to the recipe. `create_pr`: open a pull request
    instead. `settings`: the recipe's `publish`; the run's own by default. `say`: is called with
    what happens, a line at a time.

    Raises:
        PrefdataError: there is no run, no right to publish it, or the Hub does not have it as it
            was sent.
    """
    finished = open_run(run)
    given = {"repo_id": repo_id, "revision": revision, "private": private}
    settings = _settle(finished, settings, {k: v for k, v in given.items() if v is not None})
    _check_run(finished)
    check_file(run / "README.md", run)
    place = _Place(settings, create_pr, patience, say)
    with refusals(settings.repo_id), disk_errors(run), hold_run(run):
        place.open()
        _renew_report(finished)
        upload = pack(finished, settings, place.changes)
        write_own(run / "README.md", run, add_configs(upload.card, run))
        for path in find_local_paths(finished):
            say(
                f"the rows name {path} as this machine does (columns like chosen_model); name a "
                "checkpoint by its Hub id, or relative to the recipe, where nobody should see that"
            )
        place.bring(upload)
        say(f"{settings.repo_id}: reading it back")
        place.retry(lambda: read_back(settings.repo_id, place.commit, upload.contents))
        tag = None if place.is_request else place.tag(upload)
    rows = {c: {s: content.rows for s, content in p.items()} for c, p in upload.contents.items()}
    return Publication(
        settings.repo_id, place.revision, place.commit, tag, place.url, place.is_new, rows
    )


def check_publishing(settings: Publish, *, say: Say = print) -> None:
    """Look before the work whether its end can be published; changes nothing on the Hub.

    Raises:
        PrefdataError: no token, or one that may not write; the name is taken.
    """
    with refusals(settings.repo_id):
        _Place(settings, False, PATIENCE, say).look()


def _settle(run: FinishedRun, settings: Publish | None, given: dict[str, Any]) -> Publish:
    """The recipe's settings with the command line's on top."""
    if settings is None and run.recipe is not None:
        settings = run.recipe.publish
    if "repo_id" in given:
        try:
            check_repo_id(given["repo_id"])
        except ValueError as err:
            raise PrefdataError(f"--repo-id: {err}") from err
    if settings is None:
        if "repo_id" not in given:
            raise PrefdataError(
                f"{run.folder}: the recipe does not say where to publish; name the dataset with "
                "--repo-id owner/name, or add publish: {repo_id: owner/name} to the recipe"
            )
        settings = Publish(repo_id=given["repo_id"])
    return settings.model_copy(update=given)


def _check_run(run: FinishedRun) -> None:
    if run.record["rehearsed"]:
        raise PrefdataError(
            f"{run.folder}: this is a rehearsal, its answers are scripted; build without "
            "--rehearse, then publish"
        )
    if not run.record["pairs"].get("train"):
        raise PrefdataError(
            f"{run.folder}: the run has no pairs to train on, so there is nothing to publish; see "
            "its rejects, then build again"
        )


def _renew_report(run: FinishedRun) -> None:
    """Write the run's page, unless one on these pairs is there."""
    page = run.folder / REPORT
    if report_pairs(page) != identify_pairs(run.folder, run.record):
        make_report(run.folder, page, is_held=True)


@dataclass
class _Place:
    """A repository, and how far this publication has come in it.

    Attributes:
        revision: branch or reference of the pull request.
        commit: where the run lies, once it is brought.
    """

    settings: Publish
    is_request: bool
    patience: Patience
    say: Say
    api: HfApi = field(default_factory=HfApi)
    commit: str = ""
    url: str = ""
    is_new: bool = False

    def __post_init__(self) -> None:
        self.revision = self.settings.revision or MAIN
        self._name: dict[str, Any] = {"repo_id": self.settings.repo_id, "repo_type": "dataset"}

    def retry(self, step: Callable[[], Value]) -> Value:
        """Take a step that may be taken again."""
        return self.patience.keep_trying(step, self.say)

    def look(self) -> bool:
        """Whether the repository is there; refuses one that is not ours to change."""
        self.retry(lambda: check_token(self.api))
        try:
            info = self.retry(lambda: self.api.dataset_info(self.settings.repo_id))
        except RepositoryNotFoundError:
            return False
        if self.settings.private and not info.private:
            raise PrefdataError(
                f"publish: {self.settings.repo_id} is public, but the recipe asks for a private "
                "one; make it private on the Hub, or add --public (publish.private: false)"
            )
        if info.private and not self.settings.private:
            self.say(f"{self.settings.repo_id}: is private on the Hub, and stays private")
        files = {one.rfilename.split("/")[0] for one in info.siblings or ()} - IGNORED
        if files and not files.issuperset(MARKS) and not self.is_request:
            raise PrefdataError(
                f"publish: {self.settings.repo_id} is taken: it holds {sorted(files)[0]!r}, and "
                "prefdata did not make it; name another with --repo-id, or propose the change with "
                "--create-pr"
            )
        return True

    def open(self) -> None:
        """Make sure that repository and branch are there."""
        if not self.look():
            self.say(f"{self.settings.repo_id}: a new {'private' if self.settings.private else 'public'} dataset")  # fmt: skip  # noqa: E501
            self.retry(lambda: self.api.create_repo(
                **self._name, private=self.settings.private, exist_ok=True
            ))  # fmt: skip
        if self.revision != MAIN and not self.revision.startswith("refs/"):
            self.retry(lambda: self.api.create_branch(
                **self._name, branch=self.revision, exist_ok=True
            ))  # fmt: skip

    def changes(self, run: FinishedRun, tag: str) -> tuple[str, Record] | None:
        """The last version of another tag on the branch, and what has become of its pairs."""
        if (last := self.retry(lambda: self._last_tag(tag))) is None:
            return None
        try:
            _, before = read_pairs(f"{SCHEME}datasets/{self.settings.repo_id}@{last}")
        except PrefdataError as err:
            self.say(f"{last}: what has changed since then is not told on the card: {err}")
            return None
        return last, compare_pairs(before, read_pairs_of(run.folder, run.record)).told()

    def _last_tag(self, but: str) -> str | None:
        refs = self.api.list_repo_refs(**self._name)
        tags = {one.target_commit: one.name for one in refs.tags if TAG.fullmatch(one.name)}
        if not tags.keys() - {commit for commit, name in tags.items() if name == but}:
            return None
        commits = self.api.list_repo_commits(**self._name, revision=self.revision)
        names = (tags.get(one.commit_id, but) for one in commits)
        return next((name for name in names if name != but), None)

    def bring(self, upload: Upload) -> None:
        """Make the files of the branch those of the upload, in at most one commit."""
        self.retry(lambda: self._commit(upload))

    def _commit(self, upload: Upload) -> None:
        if self.is_request and (number := self._find_request(upload.title)) is not None:
            self.revision = f"refs/pr/{number}"
        head = str(self.api.repo_info(**self._name, revision=self.revision).sha)
        self.commit, self.url = head, f"{self.api.endpoint}/datasets/{self.settings.repo_id}"
        changes = self._changes(upload.files, head)
        if not changes:
            return
        self.say(f"{self.settings.repo_id}: {len(changes)} files change")
        self.is_new = True  # even where only the reply to the commit is lost
        with answers(self.settings.repo_id):
            made = self.api.create_commit(
                **self._name, operations=changes, commit_message=upload.title, parent_commit=head,
                revision=self.revision,
                create_pr=self.is_request and "refs/pr/" not in self.revision,
            )  # fmt: skip
        self.commit = made.oid
        self.revision, self.url = made.pr_revision or self.revision, made.pr_url or self.url

    def _find_request(self, title: str) -> int | None:
        """The number of the open pull request for this run."""
        found = self.api.get_repo_discussions(
            **self._name, discussion_type="pull_request", discussion_status="open"
        )
        return next((one.num for one in found if one.title == title), None)

    def _changes(self, files: Mapping[str, Path | bytes], commit: str) -> list[Change]:
        """What must be done for a commit's tree to hold these files and none of another run."""
        tree = self.api.list_repo_tree(**self._name, revision=commit, recursive=True)
        there = {one.path: one for one in tree if isinstance(one, RepoFile)}
        stale = [name for name in there if name.startswith(FOLDERS) or name == REPORT]
        return [
            *(CommitOperationAdd(name, file) for name, file in sorted(files.items())
              if name not in there or not _is_equal(there[name], file)),
            *(CommitOperationDelete(name) for name in sorted(stale) if name not in files),
        ]  # fmt: skip

    def tag(self, upload: Upload) -> str:
        """Give the commit the run's name, unless a commit with the same rows has it."""
        self.retry(lambda: self._tag(upload))
        return upload.tag

    def _tag(self, upload: Upload) -> None:
        known = self._find_tag(upload.tag)
        if known == self.commit:
            return
        if known is not None:
            missing = self._changes(upload.data, known)
            if not any(isinstance(one, CommitOperationAdd) for one in missing):
                return
            self.say(f"{upload.tag}: this tag named other rows, those of {known[:12]}; it is moved")
            self.api.delete_tag(**self._name, tag=upload.tag)
        self.api.create_tag(**self._name, tag=upload.tag, revision=self.commit)

    def _find_tag(self, tag: str) -> str | None:
        try:
            return str(self.api.repo_info(**self._name, revision=tag).sha)
        except RevisionNotFoundError:
            return None


def _is_equal(there: RepoFile, here: Path | bytes) -> bool:
    """Whether the Hub holds this file, told by its size and hash."""
    if there.size != (len(here) if isinstance(here, bytes) else here.stat().st_size):
        return False
    with BytesIO(here) if isinstance(here, bytes) else here.open("rb") as content:
        if there.lfs is not None:
            return file_digest(content, "sha256").hexdigest() == there.lfs.sha256
        return bool(git_hash(content.read()) == there.blob_id)
