"""How much of a pass may lie in memory: bytes of rows that are finished but not yet handed on."""

import asyncio
from collections.abc import Mapping
from typing import Any

BYTES_PER_GPU = 2**28
"""What rows in flight may hold for each GPU, and twice that at least."""
FIRST_GUESSES = 32
"""Rows for which the guess counts when the mean of what was made is taken."""


class Room:
    """Lets a row begin only where what it will hold has room. Used by one thread.

    Rows come back in order, so all that are finished wait behind the slowest; were rows alone
    counted, thousands of long texts would wait there. The row that is next to come back always
    begins, so nothing waits for ever.

    Attributes:
        limit: bytes, as given.
        held: bytes of the rows that are finished and wait.
        peak: the most that were held at one time.
    """

    def __init__(self, limit: int, guess: int) -> None:
        """All of it is free.

        `limit`: bytes. `guess`: bytes that a row makes, until some are known.
        """
        self.limit, self._guess = limit, guess
        self._entered = self._left = self._begun = 0
        self._made = self._rows_made = 0
        self._held: dict[int, int] = {}
        self.held = 0
        self.peak = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}

    async def enter(self) -> int:
        """Wait for room; the number of the row, by which it leaves. Rows enter in order."""
        number = self._entered
        self._entered += 1
        while not self._has_room(number):
            self._waiting[number] = asyncio.get_running_loop().create_future()
            try:
                await self._waiting[number]
            finally:
                self._waiting.pop(number, None)
        self._begun += 1
        self._wake()
        return number

    def finish(self, number: int, made: Mapping[str, Any]) -> None:
        """The row is finished, and waits for those before it."""
        size = bytes_of(made)
        self._begun -= 1
        self._made, self._rows_made = self._made + size, self._rows_made + 1
        self._held[number] = size
        self.held += size
        self.peak = max(self.peak, self.held)
        self._wake()

    def leave(self) -> int:
        """The first of the rows is handed on; returns its bytes."""
        size = self._held.pop(self._left)
        self._left += 1
        self.held -= size
        self._wake()
        return size

    def _has_room(self, number: int) -> bool:
        mean = (self._guess * FIRST_GUESSES + self._made) / (FIRST_GUESSES + self._rows_made)
        return number == self._left or self.held + (self._begun + 1) * mean <= self.limit

    def _wake(self) -> None:
        """Let one row look again; once it has begun it wakes the next."""
        for number, future in self._waiting.items():  # in the order in which they came
            if not future.done() and self._has_room(number):
                future.set_result(None)
                return


def room_for(gpus: int, guess: int) -> Room:
    """Room for the rows of a pass, each of which makes about `guess` bytes."""
    return Room(max(2, gpus) * BYTES_PER_GPU, guess)


def bytes_of(value: Any) -> int:
    """What the texts in a value hold, roughly; 8 for a number."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return 8
    # most parts are texts and numbers, for which a call each would take half of the time
    return sum(
        len(part)
        if type(part) is str
        else bytes_of(part)
        if type(part) in (dict, list, tuple)
        else 8
        for part in value
    )
