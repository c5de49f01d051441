"""What is wrong with a text by itself: it refuses, repeats, leaks tokens, has another language.

Each check says why a text is left out, or None where it passes.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any

from prefdata.errors import PrefdataError, install_command
from prefdata.stages.patterns import Pattern

Check = Callable[[str], str | None]
SHOWN = 80
"""Characters of what was found that a reason repeats."""

_CANNOT = r"(?:can(?: ?not|'?t)|could(?: not|n'?t)|will not|won'?t)"
_HELP = (
    r"(?:answer|assist|comply|condone|create|discuss|do (?:that|this|so)|encourage|endorse|engage|"
    r"facilitate|fulfil?l|generate|give|help(?! but)|offer|participate|produce|promote|provide|"
    r"recommend|respond|share|support|tell|write)"
)
REFUSALS = (
    rf"\bI (?:(?:am|'m) )?(?:sorry[^.\n]{{0,40}}? )?{_CANNOT} (?:\w+ ){{0,2}}?{_HELP}\b",
    r"\bI(?: am|'m) (?:\w+ )?(?:unable|not able|not allowed|not permitted|not programmed|"
    r"not comfortable|prohibited)\b",
    r"\bI (?:must|have to|need to|will have to) (?:\w+ )?(?:decline|refuse)\b",
    r"\bI (?:do not|don'?t) feel comfortable\b",
    rf"\b(?:sorry|apologi[sz]e|apologies)\b[^.\n]{{0,60}}\b(?:{_CANNOT}|unable to|not able to)\b",
    rf"\bas an? (?:\w+ )?(?:AI|(?:language )?model|assistant)\b[^.\n]{{0,60}}"
    rf"\b(?:{_CANNOT}|unable to|not able to|not appropriate)\b",
    r"\b(?:illegal and unethical|against my (?:programming|guidelines|policies))\b",
)
"""How English refusals begin: the prefixes of GCG (arXiv 2307.15043) and the phrases by which
XSTest (arXiv 2308.01263) matches refusals, narrowed to what says that something is not done: both
lists take `Sorry` and `As an AI` alone for refusals."""

_TEMPLATE_TOKENS = (
    r"<\|[\w. /-]{1,40}\|>|<\uff5c[^\uff5c<>]{1,40}\uff5c>|\[/?INST\]|<</?SYS>>|</?s>|"
    r"</?(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>|\[TOOL_CALLS\]|\[/?AVAILABLE_TOOLS\]"
)
"""ChatML, Llama 3, Phi, Command R, harmony; DeepSeek; Llama 2 and Mistral; Gemma."""

TOP_NGRAMS = {2: 0.20, 3: 0.18, 4: 0.16}
REPEATED_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
LINES, LINE_CHARACTERS = 0.30, 0.20
"""Gopher's limits (arXiv 2112.11446, table A1), which datatrove's GopherRepetitionFilter has, too:
shares of characters, and of lines and paragraphs that stood before."""
_WORD = re.compile(r"\w+|[^\w\s]")
MIN_LETTERS = 20
"""A shorter text is taken for any language."""


def refusal(column: str, patterns: Sequence[str], within: int) -> Check:
    """Whether a text begins by refusing; `column` is named where a pattern takes too long."""
    searched = [Pattern(column, f"(?i:{one})", dotall=False) for one in (*REFUSALS, *patterns)]

    def check(text: str) -> str | None:
        head = text.replace("\u2019", "'")[:within]
        found = next(filter(None, (one.search(head) for one in searched)), None)
        return None if found is None else f"it refuses: {found[0][:SHOWN]!r}"

    return check


def special_token(tokens: Collection[str]) -> Check:
    """Whether a text has tokens of chat templates, or those given, in it."""
    longest = sorted(filter(str.strip, tokens), key=len, reverse=True)
    pattern = re.compile("|".join([*map(re.escape, longest), _TEMPLATE_TOKENS]))

    def check(text: str) -> str | None:
        found = pattern.search(text)
        return None if found is None else f"it has the special token {found[0]!r}"

    return check


def language(codes: Collection[str]) -> Check:
    """Whether a text is in another language, by py3langid.

    Raises:
        PrefdataError: py3langid is not installed, or knows no such language.
    """
    identifier = _identifier()
    if unknown := sorted(set(codes) - set(identifier.labels)):
        known = ", ".join(sorted(identifier.labels))
        raise PrefdataError(f"{unknown[0]!r} is no language that py3langid knows; name one of {known}")  # fmt: skip  # noqa: E501

    def check(text: str) -> str | None:
        if sum(map(str.isalpha, text)) < MIN_LETTERS:
            return None
        found, share = identifier.classify(text)
        return None if found in codes else f"its language is {found!r} ({share:.2f})"

    return check


@cache
def _identifier() -> Any:
    try:
        from py3langid import langid
    except ImportError as err:
        raise PrefdataError(
            "'languages' needs py3langid, which is not installed; run "
            + install_command("language")
        ) from err
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


def repetition(text: str) -> str | None:
    """Whether a text repeats itself more than Gopher's limits allow.

    Unlike there, a run of words that occurs once is no repetition, or every answer of a few words
    would be one.
    """
    for what, parts in (("paragraphs", re.split(r"\n{2,}", text.strip())), ("lines", text.splitlines())):  # fmt: skip  # noqa: E501
        repeated = [part for part, before in _counted(parts) if before and part.strip()]
        if len(repeated) > LINES * len(parts):
            return f"{len(repeated)} of its {len(parts)} {what} stood before"
        if (share := sum(map(len, repeated)) / max(1, len(text))) > LINE_CHARACTERS:
            return f"{what} that stood before have {share:.2f} of its characters"
    words = _WORD.findall(text)
    for size, limit in TOP_NGRAMS.items():
        top, count = max(Counter(_runs(words, size)).items(), key=lambda x: x[1], default=("", 0))
        if count > 1 and (share := count * len(top) / len(text)) > limit:
            return f"{top[:SHOWN]!r} has {share:.2f} of its characters"
    for size, limit in REPEATED_NGRAMS.items():
        if (share := _repeated(words, size) / max(1, len(text))) > limit:
            return f"repeated runs of {size} words have {share:.2f} of its characters"
    return None


def _counted(parts: Sequence[str]) -> list[tuple[str, int]]:
    """Each part, and how often it stood before."""
    seen: Counter[str] = Counter()
    told = []
    for part in parts:
        told.append((part, seen[part]))
        seen[part] += 1
    return told


def _runs(words: Sequence[str], size: int) -> list[str]:
    return [" ".join(words[at : at + size]) for at in range(len(words) - size + 1)]


def _repeated(words: Sequence[str], size: int) -> int:
    """Characters of runs that stood before; runs that overlap count once."""
    seen: set[str] = set()
    characters, free = 0, 0
    for at, run in enumerate(_runs(words, size)):
        if at < free:
            continue
        if run in seen:
            characters += len(run)
            free = at + size
        seen.add(run)
    return characters
