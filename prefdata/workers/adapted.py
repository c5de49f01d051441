"""A loaded base that several aliases share, each with LoRA weights of its own or with none."""

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from prefdata.engines import TextEngine
from prefdata.inference import Completion, Failure, TextRequest


class Base:
    """A text engine that is loaded when first asked, and again when asked after it was closed."""

    def __init__(self, open_engine: Callable[[], TextEngine]) -> None:
        self._open = open_engine
        self._engine: TextEngine | None = None
        self._lock = threading.Lock()

    @property
    def engine(self) -> TextEngine:
        """The engine, loaded by now."""
        with self._lock:
            if self._engine is None:
                self._engine = self._open()
            return self._engine

    def close(self) -> None:
        """Free the model if it was loaded."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


class Adapted:
    """A TextEngine that answers with one adapter of a base, or with the base itself."""

    def __init__(self, base: Base, adapter: str | None) -> None:
        """Load nothing yet.

        `adapter`: folder of the LoRA weights, if any.
        """
        self._base, self._adapter = base, adapter

    async def generate(
        self, requests: Sequence[TextRequest]
    ) -> AsyncIterator[tuple[int, Completion | Failure]]:
        """As `TextEngine.generate`."""
        if self._adapter is not None:
            requests = [replace(request, adapter=self._adapter) for request in requests]
        async for index, outcome in self._base.engine.generate(requests):
            yield index, outcome

    def close(self) -> None:
        """As `TextEngine.close`, for all engines of the base."""
        self._base.close()
