"""Models on a server: what is asked, what becomes of faults, and where the key stays."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from server_stub import KEY, Server
from test_recipe import RL_PREF
from typer.testing import CliRunner
from waiting import PATIENCE

from prefdata.cli import app
from prefdata.errors import PrefdataError
from prefdata.pipeline import build
from prefdata.recipe.loader import load_recipe
from prefdata.storage.folders import read_rows
from prefdata.storage.record import read_record

RETRIED = {
    "429 with Retry-After": (429, {"Retry-After": "1"}),
    "429": (429, {}),
    "500": (500, {}),
    "502": (502, {}),
    "503": (503, {}),
    "connection lost": "reset",
    "no answer in time": "hang",
}
REJECTED = {
    "400": ((400, {}), "refused_by_endpoint"),
    "413": ((413, {}), "refused_by_endpoint"),
    "422": ((422, {}), "refused_by_endpoint"),
    "no choice": ("no choice", "no_content"),
    "no text": ("no text", "no_content"),
    "half a surrogate pair": ("surrogate", "broken_text"),
    "withheld": ("content_filter", "content_filter"),
}


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def remote(project, server):
    """The project with its text model on the server, and a rule for a grader."""
    project.recipe["providers"] = [{"name": "srv", "endpoint": server.address}]
    project.recipe["models"] = [project.recipe["models"][0] | {"provider": "srv"}]
    project.recipe["columns"][1] = {
        "name": "reward", "type": "verifier", "method": "function", "function": "grade:grade",
        "candidates": "candidates",
    }  # fmt: skip
    (project.folder / "grade.py").write_text(
        "import zlib\n\n\ndef grade(text, row):\n    return zlib.crc32(text.encode())\n"
    )
    project.write_seeds([{"prompt": f"question {n}", "answer": n} for n in range(6)])
    return project


def run(project, *overrides, out="run", say=lambda line: None):
    return build(project.load(*overrides), project.folder / out, say=say)


def texts(project, out="run"):
    rows = read_rows(project.folder / out / "candidates")
    return {row["id"]: [one["text"] for one in row["candidates"]] for row in rows}


def test_the_design_s_rl_pref_builds_unchanged_given_an_address(tmp_path, server, monkeypatch):
    def reply(body):
        return '{"winner": "A"}' if "response_format" in body else f"{body['temperature']} degrees"

    server.reply, server.key = reply, KEY
    lines = [json.dumps({"prompt": f"question {n}"}) for n in range(12)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    (tmp_path / "rl_pref.yaml").write_text(RL_PREF)
    monkeypatch.setenv("NVIDIA_BASE_URL", server.address)
    monkeypatch.setenv("NVIDIA_API_KEY", KEY)
    loaded = load_recipe(tmp_path / "rl_pref.yaml", [f"output_dir={tmp_path / 'run'}"])
    record = build(loaded, tmp_path / "run", say=lambda line: None)
    assert record["rejects"] == {"pairs: tie": 100}  # this judge names what is shown first
    assert record["judges"]["judge"] == {
        "rows": 100, "agreed": 0, "ties": 100, "first": 200, "second": 0, "neither": 0,
    }  # fmt: skip
    assert record["requests"]["generated"] == 400
    assert record["loads"] == []
    bodies = [body for _, _, body in server.asked]
    assert len(bodies) == 402
    [wanted] = {json.dumps(b["response_format"]) for b in bodies if "response_format" in b}
    assert json.loads(wanted)["json_schema"]["schema"]["required"] == ["winner"]


@pytest.mark.parametrize(
    ("panel", "both_orders", "ties"), [("majority", True, 1), ("mean", True, 0), ("mean", False, 0)]
)
def test_ties_of_a_panel_are_what_it_says_in_the_end(remote, server, panel, both_orders, ties):
    """`place` names the first place, a tie in both orders; `text` always the better text."""

    def reply(body):
        names_first = body["model"] == "place" or body["messages"][0]["content"].startswith("good")
        return json.dumps({"winner": "A" if names_first else "B"})

    server.reply = reply
    alias = remote.recipe["models"][0]
    names = ("place", "text")
    remote.recipe["models"] = [alias | {"alias": name, "model": name} for name in names]
    remote.recipe["seed_dataset"] = {"rows": [{"prompt": "Q", "x": "good", "y": "bad"}]}
    verdict = {"type": "object", "properties": {"winner": {"enum": ["A", "B", "tie"]}}}
    remote.recipe["columns"] = [
        {
            "name": "judge", "type": "llm_judge", "model_alias": [*names], "panel": panel,
            "prompt": "{{ x }} {{ y }}", "compare": ["x", "y"], "both_orders": both_orders,
            "output_format": verdict,
        }
    ]  # fmt: skip
    remote.recipe["output_projection"] = {
        "type": "dpo_preference", "response_a_field": "x", "response_b_field": "y",
        "judge_field": "judge", "winner_field": "winner",
    }  # fmt: skip
    record = run(remote)
    counts = record["judges" if both_orders else "one_order"]["judge"]
    assert (counts["rows"], counts["ties"], record["pairs"]["train"]) == (1, ties, 1 - ties)


def test_what_the_recipe_says_reaches_the_server(remote, server):
    remote.recipe["models"][0] |= {
        "system_prompt": "Be brief.",
        "chat_template_kwargs": {"thinking": False},
        "inference_parameters": {
            "temperature": 0.5, "max_tokens": 9, "top_p": 0.8, "top_k": 4, "min_p": 0.1,
            "repetition_penalty": 1.1, "stop": ["x"],
        },
    }  # fmt: skip
    remote.recipe["providers"][0]["extra_body"] = {"tier": "slow"}
    run(remote, "models.0.skip_health_check=true")
    bodies = [body for _, _, body in server.asked]
    assert len({body.pop("seed") for body in bodies}) == len(bodies) == 24
    assert {body["messages"][1]["content"] for body in bodies} == {
        f"Answer: question {n}" for n in range(6)
    }
    assert bodies[0] | {"messages": bodies[0]["messages"][:1]} == {
        "model": "scripted", "messages": [{"role": "system", "content": "Be brief."}],
        "temperature": 0.5, "max_tokens": 9, "top_p": 0.8, "top_k": 4, "min_p": 0.1,
        "repetition_penalty": 1.1, "stop": ["x"], "chat_template_kwargs": {"thinking": False},
        "tier": "slow",
    }  # fmt: skip


@pytest.mark.parametrize("fault", RETRIED)
def test_a_passing_fault_changes_nothing_but_the_time(remote, server, fault):
    run(remote, out="calm")
    server.asked.clear()
    server.faults.extend([RETRIED[fault]] * 2)
    patience = 3 if RETRIED[fault] == "hang" else 300
    told = f"providers.0.timeout={patience}"
    record = run(remote, "models.0.skip_health_check=true", told)
    print(f"| {fault}, twice | {len(server.asked)} requests for 24 answers; rows as without it |")
    assert texts(remote) == texts(remote, "calm")
    assert record["rejects"] == {}
    assert len(server.asked) == 26


def test_the_wait_that_a_server_asks_for_is_kept(remote, server):
    server.faults.append((429, {"Retry-After": "2"}))
    run(remote, "providers.0.max_parallel_requests=1", "models.0.skip_health_check=true")
    first, second = (when for when, _, _ in server.asked[:2])
    assert second - first >= 2


@pytest.mark.parametrize("fault", REJECTED)
def test_a_request_that_is_refused_costs_one_candidate(remote, server, fault):
    made, reason = REJECTED[fault]
    server.faults.append(made)
    record = run(remote, "models.0.skip_health_check=true")
    assert record["rejects"] == {}
    assert record["prompts"] == 6
    rows = read_rows(remote.folder / "run" / "candidates")
    [failed] = [one for row in rows for one in row["candidates"] if one["finish_reason"] != "stop"]
    assert failed["finish_reason"] == reason
    reasons = {one["chosen_finish_reason"] for one in read_rows(remote.folder / "run" / "pairs")}
    assert reasons == {"stop"}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_retry_can_mend_stops_the_run_at_once(remote, server, status, monkeypatch):
    monkeypatch.setenv("SRV_KEY", KEY)
    server.faults.append((status, {}))
    with pytest.raises(
        PrefdataError, match=f"returned status {status} for model 'scripted'"
    ) as caught:
        run(remote, "providers.0.api_key=SRV_KEY")
    print(f"| {status} | stops after 1 request: {caught.value} |")
    assert "SRV_KEY" in str(caught.value)
    assert KEY not in str(caught.value)
    assert len(server.asked) == 1


def test_a_server_that_is_gone_for_good_stops_the_run_which_goes_on_later(remote, server):
    server.faults.extend([None] * 10 + [(503, {})] * 40)
    overrides = ["providers.0.max_retries=1", "providers.0.max_parallel_requests=1"]
    with pytest.raises(
        PrefdataError, match="status 503.*after up to 1 retries.*continues from there"
    ):
        run(remote, *overrides)
    server.faults.clear()
    record = run(remote, *overrides)
    assert record["requests"]["replayed"] == 9  # ten answers, one of them to the health check
    assert record["requests"]["generated"] == 15
    server.asked.clear()
    run(remote, *overrides)
    assert server.asked == []  # a finished run asks nobody


def test_a_server_that_is_not_there_is_one_message(remote, server):
    overrides = ["providers.0.endpoint=http://127.0.0.1:9/v1", "providers.0.max_retries=0"]
    with pytest.raises(
        PrefdataError, match=r"'srv' \(http://127.0.0.1:9/v1\) could not be reached"
    ):
        run(remote, *overrides)


def test_what_cannot_be_read_is_one_message(remote, server):
    server.faults.append("garbage")
    with pytest.raises(PrefdataError, match="an answer that could not be read"):
        run(remote)


@pytest.mark.parametrize("fault", ["page", {"error": {"code": 502}}, {"object": "list"}], ids=str)
def test_what_is_no_completion_stops_the_run(remote, server, fault):
    server.faults.append(fault)
    with pytest.raises(PrefdataError, match="not a chat completion"):
        run(remote)


def test_a_server_that_refuses_every_request_stops_the_run(remote, server):
    # the first refusal of a row may cancel its other requests: no more than one a row is sure
    remote.write_seeds([{"prompt": f"question {n}", "answer": n} for n in range(12)])
    server.faults.extend([(400, {})] * 48)
    with pytest.raises(PrefdataError, match=r"status 400.*\(for each of the first 8 requests\)"):
        run(remote, "models.0.skip_health_check=true")


def test_a_server_that_does_not_count_tokens_is_fine(remote, server):
    server.usage = {"total_tokens": 5}
    assert run(remote)["tokens"] == {"prompt": 0, "completion": 0}


def test_an_alias_that_nobody_asks_is_not_examined(remote, server):
    idle = {"alias": "idle", "model": "scripted", "provider": "srv"}
    remote.recipe["models"].append(idle)
    run(remote)
    assert len(server.asked) == 25


def test_all_models_of_a_server_share_its_limit(remote, server):
    other = remote.recipe["models"][0] | {"alias": "cool", "model": "another"}
    remote.recipe["models"].append(other)
    remote.recipe["columns"][0]["model_alias"] = ["hot", "cool"]
    remote.recipe["models"] = [m | {"skip_health_check": True} for m in remote.recipe["models"]]
    server.gathers = 2
    run(remote, "providers.0.max_parallel_requests=2")
    assert server.most == 2


def test_a_parameter_that_the_server_refuses_stops_before_any_row(remote, server):
    server.faults.append((400, {}))
    with pytest.raises(PrefdataError, match="model 'hot': provider 'srv'.*status 400"):
        run(remote)
    assert len(server.asked) == 1


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_requests_are_on_their_way_than_allowed(remote, server, limit):
    server.gathers = limit
    told = f"providers.0.max_parallel_requests={limit}"
    run(remote, told, "models.0.skip_health_check=true")
    assert server.most == limit


def test_the_address_is_no_part_of_what_was_answered(remote, server):
    run(remote)
    other = Server()
    try:
        record = run(remote, f"providers.0.endpoint={other.address}", "columns.0.samples=5")
        assert record["requests"]["generated"] == 6
    finally:
        other.close()


def test_answers_of_two_providers_are_not_mixed(remote, server):
    run(remote)
    record = run(remote, "providers.0.name=other", "models.0.provider=other")
    assert record["requests"]["generated"] == 24


def test_without_a_key_none_is_sent(remote, server):
    run(remote)
    assert not any("Authorization" in headers for _, headers, _ in server.asked)


def test_the_key_is_sent_and_stands_nowhere(remote, server):
    server.key = KEY
    server.faults.extend([None, (400, {}), (500, {}), (429, {})])
    remote.recipe["providers"][0] |= {"api_key": "SRV_KEY", "max_retries": 3}
    command = [sys.executable, "-m", "prefdata", "build", str(remote.write())]
    done = subprocess.run(
        [*command, "--out", str(remote.folder / "run")],
        env=os.environ | {"SRV_KEY": KEY, "OPENAI_LOG": "debug", "TERM": "dumb"},
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = [file for file in (remote.folder / "run").rglob("*") if file.is_file()]
    assert len(written) > 8
    for text in (done.stdout, done.stderr, *(f.read_bytes().decode("latin-1") for f in written)):
        assert KEY not in text
    [said] = read_record(remote.folder / "run")["failures"].values()
    assert "told to fail, Bearer ***" in said


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"providers.0.api_key={KEY}", "the name of an environment variable"),
        ("providers.0.endpoint=https://me:secret@host/v1", "the URL contains a user, a password"),
        ("providers.0.endpoint=https://host/v1?key=secret", "the URL contains a user, a password"),
        ("providers.0.endpoint=host/v1", "the URL should begin with http:// or https://"),
        ("providers.0.name=vllm", "'vllm' runs checkpoints on this machine"),
        ("providers.0.max_parallel=3", "did you mean 'max_parallel_requests'?"),
        ("models.0.provider=srw", "there is no provider 'srw'; did you mean 'srv'?"),
        ("models.0.engine={dtype: float32}", "is a server, so 'engine' has no effect"),
        ("models.0.revision=main", "is a server, so 'revision' has no effect"),
        ("models.0.reasoning={parser: qwen3}", "is a server, which has its own reasoning parser"),
        (
            "models.0.inference_parameters.max_reasoning_tokens=5",
            "servers bound thoughts in different ways",
        ),
    ],
)
def test_a_provider_that_cannot_be_used_is_told_without_telling_secrets(remote, override, message):
    with pytest.raises(PrefdataError) as caught:
        remote.load(override)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_key_that_is_not_set_stops_before_any_request(remote, server, monkeypatch):
    monkeypatch.delenv("SRV_KEY", raising=False)
    with pytest.raises(PrefdataError, match="the environment variable SRV_KEY is not set"):
        run(remote, "providers.0.api_key=SRV_KEY")
    assert server.asked == []


def graded(project):
    project.recipe["models"].append({"alias": "grader", "model": "reward", "provider": "srv"})
    project.recipe["columns"][1] = {
        "name": "reward", "type": "reward_model", "model_alias": "grader", "prompt": "{{ prompt }}",
        "candidates": "candidates",
    }  # fmt: skip
    return project


def scored(body):
    if body["model"] != "reward":
        return f"answer {body['seed']}"
    numbers = [("helpfulness", 3.0), ("correctness", 2.0), ("coherence", 4.0)]
    content = [{"token": t, "logprob": n, "top_logprobs": []} for t, n in numbers]
    return {"message": {"content": ""}, "logprobs": {"content": content}}


def test_a_reward_model_on_a_server_gives_its_attributes(remote, server):
    server.reply = scored
    graded(remote).recipe["columns"][1]["weights"] = [1, 1, -0.5]
    run(remote)
    rows = list(read_rows(remote.folder / "run" / "candidates"))
    assert {score for row in rows for score in row["reward"]} == {3.0}
    assert rows[0]["reward__meta"][0] == [3.0, 2.0, 4.0]
    chats = [body["messages"] for _, _, body in server.asked if body["model"] == "reward"]
    assert {tuple(m["role"] for m in chat) for chat in chats} == {("user", "assistant")}


def test_a_reward_in_words_is_read_too(remote, server):
    server.reply = lambda b: "reward:-3.5" if b["model"] == "reward" else f"answer {b['seed']}"
    run(graded(remote), "output_projection.ties=keep")
    row = next(read_rows(remote.folder / "run" / "candidates"))
    assert row["reward"] == [-3.5] * 4


def test_a_chat_model_is_no_reward_model(remote, server):
    server.reply = lambda body: "Hello to you!"
    with pytest.raises(PrefdataError, match="which holds no score; use a reward model"):
        run(graded(remote), "providers.0.max_retries=0")


def test_ratings_use_the_log_probabilities_that_a_server_tells(remote, server):
    def reply(body):
        if "logprobs" not in body:
            return f"answer {body['seed']}"
        likely = [{"token": t, "logprob": n} for t, n in (("4", -0.6931), ("5", -0.6931))]
        content = [{"token": "4", "logprob": -0.6931, "top_logprobs": likely}]
        return {"message": {"content": "4"}, "logprobs": {"content": content}}

    server.reply = reply
    remote.recipe["columns"][1] = {
        "name": "reward", "type": "rubric_judge", "model_alias": "hot", "scale": [1, 5],
        "candidates": "candidates", "criteria": {"right": "?"}, "prompt": "{{ response }}",
    }  # fmt: skip
    run(remote, "output_projection.ties=keep")
    assert next(read_rows(remote.folder / "run" / "candidates"))["reward"] == [4.5] * 4


def test_a_server_without_structured_outputs_is_asked_again_until_it_fits(remote, server):
    replies = iter(["I think A", '{"winner": "C"}'])
    server.reply = lambda body: next(replies, '```json\n{"winner": "A"}\n```')
    schema = {"type": "object", "properties": {"winner": {"enum": ["A", "B"]}}}
    remote.recipe["columns"] = [
        {"name": name, "type": "llm_text", "model_alias": "hot", "prompt": name} for name in "ab"
    ] + [
        {"name": "judge", "type": "llm_judge", "model_alias": "hot", "output_format": schema,
         "prompt": "{{ a }} {{ b }}"},
    ]  # fmt: skip
    remote.recipe["output_projection"] = {
        "type": "dpo_preference", "response_a_field": "a", "response_b_field": "b",
    }  # fmt: skip
    overrides = ["num_records=1", "providers.0.structured_outputs=false"]
    server.reply = lambda b: "text" if len(b["messages"][0]["content"]) == 1 else next(replies, '{"winner": "A"}')  # noqa: E501  # fmt: skip
    run(remote, *overrides, "models.0.skip_health_check=true")
    row = next(read_rows(remote.folder / "run" / "candidates"))
    assert row["judge"] == {"winner": "tie"}
    assert not any("response_format" in body for _, _, body in server.asked)
    assert len(server.asked) == 6


def test_plan_says_who_is_asked_and_what_is_loaded(remote):
    done = CliRunner().invoke(app, ["plan", str(remote.write())])
    assert "asks         scripted at srv" in done.stdout
    assert "passes, 0 model loads" in done.stdout


def test_parameters_go_under_the_names_that_the_server_knows(remote, server):
    names = {"seed": None, "max_tokens": "max_completion_tokens"}
    server.reply = lambda body: f"answer to {body['messages'][-1]}"
    remote.recipe["providers"][0]["parameters"] = names
    run(remote)
    assert server.asked
    for _, _, body in server.asked:
        assert body["max_completion_tokens"] in (16, 32)
        assert not {"seed", "max_tokens"} & body.keys()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            r"parameters: \{max_tokens: max_completion_tokens\}",
        ),
        ("Unrecognized request argument: seed", r"parameters: \{seed: null\}, or its own name"),
    ],
    ids=["under another name", "unknown"],
)
def test_a_refused_parameter_is_named_with_the_key_for_it(remote, server, said, told):
    server.faults.append((400, {}, said))
    with pytest.raises(PrefdataError, match=told):
        run(remote)


def test_a_chat_reaches_the_server_turn_by_turn_and_an_answer_begun_is_continued(remote, server):
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "and 3+3?"},
    ]
    remote.write_seeds([{"prompt": chat, "answer": 6}])
    remote.recipe["models"][0]["skip_health_check"] = True
    column = remote.recipe["columns"][0]
    column.pop("prompt")
    column["messages"] = "prompt"
    run(remote)
    assert [body["messages"] for _, _, body in server.asked] == [chat] * 4
    begun = {"role": "assistant", "content": "It is"}
    column["messages"] = [{"chat": "prompt"}, begun]
    run(remote, out="begun")
    bodies = [body for _, _, body in server.asked[4:]]
    assert [body["messages"] for body in bodies] == [[*chat, begun]] * 4
    assert all(body["continue_final_message"] is True for body in bodies)
    assert all(body["add_generation_prompt"] is False for body in bodies)
    assert all(text.startswith("It is") for text in texts(remote, "begun").popitem()[1])
