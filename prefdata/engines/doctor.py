"""The start-up check of a reward model: two programs must read the same scores. Loads nothing.

vLLM and transformers differ in what goes wrong: a template rendered twice, an activation left on,
the wrong token read. What both agree on is right.
"""

import math
from collections.abc import Sequence

from prefdata.errors import PrefdataError
from prefdata.inference import Logits, ScoreRequest

TOLERANCES = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.01}
"""How far the scores of one chat may lie apart, by dtype; in 16 bit, where every sum rounds by the
batch's shape, as a share of the largest score."""


def _chat(question: str, answer: str) -> ScoreRequest:
    return ScoreRequest(
        ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    )


PROBES = (
    _chat("What is two plus two?", "Two plus two is four."),
    _chat("What is two plus two?", "I like trains."),
    _chat("Name a colour.", "Blue"),
    _chat("Name a colour.", "Name a colour. Name a colour. Name a colour."),
    _chat("Write a poem of two lines.", "The sea is wide,\nit keeps the tide."),
    _chat("¿Qué hora es?", "Son las tres — creo."),
)
"""Good and bad answers, short and long, one line and two."""


def compare(alias: str, mine: Sequence[Logits], reference: Sequence[Logits], dtype: str) -> None:
    """Let a reward model pass, or say what is wrong with the way it is read.

    `mine`: scores of PROBES by the engine that is going to be used.

    Raises:
        PrefdataError: scores that are not finite, saturated, all equal, or that differ.
    """
    values = [logit for logits in mine for logit in logits]
    advice = "set provider: transformers for it, and report the checkpoint"
    if not all(math.isfinite(value) for value in values):
        raise PrefdataError(
            f"model {alias!r} returns scores that are not numbers: {values}; {advice}"
        )
    if all(value in (0.0, 1.0) for value in values):
        raise PrefdataError(
            f"model {alias!r} scores every probe 0 or 1: a saturated sigmoid, which ranks nothing; "
            f"{advice}"
        )
    if len({logits[0] for logits in mine}) == 1:
        raise PrefdataError(
            f"model {alias!r} gives six different answers the same score {values[0]}; {advice}"
        )
    largest = 1.0 if dtype == "float32" else max(1.0, *map(abs, values))
    allowed = TOLERANCES[dtype] * largest
    for request, one, other in zip(PROBES, mine, reference, strict=True):
        apart = max(abs(a - b) for a, b in zip(one, other, strict=True))
        if apart > allowed:
            raise PrefdataError(
                f"model {alias!r}: vLLM scores the answer "
                f"{request.messages[-1]['content']!r} with {one[0]:.4f}, transformers with "
                f"{other[0]:.4f}: they differ by more than {allowed:.3g} in {dtype}, so one "
                f"of them is wrong; {advice}"
            )


def check_begin(alias: str, ids: Sequence[int], bos: int | None) -> None:
    """A chat begins with one begin token, if with any.

    Raises:
        PrefdataError: with two: the template and the tokenizer have each added theirs.
    """
    if bos is not None and list(ids[:2]) == [bos, bos]:
        raise PrefdataError(
            f"model {alias!r}: its chats begin with two begin-of-text tokens "
            f"({list(ids[:4])} …); fix the chat template or the tokenizer's add_bos_token in "
            "the checkpoint"
        )
