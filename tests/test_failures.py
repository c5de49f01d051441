"""One failed sample costs one sample: what is left, what is counted, what is asked again."""

import asyncio
import json

import pytest
from server_stub import Server

from prefdata.errors import PrefdataError
from prefdata.fingerprint import TextKeys
from prefdata.inference import Failure, Sampling, TextRequest
from prefdata.pipeline import build
from prefdata.storage.folders import read_rows
from prefdata.storage.journal import Journal
from prefdata.storage.journaled import Journaled, Opened, Work


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def remote(project, server):
    """The project with its text model on the server, and a rule for a grader."""
    project.recipe["providers"] = [{"name": "srv", "endpoint": server.address, "max_retries": 5}]
    project.recipe["models"] = [
        project.recipe["models"][0] | {"provider": "srv", "skip_health_check": True}
    ]
    project.recipe["columns"][0]["samples"] = 8
    project.recipe["columns"][1] = {
        "name": "reward", "type": "verifier", "method": "function", "function": "grade:grade",
        "candidates": "candidates",
    }  # fmt: skip
    (project.folder / "grade.py").write_text(
        "import zlib\n\n\ndef grade(text, row):\n    return zlib.crc32(text.encode())\n"
    )
    project.write_seeds([{"prompt": f"question {n}", "answer": n} for n in range(6)])
    return project


def run(project, *overrides, out="run"):
    return build(project.load(*overrides), project.folder / out, say=lambda line: None)


def candidates_of(project, out="run"):
    rows = read_rows(project.folder / out / "candidates")
    return [one for row in rows for one in row["candidates"]]


