"""Which GPUs and cores a run may use, and which of them each replica of a model gets."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from prefdata.errors import PrefdataError
from prefdata.recipe.schema import Model


@dataclass(frozen=True, slots=True)
class Place:
    """Where one replica runs.

    Attributes:
        gpus: entries for CUDA_VISIBLE_DEVICES; empty on a CPU.
        cores: numbers of the cores it may use; empty for all that the run has.
    """

    gpus: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()


WORKER = ("-m", "prefdata.workers.worker")
"""What the Python interpreter is given to become a worker."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a run may use of the machine it runs on.

    Attributes:
        gpus: entries for CUDA_VISIBLE_DEVICES, in its own notation; empty for a run on the CPU.
        replicas: processes a model on the CPU; one for all cores where it is 1.
        worker: arguments of the interpreter that becomes a worker.
    """

    gpus: tuple[str, ...] = ()
    replicas: int = 1
    worker: tuple[str, ...] = WORKER

    def places(self, model: Model) -> list[Place]:
        """One place for each replica of a model; together they use everything.

        Raises:
            PrefdataError: the GPUs cannot be divided by what one replica needs.
        """
        if not self.gpus:
            return [Place(cores=cores) for cores in _split(_cores(), self.replicas)]
        size = gpus_of_one(model)
        if len(self.gpus) % size:
            divisors = [n for n in range(1, len(self.gpus) + 1) if len(self.gpus) % n == 0]
            raise PrefdataError(
                f"model {model.alias!r}: one replica takes {size} GPUs (tensor_parallel_size "
                f"x pipeline_parallel_size), but {len(self.gpus)} GPUs cannot be divided by "
                f"that; make it one of {', '.join(map(str, divisors))}, or change --gpus"
            )
        starts = range(0, len(self.gpus), size)
        return [Place(gpus=self.gpus[start : start + size]) for start in starts]


def gpus_of_one(model: Model) -> int:
    """GPUs that one replica spans."""
    parts = (model.engine.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline"))
    size = 1
    for part in parts:
        if type(part) is not int or part < 1:
            raise PrefdataError(
                f"model {model.alias!r}: a parallel size is {part!r}; give a whole number of "
                "at least 1"
            )
        size *= part
    return size


def find_machine(gpus: int | None, replicas: int | None) -> Machine:
    """The machine as `--gpus` and `--replicas` describe it; CUDA_VISIBLE_DEVICES is respected.

    `gpus`: how many to use; None for one if there is one; 0 for the CPU.

    Raises:
        PrefdataError: more are wanted than there are, or it is no number.
    """
    for option, value, least in (("gpus", gpus, 0), ("replicas", replicas, 1)):
        if value is not None and (type(value) is not int or value < least):
            raise PrefdataError(f"{option} is {value!r}; give a whole number of at least {least}")
    visible = visible_gpus() if gpus != 0 else ()
    wanted = min(1, len(visible)) if gpus is None else gpus
    if wanted > len(visible):
        listed = os.environ.get("CUDA_VISIBLE_DEVICES")
        told = "" if listed is None else f" (CUDA_VISIBLE_DEVICES={listed!r})"
        raise PrefdataError(
            f"--gpus {wanted}: this process sees {len(visible)} GPUs{told}; give --gpus "
            f"{len(visible)}"
        )
    if wanted and replicas is not None:
        raise PrefdataError(
            f"--replicas {replicas} is only for runs on a CPU; on GPUs the number of "
            "replicas is --gpus divided by tensor_parallel_size; add --gpus 0 or leave "
            "--replicas out"
        )
    cores = len(_cores())
    if replicas is not None and replicas > cores:
        raise PrefdataError(
            f"--replicas {replicas}: this process has {cores} cores, and a replica needs at "
            f"least one; give --replicas {cores}"
        )
    return Machine(visible[:wanted], replicas or 1)


def visible_gpus() -> tuple[str, ...]:
    """Entries of CUDA_VISIBLE_DEVICES, or the numbers of all GPUs where it is not set."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return tuple(part.strip() for part in listed.split(",") if part.strip() not in ("", "-1"))
    from prefdata.engines import count_gpus  # torch: only where the answer is not in the list

    return tuple(str(number) for number in range(count_gpus()))


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def _split(cores: Sequence[int], parts: int) -> list[tuple[int, ...]]:
    if parts == 1:
        return [()]
    cuts = [len(cores) * n // parts for n in range(parts + 1)]
    return [tuple(cores[low:high]) for low, high in zip(cuts, cuts[1:], strict=False)]
