"""Which engine runs a model."""

from importlib.util import find_spec

import pytest
from pydantic import ValidationError

from prefdata.engines import choose_engine
from prefdata.engines.options import check_options, vllm_options
from prefdata.errors import PrefdataError
from prefdata.recipe.providers import CLIENTS, ENGINES
from prefdata.recipe.schema import Endpoint, Model


def chosen(provider, *, on_gpu):
    return choose_engine("text", Model(alias="m", model="x", provider=provider), "x", on_gpu=on_gpu)


@pytest.fixture
def has_vllm(tmp_path, monkeypatch):
    if find_spec("vllm") is None:
        (tmp_path / "vllm.py").touch()
        monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("provider", "on_gpu", "engine"),
    [
        ("auto", True, "vllm"),
        ("auto", False, "transformers"),
        ("vllm", False, "vllm"),
        ("transformers", True, "transformers"),
    ],
)
def test_auto_follows_the_machine_and_a_named_engine_is_taken(provider, on_gpu, engine, has_vllm):
    assert chosen(provider, on_gpu=on_gpu) == engine


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_auto_runs_transformers_and_vllm_says_how_to_install_it():
    assert chosen("auto", on_gpu=True) == "transformers"
    with pytest.raises(PrefdataError) as caught:
        chosen("vllm", on_gpu=True)
    assert "in a clone of prefdata, or set provider: auto" in str(caught.value)


def test_every_engine_and_client_names_a_module_that_exists_and_an_extra_for_its_package():
    for entry in (*ENGINES.values(), *CLIENTS.values()):
        assert find_spec(entry.module)
        assert (entry.package is None) == (entry.extra is None)


def test_a_protocol_that_nothing_speaks_is_told_with_those_that_there_are():
    with pytest.raises(ValidationError, match="there is no provider_type 'grpc'; Known: openai"):
        Endpoint(name="far", endpoint="http://host/v1", provider_type="grpc")


def test_options_are_checked_by_name_before_anything_loads():
    model = Model(alias="lm", model="m", engine={"max_modle_len": 9})
    with pytest.raises(PrefdataError, match=r"'lm': unknown .* did you mean 'max_model_len'\?"):
        check_options(model, "text", ("transformers",))
    owned = model.model_copy(update={"engine": {"data_parallel_size": 2}})
    if vllm_options():
        with pytest.raises(PrefdataError, match="cannot be set here: use --gpus instead"):
            check_options(owned, "text", ("transformers", "vllm"))
    else:  # who knows what a vLLM elsewhere takes
        check_options(owned, "text", ("transformers", "vllm"))
    check_options(model.model_copy(update={"engine": {"dtype": "auto"}}), "reward", ("vllm",))


@pytest.mark.parametrize("role", ["text", "reward"])
def test_the_transformers_engine_takes_the_options_that_it_is_said_to_have(role):
    options = {"max_num_seqs": 3} if role == "text" else {"max_batch_tokens": 3}
    check_options(Model(alias="a", model="m", engine=options), role, ("transformers",))
    other = "reward" if role == "text" else "text"
    with pytest.raises(PrefdataError, match="remove it or set provider: vllm"):
        check_options(Model(alias="a", model="m", engine=options), other, ("transformers",))
