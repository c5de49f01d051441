"""Engines that ask the journal first. They keep the protocols, so a stage cannot tell."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from prefdata.engines.protocols import RewardEngine, TextEngine
from prefdata.fingerprint import ScoreKeys, TextKeys
from prefdata.inference import Completion, Failure, Logits, ScoreRequest, TextRequest
from prefdata.storage.journal import Journal

LASTING = frozenset(("prompt_too_long", "too_long_to_score", "chat_template_refused"))
"""Failures that the request and the model alone decide: never asked again."""
MAX_TRIES = 3
"""Runs that may ask for what has failed in another way, say because a server refused it."""


@dataclass
class Load:
    """One loading of a model, by the monotonic clock.

    Attributes:
        model: folder or Hub id.
        where: the alias, and what it is loaded on.
        end: when the first replica was ready; None until then.
    """

    model: str
    where: str
    start: float = field(default_factory=monotonic)
    end: float | None = None

    def finish(self) -> None:
        """A replica is ready."""
        if self.end is None:
            self.end = monotonic()


@dataclass
class Work:
    """What was asked of engines so far; tokens are those made now, not those replayed.

    Attributes:
        answered: requests of stages that have their outcome, whoever gave it.
        failures: by reason, the message of the first request that failed for it.
    """

    answered: int = 0
    generated: int = 0
    scored: int = 0
    replayed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    loads: list[Load] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


KILLS = "kills_workers"
"""A failure that lasts as long as the model runs in the same way: with the same options, memory
limits among them, and versions.
"""


class NotNow(Exception):
    """The model does not fit beside those that are loaded; it is asked later."""


class JournaledText:
    """A TextEngine that never asks twice; the model is loaded when first needed.

    Attributes:
        may_load: whether it is this model's turn.
    """

    def __init__(
        self,
        open_engine: Callable[[], TextEngine],
        keys: TextKeys,
        journal: Journal,
        work: Work,
        *,
        way: str = "",
    ) -> None:
        """Open nothing yet; `way` is a hash of how the model runs, for which rows may kill it."""
        self._open, self._keys, self._work = open_engine, keys, work
        self._outcomes = _Outcomes(journal, work, way)
        self._engine: TextEngine | None = None
        self.may_load = True

    async def generate(
        self, requests: Sequence[TextRequest]
    ) -> AsyncIterator[tuple[int, Completion | Failure]]:
        """As `TextEngine.generate`; each new outcome is in the journal before it is yielded."""
        keys = [self._keys.key(request) for request in requests]
        missing = []
        for index, key in enumerate(keys):
            known = self._outcomes.get(key)
            if known is None:
                missing.append(index)
                continue
            self._work.replayed += 1
            self._work.answered += 1
            yield index, known if isinstance(known, Failure) else _completion(known)
        if not missing:
            return
        if not self.may_load:
            raise NotNow
        if self._engine is None:
            self._engine = self._open()
        async for index, outcome in self._engine.generate([requests[i] for i in missing]):
            self._outcomes.keep(keys[missing[index]], outcome)
            if isinstance(outcome, Completion):
                self._count(outcome)
            self._work.answered += 1
            yield missing[index], outcome

    def _count(self, completion: Completion) -> None:
        self._work.generated += 1
        self._work.prompt_tokens += completion.prompt_tokens
        self._work.completion_tokens += completion.completion_tokens

    def close(self) -> None:
        """Free the model if it was loaded."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


class JournaledReward:
    """A RewardEngine that never asks twice; the model is loaded when first needed.

    Attributes:
        may_load: whether it is this model's turn.
    """

    def __init__(
        self,
        open_engine: Callable[[], RewardEngine],
        keys: ScoreKeys,
        journal: Journal,
        work: Work,
        *,
        way: str = "",
    ) -> None:
        """As for `JournaledText`."""
        self._open, self._keys, self._work = open_engine, keys, work
        self._outcomes = _Outcomes(journal, work, way)
        self._engine: RewardEngine | None = None
        self.may_load = True

    async def score(
        self, requests: Sequence[ScoreRequest]
    ) -> AsyncIterator[tuple[int, Logits | Failure]]:
        """As `RewardEngine.score`; each new outcome is in the journal before it is yielded.

        A logit that is not finite is kept as null in the journal and yielded as NaN.
        """
        places: dict[str, list[int]] = {}  # equal texts of one row are scored once
        for index, request in enumerate(requests):
            places.setdefault(self._keys.key(request), []).append(index)
        missing = []
        for key, indices in places.items():
            known = self._outcomes.get(key)
            if known is None:
                missing.append(key)
                continue
            self._work.replayed += 1
            self._work.answered += len(indices)
            for index in indices:
                yield index, known if isinstance(known, Failure) else _logits(known)
        if not missing:
            return
        if not self.may_load:
            raise NotNow
        if self._engine is None:
            self._engine = self._open()
        asked = [requests[places[key][0]] for key in missing]
        async for number, outcome in self._engine.score(asked):
            key = missing[number]
            is_failure = isinstance(outcome, Failure)
            self._outcomes.keep(key, outcome if is_failure else {"logits": outcome})
            self._work.scored += not is_failure
            self._work.answered += len(places[key])
            for index in places[key]:
                yield index, outcome

    def close(self) -> None:
        """Free the model if it was loaded."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


class _Outcomes:
    """What became of requests, by key: in earlier runs, and of those that failed in this one."""

    def __init__(self, journal: Journal, work: Work, way: str) -> None:
        self._journal, self._told, self._way = journal, work.failures, way
        self._failed: dict[str, Failure] = {}

    def get(self, key: str) -> Failure | dict[str, Any] | None:
        """A success of any run; else a failure, unless another try may go better."""
        values = self._journal.get(key)
        failures = []
        for value in values:
            if "failure" not in value:
                return dict(value)
            if value["failure"] != KILLS or value.get("way") == self._way:
                failures.append(Failure(value["failure"], value["detail"]))
        if key in self._failed:
            return self._failed[key]
        lasting = LASTING | {KILLS}  # to ask again would cost three workers again
        is_final = len(failures) >= MAX_TRIES or any(one.reason in lasting for one in failures)
        return failures[-1] if is_final else None

    def keep(self, key: str, outcome: Any) -> None:
        """Write an outcome into the journal."""
        if isinstance(outcome, Failure):
            self._failed[key] = outcome
            self._told.setdefault(outcome.reason, outcome.detail)
            way = {"way": self._way} if outcome.reason == KILLS else {}
            outcome = {"failure": outcome.reason, "detail": outcome.detail} | way
        self._journal.append([(key, outcome)])


def _completion(value: dict[str, Any]) -> Completion:
    """A completion as the journal has it; JSON knows no tuples."""
    if (marks := value.get("reasoning_marks")) is not None:
        value["reasoning_marks"] = tuple(marks)
    return Completion(**value | {"tool_calls": tuple(value.get("tool_calls", ()))})


def _logits(value: dict[str, Any]) -> Logits:
    return tuple(float("nan") if x is None else x for x in value["logits"])
