"""What each trainer reads: one function a format, from a conversation to lines. Writes no file.

Every format is loaded back by the trainer's own code where that can be installed, else checked
against its documentation; docs/training.md says which.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from prefdata.errors import PrefdataError, RowError, suggest
from prefdata.export import configurations
from prefdata.export.conversation import Conversation, Message
from prefdata.export.thoughts import KEYS, Carry, Way
from prefdata.pairs.pair import SIDES, Side
from prefdata.stages.function_process import raised
from prefdata.stages.functions import Functions, brought

Record = dict[str, Any]
Render = Callable[[tuple[Message, ...], Message], tuple[str, str]]
"""(prompt, answer) as texts with the turn tokens of a chat template in them."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What holds for all lines of one export.

    Attributes:
        keys: of every message; what a message lacks is null.
        is_single_turn: whether every prompt is one message of the user.
        is_scored: whether every pair has scores, and not a verdict alone.
        has_tools: whether some model was told of tools, or has called one.
        last_message_only: whether prompts are to be cut to their last message.
        render: of the model to be trained, for the format that wants texts.
        arguments: what the chat template was given when the answers were written, where the
            trainer's rendering is to be given the same.
        carry: puts the thoughts into a pair; None where they stay behind.
    """

    keys: tuple[str, ...] = ("role", "content")
    is_single_turn: bool = True
    is_scored: bool = True
    has_tools: bool = False
    has_margin: bool = True
    last_message_only: bool = False
    render: Render | None = None
    arguments: Record | None = None
    carry: Carry | None = None

    def prepare(self, pair: Conversation) -> Conversation:
        """The pair as it leaves: with its thoughts, where they are carried.

        Raises:
            RowError: they cannot be.
        """
        return self.carry(pair) if self.carry is not None else pair


@dataclass(frozen=True, slots=True)
class Format:
    """One trainer's layout.

    Attributes:
        records: the lines of a conversation; RowError where the layout cannot hold it.
        configure: the trainer's settings, as texts by file name; the first is printed.
        train: name of the file, in the export's folder.
        test: as `train`.
        test_size: share of prompts in test where neither the run nor the user says.
        needs_test: whether the trainer refuses to start without test lines.
        is_once: whether equal lines are written once; those with both labels not at all.
        has_tools: whether a line can hold tools, and answers that call them.
        has_turns: whether a side can be several messages.
        has_arguments: whether a line can say what its trainer gives to the chat template.
        ways: in which it carries thoughts, the best first.
    """

    records: Callable[[Conversation, Shape], list[Record]]
    configure: Callable[[configurations.Place], dict[str, str]]
    train: str = "train.jsonl"
    test: str = "test.jsonl"
    test_size: float = 0.05
    needs_test: bool = False
    is_once: bool = False
    has_arguments: bool = False
    ways: tuple[Way, ...] = ()
    has_tools: bool = False
    has_turns: bool = False

    def make(self, pair: Conversation, shape: Shape) -> list[Record]:
        """The lines of a pair.

        Raises:
            RowError: the layout cannot hold it.
        """
        if pair.has_tools and not self.has_tools:
            raise RowError("tools", "the layout has no place for calls of tools or their results")
        if pair.has_turns and not self.has_turns:
            raise RowError(
                "turns",
                "the two conversations part before their last answers, and the layout has no place "
                "for several messages behind the prompt",
            )
        return self.records(pair, shape)


def _trl(pair: Conversation, shape: Shape) -> list[Record]:
    # explicit prompt: without one TRL takes what both sides begin with for the prompt
    return [
        {
            "id": pair.id,
            "prompt": _prompt(pair, shape),
            "chosen": _completion(pair, "chosen"),
            "rejected": _completion(pair, "rejected"),
            **_tools(pair),
            **_arguments(shape),
            **_scores(pair, shape, "chosen_score", "rejected_score", "margin"),
        }
    ]


def _trl_kto(pair: Conversation, shape: Shape) -> list[Record]:
    if pair.is_tie:
        raise RowError("tie", "chosen and rejected are equally good, so neither has a label")
    return [
        {
            "prompt": _prompt(pair, shape),
            "completion": _completion(pair, side),
            "label": side == "chosen",
            **_tools(pair),
            **_arguments(shape),
        }
        for side in SIDES
    ]


def _nemo_rl(pair: Conversation, shape: Shape) -> list[Record]:
    completions = [
        {"rank": rank, "completion": pair.completion(side)} for rank, side in enumerate(SIDES)
    ]
    return [{"context": _messages(pair.prompt, shape), "completions": completions}]


def _nemo_rl_binary(pair: Conversation, shape: Shape) -> list[Record]:
    prompt = pair.prompt[0]["content"] if shape.is_single_turn else _messages(pair.prompt, shape)
    return [{"prompt": prompt, "chosen": pair.chosen, "rejected": pair.rejected}]


def _nemo_customizer(pair: Conversation, shape: Shape) -> list[Record]:
    plain = _plain(pair)
    prompt = plain[-1]["content"] if shape.last_message_only or shape.is_single_turn else plain
    return [{"prompt": prompt, "chosen_response": pair.chosen, "rejected_response": pair.rejected}]


def _nemo_aligner(pair: Conversation, shape: Shape) -> list[Record]:
    _check_system(pair)
    prompt: Any = _plain(pair)
    chosen: Any = _answer(pair, "chosen")
    rejected: Any = _answer(pair, "rejected")
    if shape.render is not None:
        prompt, chosen = shape.render(pair.prompt, Message(role="assistant", content=pair.chosen))
        _, rejected = shape.render(pair.prompt, Message(role="assistant", content=pair.rejected))
    rewards = {"chosen_reward": pair.chosen_score, "rejected_reward": pair.rejected_score}
    return [
        {"prompt": prompt, "chosen_response": chosen, "rejected_response": rejected}
        | (rewards if shape.is_scored else {})
    ]


def _axolotl(pair: Conversation, shape: Shape) -> list[Record]:
    return [
        {
            "messages": _plain(pair),
            "chosen": _answer(pair, "chosen"),
            "rejected": _answer(pair, "rejected"),
        }
    ]


def _llama_factory(pair: Conversation, shape: Shape) -> list[Record]:
    turns = [_SPEAKERS.get(message["role"], "none") for message in pair.prompt]
    turns = turns[1:] if pair.prompt[0]["role"] == "system" else turns
    if turns != (["asks", "answers"] * len(turns))[: len(turns)]:
        raise RowError(
            "turns",
            "this format allows one system message at the start, then user (or one result of a "
            "tool) and assistant in turn",
        )
    return [
        {
            "conversations": [_sharegpt(message) for message in pair.prompt],
            "chosen": _sharegpt(pair.sides["chosen"].message),
            "rejected": _sharegpt(pair.sides["rejected"].message),
            **({"tools": pair.tools or ""} if shape.has_tools else {}),
        }
    ]


_SPEAKERS = {"user": "asks", "tool": "asks", "assistant": "answers"}
_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def _sharegpt(message: Message) -> Record:
    """A turn under LLaMA-Factory's names."""
    if not message.get("tool_calls"):
        return {"from": _SHAREGPT[message["role"]], "value": message["content"]}
    if (message["content"] or "").strip():
        raise RowError("tools", "this format has no place for a text beside calls of tools")
    calls = [one["function"] for one in message["tool_calls"]]
    value = [{"name": one["name"], "arguments": _object(one["arguments"])} for one in calls]
    return {"from": "function_call", "value": orjson.dumps(value).decode()}


