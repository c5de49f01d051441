"""The replicas of one model as one engine: rows are dealt as they come, the dead replaced.

A row waits here until a replica has room, so replicas finish together. Rows that were with a
worker when it died are asked again in smaller and smaller batches: first a few at a time, then
alone, so that the one that kills is found and nothing else is lost.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from math import isqrt
from pathlib import Path
from time import monotonic
from typing import Any

from prefdata.engines.model_thread import Call
from prefdata.errors import PrefdataError, Say
from prefdata.inference import Completion, Failure, ScoreRequest, TextRequest
from prefdata.workers.devices import Devices
from prefdata.workers.gauges import Now
from prefdata.workers.machine import WORKER, Place
from prefdata.workers.messages import Answer, Ask, CannotLoad, Order, Ready, Refusal
from prefdata.workers.replica import Replica, Silence

MAX_DEATHS = 3
"""Worker deaths after which a row is a reject: the last time it was the only row."""
MAX_FRUITLESS = 4
"""Deaths of a place's workers, one after another, without a single result in between."""
MAX_FAILED_LOADS = 2
"""Of those, deaths before the model was loaded."""
MAX_CONVICTED = 5
"""Rows, one after another, that killed a worker each while they were alone with it."""
HANG_SECONDS = 900.0
"""Without a result or a step of the engine while it has rows: the worker hangs."""
LOAD_SECONDS = 7200.0
"""The same while it loads a model, of which it tells nothing before the end."""
FILL = 2
"""Requests given to a replica for each that its engine holds at once: its queue never runs dry."""
REMEMBERED = 4096
"""Chats whose replica is remembered, so that equal prompts share a prefill."""


@dataclass(eq=False)
class _Row:
    """Requests of one row that are not answered yet, by their index."""

    call: Call[Any]
    requests: dict[int, TextRequest | ScoreRequest]
    deaths: int = 0

    @property
    def chat(self) -> str:
        """What two rows have in common that could share a prefill: the chat up to the answer."""
        first = next(iter(self.requests.values()))
        asked = first.messages if isinstance(first, TextRequest) else first.messages[:-1]
        return "\0".join(message["content"] for message in asked)


@dataclass(eq=False)
class _Slot:
    """A place and whoever works there now.

    Attributes:
        answered, tokens: requests and what was written so far, by all who worked here.
        is_dismissed: it had nothing left to do, and its place is others'.
        fruitless: workers that died here one after another without a result and without showing
            which row it was.
        convicted: rows found here one after another that kill, without a result in between.
        leases: rows that the worker has, by the number under which it was asked.
        heard: when the worker told something last, or was given the first of its rows.
        failed_loads: workers that died here one after another before they were ready.
        quarantine: rows that saw a death here; nothing else is dealt until they are through.
    """

    place: Place
    log: Path
    replica: Replica | None = None
    capacity: int = 0
    load: int = 0
    is_dismissed: bool = False
    answered: int = 0
    tokens: int = 0
    fruitless: int = 0
    convicted: int = 0
    heard: float = 0.0
    failed_loads: int = 0
    leases: dict[int, _Row] = field(default_factory=dict)
    quarantine: deque[_Row] = field(default_factory=deque)
    has_quarantined: bool = False

    def takes(self, row: _Row) -> bool:
        """Whether the row may join those that are here."""
        if not (self.capacity and self.leases):
            return bool(self.capacity)
        if self.load + len(row.requests) > FILL * self.capacity:
            return False
        deaths = row.deaths
        if self.has_quarantined:
            deaths = max(deaths, *(other.deaths for other in self.leases.values()))
        return len(self.leases) < _quarantine_size(deaths, self.capacity)

    def release(self, number: int) -> None:
        """The row is through, or gone."""
        self.load -= len(self.leases.pop(number).requests)
        self.has_quarantined &= bool(self.leases)


def _quarantine_size(deaths: int, capacity: int) -> int:
    """Rows that may be with a worker together with one that saw so many deaths."""
    return (FILL * capacity, isqrt(capacity) + 1, 1)[deaths]


