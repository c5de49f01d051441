"""What a stage may ask of an engine: a protocol of one method; and what a host may."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol, TypeVar

from prefdata.inference import Completion, Failure, Logits, ScoreRequest, TextRequest
from prefdata.recipe.contract import Role
from prefdata.recipe.schema import Model

Request = TypeVar("Request", contravariant=True)
Outcome = TypeVar("Outcome", covariant=True)


class Engine(Protocol[Request, Outcome]):
    """Answers requests with a model: completes chats, or scores finished ones."""

    def ask(self, requests: Sequence[Request], /) -> AsyncIterator[tuple[int, Outcome | Failure]]:
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


class Hosted(Engine[Request, Outcome], Protocol[Request, Outcome]):
    """An engine with a model of its own, as whoever deals out requests sees it."""

    @property
    def capacity(self) -> int:
        """Requests that it works on at the same time; more wait in its queue."""
        ...

    @property
    def steps(self) -> int:
        """Pieces of work that it has done: while it has some and this stands still, it may hang."""
        ...


TextEngine = Engine[TextRequest, Completion]
RewardEngine = Engine[ScoreRequest, Logits]


class Connection(Protocol):
    """The way to a server, shared by the engines of its models."""

    def open(self, model: Model, role: Role) -> Engine[Any, Any]:
        """An engine that completes chats on the server, or scores them."""
        ...

    def close(self) -> None:
        """Drop what is on its way."""
        ...
