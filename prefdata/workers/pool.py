"""The replicas of one model as one engine: rows are dealt as they come, the dead replaced.

A row waits here until a replica has room, so replicas finish together. Rows that were with a
worker when it died are asked again, in ever smaller company: first a few at a time, then alone, so
that the one that kills is found and nothing else is lost.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import count
from math import isqrt
from pathlib import Path
from typing import Any

from prefdata.engines.model_thread import Call
from prefdata.errors import PrefdataError, RowError
from prefdata.inference import Completion, Logits, ScoreRequest, TextRequest
from prefdata.workers.machine import Place
from prefdata.workers.messages import Answer, Ask, CannotLoad, Order, Ready, Refusal
from prefdata.workers.replica import PROGRAM, Replica

MAX_DEATHS = 3
"""Deaths in a row's company after which the row is a reject: the last time it was alone."""
MAX_BARREN = 4
"""Deaths of a place's workers, one after another, without a single result in between."""
MAX_FAILED_LOADS = 2
"""Of those, deaths before the model was loaded."""
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


@dataclass(frozen=True, slots=True)
class _Lease:
    """A row that a worker has, and which of its requests: the worker counts them from 0."""

    row: _Row
    indices: Sequence[int]


@dataclass(eq=False)
class _Seat:
    """A place and whoever works there now.

    Attributes:
        load: requests that are not answered.
        barren: workers that died here one after another without a result.
        failed_loads: workers that died here one after another before they were ready.
        suspects: rows that saw a death here; nothing else is dealt until they are through.
    """

    place: Place
    log: Path
    replica: Replica | None = None
    capacity: int = 0
    load: int = 0
    barren: int = 0
    failed_loads: int = 0
    leases: dict[int, _Lease] = field(default_factory=dict)
    suspects: deque[_Row] = field(default_factory=deque)
    has_suspects_within: bool = False

    def takes(self, row: _Row) -> bool:
        """Whether the row may join those that are here."""
        if not (self.capacity and self.leases):
            return bool(self.capacity)
        if self.load + len(row.requests) > FILL * self.capacity:
            return False
        deaths = row.deaths
        if self.has_suspects_within:
            deaths = max(deaths, *(lease.row.deaths for lease in self.leases.values()))
        return len(self.leases) < _company(deaths, self.capacity)

    def release(self, number: int) -> None:
        """The row is through, or gone."""
        self.load -= len(self.leases.pop(number).row.requests)
        self.has_suspects_within &= bool(self.leases)


def _company(deaths: int, capacity: int) -> int:
    """Rows that may be with a worker together with one that saw so many deaths."""
    return (FILL * capacity, isqrt(capacity) + 1, 1)[deaths]


