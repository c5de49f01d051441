"""Things far away: made once, watched until they are over. Knows not what they are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from prefdata.errors import PrefdataError, Say

if TYPE_CHECKING:  # the SDK, only when something is sent
    from prefdata.train.nemo_customizer.platform import Platform
    from prefdata.train.nemo_customizer.record import TrainRecord

Found = TypeVar("Found")
CONFLICT, NOT_FOUND = 409, 404
TRIES = 3
SETTLE = 5.0
"""Seconds that a request without an answer gets to show its effect."""


class Failure(PrefdataError):
    """A request that failed.

    Attributes:
        status: the HTTP status, or None where no answer came that could be read.
    """

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status is None or self.status in (408, 429) or self.status >= 500


@dataclass(frozen=True)
class Clock:
    """The time: how to tell it, how to let it pass.

    Attributes:
        now: seconds that never run back.
        sleep: waits for so many seconds.
    """

    now: Callable[[], float]
    sleep: Callable[[float], None]


@dataclass(frozen=True)
class Work:
    """A training under way: where it is done, what is noted of it, and who hears of it."""

    platform: "Platform"
    record: "TrainRecord"
    clock: Clock
    say: Say


def if_there(ask: Callable[[], Found]) -> Found | None:
    """What the platform has; None where it has nothing of that name."""
    try:
        return ask()
    except Failure as err:
        if err.status == NOT_FOUND:
            return None
        raise


def create_once(create: Callable[[], Found], find: Callable[[], Found | None], work: Work) -> Found:
    """Create what may not be there twice: after a failure, look before creating it again.

    Raises:
        Failure: refused; with 409 something else has its name.
    """
    for left in reversed(range(TRIES)):
        try:
            return create()
        except Failure as err:
            if not err.is_passing and err.status != CONFLICT:
                raise
            if err.is_passing:
                work.say(f"{err} (it may have been accepted; looked up in {SETTLE:g} s)")
                work.clock.sleep(SETTLE)
            if (found := find()) is not None:
                return found
            if err.status == CONFLICT or not left:
                raise
    raise AssertionError("the last try returns or raises")


def wait_for(
    look: Callable[[], bool],
    what: str,
    work: Work,
    *,
    limit: str,
    state: Callable[[], object],
    ends: str = "",
) -> bool:
    """Look until it is over, or once; whether it is.

    `limit`: the setting that says for how many seconds. `state`: what is known so far. `ends`: how
    it could be ended.

    Raises:
        Failure: one that will not pass, or too many in a row.
        PrefdataError: it was not over in time.
    """
    settings = work.platform.settings
    if not settings.wait:
        if not (is_over := look()):
            work.say(
                f"{what} continues; the same command looks again, or waits for it with wait=true"
            )
        return is_over
    seconds: float = getattr(settings, limit)
    try:
        is_over = _watch(look, work, seconds)
    except KeyboardInterrupt:
        work.say(f"{what} continues; the same command waits for it again{ends}")
        raise
    if not is_over:
        raise PrefdataError(
            f"{what} is {state()} after {seconds:g} s ({limit}); it continues, and the same "
            "command waits for it again"
        )
    return True


def _watch(look: Callable[[], bool], work: Work, seconds: float) -> bool:
    """Look again and again; whether it was over in time."""
    clock, settings = work.clock, work.platform.settings
    end, failures, most = clock.now() + seconds, 0, settings.max_consecutive_status_failures
    while True:
        try:
            if look():
                return True
            failures = 0
        except Failure as err:
            failures += 1
            if not err.is_passing:
                raise
            if failures >= most:
                raise Failure(
                    f"{err} ({failures} times in a row, as often as "
                    "max_consecutive_status_failures allows)",
                    err.status,
                ) from err
            work.say(f"{err} ({failures} of {most} times in a row)")
        if (left := end - clock.now()) <= 0:
            return False
        clock.sleep(min(settings.poll_interval_seconds, left))
