"""What a run and its workers say to one another, over a socket, as pickles."""

import copyreg
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from multiprocessing.connection import Connection
from operator import attrgetter
from typing import Any

from prefdata.inference import Completion, Failure, Logits, Sampling, ScoreRequest, TextRequest
from prefdata.recipe.contract import Role
from prefdata.recipe.schema import Model


@dataclass(frozen=True, slots=True)
class Order:
    """The first thing a worker hears: which model to prepare; `Go` follows when it may load it.

    Attributes:
        reads_ahead: until then it looks at the model and reads the weights, for all replicas.
    """

    role: Role
    model: Model
    path: str
    engine: str
    cores: tuple[int, ...] = ()
    adapters: tuple[str, ...] = ()
    reads_ahead: bool = False


@dataclass(frozen=True, slots=True)
class Go:
    """Its place is free: what was prepared may be loaded."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded; `capacity` requests fill it."""

    capacity: int


@dataclass(frozen=True, slots=True)
class CannotLoad:
    """The model could not be loaded, for a reason that the user can fix."""

    message: str


@dataclass(frozen=True, slots=True)
class Ask:
    """The requests of one row, by their index, under a number that the answers repeat."""

    number: int
    requests: Mapping[int, TextRequest | ScoreRequest]


@dataclass(frozen=True, slots=True)
class Answer:
    """One finished request: its index in the row's requests, and what came out."""

    number: int
    index: int
    result: Completion | Logits | Failure


@dataclass(frozen=True, slots=True)
class Refusal:
    """No request of this kind can be answered, for a reason that the user can fix."""

    number: int
    message: str


FromWorker = Ready | CannotLoad | Sequence[Answer | Refusal]


def send(connection: Connection, message: Any) -> None:
    """Say one thing. `Connection.send` does as much, with a slower pickler."""
    connection.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


def receive(connection: Connection) -> Any:
    """Hear one thing; blocks until there is one."""
    return pickle.loads(connection.recv_bytes())


def _pickle_by_fields(kind: type[Any]) -> None:
    """What dataclasses with slots do by themselves takes several times as long."""
    values = attrgetter(*(field.name for field in fields(kind)))
    copyreg.pickle(kind, lambda one: (kind, values(one)))


for _kind in (Ask, Answer, Completion, Sampling, TextRequest):
    _pickle_by_fields(_kind)