class Workers:
    """A TextEngine or RewardEngine, by its order, over worker processes."""

    def __init__(
        self,
        order: Order,
        places: Sequence[Place],
        logs: Path,
        say: Callable[[str], None],
        *,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        """Start one worker a place; they load at the same time, and nobody waits for them.

        Args:
            order: role, model and path; its cores are the place's.
            places: at least one.
            logs: folder of the workers' output.
            say: told of deaths.
            program: what becomes a worker.
        """
        self._order, self._say, self._program = order, say, program
        self._lock = threading.Lock()
        self._pending: deque[_Row] = deque()
        self._homes: OrderedDict[str, _Seat] = OrderedDict()
        self._numbers = count()
        self._failure: PrefdataError | None = None
        self._is_closing = False
        name = order.model.alias
        self._seats = [_Seat(p, logs / f"{name}-{n}.log") for n, p in enumerate(places)]
        self._threads = [
            threading.Thread(target=self._man, args=(seat,), name=f"{name}-{n}", daemon=True)
            for n, seat in enumerate(self._seats)
        ]
        for thread in self._threads:
            thread.start()

    async def generate(
        self, requests: Sequence[TextRequest]
    ) -> AsyncIterator[tuple[int, Completion]]:
        """As `TextEngine.generate`.

        Raises:
            RowError: what the engine says, or `kills_workers`.
            PrefdataError: the model does not load, or its workers die whatever they are asked.
        """
        async with aclosing(self._ask(requests)) as answers:
            async for answer in answers:
                yield answer

    async def score(self, requests: Sequence[ScoreRequest]) -> AsyncIterator[tuple[int, Logits]]:
        """As `RewardEngine.score`; errors as for `generate`."""
        async with aclosing(self._ask(requests)) as answers:
            async for answer in answers:
                yield answer

    @property
    def capacity(self) -> int:
        """Requests that the workers which are ready hold at once."""
        return sum(seat.capacity for seat in self._seats)

    @property
    def pids(self) -> list[int]:
        """Processes of the workers that are there now."""
        return [seat.replica.pid for seat in self._seats if seat.replica is not None]

    def close(self) -> None:
        """End all workers; rows in flight raise RuntimeError."""
        with self._lock:
            self._is_closing = True
            for seat in self._seats:
                if seat.replica is not None:
                    seat.replica.end()
        for thread in self._threads:
            thread.join()
        self._fail_all(_closed())

    async def _ask(self, requests: Sequence[Any]) -> AsyncGenerator[tuple[int, Any], None]:
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

    # ---- under the lock ----------------------------------------------------------------------

    def _deal(self) -> None:
        """Hand out what there is room for, suspects to the seat where they saw a death."""
        for seat in self._seats:
            while seat.suspects and seat.takes(seat.suspects[0]):
                self._give(seat.suspects.popleft(), seat)
        while self._pending and (free := self._choose(self._pending[0])) is not None:
            self._give(self._pending.popleft(), free)

    def _choose(self, row: _Row) -> _Seat | None:
        """The seat with the least to do, or one with little more that had an equal prompt."""
        free = [seat for seat in self._seats if not seat.suspects and seat.takes(row)]
        idlest = min(free, key=lambda seat: seat.load, default=None)
        home = self._homes.get(row.chat)
        if idlest is None or home not in free or home is None:
            return idlest
        return home if home.load <= idlest.load + idlest.capacity // 4 else idlest

    def _give(self, row: _Row, seat: _Seat) -> None:
        if row.call.is_abandoned or seat.replica is None:
            return
        self._homes[row.chat] = seat
        if len(self._homes) > REMEMBERED:
            self._homes.popitem(last=False)
        number = next(self._numbers)
        seat.leases[number] = _Lease(row, tuple(row.requests))
        seat.load += len(row.requests)
        seat.has_suspects_within |= row.deaths > 0
        seat.replica.tell(Ask(number, tuple(row.requests.values())))

    # ---- in the thread of a seat -------------------------------------------------------------

    def _man(self, seat: _Seat) -> None:
        """Keep a worker at a seat until the end, or until no worker lives there."""
        while not self._is_closing and self._failure is None:
            order = replace(self._order, cores=seat.place.cores)
            replica = Replica(order, seat.place, seat.log, self._program)
            with self._lock:
                seat.replica = replica
                if self._is_closing:
                    replica.end()
            while (message := replica.hear()) is not None:
                self._take(message, seat)
            code = replica.bury()
            with self._lock:
                seat.failed_loads += not seat.capacity
                rows = self._vacate(seat)
            if self._is_closing or self._failure is not None:
                for row in rows:
                    row.call.fail(self._failure or _closed())
            else:
                self._mourn(seat, replica, code, rows)

    def _take(self, message: Any, seat: _Seat) -> None:
        if isinstance(message, CannotLoad):
            self._fail_all(PrefdataError(message.message))
            return
        with self._lock:
            if isinstance(message, Ready):
                seat.capacity = message.capacity
                seat.failed_loads = 0
            else:
                for part in message:
                    self._settle(part, seat)
                seat.barren = 0
            self._deal()

    def _settle(self, part: Answer | Refusal, seat: _Seat) -> None:
        lease = seat.leases.get(part.number)
        if lease is None:  # another request of this row was refused
            return
        call = lease.row.call
        if isinstance(part, Refusal):
            seat.release(part.number)
            error = RowError(part.reason, part.detail) if part.reason else None
            call.fail(error or PrefdataError(part.detail))
            return
        index = lease.indices[part.index]
        call.deliver(index, part.result)
        del lease.row.requests[index]
        seat.load -= 1
        if not lease.row.requests:
            seat.release(part.number)

    def _vacate(self, seat: _Seat) -> list[_Row]:
        """Take the dead worker's rows back."""
        rows = [lease.row for lease in seat.leases.values()]
        seat.leases.clear()
        seat.replica, seat.capacity, seat.load = None, 0, 0
        seat.has_suspects_within = False
        return rows

    def _mourn(self, seat: _Seat, replica: Replica, code: int, rows: list[_Row]) -> None:
        """Say what happened; decide who is asked again, and whether to go on at all."""
        seat.barren += 1
        alias = self._order.model.alias
        told = f"exit code {code}" if code >= 0 else f"signal {-code}"
        if seat.barren >= MAX_BARREN or seat.failed_loads >= MAX_FAILED_LOADS:
            when = "while it loaded" if seat.failed_loads else "without a result"
            seat.suspects.extend(rows)
            self._fail_all(
                PrefdataError(
                    f"model {alias!r}: {seat.barren} workers died one after another {when} "
                    f"({told}); what was finished is kept. The last of them said, in "
                    f"{replica.log}:\n{replica.last_words()}"
                )
            )
            return
        self._say(
            f"a worker of {alias!r} died ({told}) with {len(rows)} rows; they are asked again (its "
            f"output: {replica.log})"
        )
        with self._lock:
            for row in rows:
                row.deaths += 1
                if row.deaths < MAX_DEATHS:
                    seat.suspects.append(row)
                else:
                    detail = f"{row.deaths} workers died while they had it, the last with it alone"
                    row.call.fail(RowError("kills_workers", f"{detail} ({told})"))

    def _fail_all(self, error: Exception) -> None:
        with self._lock:
            if isinstance(error, PrefdataError):
                self._failure = self._failure or error
                for seat in self._seats:
                    if seat.replica is not None:
                        seat.replica.end()
            rows = [*self._pending]
            for seat in self._seats:
                rows += [*self._vacate(seat), *seat.suspects]
                seat.suspects.clear()
            self._pending.clear()
            for row in rows:
                row.call.fail(error)


def _closed() -> RuntimeError:
    return RuntimeError("the engine was closed; requests in flight are lost")
