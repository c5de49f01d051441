"""What reaches a model, token by token, over many chats; and which roles its template shows."""

import asyncio
import json
from random import Random

import orjson
import pytest
import scripted_models
from transformers import AutoTokenizer

from prefdata.engines.scripted import Scripted
from prefdata.engines.template_file import find_roles, read_template
from prefdata.engines.transformers.model import ChatTokenizer, encode_request, template_arguments
from prefdata.pipeline import build
from prefdata.recipe.chats import Roles
from prefdata.recipe.loader import load_recipe
from prefdata.recipe.reads import all_columns
from prefdata.recipe.schema import Model
from prefdata.rows import rows_of
from prefdata.seeds.seeds import seeds_of
from prefdata.stages import Tools, make_stage
from prefdata.storage.folders import read_rows

ANSWER = "It is 4."
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}


def make_chats(count, *, has_systems=True, has_tools=True):
    """Chats of 1 to 9 turns that end with the user's or a tool's."""
    random = Random(7)
    chats = []
    for number in range(count):
        turns = 1 + 2 * (number % 5)
        chat = []
        if has_systems and number % 3 == 0:
            chat.append({"role": "system", "content": f"You are number {number}."})
        for turn in range(turns):
            text = " ".join(random.choice(["add", "ünï", "4", "\n\nnew", "{x}"]) for _ in range(4))
            chat.append({"role": ("user", "assistant")[turn % 2], "content": f"{turn} {text}"})
        if has_tools and number % 4 == 1:
            chat.append({"role": "assistant", "content": "", "tool_calls": [CALL]})
            chat.append({"role": "tool", "content": f"{number}", "tool_call_id": "c1"})
        chats.append(chat)
    return chats


def with_objects(turn):
    if "tool_calls" not in turn:
        return turn
    function = CALL["function"] | {"arguments": json.loads(CALL["function"]["arguments"])}
    return turn | {"tool_calls": [CALL | {"function": function}]}


def sent(project, chats):
    """The requests that a candidates column and a reward model make of seeds with these chats."""
    project.write_seeds([{"prompt": chat, "answer": n} for n, chat in enumerate(chats)])
    project.recipe["columns"][0]["prompt"] = "{{ prompt }}"
    project.recipe["columns"][0]["samples"] = 1
    project.recipe["columns"][1].pop("prompt")
    loaded = project.load()
    texts, scores = [], []
    recipe = loaded.recipe

    def reply(request):
        texts.append(request)
        return ANSWER

    def rate(request):
        scores.append(request)
        return 1.0

    models = {model.alias: model for model in recipe.models}
    engines = (
        dict.fromkeys(models, Scripted(reply)),
        dict.fromkeys(models, Scripted(rate)),
    )
    tools = Tools(0, models, *engines, columns=all_columns(recipe))
    stages = [make_stage(column, tools) for column in recipe.columns]
    for row in rows_of(seeds_of(recipe, loaded.locate).table):
        for stage in stages:
            row |= asyncio.run(stage(row))
    return texts, scores


@pytest.mark.parametrize("kind", ["qwen3", "gpt_oss", "quickstart"])
def test_the_ids_sent_are_those_of_the_chat_and_of_the_chat_with_its_answer(
    kind, project, tmp_path, quickstart_models
):
    """The encoder is the one that the transformers and vLLM engines share."""
    is_tiny = kind == "quickstart"
    folder = quickstart_models / "lm" if is_tiny else getattr(scripted_models, kind)(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = ChatTokenizer(str(folder), tokenizer, 100_000)
    chats = make_chats(200, has_tools=not is_tiny)
    texts, scores = sent(project, chats)
    # a template that prints arguments with `tojson` wants objects: a text would be quoted twice
    read = [[with_objects(turn) for turn in chat] for chat in chats] if kind == "gpt_oss" else chats
    answer = {"role": "assistant", "content": ANSWER}
    equal = [
        encoder.encode(request.messages, template_arguments(request))
        == tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        for chat, request in zip(read, texts, strict=True)
    ]
    scored = [
        encode_request(encoder, request)
        == tokenizer.apply_chat_template([*chat, answer], return_dict=False)
        for chat, request in zip(read, scores, strict=True)
    ]
    assert (sum(equal), sum(scored)) == (200, 200)


def roles_of(folder):
    return find_roles(read_template(Model(alias="a", model=str(folder)), str(folder)))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("gemma", Roles(system=False, developer=False)),
        ("qwen3", Roles(system=True, developer=False)),
        ("gpt_oss", Roles(system=True, developer=True)),
    ],
)
def test_the_roles_of_a_template_are_found_by_rendering(kind, expected, tmp_path):
    assert roles_of(getattr(scripted_models, kind)(tmp_path)) == expected


def test_a_template_that_drops_the_system_message_without_a_word_is_found_too(tmp_path):
    template = (
        "{% for m in messages if m.role != 'system' %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    )
    scripted_models.write_model(tmp_path, {"\n": "Yes."}, template=template)
    assert not roles_of(tmp_path).system


def test_a_template_is_rendered_as_the_tokenizer_renders_it(tmp_path):
    folder = scripted_models.qwen3(tmp_path)
    model = Model(alias="a", model=folder, chat_template_kwargs={"enable_thinking": False})
    template, tokenizer = read_template(model, folder), AutoTokenizer.from_pretrained(folder)
    for chat in make_chats(20):
        rendered = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=False, enable_thinking=False
        )
        assert template.render(chat) == rendered


# A model without a system role, from seeds to pairs


def gemma_recipe(tmp_path, **fields):
    folder = scripted_models.gemma(tmp_path / "gemma")
    reward = scripted_models.write_reward_model(
        tmp_path / "rm", "e", template=scripted_models.read_template("gemma"),
        specials=("<start_of_turn>", "<end_of_turn>"), eos=("<end_of_turn>",), bos="<bos>",
    )  # fmt: skip
    sampling = {"temperature": 0.0, "max_tokens": 16}
    recipe = {
        "output_dir": str(tmp_path / "run"),
        "seed_dataset": {"rows": [{"prompt": f"question {n}"} for n in range(3)]},
        "models": [
            {"alias": "hot", "model": folder, "inference_parameters": sampling,
             "system_prompt": "Be brief.", **fields},
            {"alias": "grader", "model": reward},
        ],
        "columns": [
            {"name": "candidates", "type": "candidates", "model_alias": "hot", "samples": 2,
             "prompt": "{{ prompt }}"},
            {"name": "reward", "type": "reward_model", "model_alias": "grader",
             "candidates": "candidates"},
        ],
        "output_projection": {"type": "preference_pairs", "candidates": "candidates",
                              "score": "reward", "strategy": "best_vs_worst"},
    }  # fmt: skip
    file = tmp_path / "recipe.yaml"
    file.write_bytes(orjson.dumps(recipe))
    return load_recipe(file)


def test_a_system_prompt_reaches_a_model_that_has_no_place_for_it_and_this_is_said_once(tmp_path):
    from prefdata.errors import PrefdataError

    said = []
    loaded = gemma_recipe(tmp_path)
    build(loaded, tmp_path / "run", say=said.append)
    rows = list(read_rows(tmp_path / "run" / "candidates"))
    assert len(rows) == 3
    assert all(one["text"] for row in rows for one in row["candidates"])
    assert all(isinstance(score, float) for row in rows for score in row["reward"])
    assert len([line for line in said if "'hot'" in line and "no place" in line]) == 1
    with pytest.raises(PrefdataError, match="system_role: error"):
        build(gemma_recipe(tmp_path, system_role="error"), tmp_path / "other", say=said.append)