def _object(arguments: Any) -> Any:
    try:
        told = orjson.loads(arguments) if isinstance(arguments, str) else arguments
    except orjson.JSONDecodeError:
        told = None
    if not isinstance(told, dict):
        raise RowError("tools", f"the arguments of a call are no JSON object: {arguments!r}")
    return told


def _openrlhf(pair: Conversation, shape: Shape) -> list[Record]:
    (record,) = _open_instruct(pair, shape)
    return [record | _scores(pair, shape, "margin")]


def _ms_swift(pair: Conversation, shape: Shape) -> list[Record]:
    _check_system(pair)
    rejected: Any = [_answer(pair, "rejected", shape)] if shape.has_tools else pair.rejected
    line: Record = {"messages": _whole(pair, "chosen", shape), "rejected_response": rejected}
    tools = {"tools": pair.tools} if shape.has_tools else {}
    return [line | tools | _scores(pair, shape, "margin")]


def _open_instruct(pair: Conversation, shape: Shape) -> list[Record]:
    return [{side: _whole(pair, side, shape) for side in SIDES}]


def _nemo_customizer_sft(pair: Conversation, shape: Shape) -> list[Record]:
    return [{"messages": _whole(pair, "chosen", shape)}]


def _openai(pair: Conversation, shape: Shape) -> list[Record]:
    return [{"messages": [*pair.prompt, pair.sides["chosen"].message], **_tool_list(pair)}]


