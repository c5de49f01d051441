"""Lines for trainers that cannot be installed here, against what their documentation asks for."""

import jsonschema
import pytest
from exported_pairs import PAIRS, export_pairs
from runs import read_lines

TEXT = {"type": "string", "minLength": 1}
MESSAGE = {
    "type": "object",
    "properties": {"role": {"enum": ["system", "user", "assistant"]}, "content": TEXT},
    "required": ["role", "content"],
    "additionalProperties": False,
}
ANSWER = MESSAGE | {"properties": {"role": {"const": "assistant"}, "content": TEXT}}
MESSAGES = {"type": "array", "items": MESSAGE, "minItems": 1}
TEXT_OR_MESSAGES = {"oneOf": [TEXT, MESSAGES]}


def record(**properties):
    return {"type": "object", "properties": properties, "required": list(properties)}


def ranked(rank):
    completion = {"type": "array", "items": ANSWER, "minItems": 1, "maxItems": 1}
    return record(rank={"const": rank}, completion=completion)


SCHEMAS = {
    # NeMo-Aligner 0.7.0, "Model Alignment by DPO, RPO, and IPO" and DPOModelDataset: texts with the
    # template's tokens in them, or messages on all three sides. A reward, if any, is a number.
    "nemo_aligner": {
        "oneOf": [
            record(prompt=TEXT, chosen_response=TEXT, rejected_response=TEXT),
            record(prompt=MESSAGES, chosen_response=ANSWER, rejected_response=ANSWER),
        ],
        "properties": {
            "chosen_reward": {"type": "number"},
            "rejected_reward": {"type": "number"},
        },
    },
    # NeMo Customizer, "Dataset Format Requirements": "DPO - Raw Request" and "DPO (OpenAI Message
    # Format for Prompt)". The answers are texts in both.
    "nemo_customizer": record(
        prompt=TEXT_OR_MESSAGES, chosen_response=TEXT, rejected_response=TEXT
    ),
    # NeMo Platform, "DPO Customization": "Binary Preference Format". The keys of a file's first
    # line say which format it is, so those of the other formats must not be there.
    "nemo_platform": record(prompt=TEXT_OR_MESSAGES, chosen=TEXT, rejected=TEXT)
    | {"not": {"anyOf": [{"required": ["completions"]}, {"required": ["overall_preference"]}]}},
    # NeMo RL, "Direct Preference Optimization in NeMo RL", PreferenceDataset: two completions of
    # one message, the lower rank preferred. It adds a column `task_name` itself.
    "nemo_rl": record(
        context=MESSAGES,
        completions={
            "type": "array",
            "prefixItems": [ranked(0), ranked(1)],
            "minItems": 2,
            "items": False,
        },
    )
    | {"not": {"required": ["task_name"]}},
    # NeMo RL, the same page, BinaryPreferenceDataset: the keys are told in its configuration.
    "nemo_rl_binary": record(prompt=TEXT_OR_MESSAGES, chosen=TEXT, rejected=TEXT),
    # NeMo Customizer, "Dataset Format Requirements": "Conversational"; OpenAI, "Supervised
    # fine-tuning".
    "nemo_customizer_sft": record(messages=MESSAGES | {"minItems": 2}),
    "openai": record(messages=MESSAGES | {"minItems": 2}),
    # OpenAI, "Direct preference optimization": one answer a side.
    "openai_preference": record(
        input=record(messages=MESSAGES),
        preferred_output={"type": "array", "items": ANSWER, "minItems": 1, "maxItems": 1},
        non_preferred_output={"type": "array", "items": ANSWER, "minItems": 1, "maxItems": 1},
    ),
    # Open Instruct, preference_tulu_tokenize_and_truncate_v1: whole conversations whose last
    # messages alone differ.
    "open_instruct": record(chosen=MESSAGES | {"minItems": 2}, rejected=MESSAGES | {"minItems": 2}),
}
# where each side's answer stands in a line
ANSWERS = {
    "nemo_aligner": lambda line: (
        line["chosen_response"]["content"],
        line["rejected_response"]["content"],
    ),
    "nemo_customizer": lambda line: (line["chosen_response"], line["rejected_response"]),
    "nemo_platform": lambda line: (line["chosen"], line["rejected"]),
    "nemo_rl_binary": lambda line: (line["chosen"], line["rejected"]),
    "nemo_customizer_sft": lambda line: (line["messages"][-1]["content"], None),
    "openai": lambda line: (line["messages"][-1]["content"], None),
    "openai_preference": lambda line: (
        line["preferred_output"][0]["content"],
        line["non_preferred_output"][0]["content"],
    ),
    "nemo_rl": lambda line: tuple(
        item["completion"][0]["content"]
        for item in sorted(line["completions"], key=lambda item: item["rank"])
    ),
    "open_instruct": lambda line: (
        line["chosen"][-1]["content"],
        line["rejected"][-1]["content"],
    ),
}


@pytest.fixture(params=sorted(SCHEMAS))
def trainer(request):
    return request.param


@pytest.fixture
def lines(trainer, tmp_path):
    return read_lines(export_pairs(tmp_path / trainer, trainer).train)


def is_valid(trainer, line):
    return jsonschema.Draft202012Validator(SCHEMAS[trainer]).is_valid(line)


def test_every_line_is_as_the_trainer_documents_it(trainer, lines):
    for line in lines:
        jsonschema.validate(line, SCHEMAS[trainer], jsonschema.Draft202012Validator)


def test_the_chosen_answer_is_on_the_chosen_side(trainer, lines):
    has_rejected = trainer not in ("nemo_customizer_sft", "openai")
    assert [ANSWERS[trainer](line) for line in lines] == [
        (pair.chosen, pair.rejected if has_rejected else None) for pair in PAIRS
    ]


def test_every_line_of_a_file_has_values_of_the_same_types(lines):
    # a JSON column that is a text here and a list there cannot be read as a table
    assert len({tuple((key, type(value)) for key, value in line.items()) for line in lines}) == 1


def test_a_line_without_one_of_its_values_is_refused(trainer, lines):
    for key in SCHEMAS[trainer].get("required", ["prompt", "chosen_response"]):
        assert not is_valid(trainer, lines[0] | {key: None})
        assert not is_valid(trainer, {name: lines[0][name] for name in lines[0] if name != key})


def test_both_conversations_for_open_instruct_differ_only_in_the_last_message(tmp_path):
    for line in read_lines(export_pairs(tmp_path / "run", "open_instruct").train):
        assert line["chosen"][:-1] == line["rejected"][:-1]
        assert line["chosen"][-1] != line["rejected"][-1]
