"""Which GPUs and cores each replica gets, and what is said where they do not go round."""

import os

import pytest

from prefdata.errors import PrefdataError
from prefdata.recipe.schema import Model
from prefdata.workers.machine import Machine, Place, find_machine


def model(**engine):
    return Model(alias="m", model="x", engine=engine)


def gpus(machine, **engine):
    return [place.gpus for place in machine.places(model(**engine))]


def test_gpus_are_divided_among_replicas_in_their_own_notation():
    machine = Machine(("4", "5", "GPU-a1", "7"))
    assert gpus(machine) == [("4",), ("5",), ("GPU-a1",), ("7",)]
    assert gpus(machine, tensor_parallel_size=2) == [("4", "5"), ("GPU-a1", "7")]
    assert gpus(machine, tensor_parallel_size=2, pipeline_parallel_size=2) == [machine.gpus]


def test_a_parallel_size_that_does_not_divide_the_gpus_names_those_that_do():
    machine = Machine(tuple("01234567"))
    with pytest.raises(PrefdataError, match=r"one replica takes 3 GPUs .* one of 1, 2, 4, 8"):
        machine.places(model(tensor_parallel_size=3))
    with pytest.raises(PrefdataError, match="whole number of at least 1"):
        machine.places(model(tensor_parallel_size="two"))


def test_cores_are_divided_among_replicas(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 3, 4, 5, 6})
    assert Machine(replicas=2).places(model()) == [Place(cores=(2, 3)), Place(cores=(4, 5, 6))]
    assert Machine().places(model()) == [Place()]


@pytest.mark.parametrize(
    ("listed", "wanted", "found"),
    [
        ("2,3,5", 2, ("2", "3")),
        ("2,3,5", None, ("2",)),
        ("MIG-1/2/0", 1, ("MIG-1/2/0",)),
        ("", None, ()),
        ("-1", None, ()),
        ("2,3", 0, ()),
    ],
)
def test_cuda_visible_devices_is_respected(monkeypatch, listed, wanted, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert find_machine(wanted, None).gpus == found


@pytest.mark.parametrize(
    ("listed", "gpus", "replicas", "message"),
    [
        ("0,1", 8, None, r"sees 2 GPUs \(CUDA_VISIBLE_DEVICES='0,1'\); give --gpus 2"),
        ("0,1", 2, 2, "--replicas 2 is only for runs on a CPU"),
        ("", None, 10_000, "a replica needs at least one"),
    ],
)
def test_what_there_is_not_cannot_be_given(monkeypatch, listed, gpus, replicas, message):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    with pytest.raises(PrefdataError, match=message):
        find_machine(gpus, replicas)