def _openai_preference(pair: Conversation, shape: Shape) -> list[Record]:
    return [
        {
            "input": {"messages": list(pair.prompt), **_tool_list(pair)},
            "preferred_output": [_answer(pair, "chosen")],
            "non_preferred_output": [_answer(pair, "rejected")],
        }
    ]


def _tool_list(pair: Conversation) -> Record:
    """As OpenAI reads them: no table is made of its files, so rows lend each other no keys."""
    return {"tools": pair.tool_list} if pair.tool_list else {}


def _messages(turns: Iterable[Message], shape: Shape) -> list[Record]:
    return [{key: message.get(key) for key in shape.keys} for message in turns]


def _whole(pair: Conversation, side: Side, shape: Shape) -> list[Record]:
    """Prompt and a side as one list of messages that have the same keys."""
    before = (*pair.prompt, *pair.completion(side)[:-1])
    return [*_messages(before, shape), _answer(pair, side, shape)]


def _prompt(pair: Conversation, shape: Shape) -> Any:
    """The prompt as TRL reads it: a list of messages, or a text where the answers are."""
    return _messages(pair.prompt, shape) if pair.plain_prompt is None else pair.plain_prompt


def _answer(pair: Conversation, side: Side, shape: Shape | None = None) -> Record:
    """A turn of the assistant; with the keys of the prompt's where both share a list."""
    said = pair.sides[side].message
    if shape is None:
        return said
    keys = dict.fromkeys((*shape.keys, *(("tool_calls",) if shape.has_tools else ())))
    return {key: said.get(key) for key in keys}


def _completion(pair: Conversation, side: Side) -> Any:
    """An answer as TRL reads it: a list of messages, or a text where the prompt is one."""
    return pair.completion(side) if pair.plain_prompt is None else getattr(pair, side)


def _tools(pair: Conversation) -> Record:
    """The column that TRL's trainers give to the chat template; JSON, or rows would share keys."""
    return {"tools": pair.tools} if pair.tools else {}


def _plain(pair: Conversation) -> list[Record]:
    """The prompt, for layouts that know nothing but a role and a text."""
    for message in pair.prompt:
        if message.keys() != {"role", "content"} or message["role"] == "tool":
            raise RowError("tools", "this format has no place for tool calls or their results")
    return list(pair.prompt)


def _check_system(pair: Conversation) -> None:
    """Make sure that a system message, if there is one, is the first."""
    if any(message["role"] in ("system", "developer") for message in pair.prompt[1:]):
        raise RowError("turns", "this format allows a system message only at the start")


def _arguments(shape: Shape) -> Record:
    """The column that TRL's trainers give to the chat template of a line."""
    return {"chat_template_kwargs": shape.arguments} if shape.arguments else {}


def _scores(pair: Conversation, shape: Shape, *names: str) -> Record:
    told = {"margin"} if shape.has_margin else set()
    told |= {"chosen_score", "rejected_score"} if shape.is_scored else set()
    return {name: getattr(pair, name) for name in names if name in told}


