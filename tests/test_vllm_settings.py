"""vLLM is set up as its own class would set it up. Apart, since each engine ends the one before."""

import os
from dataclasses import fields

import pytest
from conftest import QUICKSTART

from prefdata.engines.transformers.model import Checkpoint

pytest.importorskip("vllm", reason="vLLM is not installed here")
pytestmark = pytest.mark.vllm

LM, RM = (Checkpoint(str(QUICKSTART / "models" / name), None, False) for name in ("lm", "rm"))


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
    ours = resolved(engine.config)
    engine.close()
    theirs = LLM(**engine_arguments(checkpoint, task, {}))
    try:
        assert ours == resolved(theirs.llm_engine.vllm_config)
        assert ours["scheduler_config"]["max_num_seqs"] == str(engine.capacity)
    finally:
        theirs.llm_engine.engine_core.shutdown()


def resolved(config):
    """What vLLM has settled of scheduler, cache and compilation; ids of one instance left out."""
    parts = ("scheduler_config", "cache_config", "compilation_config")
    return {part: public(getattr(config, part)) for part in parts}


def public(part):
    return {field.name: repr(getattr(part, field.name)) for field in fields(part) if field.init}
