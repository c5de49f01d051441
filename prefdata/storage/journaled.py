"""Engines that ask the journal first. They keep the protocol, so a stage cannot tell."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from copy import copy
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any, Self

from prefdata.engines.protocols import Engine
from prefdata.fingerprint import ScoreKeys, TextKeys
from prefdata.inference import Completion, Failure, Logits
from prefdata.storage.journal import Journal

LASTING = frozenset(("prompt_too_long", "too_long_to_score", "chat_template_refused"))
"""Failures that the request and the model alone decide: never asked again."""
MAX_TRIES = 3
"""Runs that may ask for what has failed in another way, say because a server refused it."""


@dataclass
class Load:
    """One loading of a model, by the monotonic clock.

    Attributes:
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
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, outcome: Completion | Logits | Failure) -> None:
        """A model has answered."""
        with self.lock:
            if isinstance(outcome, Completion):
                self.generated += 1
                self.prompt_tokens += outcome.prompt_tokens
                self.completion_tokens += outcome.completion_tokens
            else:
                self.scored += not isinstance(outcome, Failure)


KILLS = "kills_workers"
"""A failure that lasts as long as the model runs in the same way: with the same options, memory
limits among them, and versions.
"""


class NotNow(BaseException):
    """The model does not fit beside those that are loaded; it is asked later.

    No function of a user's that catches exceptions may take it for a model's failure.
    """


class Journaled:
    """An engine that never asks twice; the model is loaded when first needed."""

    def __init__(
        self,
        engine: "Opened",
        keys: TextKeys | ScoreKeys,
        journal: Journal,
        work: Work,
        *,
        way: str = "",
        adapter: str | None = None,
    ) -> None:
        """Open nothing yet.

        `way`: a hash of how the model runs, for which rows may kill it. `adapter`: folder of the
        LoRA weights that answer, on top of an engine that other aliases may share.
        """
        self._keys, self._work, self._told = keys, work, work
        self.outcomes = _Outcomes(journal, work, way)
        self._engine, self._adapter = engine, adapter
        self._is_aside = False
        self.may_load = True

    def beside(self, *, may_load: bool) -> Self:
        """The same engine for a caller in another thread, whose replays are not counted."""
        other = copy(self)
        other.may_load, other._told, other._is_aside = may_load, Work(), True
        return other

    async def ask(self, requests: Sequence[Any]) -> AsyncIterator[tuple[int, Any]]:
        """As `Engine.ask`; each new outcome is in the journal before it is yielded.

        Equal requests are one. A logit that is not finite is kept as null and yielded as NaN.
        """
        places: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            places.setdefault(self._keys.key(request), []).append(index)
        missing = []
        for key, indices in places.items():
            known = self.outcomes.get(key)
            if known is None:
                missing.append(key)
                continue
            self._told.replayed += not self.outcomes.was_aside(key)
            self._told.answered += len(indices)
            for index in indices:
                yield index, known
        if not missing:
            return
        if not self.may_load:
            raise NotNow
        asked = self.outcomes.ask(missing)
        mine = [key for key in missing if key not in asked]
        try:
            if mine:
                wanted = [requests[places[key][0]] for key in mine]
                if self._adapter is not None:
                    wanted = [replace(request, adapter=self._adapter) for request in wanted]
                async for number, outcome in self._engine.get().ask(wanted):
                    self.outcomes.keep(mine[number], outcome)
                    self._work.count(outcome)
                    self._told.answered += len(places[mine[number]])
                    for index in places[mine[number]]:
                        yield index, outcome
        finally:
            self.outcomes.leave(mine, is_aside=self._is_aside)
        for key in (key for key in missing if key in asked):
            found = await asyncio.wrap_future(asked[key])
            if found is None:  # the other has given up
                again = self.ask([requests[places[key][0]]])
                [(_, found)] = [one async for one in again]
            else:
                self._told.answered += len(places[key])
            for index in places[key]:
                yield index, found

    def close(self) -> None:
        """Free the model if it was loaded."""
        self._engine.close()