_CHAT_WAYS: tuple[Way, ...] = (*KEYS, "inline")
_TRL = Format(
    _trl,
    configurations.trl,
    has_arguments=True,
    has_tools=True,
    has_turns=True,
    ways=(*_CHAT_WAYS, "text"),
)
_CUSTOMIZER = Format(
    _nemo_customizer,
    configurations.nemo_customizer,
    train="training/training_file.jsonl",
    test="validation/validation_file.jsonl",
    test_size=0.2,
    needs_test=True,
)
_BINARY = Format(
    _nemo_rl_binary,
    partial(
        configurations.nemo_rl,
        kind="BinaryPreferenceDataset",
        prompt_key="prompt",
        chosen_key="chosen",
        rejected_key="rejected",
    ),
    ways=("inline",),
)
FORMATS: dict[str, Format] = {
    "trl": _TRL,
    "trl_kto": replace(
        _TRL, records=_trl_kto, configure=partial(configurations.trl, kind="KTO"), is_once=True
    ),
    "nemo_rl": Format(_nemo_rl, configurations.nemo_rl, has_turns=True, ways=("inline",)),
    "nemo_rl_binary": _BINARY,
    "nemo_customizer": _CUSTOMIZER,
    "nemo_customizer_sft": replace(
        _CUSTOMIZER,
        records=_nemo_customizer_sft,
        configure=partial(configurations.nemo_customizer, training_type="sft"),
        is_once=True,
    ),
    "nemo_platform": replace(
        _BINARY,
        configure=configurations.nemo_platform,
        train="training.jsonl",
        test="validation.jsonl",
        needs_test=True,
    ),
    "nemo_aligner": Format(_nemo_aligner, configurations.nemo_aligner),
    "axolotl": Format(_axolotl, configurations.axolotl, ways=("inline",)),
    "axolotl_passthrough": replace(
        _TRL, configure=configurations.axolotl_passthrough, ways=_CHAT_WAYS
    ),
    "llama_factory": Format(_llama_factory, configurations.llama_factory, has_tools=True),
    "openrlhf": Format(_openrlhf, configurations.openrlhf, has_turns=True, ways=_CHAT_WAYS),
    "ms_swift": Format(_ms_swift, configurations.ms_swift, has_tools=True),
    "open_instruct": Format(_open_instruct, configurations.open_instruct, ways=_CHAT_WAYS),
    "openai": Format(_openai, configurations.openai, is_once=True, has_tools=True),
    "openai_preference": Format(
        _openai_preference, configurations.openai_preference, has_tools=True
    ),
}
"""By the name that `prefdata export --format` takes."""


Lines = Callable[[Conversation], Mapping[str, Any] | Iterable[Mapping[str, Any]]]
"""A format of the user's: of a pair, one line or several."""


def find_format(wanted: str | Lines) -> tuple[str, Format]:
    """A format and its name.

    `wanted`: a key of `FORMATS`; or a function of the user's, itself, by its import path, or by the
    name of a package's entry point.

    Raises:
        PrefdataError: there is none.
    """
    if isinstance(wanted, str) and wanted in FORMATS:
        return wanted, FORMATS[wanted]
    if isinstance(wanted, str) and ":" not in wanted and wanted not in brought():
        raise PrefdataError(f"there is no format {wanted!r}; {suggest(wanted, FORMATS)}")
    found: Lines = Functions(Path()).find(wanted, "--format") if isinstance(wanted, str) else wanted
    name = str(getattr(found, "__name__", type(found).__name__)).strip("<>")
    return f"{name}_own" if name in FORMATS else name, _own_format(name, found)


def _own_format(name: str, lines: Lines) -> Format:
    def records(pair: Conversation, shape: Shape) -> list[Record]:
        try:
            made = lines(pair)
            found = [dict(one) for one in ([made] if isinstance(made, Mapping) else made)]
        except RowError:
            raise
        except Exception as err:  # somebody else's code
            raise PrefdataError(
                f"--format: the function {name} fails for pair {pair.id}: {raised(err)}; correct "
                "it, so that it returns a dict or a list of dicts"
            ) from err
        try:
            json.dumps(found, allow_nan=False, default=str)  # orjson makes null of NaN
            orjson.dumps(found)
        except (TypeError, ValueError) as err:
            raise PrefdataError(
                f"--format: what the function {name} returns for pair {pair.id} cannot be written "
                f"as JSON: {err}; let it return texts, finite numbers, lists and dicts"
            ) from err
        if not found:
            raise RowError("no_lines", f"the function {name} returns no line for it")
        return found

    return Format(records, lambda place: {}, has_tools=True)
