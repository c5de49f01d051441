"""What a stage may ask of an engine: two protocols of one method each; and what a host may."""

from collections.abc import AsyncIterator, Sequence
from typing import Literal, Protocol

from prefdata.inference import Completion, Logits, ScoreRequest, TextRequest

Provider = Literal["transformers", "vllm"]
"""A program that runs checkpoints on this machine."""


class TextEngine(Protocol):
    """Completes chats."""

    def generate(self, requests: Sequence[TextRequest]) -> AsyncIterator[tuple[int, Completion]]:
        """Yield (index into `requests`, completion), each as soon as it is finished.

        The requests of one call belong to one row: they stay adjacent, so that a common
        prompt is prefilled once. Many calls may be in flight at the same time.

        Raises:
            RowError: a request cannot be served, say because its prompt exceeds the context.
        """
        ...

    def close(self) -> None:
        """Free the model; calls in flight fail."""
        ...


class RewardEngine(Protocol):
    """Scores finished chats."""

    def score(self, requests: Sequence[ScoreRequest]) -> AsyncIterator[tuple[int, Logits]]:
        """Yield (index into `requests`, raw logits), each as soon as it is finished.

        Raises:
            RowError: a request cannot be served, say because it exceeds the context.
        """
        ...

    def close(self) -> None:
        """Free the model; calls in flight fail."""
        ...


class Hosted(Protocol):
    """An engine with a model of its own, as whoever deals out requests sees it."""

    @property
    def capacity(self) -> int:
        """Requests that it works on at the same time; more wait in its queue."""
        ...


class HostedText(TextEngine, Hosted, Protocol):
    """A TextEngine with a model."""


class HostedReward(RewardEngine, Hosted, Protocol):
    """A RewardEngine with a model."""


class Connection(Protocol):
    """The way to a server, shared by the engines of its models."""

    def close(self) -> None:
        """Drop what is on its way."""
        ...
