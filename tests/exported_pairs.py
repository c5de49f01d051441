"""Pairs to export and the files that hold them. Knows no trainer's code."""

from dataclasses import dataclass

import orjson


@dataclass(frozen=True)
class Pair:
    """One preference: what the files have to say again.

    Attributes:
        prompt: messages; the last is the user's.
        margin: by how much the chosen answer's score is above the rejected one's.
    """

    prompt: tuple[dict[str, str], ...]
    chosen: str
    rejected: str
    margin: float


def say(role, content):
    return {"role": role, "content": content}


PAIRS = (
    Pair((say("user", "What is 2 + 2?"),), "It is 4.", "It is 5.", 1.5),
    Pair(
        (say("user", "Wie groß?\n\n- naïve „Frage“"),),
        "Größe:\n\n\t漢字 🙂\n```\nx = {'a': 1}\n```",
        "nein\nnicht\\n",
        0.25,
    ),
    Pair(
        (
            say("system", "Answer in one word."),
            say("user", "Name a colour."),
            say("assistant", "Blue."),
            say("user", "Another one?"),
        ),
        "Green.",
        "I will not.",
        2.0,
    ),
)


# answers that begin or end with white space, or that a chat template has words of
ODD_PAIRS = (Pair((say("user", "Who are you?"),), " user\n", "s", 0.5),)


def answers(text):
    return [say("assistant", text)]


def line_of_axolotl(pair):
    return {
        "prompt": pair.prompt,
        "chosen": answers(pair.chosen),
        "rejected": answers(pair.rejected),
    }


def line_of_axolotl_chat_template(pair):
    return {
        "messages": pair.prompt,
        "chosen": say("assistant", pair.chosen),
        "rejected": say("assistant", pair.rejected),
    }


def line_of_llama_factory(pair):
    roles = {"system": "system", "user": "human", "assistant": "gpt"}
    return {
        "conversations": [
            {"from": roles[message["role"]], "value": message["content"]} for message in pair.prompt
        ],
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
    }


def line_of_whole_conversations(pair):
    return {
        "chosen": [*pair.prompt, *answers(pair.chosen)],
        "rejected": [*pair.prompt, *answers(pair.rejected)],
    }


def line_of_ms_swift(pair):
    return {
        "messages": [*pair.prompt, *answers(pair.chosen)],
        "rejected_response": pair.rejected,
    }


def line_of_nemo_rl(pair):
    ranked = enumerate((pair.chosen, pair.rejected))
    return {
        "context": pair.prompt,
        "completions": [{"rank": rank, "completion": answers(text)} for rank, text in ranked],
    }


def line_of_nemo_aligner(pair):
    return {
        "prompt": pair.prompt,
        "chosen_response": say("assistant", pair.chosen),
        "rejected_response": say("assistant", pair.rejected),
    }


def line_of_nemo_customizer(pair):
    return {
        "prompt": pair.prompt,
        "chosen_response": pair.chosen,
        "rejected_response": pair.rejected,
    }


def line_of_nemo_platform(pair):
    return {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}


LINES = {
    "axolotl": line_of_axolotl,
    "axolotl_chat_template": line_of_axolotl_chat_template,
    "llama_factory": line_of_llama_factory,
    "ms_swift": line_of_ms_swift,
    "nemo_aligner": line_of_nemo_aligner,
    "nemo_customizer": line_of_nemo_customizer,
    "nemo_platform": line_of_nemo_platform,
    "nemo_rl": line_of_nemo_rl,
    "open_instruct": line_of_whole_conversations,
    "openrlhf": lambda pair: line_of_whole_conversations(pair) | {"margin": pair.margin},
}
DATASET_INFO = {
    f"prefdata_{split}": {
        "file_name": f"{split}.jsonl",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
    }
    for split in ("train", "test")
}


def write_export(folder, name, pairs=PAIRS):
    """`train.jsonl` with all pairs and `test.jsonl` with the first, as the trainer `name` wants."""
    folder.mkdir(parents=True)
    for split, some in (("train", pairs), ("test", pairs[:1])):
        lines = b"".join(orjson.dumps(LINES[name](pair)) + b"\n" for pair in some)
        (folder / f"{split}.jsonl").write_bytes(lines)
    if name == "llama_factory":
        (folder / "dataset_info.json").write_bytes(orjson.dumps(DATASET_INFO))
    return folder
