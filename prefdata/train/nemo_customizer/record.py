"""train.json: what has been done of a training, so that the same command goes on. Sends nothing."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from prefdata.errors import PrefdataError
from prefdata.storage.disk import write_text
from prefdata.train.nemo_customizer.payloads import Plan

NAME = "train.json"
BACKEND = "nemo_customizer"
COMPLETED = "completed"
LOST = ("failed", "cancelled", "canceled")
OVER = (COMPLETED, *LOST)
"""States that a job does not leave."""

Facts = dict[str, Any]


class TrainRecord:
    """The record of one folder; whatever is noted is on the disk before the call returns."""

    def __init__(self, file: Path, data: Facts) -> None:
        self.file, self.data = file, data

    @property
    def fingerprint(self) -> str:
        """Of the files and settings that the record is about."""
        return str(self.data["fingerprint"])

    @property
    def job(self) -> Facts:
        """The job, empty before one is meant to be submitted."""
        return dict(self.data.get("job", {}))

    @property
    def deployment(self) -> Facts:
        """The deployment, empty before one is meant to be made."""
        return dict(self.data.get("deployment", {}))

    @property
    def attempt(self) -> int:
        """The number of this job among those of the same files and settings."""
        same = [one for one in self.data["earlier"] if one.get("fingerprint") == self.fingerprint]
        return 1 + len(same)

    def step(self, name: str) -> Facts:
        """What was noted of a finished step, or nothing."""
        return dict(self.data["steps"].get(name, {}))

    def note_step(self, name: str, **facts: Any) -> None:
        """A step is done."""
        self.data["steps"][name] = {**facts, "at": now()}
        self._write()

    def start(self, part: str, **facts: Any) -> None:
        """Note what is meant to be made, in the place of what `job` or `deployment` said."""
        self.data[part] = {**facts, "meant_at": now()}
        self.data.pop("finished_at", None)
        self._write()

    def note(self, part: str, **facts: Any) -> None:
        """Add to what is known of `job` or `deployment`."""
        if not facts.items() <= self.data[part].items():  # a look may tell nothing new
            self.data[part] = {**self.data[part], **facts}
            self._write()

    def forget_job(self) -> None:
        """Put a job that is over, and its deployment, among the earlier ones."""
        parts = {name: self.data.pop(name) for name in ("job", "deployment") if name in self.data}
        if parts:
            self.data["earlier"].append({"fingerprint": self.fingerprint} | parts)
            self._write()

    def begin(self, plan: Plan) -> None:
        """Start on other files or settings; steps that would be the same stay done."""
        self.forget_job()
        new = _new(plan) | {"earlier": self.data["earlier"]}
        if all(new[key] == self.data[key] for key in ("entity_host", "datastore_host", "dataset")):
            new["steps"] = self.data["steps"]
        self.data = new
        self._write()

    def finish(self) -> None:
        """Note when all was done."""
        self.data["finished_at"] = now()
        self._write()

    def _write(self) -> None:
        write_text(self.file, orjson.dumps(self.data, option=orjson.OPT_INDENT_2).decode())


def open_record(out: Path, plan: Plan) -> TrainRecord:
    """The folder's record, or a new one."""
    known = read_record(out)
    if known is not None:
        return known
    data = _new(plan)
    other = _read(out / NAME)
    return TrainRecord(out / NAME, data | {"earlier": [other]} if other else data)


def read_record(out: Path) -> TrainRecord | None:
    """The folder's record of this backend, or None."""
    data = _read(out / NAME)
    return TrainRecord(out / NAME, data) if data and data.get("backend") == BACKEND else None


def _read(file: Path) -> Facts | None:
    if not file.is_file():
        return None
    try:
        data = orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError as err:
        raise PrefdataError(
            f"{file}: it is damaged ({err}), and it alone says which job was submitted; look on "
            "the platform whether one runs, then move the file away"
        ) from err
    if not isinstance(data, dict):
        raise PrefdataError(f"{file}: it holds no JSON object; move it away")
    return data


def _new(plan: Plan) -> Facts:
    settings = plan.settings
    return {
        "backend": BACKEND,
        "fingerprint": plan.fingerprint,
        "entity_host": settings.entity_host,
        "datastore_host": settings.datastore_host,
        "training_type": settings.hyperparameters.training_type,
        "dataset": plan.repo_id,
        "files": {
            one.path_in_repo: {"file": str(one.file), "bytes": one.size, "sha256": one.sha256}
            for one in plan.uploads
        },
        "started_at": now(),
        "steps": {},
        "earlier": [],
    }


def now() -> str:
    """This moment in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
