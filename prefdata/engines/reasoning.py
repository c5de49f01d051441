"""Where a completion thinks and where it answers: the marks of thoughts, and what they part.

Knows tokens and texts, no model and no row. Every engine reads its completions through this.
"""

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from prefdata.errors import PrefdataError
from prefdata.inference import Completion, TextRequest, ToolCall
from prefdata.recipe.values import Reasoning, ReasoningParser, ReasoningTags


@dataclass(frozen=True, slots=True)
class Tags:
    """A thought between two marks; an empty `begin` means that every prompt opens it."""

    begin: str
    end: str

    @property
    def closing(self) -> str:
        """The text after which the thought is over."""
        return self.end


@dataclass(frozen=True, slots=True)
class Harmony:
    """Channels (gpt-oss): the thought in `analysis`, the answer in `final`."""

    begin = "<|channel|>analysis<|message|>"
    end = "<|end|><|start|>assistant<|channel|>final<|message|>"
    closing = "<|channel|>final<|message|>"


Form = Tags | Harmony
Opening = Literal["open", "closed", "unsaid"]
"""What a prompt says of the thought: begun, over before it began, or nothing."""
TAGS = (
    Tags("<think>", "</think>"),
    Tags("[THINK]", "[/THINK]"),
    Tags("<thinking>", "</thinking>"),
    Tags("<seed:think>", "</seed:think>"),
    Tags("<|START_THINKING|>", "<|END_THINKING|>"),
    Tags("<|channel>thought", "<channel|>"),
    Tags("<|inner_prefix|>", "<|inner_suffix|>"),
    Tags("\u25c1think\u25b7", "\u25c1/think\u25b7"),
)
"""Those of the models that are met today: Qwen, DeepSeek and most; Magistral; …; Seed; Cohere;
Gemma 4; Apertus; Kimi."""
_MESSAGE = re.compile(
    r"(?:<\|start\|>(?P<role>[^<]*))?(?:<\|channel\|>(?P<channel>[^<]*))?(?:<\|constrain\|>[^<]*)?"
    r"<\|message\|>(?P<content>.*?)(?P<end><\|end\|>|<\|return\|>|<\|call\|>|\Z)",
    re.DOTALL,
)
_BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")
_TAIL = 16
"""Tokens at the end of a prompt that are searched for the mark that opens the thought."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion, parted.

    Attributes:
        text: without thought and blank lines before it.
        reasoning: without white space around it; None where there was no thought.
        marks: so that marks[0] + reasoning + marks[1] + text is what was written; None where no
            two texts around the thought make it.
        rest: what follows the thought, special tokens included; tool calls are found in it.
        finish_reason: as of the completion, or `truncated`, or `empty`.
        tool_calls: those that were found in `rest`.
    """

    text: str
    finish_reason: str
    reasoning: str | None = None
    reasoning_tokens: int = 0
    marks: tuple[str, str] | None = None
    rest: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    def complete(
        self,
        prompt_tokens: int,
        completion_tokens: int,
        first_logprobs: Mapping[str, float] | None = None,
    ) -> Completion:
        """The completion that this is the text of."""
        return Completion(
            self.text,
            self.finish_reason,
            prompt_tokens,
            completion_tokens,
            first_logprobs,
            self.reasoning,
            self.reasoning_tokens,
            self.marks,
            self.tool_calls,
        )


def find_form(reasoning: Reasoning, template: str, name: str) -> Form | None:
    """How a checkpoint marks its thoughts; None where it has none.

    Raises:
        PrefdataError: a parser is named, and only vLLM has parsers.
    """
    if isinstance(reasoning, ReasoningParser):
        raise PrefdataError(
            f"model {name!r}: 'reasoning' names the parser {reasoning.parser!r}, which only vLLM "
            "has; set provider: vllm, or give the marks: {begin: …, end: …}"
        )
    if isinstance(reasoning, ReasoningTags):
        return Tags(reasoning.begin, reasoning.end)
    if reasoning == "none":
        return None
    if "<|channel|>" in template and "<|message|>" in template:
        return Harmony()
    told = [tags for tags in TAGS if tags.end in template or tags.begin in template]
    return told[0] if told else None


def prefill_of(request: TextRequest) -> str | None:
    """The beginning of the answer that a request brings along."""
    return request.messages[-1]["content"] if request.continues else None


def open_reader(reasoning: Reasoning, name: str, tokenizer: Any) -> "Reader":
    """The reader of a checkpoint; errors as from `find_form`."""
    template = tokenizer.chat_template
    # some have several under names: the one that is used without tools is the default
    text = template if isinstance(template, str) else " ".join((template or {}).values())
    return Reader(find_form(reasoning, text, name), tokenizer)


