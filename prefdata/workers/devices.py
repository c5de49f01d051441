"""Who holds which GPU or core of a run: models that would be too much together wait."""

import threading
from collections.abc import Callable

from prefdata.workers.machine import Place

_ROUNDING = 1e-9


class Devices:
    """Shares of the memory of each device, held by the replicas of models. Used by many threads."""

    def __init__(self) -> None:
        """All of them are free."""
        self._changed = threading.Condition()  # its lock may be taken again by its holder
        self._held: list[tuple[object, Place, float]] = []
        self._waiting: list[tuple[object, Place]] = []

    def line_up(self, owner: object, place: Place) -> None:
        """Want a place; whoever lines up later gets it later. `take` follows, or `leave`."""
        with self._changed:
            self._waiting.append((owner, place))

    def leave(self, owner: object, place: Place) -> None:
        """Want it no longer."""
        with self._changed:
            if (owner, place) in self._waiting:
                self._waiting.remove((owner, place))
                self._changed.notify_all()

    def take(
        self, owner: object, place: Place, share: float, is_wanted: Callable[[], bool]
    ) -> bool:
        """Wait until others leave room at a place that was lined up for, and hold it.

        `owner`: whose replicas never wait for one another. `share`: of the memory of each, up to 1.
        `is_wanted`: asked before each wait and after `wake`.

        Returns:
            Whether it is held; not where it is no longer wanted.
        """
        with self._changed:
            try:
                while is_wanted():
                    if self._has_room(owner, place, share):
                        self._held.append((owner, place, share))
                        return True
                    self._changed.wait()
                return False
            finally:
                self.leave(owner, place)

    def give_back(self, owner: object, place: Place, share: float) -> None:
        """Let others have what was taken."""
        with self._changed:
            self._held.remove((owner, place, share))
            self._changed.notify_all()

    def wake(self) -> None:
        """Let all who wait see whether they still want it."""
        with self._changed:
            self._changed.notify_all()

    def _has_room(self, owner: object, place: Place, share: float) -> bool:
        earlier = self._waiting[: self._waiting.index((owner, place))]
        for name in _names(place):
            there = {who: part for who, where, part in self._held if name in _names(where)}
            others = sum(part for who, part in there.items() if who is not owner)
            is_next = all(who is owner or name not in _names(where) for who, where in earlier)
            if not is_next or others + share > 1 + _ROUNDING:
                return False
        return True


def _names(place: Place) -> tuple[str | int, ...]:
    return place.gpus or place.cores or ("cpu",)
