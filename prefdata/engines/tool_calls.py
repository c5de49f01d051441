"""Calls of tools in what a model has written: found, and kept exactly as written.

Knows texts alone, no row and no column. Every engine reads its answers through this.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from prefdata.engines.reasoning import Answer
from prefdata.errors import PrefdataError, suggest
from prefdata.inference import TextRequest, ToolCall

Tools = Sequence[Mapping[str, Any]]
_DECODER = json.JSONDecoder()
_HERMES = re.compile(r"<tool_call>\s*(\{.*?\})\s*(?:</tool_call>|\Z)", re.DOTALL)
_CHANNEL = re.compile(
    r"(?P<head>(?:<\|start\|>[^<]*)?<\|channel\|>[^<]*(?:<\|constrain\|>[^<]*)?)<\|message\|>"
    r"(?P<content>.*?)(?:<\|call\|>|<\|end\|>|\Z)",
    re.DOTALL,
)
_CALLED = re.compile(r"to=(?:functions\.)?([\w.-]+)")


@dataclass(frozen=True, slots=True)
class Found:
    """What a parser has found: the text without the calls, and (name, arguments) of each."""

    text: str
    calls: tuple[tuple[str, str], ...]


Parser = Callable[[str, Tools], Found]


def find_parser(name: str | None, tokenizer: Any, *, prefer_vllm: bool = False) -> Parser | None:
    """The parser of that name; None where none is wanted.

    `name`: one of BUILT_IN, or of vLLM's where vLLM is installed. `tokenizer`: of the model; vLLM's
    parsers look their marks up in it. `prefer_vllm`: take vLLM's parser where both have one of this
    name.

    Raises:
        PrefdataError: there is no such parser here.
    """
    if name is None:
        return None
    has_vllm = find_spec("vllm") is not None
    if name in BUILT_IN and not (prefer_vllm and has_vllm and name not in _OWN):
        return BUILT_IN[name]
    if not has_vllm:
        raise PrefdataError(
            f"there is no tool_parser {name!r} here; {suggest(name, sorted(BUILT_IN))}. vLLM, "
            "which has more, is not installed"
        )
    return _parser_of_vllm(name, tokenizer)


def read_calls(answer: Answer, parser: Parser | None, request: TextRequest, reason: str) -> Answer:
    """The answer with its calls taken out of the text.

    `parser`: None leaves the text as it is. `request`: whether it offers tools, and binds the
    answer to no schema, so that something may be called. `reason`: why the completion ended, `stop`
    or `length`.
    """
    if parser is None or not request.tools or request.schema is not None or not answer.rest:
        return answer
    found = parser(answer.rest, request.tools)
    if not found.calls:
        return answer
    calls = tuple(make_call(n, *call) for n, call in enumerate(found.calls))
    ended = "tool_calls" if reason == "stop" else reason
    marks = answer.marks if found.text == answer.text else None
    return replace(answer, text=found.text, tool_calls=calls, finish_reason=ended, marks=marks)


def make_call(number: int, name: str, arguments: str) -> ToolCall:
    """One call in OpenAI's form; its id is its number within the answer."""
    function: Any = {"name": name, "arguments": arguments}
    return {"id": f"call_{number}", "type": "function", "function": function}


def as_written(text: str, arguments: str) -> str:
    """The arguments as they stand in a text, where a parser has written them anew."""
    try:
        wanted = json.loads(arguments)
    except json.JSONDecodeError:
        return arguments
    for start in (found.start() for found in re.finditer(r"\{", text)):
        try:
            value, end = _DECODER.raw_decode(text, start)
        except json.JSONDecodeError:
            continue
        if value == wanted:
            return text[start:end]
    return arguments


def _hermes(text: str, tools: Tools) -> Found:
    calls = [_named(found[1]) for found in _HERMES.finditer(text)]
    if not calls or None in calls:
        return Found(text, ())
    return Found(text[: text.index("<tool_call>")].rstrip("\n"), tuple(filter(None, calls)))


def _llama3_json(text: str, tools: Tools) -> Found:
    told = text.replace("<|python_tag|>", "").strip()
    calls, at = [], 0
    while at < len(told) and told[at] == "{":
        try:
            _, end = _DECODER.raw_decode(told, at)
        except json.JSONDecodeError:
            return Found(text, ())
        calls.append(_named(told[at:end]))
        at = end + len(told[end:]) - len(told[end:].lstrip("; \n"))
    if not calls or None in calls or at < len(told):
        return Found(text, ())
    return Found("", tuple(filter(None, calls)))


def _openai(text: str, tools: Tools) -> Found:
    calls = []
    for message in _CHANNEL.finditer(text):
        if (called := _CALLED.search(message["head"])) is not None:
            calls.append((called[1], message["content"].strip()))
    return Found("" if calls else text, tuple(calls))


def _named(text: str) -> tuple[str, str] | None:
    """Name and arguments of a call that is a JSON object."""
    try:
        call = json.loads(text)
        key = "arguments" if "arguments" in call else "parameters"
        name, arguments = call["name"], json.dumps(call.get(key, {}), ensure_ascii=False)
    except (json.JSONDecodeError, KeyError, TypeError):
        return None
    return str(name), as_written(text.partition(f'"{key}"')[2], arguments)


def _parser_of_vllm(name: str, tokenizer: Any) -> Parser:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tool_parsers import ToolParserManager

    try:
        kind = ToolParserManager.get_tool_parser(name)
    except KeyError as err:
        raise PrefdataError(f"vLLM has no tool_parser {name!r}: {err.args[0]}") from err

    def parse(text: str, tools: Tools) -> Found:
        request = ChatCompletionRequest(messages=[], tools=[dict(tool) for tool in tools])
        read = kind(tokenizer, request.tools).extract_tool_calls(text, request)
        if not read.tools_called:
            return Found(text, ())
        made = [(one.function.name, one.function.arguments) for one in read.tool_calls]
        return Found(
            (read.content or "").rstrip("\n"),
            tuple((name, as_written(text, arguments)) for name, arguments in made),
        )

    return parse


BUILT_IN: dict[str, Parser] = {"hermes": _hermes, "llama3_json": _llama3_json, "openai": _openai}
"""Parsers by the names that vLLM gives them; `openai` reads harmony channels (gpt-oss)."""
_OWN = frozenset(("openai",))
"""Those whose namesakes in vLLM want tokens and not a text."""