class Reader:
    """Parts the completions of one model."""

    def __init__(self, form: Form | None, tokenizer: Any) -> None:
        self.form, self._tokenizer = form, tokenizer
        self.begin_ids = self.encode(form.begin) if form else []
        self.end_ids = self.encode(form.end) if form else []
        self._message_ids = self.encode("<|message|>")

    def encode(self, mark: str) -> list[int]:
        """Tokens of a mark."""
        return list(self._tokenizer.encode(mark, add_special_tokens=False))

    def decode(self, ids: Sequence[int], *, is_raw: bool = False) -> str:
        """Text, spaces as the model wrote them; special tokens only where `is_raw`."""
        return str(
            self._tokenizer.decode(
                list(ids), skip_special_tokens=not is_raw, clean_up_tokenization_spaces=False
            )
        )

    def opening(self, prompt: Sequence[int], prefill: str | None = None) -> Opening:
        """What a prompt says of the thought.

        `prompt`: its tokens, of which the last ones are looked at. `prefill`: the beginning of the
        answer, where the prompt ends with one.
        """
        if not isinstance(self.form, Tags):
            return "unsaid"
        begin, end = self.form.begin, self.form.end
        if prefill is not None and (begin in prefill or end in prefill):
            return "open" if prefill.rfind(begin) > prefill.rfind(end) else "closed"
        tail = self.decode(prompt[-_TAIL:], is_raw=True).rstrip()
        if tail.endswith(end):
            return "closed"
        return "open" if tail.endswith(begin) else "unsaid"

    def read(
        self,
        ids: Sequence[int],
        *,
        opening: Opening,
        finish_reason: str,
        stops: Sequence[str] = (),
    ) -> Answer:
        """Part the tokens of a completion, the one that ends it left out.

        `finish_reason`: `stop` or `length`. `stops`: strings that end the text and are no part of
        it.
        """
        if isinstance(self.form, Harmony):
            return self._read_channels(ids, finish_reason, stops)
        if self.form is None:
            text = cut(self.decode(ids), stops)
            return Answer(text, finish_reason, rest=cut(self.decode(ids, is_raw=True), stops))
        raw = self.decode(ids, is_raw=True)
        is_open = opening == "open"
        answer = part(raw, self.form, is_open=is_open, finish_reason=finish_reason)
        if answer.reasoning is None:
            return Answer(cut(self.decode(ids), stops), finish_reason, rest=raw)
        if answer.finish_reason == "truncated":
            return _with(answer, tokens=len(ids))
        spent = self.count_until(ids, self.form.end)
        plain, end = self.decode(ids), self.form.end
        # marks that are special tokens are gone from the plain text
        rest = plain.partition(end)[2] if end in plain else self.decode(ids[spent:])
        return _with(answer, tokens=spent, text=cut(strip_blank_lines(rest), stops))

    def ends_with_begin(self, tokens: Sequence[int]) -> bool:
        """Whether the last tokens are the mark that opens a thought."""
        tail = self.decode(tokens[-len(self.begin_ids) :], is_raw=True)
        return self.form is not None and tail.endswith(self.form.begin)

    def count_until(self, ids: Sequence[int], end: str) -> int:
        """Tokens up to and with a mark."""
        if len(self.end_ids) == 1 and self.end_ids[0] in ids:
            return list(ids).index(self.end_ids[0]) + 1
        return 1 + bisect_left(
            range(1, len(ids)), True, key=lambda n: end in self.decode(ids[:n], is_raw=True)
        )

    def _read_channels(
        self, ids: Sequence[int], finish_reason: str, stops: Sequence[str]
    ) -> Answer:
        raw = self.decode(ids, is_raw=True)
        messages = list(_MESSAGE.finditer(raw))
        if not messages:
            if "<|channel|>" in raw:
                return Answer("", "truncated", "", len(ids), None)
            text = cut(self.decode(ids), stops)
            return Answer(text, finish_reason, rest=raw)
        final = next((n for n, m in enumerate(messages) if _channel(m) == "final"), None)
        thoughts = [m for m in messages[:final] if " to=" not in m[0].partition("<|message|>")[0]]
        if final is None:
            is_cut = not messages[-1]["end"] or finish_reason == "length"
            thought = "\n\n".join(m["content"].strip() for m in thoughts)
            reason = "truncated" if is_cut else "empty"
            return Answer("", reason, thought, len(ids), None, rest=raw[messages[-1].start() :])
        content = messages[final]
        text = cut(content["content"], stops)
        reason = finish_reason if text.strip() else "empty"
        if not thoughts:
            return Answer(text, reason, rest=text)
        thought = "\n\n".join(m["content"].strip() for m in thoughts)
        marks = None
        if len(messages[:final]) == 1:
            marks = find_marks(raw, thought, thoughts[0].start("content"), text)
        spent = [n for n, token in enumerate(ids) if [token] == self._message_ids]
        tokens = spent[final] + 1 if len(spent) > final else 0
        return Answer(text, reason, thought, tokens, marks, rest=text)