class Opened:
    """An engine that is opened when it is wanted, by whichever thread; closed, it opens again."""

    def __init__(self, open_engine: Callable[[], Engine[Any, Any]]) -> None:
        self._open, self._lock = open_engine, threading.Lock()
        self._engine: Engine[Any, Any] | None = None

    def get(self) -> Engine[Any, Any]:
        """The engine, open by now."""
        with self._lock:
            if self._engine is None:
                self._engine = self._open()
            return self._engine

    def close(self) -> None:
        """Free it if it was opened."""
        with self._lock:
            if self._engine is not None:
                self._engine.close()
                self._engine = None


class _Outcomes:
    """What became of requests, by key: in earlier runs, and of those that failed in this one.

    Attributes:
        is_shared: two threads ask for the same rows, so each request is asked by the first of them.
        is_closed: nothing is asked any more, so the last failure counts, whatever it was.
    """

    def __init__(self, journal: Journal, work: Work, way: str) -> None:
        self._journal, self._told, self._way = journal, work.failures, way
        self._failed: dict[str, Failure] = {}
        self._asked: dict[str, Future[Any]] = {}
        self._aside: set[str] = set()
        self._lock = threading.Lock()
        self.is_shared = self.is_closed = False

    def ask(self, keys: Sequence[str]) -> dict[str, "Future[Any]"]:
        """Those that somebody else is asking, with what will be their outcome; the rest are mine.

        The outcome is None where the other has given up.
        """
        others: dict[str, Future[Any]] = {}
        if not self.is_shared:
            return others
        with self._lock:
            for key in keys:
                if key in self._asked:
                    others[key] = self._asked[key]
                else:
                    self._asked[key] = Future()
        return others

    def leave(self, keys: Sequence[str], *, is_aside: bool) -> None:
        """Nobody asks for these any more; what has no outcome is given up.

        `is_aside`: the outcomes are for another thread, which may not find them in the journal yet.
        """
        if not self.is_shared:
            return
        with self._lock:
            for key in keys:
                asked = self._asked.get(key)
                if asked is not None and is_aside and asked.done():
                    self._aside.add(key)
                elif asked is not None:
                    del self._asked[key]
                    if not asked.done():
                        asked.set_result(None)

    def was_aside(self, key: str) -> bool:
        """Whether it was asked by this run's other thread, so that it is no replay; told once."""
        if key not in self._aside:
            return False
        self._aside.discard(key)
        return True

    def answered(self) -> list[str]:
        """What has its outcome here until the journal is read again, and `forget` is told."""
        return [key for key, asked in [*self._asked.items()] if asked.done()]

    def forget(self, keys: Sequence[str]) -> None:
        """The journal, read again, tells these."""
        with self._lock:
            for key in keys:
                self._asked.pop(key, None)

    def get(self, key: str) -> Completion | Logits | Failure | None:
        """A success of any run; else a failure, unless another try may go better."""
        values = self._journal.get(key)
        failures = []
        for value in values:
            if "failure" not in value:
                return _read(value)
            if value["failure"] != KILLS or value.get("way") == self._way:
                failures.append(Failure(value["failure"], value["detail"]))
        if key in self._failed:
            return self._failed[key]
        lasting = LASTING | {KILLS}  # to ask again would cost three workers again
        is_final = len(failures) >= MAX_TRIES or any(one.reason in lasting for one in failures)
        return failures[-1] if is_final or (failures and self.is_closed) else None

    def keep(self, key: str, outcome: Any) -> None:
        """Write an outcome into the journal."""
        value = {"logits": outcome} if isinstance(outcome, tuple) else outcome
        if isinstance(outcome, Failure):
            self._failed[key] = outcome
            self._told.setdefault(outcome.reason, outcome.detail)
            way = {"way": self._way} if outcome.reason == KILLS else {}
            value = {"failure": outcome.reason, "detail": outcome.detail} | way
        self._journal.append([(key, value)])
        if (asked := self._asked.get(key)) is not None:
            asked.set_result(outcome)


def _read(value: dict[str, Any]) -> Completion | Logits:
    """An outcome as the journal has it; JSON knows neither tuples nor NaN."""
    if "logits" in value:
        return tuple(float("nan") if x is None else x for x in value["logits"])
    if (marks := value.get("reasoning_marks")) is not None:
        value["reasoning_marks"] = tuple(marks)
    return Completion(**value | {"tool_calls": tuple(value.get("tool_calls", ()))})
