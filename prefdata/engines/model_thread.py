"""An engine whose model runs in a thread of its own: jobs in, results out. Knows no model."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


class Call(Generic[Result]):
    """One caller waiting in its own event loop; the model thread delivers through it.

    Attributes:
        is_abandoned: nobody waits any more, so its jobs need not be done.
    """

    def __init__(self) -> None:
        """Must be made inside the event loop of the caller."""
        self.is_abandoned = False
        self._loop = asyncio.get_running_loop()
        self._arrivals: asyncio.Queue[tuple[int, Result] | BaseException] = asyncio.Queue()

    def deliver(self, index: int, result: Result) -> None:
        """Hand over one result, from any thread."""
        self._put((index, result))

    def fail(self, error: BaseException) -> None:
        """Make the caller raise `error`, from any thread."""
        self._put(error)

    async def take(self) -> tuple[int, Result]:
        """The next result; raises what `fail` was given."""
        arrival = await self._arrivals.get()
        if isinstance(arrival, BaseException):
            raise arrival
        return arrival

    def _put(self, arrival: tuple[int, Result] | BaseException) -> None:
        try:
            self._loop.call_soon_threadsafe(self._arrivals.put_nowait, arrival)
        except RuntimeError:  # the loop was closed under its own call: nobody is left to tell
            self.is_abandoned = True


class Work(Protocol[Job, Result]):
    """What a model thread runs: `start` and `step` always in that one thread.

    Attributes:
        capacity: requests that it works on at the same time.
    """

    capacity: int

    def prepare(self, requests: Sequence[Any], call: Call[Result]) -> Sequence[Job]:
        """The jobs of a call, made by whoever asks; what needs no model is delivered at once."""
        ...

    def start(self) -> None:
        """Called once, before the first step."""
        ...

    def step(self, arrivals: Sequence[Job]) -> bool:
        """Accept new jobs, then do one small piece of work; True while some is left."""
        ...


class ModelThread(Generic[Job, Result]):
    """A `Hosted` engine: runs one `Work` in a thread of its own, from construction to `close`.

    Attributes:
        steps: how many it has done: while it has work and this stands still, it may hang.
    """

    def __init__(
        self, name: str, work: Work[Job, Result], *, free: Callable[[], None] = lambda: None
    ) -> None:
        """Start the thread; it sleeps until the first job.

        `free`: called when the thread has ended and its work is gone.
        """
        self._work, self._free = work, free
        self._wake = threading.Condition()
        self._inbox: list[Job] = []
        self._calls: set[Call[Result]] = set()
        self._is_closing = False
        self._failure: BaseException | None = None
        self.steps = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def capacity(self) -> int:
        """As `Hosted.capacity`."""
        return self._work.capacity

    async def ask(self, requests: Sequence[Any]) -> AsyncGenerator[tuple[int, Result], None]:
        """As `Engine.ask`.

        Leaving the iterator early abandons the call: what is not finished is dropped. Whatever
        ended the thread is raised in every call there is and in every later one.
        """
        call: Call[Result] = Call()
        with self._wake:
            self._check()
            work = self._work
        jobs = work.prepare(requests, call)
        with self._wake:
            self._check()
            self._calls.add(call)
            self._inbox.extend(jobs)
            self._wake.notify()
        del work, jobs  # a call that is left open holds no model
        try:
            for _ in requests:
                yield await call.take()
        finally:
            call.is_abandoned = True
            with self._wake:
                self._calls.discard(call)

    def close(self) -> None:
        """End the thread after its current step; calls in flight raise RuntimeError."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        self._thread.join()
        self._free()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        failure: BaseException = RuntimeError("the engine was closed; requests in flight are lost")
        try:
            self._serve()
        # whatever escaped from here would leave every caller waiting for ever
        except BaseException as err:
            failure = err
        with self._wake:
            self._failure = failure
            for call in self._calls:
                call.fail(failure)
            del self._work  # a closed engine holds no model

    def _serve(self) -> None:
        has_work = False
        self._work.start()
        while True:
            with self._wake:
                while not (self._inbox or has_work or self._is_closing):
                    self._wake.wait()
                if self._is_closing:
                    return
                arrivals, self._inbox = self._inbox, []
            has_work = self._work.step(arrivals)
            self.steps += 1
