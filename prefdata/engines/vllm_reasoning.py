"""Thoughts under vLLM: its parsers by name, and ours where the schema waits for their end."""

from collections.abc import Iterable, Sequence
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.reasoning import ReasoningParser as VllmParser
from vllm.reasoning import ReasoningParserManager

from prefdata.engines.reasoning import (
    Answer,
    Form,
    Harmony,
    Opening,
    Reader,
    Tags,
    cut,
    find_marks,
    open_reader,
    strip_blank_lines,
)
from prefdata.errors import PrefdataError, suggest
from prefdata.recipe.values import Reasoning, ReasoningParser

OURS = "prefdata"
"""The name under which vLLM knows our marks."""
CHANNELS = "openai_gptoss"
"""The parser of vLLM that says of every token that the thought is over: its server binds and
reads gpt-oss by other means. Ours is used in its place."""


def open_vllm_reader(
    reasoning: Reasoning, name: str, tokenizer: Any
) -> tuple[Reader, dict[str, Any]]:
    """The reader of a checkpoint, and vLLM's options about its thoughts.

    Told of a parser, vLLM binds an answer to its schema only after the thought, and can bound the
    thought's tokens.

    Raises:
        PrefdataError: vLLM has no such parser, or it does not fit the model.
    """
    if not isinstance(reasoning, ReasoningParser):
        reader = open_reader(reasoning, name, tokenizer)
    elif reasoning.parser == CHANNELS:
        reader = Reader(Harmony(), tokenizer)
    else:
        reader = _open_parser(reasoning.parser, name, tokenizer)
        return reader, {"reasoning_parser": reasoning.parser}
    if reader.form is None:
        return reader, {}
    # in this process, where the engine decides what a schema binds
    ReasoningParserManager.register_module(OURS, force=True, module=_parser_of(reader))
    return reader, {"reasoning_parser": OURS}


class ParsedReader(Reader):
    """Parts completions with one of vLLM's parsers."""

    def __init__(self, parser: type[VllmParser], form: Form | None, tokenizer: Any) -> None:
        """As `Reader`; `form` is what the parser tells of its marks."""
        super().__init__(form, tokenizer)
        self._parser = parser

    def opening(self, prompt: Sequence[int], prefill: str | None = None) -> Opening:
        """As `Reader.opening`; the parser says when no thought is to come."""
        told = super().opening(prompt, prefill)
        is_over = told == "unsaid" and self._parser(self._tokenizer).is_reasoning_end(list(prompt))
        return "closed" if is_over else told

    def read(
        self,
        ids: Sequence[int],
        *,
        opening: Opening,
        finish_reason: str,
        stops: Sequence[str] = (),
    ) -> Answer:
        """As `Reader.read`."""
        raw = self.decode(ids, is_raw=True)
        if opening == "closed":
            return Answer(cut(self.decode(ids), stops), finish_reason, rest=raw)
        parser: Any = self._parser(self._tokenizer)
        request = ChatCompletionRequest(messages=[])
        wants_raw = not parser.adjust_request(request).skip_special_tokens
        thought, content = parser.extract_reasoning(
            raw if wants_raw or self.form else self.decode(ids), request
        )
        if thought is None:
            return Answer(cut(content or "", stops), finish_reason, rest=raw)
        thought, text = thought.strip(), cut(strip_blank_lines(content or ""), stops)
        is_closed = content is not None or (self.form is not None and self.form.end in raw)
        if not is_closed:
            return Answer("", "truncated", thought, len(ids), None)
        spent = self.count_until(ids, self.form.end) if self.form else 0
        spent = spent or parser.count_reasoning_tokens(list(ids))
        reason = finish_reason if text.strip() else "empty"
        return Answer(text, reason, thought, spent, find_marks(raw, thought, 0, text), rest=text)


def _open_parser(parser: str, name: str, tokenizer: Any) -> Reader:
    try:
        kind = ReasoningParserManager.get_reasoning_parser(parser)
    except KeyError as err:
        known = ReasoningParserManager.list_registered()
        raise PrefdataError(
            f"model {name!r}: vLLM has no reasoning parser {parser!r}; {suggest(parser, known)}"
        ) from err
    try:
        made: Any = kind(tokenizer)
    except (RuntimeError, ValueError) as err:
        raise PrefdataError(
            f"model {name!r}: vLLM's reasoning parser {parser!r} does not fit it: {err}; name "
            "another one, or set reasoning: auto"
        ) from err
    begin, end = made.reasoning_start_str, made.reasoning_end_str
    return ParsedReader(kind, Tags(begin or "", end) if end else None, tokenizer)


def _parser_of(reader: Reader) -> type[VllmParser]:
    """A parser for vLLM's engine, which asks it where thoughts end and for the marks."""
    form = reader.form
    closing = form.closing if form else ""
    reach = len(reader.end_ids) + 2

    class Parser(VllmParser):  # type: ignore[misc, unused-ignore]
        """Knows the marks that the chat template of the model has.

        The engine asks it only where a thought ends; what reads texts is for vLLM's server.
        """

        @property
        def reasoning_start_str(self) -> str | None:
            return form.begin if form else None

        @property
        def reasoning_end_str(self) -> str | None:
            return form.end if form else None

        def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:
            return reader.opening(input_ids) == "closed"

        def is_reasoning_end_streaming(
            self, input_ids: Sequence[int], delta_ids: Iterable[int]
        ) -> bool:
            new = list(delta_ids)
            if len(reader.end_ids) == 1:
                return reader.end_ids[0] in new
            return closing in reader.decode(input_ids[-reach - len(new) :], is_raw=True)

        def extract_content_ids(self, input_ids: list[int]) -> list[int]:
            raise NotImplementedError("completions are parted by prefdata")

        def extract_reasoning(self, model_output: str, request: Any) -> Any:
            raise NotImplementedError("completions are parted by prefdata")

        def extract_reasoning_streaming(self, *args: Any) -> Any:
            raise NotImplementedError("completions are parted by prefdata")

    return Parser