def part(raw: str, form: Tags, *, is_open: bool, finish_reason: str) -> Answer:
    """Part a text with its marks in it."""
    begin, end = form.begin, form.end
    head = raw.lstrip()
    has_begun = bool(begin) and head.startswith(begin)
    inside = head[len(begin) :] if has_begun else raw
    thought, closed, rest = inside.partition(end)
    if not (is_open or has_begun) and (not closed or (begin and begin in thought)):
        return Answer(raw, finish_reason, rest=raw)
    if not closed:
        return Answer("", "truncated", thought.strip(), 0, None)
    text = strip_blank_lines(rest)
    reason = finish_reason if text.strip() else "empty"
    marks = find_marks(raw, thought.strip(), len(raw) - len(inside), text)
    return Answer(text, reason, thought.strip(), 0, marks, rest=rest)


def part_text(text: str, reasoning: Reasoning, finish_reason: str) -> Answer:
    """Part a text that a server has sent without parting it; its template is not known here.

    A thought is one that begins the text, or one that only the template has opened, where its end
    is there.
    """
    if reasoning == "none":
        return Answer(text, finish_reason, rest=text)
    if isinstance(reasoning, ReasoningTags):
        tags = Tags(reasoning.begin, reasoning.end)
        return part(text, tags, is_open=not tags.begin, finish_reason=finish_reason)
    for tags in TAGS:
        head = text.lstrip()
        first = head.find(tags.end)
        if head.startswith(tags.begin) or (first >= 0 and tags.begin not in head[:first]):
            return part(text, tags, is_open=False, finish_reason=finish_reason)
    return Answer(text, finish_reason, rest=text)


def part_sent(text: str, thought: str | None, reasoning: Reasoning, finish_reason: str) -> Answer:
    """Part what a server has sent, which may have parted it already.

    `text`: of the answer; the thought may be in it.
    """
    if thought is None:
        return part_text(text, reasoning, finish_reason)
    text = strip_blank_lines(text)
    if not text.strip() and finish_reason in ("stop", "length"):
        finish_reason = "truncated" if finish_reason == "length" else "empty"
    return Answer(text, finish_reason, thought.strip(), rest=text)


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string."""
    ends = [end for stop in stops if (end := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


State = Literal["start", "thinking", "answering"]


class Watch:
    """Follows one completion token by token.

    Attributes:
        opening: what the prompt says of the thought.
        state: `start` until it shows whether a thought begins.
        since: tokens that there were when the thought began; None before.
    """

    def __init__(self, reader: Reader, opening: Opening) -> None:
        self._reader, self.opening = reader, opening
        self.state: State = "start"
        if reader.form is None or opening == "closed":
            self.state = "answering"
        elif opening == "open" or isinstance(reader.form, Harmony):
            self.state = "thinking"
        self.since: int | None = 0 if opening == "open" else None

    def see(self, tokens: Sequence[int]) -> bool:
        """Look at the last of the tokens so far; whether the state has changed."""
        before = self.state
        if self.state == "start":
            self._see_first(tokens)
        elif self.state == "thinking" and self._ends(tokens):
            self.state = "answering"
        elif self.since is None and self._reader.ends_with_begin(tokens):
            self.since = len(tokens)
        return self.state != before

    def _see_first(self, tokens: Sequence[int]) -> None:
        reader = self._reader
        begun = reader.decode(tokens, is_raw=True).lstrip()
        begin = reader.form.begin if reader.form else ""
        if begun.startswith(begin):
            self.state, self.since = "thinking", len(tokens)
        elif begun and not begin.startswith(begun):
            self.state = "answering"

    def _ends(self, tokens: Sequence[int]) -> bool:
        reader = self._reader
        if isinstance(reader.form, Tags) and len(reader.end_ids) == 1:
            return tokens[-1] == reader.end_ids[0]
        tail = reader.decode(tokens[-len(reader.end_ids) - 2 :], is_raw=True)
        return reader.form is not None and reader.form.closing in tail


def _channel(message: re.Match[str]) -> str:
    return (message["channel"] or "").split(" ")[0].strip()


def strip_blank_lines(text: str) -> str:
    """Without the blank lines at the beginning."""
    return _BLANK_LINES.sub("", text) if text.strip() else ""


def find_marks(raw: str, thought: str, start: int, text: str) -> tuple[str, str] | None:
    """What stands before a thought and between it and the text."""
    at = raw.index(thought, start)
    rest = raw[at + len(thought) :]
    if not rest.endswith(text):
        return None
    return raw[:at], rest[: len(rest) - len(text)]


def _with(answer: Answer, *, tokens: int, text: str | None = None) -> Answer:
    """The answer with its tokens counted, and with another text where marks and text still fit."""
    text = answer.text if text is None else text
    marks = answer.marks if answer.text.startswith(text) else None
    reason = answer.finish_reason
    if reason not in ("truncated", "empty") and not text.strip():
        reason = "empty"
    return replace(answer, text=text, finish_reason=reason, reasoning_tokens=tokens, marks=marks)
