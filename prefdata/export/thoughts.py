"""How an export carries the thoughts before the answers, checked against the chat template.

A trainer renders what it is given by the template of the model to be trained; what it then reads
must be what the policy has written, byte for byte.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from prefdata.errors import RowError
from prefdata.export.conversation import Answer, Conversation, Thought
from prefdata.pairs.pair import Side

if TYPE_CHECKING:  # torch, only when needed
    from prefdata.engines.chat_template import ChatTemplate

Way = Literal["reasoning_content", "reasoning", "thinking", "inline", "text"]
Carry = Callable[[Conversation], Conversation]
KEYS: tuple[Way, ...] = ("reasoning_content", "reasoning", "thinking")
"""Names under which templates read a thought; the answer is then their `content` alone."""


def choose_way(pair: Conversation, template: "ChatTemplate", ways: tuple[Way, ...]) -> Way | None:
    """The first way in which the template gives this pair as it was written; None for no way."""
    for way in ways:
        try:
            carry(pair, template, way)
        except RowError:
            continue
        return way
    return None


def carry(pair: Conversation, template: "ChatTemplate", way: Way) -> Conversation:
    """The pair with its thoughts in it.

    - a key of the message (`reasoning_content`, …): the template writes the marks itself;
    - `inline`: in the content, as the policy wrote it;
    - `text`: prompt and answers as texts that are not rendered any more, for templates that leave
      thoughts out.

    Raises:
        RowError: rendered, it would not be what the policy has written, or there is no thought.
    """
    sides = {side: _carry_side(pair, side, one, template, way) for side, one in pair.sides.items()}
    prompt = None
    if way == "text" and (prompt := template.plain_prompt(pair.prompt, pair.tool_list)) is None:
        raise _not_carried("the prompt", "as a text it has other tokens than as a chat")
    return replace(pair, sides=sides, plain_prompt=prompt)


def _carry_side(
    pair: Conversation, side: Side, one: Answer, template: "ChatTemplate", way: Way
) -> Answer:
    thought, text = one.thought, one.text
    if thought is None:
        raise RowError("no_reasoning", f"{side} has no thought, and the others have theirs")
    written = thought.written(text)
    if way not in ("inline", "text"):
        content, keys = text, {str(way): thought.text}
    elif written is not None:
        content, keys = written, {}
    else:
        raise _not_carried(side, "what the server wrote around the thought is not known")
    if way != "text":
        message = {"role": "assistant", "content": content, **keys}
        _, rendered = template.render(pair.prompt, message, pair.tool_list)
        if not _is_right(rendered, written, thought, text):
            raise _not_carried(side, f"the chat template makes {rendered[:200]!r} of it")
    return replace(one, text=content, keys=keys)


def _is_right(rendered: str, written: str | None, thought: Thought, text: str) -> bool:
    """Whether a rendered answer is what was written, or at least all there."""
    if written is not None:
        return rendered.startswith(written)
    at = rendered.find(thought.text)
    return at >= 0 and rendered.find(text, at + len(thought.text)) > 0


def _not_carried(what: str, why: str) -> RowError:
    return RowError(
        "reasoning_not_carried", f"{what}: the thought would not reach the trainer as it is: {why}"
    )