class Workers:
    """An engine, by its order, over worker processes."""

    def __init__(
        self,
        order: Order,
        places: Sequence[Place],
        logs: Path,
        say: Say,
        *,
        program: Sequence[str] = WORKER,
        hang_seconds: float = HANG_SECONDS,
        ready: Callable[[], None] = lambda: None,
        devices: Devices | None = None,
        share: float = 1.0,
    ) -> None:
        """Start one worker a place; each loads when its place is free, and nobody waits for them.

        Args:
            order: role, model and path; its cores are the place's.
            places: at least one.
            logs: folder of the workers' output.
            say: told of deaths.
            program: what becomes a worker.
            hang_seconds: a worker that has rows and tells nothing for so long is replaced.
            ready: called when a worker has loaded the model.
            devices: who holds the places; None where nobody else wants them.
            share: of the memory of a place that a worker takes.
        """
        self._devices, self._share = devices or Devices(), share
        self._is_draining = False
        self._hang_seconds, self._ready = hang_seconds, ready
        self._order, self._say, self._program = order, say, program
        self._lock = threading.Lock()
        self._pending: deque[_Row] = deque()
        self._homes: OrderedDict[str, _Slot] = OrderedDict()
        self._numbers = count()
        self._failure: PrefdataError | None = None
        self._is_closing = False
        name = order.model.alias
        self._slots = [_Slot(p, logs / f"{name}-{n}.log") for n, p in enumerate(places)]
        self._threads = [
            threading.Thread(
                target=self._keep_worker, args=(slot,), name=f"{name}-{n}", daemon=True
            )
            for n, slot in enumerate(self._slots)
        ]
        for place in places:
            self._devices.line_up(self, place)
        for thread in self._threads:
            thread.start()

    async def ask(self, requests: Sequence[Any]) -> AsyncGenerator[tuple[int, Any], None]:
        """As `Engine.ask`; a request with which workers die is a Failure.

        Raises:
            PrefdataError: the model does not load, or its workers die whatever they are asked.
        """
        row = _Row(Call(), dict(enumerate(requests)))
        with self._lock:
            if self._failure is not None:
                raise self._failure
            self._pending.append(row)
            self._deal()
        try:
            for _ in requests:
                yield await row.call.take()
        finally:
            row.call.is_abandoned = True

    @property
    def capacity(self) -> int:
        """Requests that the workers which are ready hold at once."""
        return sum(slot.capacity for slot in self._slots)

    @property
    def pids(self) -> list[int]:
        """Processes of the workers that are there now."""
        return [slot.replica.pid for slot in self._slots if slot.replica is not None]

    @property
    def replicas(self) -> list[Now]:
        """What each replica does at this moment, or has done that has ended."""
        alias, queue = self._order.model.alias, len(self._pending)
        return [
            Now(
                f"{alias}-{n}", slot.place.gpus, slot.answered, slot.tokens, slot.load, queue,
                slot.capacity > 0,
            )
            for n, slot in enumerate(self._slots)
            if slot.capacity or slot.answered
        ]  # fmt: skip

    def dismiss_idle(self) -> None:
        """From now on let go whoever has nothing left to do; somebody stays until `close`."""
        with self._lock:
            self._is_draining = True
            self._deal()

    def close(self) -> None:
        """End all workers; rows in flight raise RuntimeError."""
        with self._lock:
            self._is_closing = True
            for slot in self._slots:
                if slot.replica is not None and slot.capacity:
                    slot.replica.end()
                elif slot.replica is not None:  # it may not listen yet, and has nothing to lose
                    slot.replica.kill()
        self._devices.wake()
        for thread in self._threads:
            thread.join()
        self._fail_all(_closed())

    # ---- under the lock ----------------------------------------------------------------------

    def _deal(self) -> None:
        """Hand out what there is room for; a quarantined row goes where it saw a death."""
        for slot in self._slots:
            while slot.quarantine and slot.takes(slot.quarantine[0]):
                self._give(slot.quarantine.popleft(), slot)
        while self._pending and (free := self._choose(self._pending[0])) is not None:
            self._give(self._pending.popleft(), free)
        if self._is_draining and not self._pending:
            self._dismiss()

    def _dismiss(self) -> None:
        """End those that have nothing to do, or all but one of them where nobody else has."""
        there = [s for s in self._slots if s.replica is not None and not s.is_dismissed]
        idle = [s for s in there if not (s.leases or s.quarantine)]
        idle.sort(key=lambda slot: -slot.capacity)  # the one to stay has loaded, if any has
        for slot in idle[len(idle) == len(there) :]:
            slot.is_dismissed, slot.capacity = True, 0
            if slot.replica is not None:
                slot.replica.end()

    def _choose(self, row: _Row) -> _Slot | None:
        """The slot with the least to do, or one with little more that had an equal prompt."""
        free = [slot for slot in self._slots if not slot.quarantine and slot.takes(row)]
        idlest = min(free, key=lambda slot: slot.load, default=None)
        home = self._homes.get(row.chat)
        if idlest is None or home not in free or home is None:
            return idlest
        return home if home.load <= idlest.load + idlest.capacity // 4 else idlest

    def _give(self, row: _Row, slot: _Slot) -> None:
        if row.call.is_abandoned or slot.replica is None:
            return
        self._homes[row.chat] = slot
        if len(self._homes) > REMEMBERED:
            self._homes.popitem(last=False)
        number = next(self._numbers)
        if not slot.leases:
            slot.heard = monotonic()
        slot.leases[number] = row
        slot.load += len(row.requests)
        slot.has_quarantined |= row.deaths > 0
        slot.replica.tell(Ask(number, row.requests))

    # ---- in the thread of a slot -------------------------------------------------------------

    def _keep_worker(self, slot: _Slot) -> None:
        """Keep a worker at a slot until the end, or until no worker lives there."""
        is_held = False
        while self._is_wanted(slot):
            order = replace(self._order, cores=slot.place.cores, reads_ahead=slot is self._slots[0])
            replica = Replica(order, slot.place, slot.log, self._program)
            with self._lock:
                slot.replica = replica
                if not self._is_wanted(slot):
                    replica.end()
            is_held = is_held or self._devices.take(
                self, slot.place, self._share, lambda: self._is_wanted(slot)
            )
            if is_held:
                replica.go()
            slot.heard, is_hanging = monotonic(), False
            while (message := replica.hear(self._hang_seconds / 10)) is not None:
                if not isinstance(message, Silence):
                    slot.heard = monotonic()
                    self._take(message, slot)
                elif not is_hanging and self._hangs(slot):
                    is_hanging = True
                    replica.kill()
            code = replica.wait()
            with self._lock:
                slot.failed_loads += not slot.capacity
                is_wanted = self._is_wanted(slot)
                rows = self._vacate(slot)
            if not is_wanted:
                for row in rows:
                    row.call.fail(self._failure or _closed())
            else:
                told = f"exit code {code}" if code >= 0 else f"signal {-code}"
                if is_hanging:
                    told = "it told nothing for too long, and was ended"
                self._after_death(slot, replica, told, rows)
        if is_held:
            self._devices.give_back(self, slot.place, self._share)
        else:
            self._devices.leave(self, slot.place)

    def _is_wanted(self, slot: _Slot) -> bool:
        return not (self._is_closing or self._failure is not None or slot.is_dismissed)

    def _hangs(self, slot: _Slot) -> bool:
        """Whether a worker has been silent for too long, loading or with rows."""
        if slot.capacity and not slot.leases:
            return False
        limit = self._hang_seconds if slot.capacity else LOAD_SECONDS
        return monotonic() - slot.heard > limit

    def _take(self, message: Any, slot: _Slot) -> None:
        if isinstance(message, CannotLoad):
            self._fail_all(PrefdataError(message.message))
            return
        with self._lock:
            if isinstance(message, Ready):
                slot.capacity = message.capacity
                slot.failed_loads = 0
                self._ready()
            else:
                for part in message:
                    self._settle(part, slot)
                if message:  # else it only told that its engine goes on
                    slot.fruitless = slot.convicted = 0
            self._deal()

    def _settle(self, part: Answer | Refusal, slot: _Slot) -> None:
        row = slot.leases.get(part.number)
        if row is None:  # another request of this row was refused
            return
        if isinstance(part, Refusal):
            slot.release(part.number)
            row.call.fail(PrefdataError(part.message))
            return
        row.call.deliver(part.index, part.result)
        del row.requests[part.index]
        slot.answered += 1
        if isinstance(part.result, Completion):
            slot.tokens += part.result.completion_tokens
        slot.load -= 1
        if not row.requests:
            slot.release(part.number)

    def _vacate(self, slot: _Slot) -> list[_Row]:
        """Take the dead worker's rows back."""
        rows = [*slot.leases.values()]
        slot.leases.clear()
        slot.replica, slot.capacity, slot.load = None, 0, 0
        slot.has_quarantined = False
        return rows

    def _after_death(self, slot: _Slot, replica: Replica, told: str, rows: list[_Row]) -> None:
        """Say what happened; decide who is asked again, and whether to go on at all."""
        alias = self._order.model.alias
        if any(row.deaths + 1 >= MAX_DEATHS for row in rows):  # it was alone, so it is found
            slot.fruitless = 0
            slot.convicted += 1
        else:
            slot.fruitless += 1
        if (
            slot.fruitless >= MAX_FRUITLESS
            or slot.failed_loads >= MAX_FAILED_LOADS
            or slot.convicted >= MAX_CONVICTED
        ):
            when = "while it loaded" if slot.failed_loads else "without a result"
            died = max(slot.fruitless, slot.convicted)
            slot.quarantine.extend(rows)
            self._fail_all(
                PrefdataError(
                    f"model {alias!r}: {died} workers in a row died {when} "
                    f"({told}); finished answers are kept. The last lines of the last "
                    f"worker, from {replica.log}:\n{replica.last_words()}"
                )
            )
            return
        self._say(
            f"a worker of {alias!r} died ({told}) with {len(rows)} rows; they are retried in "
            f"smaller batches (its output: {replica.log})"
        )
        with self._lock:
            for row in reversed(rows):  # the smallest batches first: they tell who it was
                row.deaths += 1
                if row.deaths < MAX_DEATHS:
                    slot.quarantine.appendleft(row)
                else:
                    detail = (
                        f"{row.deaths} workers died while they had this row, the last one with "
                        "only this row"
                    )
                    failure = Failure("kills_workers", f"{detail} ({told})")
                    for index in row.requests:
                        row.call.deliver(index, failure)

    def _fail_all(self, error: Exception) -> None:
        with self._lock:
            if isinstance(error, PrefdataError):
                self._failure = self._failure or error
                for slot in self._slots:
                    if slot.replica is not None:
                        slot.replica.end()
                self._devices.wake()
            rows = [*self._pending]
            for slot in self._slots:
                rows += [*self._vacate(slot), *slot.quarantine]
                slot.quarantine.clear()
            self._pending.clear()
            for row in rows:
                row.call.fail(error)


def _closed() -> RuntimeError:
    return RuntimeError("the engine was closed; requests in flight are lost")
