"""Engines that ask the journal first. They keep the protocols, so a stage cannot tell."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from prefdata.engines.protocols import RewardEngine, TextEngine
from prefdata.errors import RowError
from prefdata.fingerprint import ScoreKeys, TextKeys
from prefdata.inference import Completion, Logits, ScoreRequest, TextRequest
from prefdata.storage.journal import Journal


@dataclass
class Work:
    """What was asked of engines so far; tokens are those made now, not those replayed."""

    generated: int = 0
    scored: int = 0
    replayed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    loads: list[str] = field(default_factory=list)


class NotNow(Exception):
    """The model has no room beside those that are loaded; its turn comes."""


class JournaledText:
    """A TextEngine that never asks twice; the model is loaded when first needed.

    Attributes:
        may_load: whether it is this model's turn.
    """

    def __init__(
        self, open_engine: Callable[[], TextEngine], keys: TextKeys, journal: Journal, work: Work
    ) -> None:
        self._open, self._keys, self._journal, self._work = open_engine, keys, journal, work
        self._engine: TextEngine | None = None
        self._refused: dict[str, RowError] = {}
        self.may_load = True

    async def generate(
        self, requests: Sequence[TextRequest]
    ) -> AsyncIterator[tuple[int, Completion]]:
        """As `TextEngine.generate`; each new completion is in the journal before it is yielded."""
        keys = [self._keys.key(request) for request in requests]
        missing = []
        for index, key in enumerate(keys):
            if (value := self._journal.get(key)) is None:
                missing.append(index)
            else:
                self._work.replayed += 1
                yield index, Completion(**value)
        if not missing:
            return
        if (known := self._refused.get(keys[missing[0]])) is not None:
            raise known
        if not self.may_load:
            raise NotNow
        if self._engine is None:
            self._engine = self._open()
        try:
            async for index, completion in self._engine.generate([requests[i] for i in missing]):
                self._journal.append([(keys[missing[index]], completion)])
                self._count(completion)
                yield missing[index], completion
        except RowError as err:
            self._refused[keys[missing[0]]] = err
            raise

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
        self, open_engine: Callable[[], RewardEngine], keys: ScoreKeys, journal: Journal, work: Work
    ) -> None:
        self._open, self._keys, self._journal, self._work = open_engine, keys, journal, work
        self._engine: RewardEngine | None = None
        self._refused: dict[str, RowError] = {}
        self.may_load = True

    async def score(self, requests: Sequence[ScoreRequest]) -> AsyncIterator[tuple[int, Logits]]:
        """As `RewardEngine.score`; each new score is in the journal before it is yielded.

        A logit that is not finite is kept as null in the journal and yielded as NaN.
        """
        places: dict[str, list[int]] = {}  # equal texts of one row are scored once
        for index, request in enumerate(requests):
            places.setdefault(self._keys.key(request), []).append(index)
        missing = []
        for key, indices in places.items():
            if (value := self._journal.get(key)) is None:
                missing.append(key)
                continue
            self._work.replayed += 1
            for index in indices:
                yield index, tuple(float("nan") if x is None else x for x in value["logits"])
        if not missing:
            return
        if (known := self._refused.get(missing[0])) is not None:
            raise known
        if not self.may_load:
            raise NotNow
        if self._engine is None:
            self._engine = self._open()
        asked = [requests[places[key][0]] for key in missing]
        try:
            async for number, logits in self._engine.score(asked):
                self._journal.append([(missing[number], {"logits": logits})])
                self._work.scored += 1
                for index in places[missing[number]]:
                    yield index, logits
        except RowError as err:
            self._refused[missing[0]] = err
            raise

    def close(self) -> None:
        """Free the model if it was loaded."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
