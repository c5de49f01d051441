"""What a stage may ask of an engine: two protocols of one method each; and what a host may."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from prefdata.inference import Completion, Failure, Logits, ScoreRequest, TextRequest
from prefdata.recipe.contract import Role
from prefdata.recipe.schema import Model


class TextEngine(Protocol):
    """Completes chats."""

    def generate(
        self, requests: Sequence[TextRequest]
    ) -> AsyncIterator[tuple[int, Completion | Failure]]:
        """Yield (index into `requests`, outcome), each as soon as it is known.

        The requests of one call belong to one row: they stay adjacent, so that a common
        prompt is prefilled once. Many calls may be in flight at the same time. A request that
        cannot be served, say because its prompt exceeds the context, is a Failure of its own.

        Raises:
            PrefdataError: no request could be served.
        """
        ...

    def close(self) -> None:
        """Free the model; calls in flight fail."""
        ...


class RewardEngine(Protocol):
    """Scores finished chats."""

    def score(
        self, requests: Sequence[ScoreRequest]
    ) -> AsyncIterator[tuple[int, Logits | Failure]]:
        """Yield (index into `requests`, raw logits or why there are none), as soon as known.

        Raises:
            PrefdataError: no request could be served.
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

    @property
    def steps(self) -> int:
        """Pieces of work that it has done: while it has some and this stands still, it may hang."""
        ...


class HostedText(TextEngine, Hosted, Protocol):
    """A TextEngine with a model."""


class HostedReward(RewardEngine, Hosted, Protocol):
    """A RewardEngine with a model."""


class Connection(Protocol):
    """The way to a server, shared by the engines of its models."""

    def open_text(self, model: Model) -> TextEngine:
        """An engine that completes chats on the server."""
        ...

    def open_reward(self, model: Model) -> RewardEngine:
        """An engine that scores chats on the server."""
        ...

    def check(self, model: Model, role: Role) -> None:
        """Ask for one short answer, or one score, with this alias's parameters.

        Raises:
            PrefdataError: the server, the key, the model or a parameter is refused.
        """
        ...

    def close(self) -> None:
        """Drop what is on its way."""
        ...