FAULTS = {
    "no content": "no text",
    "no choice": "no choice",
    "400": (400, {}),
    "content_filter": {"message": {"content": None}, "finish_reason": "content_filter"},
    "refusal": {"message": {"content": None, "refusal": "I will not."}},
    "another name": {"message": {"content": "half"}, "finish_reason": "insufficient_resource"},
}
REASONS = {
    "no content": "no_content",
    "no choice": "no_content",
    "400": "refused_by_endpoint",
    "another name": "insufficient_resource",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_every_eighth_answer_failing_costs_an_eighth_of_the_candidates(remote, server, kind):
    fault, asked = FAULTS[kind], iter(range(1, 1000))

    def reply(body):
        made = next(asked)
        return fault if made % 8 == 0 else f"answer {body['seed'] % 97}"

    if isinstance(fault, dict):
        server.reply = reply
    else:
        server.faults.extend(([None] * 7 + [fault]) * 6)
    record = run(remote)
    reason = REASONS.get(kind, kind)
    print(f"| {kind} | {record['prompts']} of 6 prompts | {record['outcomes']['candidates']} |")
    assert record["prompts"] == 6
    assert record["rejects"] == {}
    assert record["outcomes"]["candidates"]["hot"] == {"stop": 42, reason: 6}
    assert record["drops"][reason] == 6
    rows = list(read_rows(remote.folder / "run" / "candidates"))
    scores = [
        score
        for row in rows
        for one, score in zip(row["candidates"], row["reward"], strict=True)
        if one["finish_reason"] == reason
    ]
    assert scores == [None] * 6
    pairs = list(read_rows(remote.folder / "run" / "pairs"))
    assert {one["chosen_finish_reason"] for one in pairs} == {"stop"}
    assert {one["rejected_finish_reason"] for one in pairs} == {"stop"}
    if reason != "insufficient_resource":
        assert record["failures"][reason]


def test_a_row_of_which_every_sample_fails_is_a_reject_with_their_reason(remote, server):
    refused = FAULTS["refusal"]
    server.reply = lambda body: (
        refused if "question 3" in body["messages"][-1]["content"] else f"a {body['seed'] % 97}"
    )
    record = run(remote)
    assert record["rejects"] == {"candidates: refusal": 1}
    assert record["prompts"] == 5


def test_sixteen_rows_failing_for_one_reason_stop_the_run(remote, server):
    remote.write_seeds([{"prompt": f"question {n}", "answer": n} for n in range(60)])
    server.reply = lambda body: FAULTS["refusal"]
    with pytest.raises(PrefdataError) as caught:
        run(remote, "columns.0.samples=2")
    assert "the first 16 rows all fail for one reason, refusal: the model refuses" in str(
        caught.value
    )


def test_fifteen_rows_failing_do_not_stop_the_run(remote, server):
    remote.write_seeds([{"prompt": f"question {n}", "answer": n} for n in range(30)])

    def reply(body):
        number = int(body["messages"][-1]["content"].split()[-1])
        return FAULTS["refusal"] if number < 15 else f"answer {body['seed'] % 97}"

    server.reply = reply
    assert run(remote, "columns.0.samples=2")["rejects"] == {"candidates: refusal": 15}


def test_what_failed_is_asked_again_by_three_runs_or_when_the_model_runs_in_another_way(tmp_path):
    asked = []

    class Engine:
        async def ask(self, requests):
            for index, request in enumerate(requests):
                asked.append(request)
                yield index, Failure(request.messages[0]["content"], "so it is")

        def close(self):
            pass

    def ask(reason, way=""):
        request = TextRequest(({"role": "user", "content": reason},), Sampling(0.5, 10), 7)
        with Journal(tmp_path / "journal") as journal:
            engine = Journaled(Opened(Engine), TextKeys("model"), journal, Work(), way=way)

            async def go():
                return [o async for _, o in engine.ask([request])]

            first, second = asyncio.run(go()), asyncio.run(go())
        assert first == second == [Failure(reason, "so it is")]

    for _ in range(5):
        ask("refused_by_endpoint")
    assert len(asked) == 3
    asked.clear()
    for _ in range(5):
        ask("prompt_too_long")
    assert len(asked) == 1
    asked.clear()
    for way in ("little memory", "little memory", "more memory", "more memory", "new version"):
        ask("kills_workers", way)
    assert len(asked) == 3


def test_a_failure_that_passed_is_an_answer_for_good(remote, server):
    server.faults.extend([None] * 3 + ["no text"])
    first = run(remote)
    assert first["outcomes"]["candidates"]["hot"]["no_content"] == 1
    again = run(remote, "columns.0.name=texts", "columns.1.candidates=texts",
                "output_projection.candidates=texts", out="other")  # fmt: skip
    assert again["outcomes"]["texts"]["hot"] == {"stop": 48}


JUDGE = {
    "name": "judge", "type": "llm_judge", "model_alias": "judge", "max_retries": 1,
    "prompt": "{{ prompt }} A: {{ response_a }} B: {{ response_b }}",
    "output_format": {
        "type": "object",
        "properties": {"winner": {"type": "string", "enum": ["A", "B", "tie"]}},
        "required": ["winner"],
    },
}  # fmt: skip


@pytest.fixture
def judged(remote):
    """Two texts and a judge, all on the server."""
    hot = remote.recipe["models"][0]
    remote.recipe["models"] = [hot, hot | {"alias": "judge"}]
    remote.recipe["columns"] = [
        {"name": name, "type": "llm_text", "model_alias": "hot", "prompt": name + " {{ prompt }}"}
        for name in ("response_a", "response_b")
    ] + [JUDGE]  # fmt: skip
    remote.recipe["output_projection"] = {"type": "dpo_preference"}
    return remote


def test_a_text_or_a_verdict_that_fails_costs_its_row_alone(judged, server):
    def reply(body):
        said = body["messages"][-1]["content"]
        if "A:" in said:
            winner = "A" if said.index("response_a") < said.index("response_b") else "B"
            verdict = {"message": {"content": json.dumps({"winner": winner})}}
            return FAULTS["refusal"] if "question 2" in said else verdict
        return {"message": {"content": None}} if said == "response_a question 4" else f"{said}: 7"

    server.reply = reply
    record = run(judged)
    assert record["rejects"] == {"judge: refusal": 1, "response_a: no_content": 1}
    assert record["prompts"] == 4


PROSE = {
    "prose": 'I think {so}. My verdict is {"winner": "A"}, as A is better.',
    "a fence": 'Here:\n```json\n{"winner": "A"}\n```',
    "behind a thought": '<think>Maybe {"winner": "B"}?</think>\n\n{"winner": "A"}',
    "after another object": '{"note": 1} {"winner": "A"}',
}


@pytest.mark.parametrize("said", PROSE.values(), ids=PROSE)
def test_a_verdict_is_found_where_a_server_binds_nothing(judged, server, said):
    server.reply = lambda body: (
        said if "A:" in body["messages"][-1]["content"] else body["messages"][-1]["content"]
    )
    record = run(judged, "providers.0.structured_outputs=false")
    assert record["judges"]["judge"]["first"] == 12
    assert record["rejects"] == {"pairs: tie": 6}


def test_a_greedy_request_is_asked_again_warmer(judged, server):
    server.reply = lambda body: (
        ("no verdict" if body["temperature"] == 0 else '{"winner": "A"}')
        if "A:" in body["messages"][-1]["content"]
        else body["messages"][-1]["content"]
    )
    record = run(judged, "models.1.inference_parameters={temperature: 0, max_tokens: 9}")
    assert record["judges"]["judge"]["first"] == 12
    temperatures = [b["temperature"] for _, _, b in server.asked if b["temperature"] != 0.9]
    assert sorted(temperatures) == [0] * 12 + [0.5] * 12


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", None])
def test_a_server_s_thoughts_are_kept_beside_its_answers(remote, server, key):
    def reply(body):
        answer = f"answer {body['seed'] % 97}"
        if key is None:
            return f"<think>\nhmm\n</think>\n\n{answer}"
        return {"message": {"content": f"\n\n{answer}", key: "hmm"}}

    server.reply = reply
    record = run(remote)
    made = candidates_of(remote)
    assert {one["reasoning"] for one in made} == {"hmm"}
    assert all(one["text"].startswith("answer ") for one in made)
    marks = ["<think>\n", "\n</think>\n\n"] if key is None else None
    assert all(one["reasoning_marks"] == marks for one in made)
    assert record["reasoning"] == "keep"
    [pair, *_] = read_rows(remote.folder / "run" / "pairs")
    assert (pair["chosen_reasoning"], pair["rejected_reasoning"]) == ("hmm", "hmm")


def test_a_server_s_thought_that_max_tokens_cut_is_no_answer(remote, server):
    cut = {"message": {"content": None, "reasoning_content": "hmm"}, "finish_reason": "length"}
    done = {"message": {"content": "", "reasoning_content": "hmm"}}
    kinds = [cut, done]
    server.reply = lambda body: (kinds * 40)[body["seed"] % 8] if body["seed"] % 8 < 2 else (
        f"answer {body['seed'] % 97}"
    )  # fmt: skip
    record = run(remote)
    found = record["outcomes"]["candidates"]["hot"]
    assert found.keys() == {"stop", "truncated", "empty"}
    assert record["drops"]["truncated"] == found["truncated"]
    assert record["drops"]["empty"] == found["empty"]
    assert record["reasoning"] is None  # no text that could be a side has a thought
