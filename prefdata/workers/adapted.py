"""A loaded base that several aliases share, each with LoRA weights of its own or with none."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from prefdata.engines import TextEngine
from prefdata.inference import Completion, Failure, TextRequest
from prefdata.storage.journaled import Opened


class Adapted:
    """A TextEngine that answers with one adapter of a base, or with the base itself."""

    def __init__(self, base: Opened[TextEngine], adapter: str | None) -> None:
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
        async for index, outcome in self._base.get().generate(requests):
            yield index, outcome

    def close(self) -> None:
        """As `TextEngine.close`, for all engines of the base."""
        self._base.close()
