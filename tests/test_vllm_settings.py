"""vLLM is set up as its own class would set it up. Apart, since each engine ends the one before."""

import asyncio
import os
from dataclasses import fields

import pytest
from conftest import QUICKSTART

from prefdata.engines.options import vllm_options
from prefdata.engines.transformers.model import Checkpoint
from prefdata.errors import PrefdataError
from prefdata.inference import Sampling, TextRequest
from prefdata.recipe.schema import Model

pytest.importorskip("vllm", reason="vLLM is not installed here")
pytestmark = pytest.mark.vllm

LM, RM = (Checkpoint(str(QUICKSTART / "models" / name), None, False) for name in ("lm", "rm"))
NEEDED = {
    "model", "runner", "dtype", "enforce_eager", "enable_chunked_prefill", "max_num_batched_tokens"
}  # fmt: skip
"""Of what vLLM is given: which model, and what its CPU build cannot do without."""


@pytest.fixture(scope="module", autouse=True)
def environment():
    for name, value in (("VLLM_ENABLE_V1_MULTIPROCESSING", "0"), ("VLLM_CPU_KVCACHE_SPACE", "1")):
        os.environ.setdefault(name, value)


@pytest.mark.parametrize(("task", "checkpoint"), [("text", LM), ("classify", RM)])
def test_the_engine_is_set_up_as_vllms_own_class_would_for_the_same_options(task, checkpoint):
    from vllm import LLM

    from prefdata.engines.vllm import VllmRewardEngine, VllmTextEngine
    from prefdata.engines.vllm_arguments import engine_arguments

    engine = (VllmTextEngine if task == "text" else VllmRewardEngine)(checkpoint, {})
    ours, capacity = resolved(engine.config), engine.capacity
    engine.close()
    given = engine_arguments(checkpoint, task, {})
    theirs = LLM(**{name: value for name, value in given.items() if name in NEEDED})
    try:
        assert ours == resolved(theirs.llm_engine.vllm_config)
        assert ours["scheduler_config"]["max_num_seqs"] == str(capacity)
    finally:
        theirs.llm_engine.engine_core.shutdown()


def test_the_options_that_are_read_from_vllms_source_are_those_that_it_has():
    from vllm.engine.arg_utils import EngineArgs

    assert vllm_options() == {field.name for field in fields(EngineArgs)}


def test_without_seeds_no_start_repeats_another_and_those_of_the_recipe_still_count():
    starts = [drawn(seeds_all) for seeds_all in (False, False, True)]
    for own, _ in starts[:2]:  # equal prompts, drawn apart
        assert len(set(own)) > len(own) // 2
    assert starts[0][0] != starts[1][0]
    assert starts[0][1] == starts[1][1] == starts[2][1]


@pytest.mark.parametrize(("options", "is_drawn_by_seed"), [({}, False), ({"seed": 7}, True)])
def test_an_engine_with_a_seed_of_the_recipe_draws_every_request_by_its_own(
    monkeypatch, options, is_drawn_by_seed
):
    monkeypatch.setattr("vllm.platforms.current_platform.is_cpu", lambda: False)
    from prefdata.engines.vllm import draws_by_seed

    assert draws_by_seed(options) is is_drawn_by_seed
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    assert draws_by_seed(options)


@pytest.mark.parametrize(
    ("bound", "release", "runner"),
    [
        (64, (0, 24, 0), {"VLLM_USE_V2_MODEL_RUNNER": "0"}),
        (64, (0, 27, 1), {"VLLM_USE_V2_MODEL_RUNNER": "0"}),
        (64, (0, 28, 0), {}),
        (None, (0, 26, 0), {}),
    ],
    ids=str,
)
def test_thoughts_are_bound_by_the_model_runner_that_can(bound, release, runner):
    from prefdata.engines.vllm import choose_runner

    parameters = {"temperature": 0.6, "max_tokens": 512, "max_reasoning_tokens": bound}
    model = Model(alias="m", model="m", inference_parameters=parameters)
    assert choose_runner(model, release) == runner


def test_vllm_looks_at_a_class_that_is_new_to_it_before_the_model_may_load(monkeypatch, tmp_path):
    from vllm.model_executor.models.registry import _try_inspect_model_cls

    from prefdata.engines import look_at_model

    _try_inspect_model_cls.cache_clear()  # another test may have looked in this process
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    path = str(QUICKSTART / "models" / "rm")
    look_at_model("reward", Model(alias="rm", model=path), path, "vllm")
    assert [*(tmp_path / "modelinfos").iterdir()]


@pytest.mark.parametrize(("role", "name"), [("text", "lm"), ("reward", "rm")])
def test_a_model_that_does_not_fit_into_the_memory_is_told_in_a_line(
    monkeypatch, tmp_path, role, name
):
    from torch import OutOfMemoryError

    from prefdata.engines import open_engine

    def refuse(*args, **more):
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 1.96 GiB")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # or its scores may be known
    monkeypatch.setattr("vllm.v1.engine.llm_engine.LLMEngine.from_engine_args", refuse)
    monkeypatch.setattr("transformers.PreTrainedModel.to", refuse)
    path = str(QUICKSTART / "models" / name)
    advice = "gpu_memory_utilization" if role == "text" else "skip_health_check: true"
    with pytest.raises(PrefdataError, match=f"CUDA out of memory.*{advice}"):
        open_engine(role, Model(alias="m", model=path), path, "vllm")


def drawn(seeds_all):
    """What a start makes of one prompt: without a seed of the recipe's, and with."""
    from prefdata.engines.vllm import VllmTextEngine

    engine = VllmTextEngine(LM, {}, seeds_all=seeds_all)
    chat = ({"role": "user", "content": "What is 3 plus 4?"},)
    sampling = Sampling(temperature=1.5, max_tokens=12)

    async def ask(is_seeded):
        requests = [TextRequest(chat, sampling, n, is_seeded=is_seeded) for n in range(8)]
        found = {index: made.text async for index, made in engine.ask(requests)}
        return [found[index] for index in range(8)]

    try:
        return asyncio.run(ask(False)), asyncio.run(ask(True))
    finally:
        engine.close()


def resolved(config):
    """What vLLM has settled of scheduler, cache and compilation; ids of one instance left out."""
    parts = ("scheduler_config", "cache_config", "compilation_config")
    return {part: public(getattr(config, part)) for part in parts}


def public(part):
    return {field.name: repr(getattr(part, field.name)) for field in fields(part) if field.init}
