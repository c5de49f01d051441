"""What a recipe takes from the environment: used, but never written down in its place.

A value that `${oc.env:NAME}` stands for may be a secret, so whatever is written keeps the
interpolation. Reads no file.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from prefdata.errors import PrefdataError
from prefdata.recipe.contract import At, dotted

INTERPOLATION = re.compile(r"(?<!\\)(?:\\\\)*\$\{")
"""What OmegaConf would replace; a backslash before it makes it a plain text."""
_NAMES = re.compile(r"oc\.env:\s*(\w+)")
_IN_ROWS = (
    ("columns",),
    ("inputs",),
    ("models", None, "alias"),
    ("models", None, "chat_template_kwargs"),
    ("models", None, "model"),
    ("models", None, "system_prompt"),
    ("seed_dataset", "rows"),
)
"""Keys whose values models see or rows hold; None is any number."""
_SHORTEST = 4
"""Characters of a value that messages are searched for; a shorter one is in many words."""
_LONGEST = 60
"""Of a longer value the beginning is enough, as messages cut what they repeat."""


def find_kept(config: DictConfig, raw: Mapping[str, Any]) -> dict[At, str]:
    """Where a value comes from the environment, and the interpolation that stands there."""
    written: Any = OmegaConf.to_container(config, resolve=False)
    live = {at: text for at, text in texts_in(written) if INTERPOLATION.search(text)}
    own = {at: text for at, text in live.items() if "oc.env" in text}
    found = {at: [str(v) for _, v in leaves(_at(raw, at)) if v is not None] for at in live}
    secrets = {value for at in own for value in found[at] if value}
    return own | {
        at: text
        for at, text in live.items()
        if at not in own and any(secret in value for value in found[at] for secret in secrets)
    }


def values_told(kept: Mapping[At, str], raw: Mapping[str, Any]) -> dict[str, str]:
    """Interpolations by the texts that they give."""
    found = ((_at(raw, at), text) for at, text in kept.items())
    return {value: text for value, text in found if isinstance(value, str) and value}


def kept_in_rows(kept: Mapping[At, str]) -> Iterator[str]:
    """A sentence where values of the environment go into prompts or rows; nothing elsewhere."""
    seen = {at: text for at, text in kept.items() if any(_is_in(at, key) for key in _IN_ROWS)}
    named = {dotted(at): text for at, text in seen.items()}
    if named:
        variables = sorted({name for text in named.values() for name in _NAMES.findall(text)})
        told = " and ".join(f"${name}" for name in variables) or "the environment"
        yield (
            f"{', '.join(named)}: the value of {told} is what models are asked or what rows name, "
            "so rows and logs hold it; take a secret out of there"
        )


def variables_in(written: Mapping[Any, Any]) -> frozenset[str]:
    """Variables that a recipe which is not resolved reads."""
    live = (text for _, text in texts_in(written) if INTERPOLATION.search(text))
    return frozenset(name for text in live for name in _NAMES.findall(text))


def let_stand(config: DictConfig) -> None:
    """Put the text of an interpolation in the place of what the environment here does not have."""
    for node, key in list(_nodes(config)):
        try:
            node[key]  # resolves
        except OmegaConfBaseException:
            text = OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[index]
            if isinstance(text, str) and "oc.env" in text:
                node[key] = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + "\\${", text)


def mask(message: str, text: str) -> str:
    """A message without the values of the variables that a recipe's text names."""
    named = {name: os.environ.get(name, "") for name in _NAMES.findall(text)}
    for name, value in sorted(named.items(), key=lambda item: -len(item[1])):
        if len(value) >= _SHORTEST:
            rest = r"\S*" if len(value) > _LONGEST else ""
            message = re.sub(re.escape(value[:_LONGEST]) + rest, f"${{oc.env:{name}}}", message)
    return message


@contextmanager
def masked(*texts: str) -> Iterator[None]:
    """Errors without the values of the variables that a recipe's texts name."""
    try:
        yield
    except PrefdataError as err:
        raise PrefdataError(mask(str(err), "\n".join(texts))) from err


def texts_in(written: Mapping[Any, Any]) -> Iterator[tuple[At, str]]:
    """(path, text) of every value of a recipe that is not resolved."""
    whole = {str(key): value for key, value in written.items()}
    return ((at, str(value)) for at, value in leaves(whole) if value is not None)


def leaves(value: Any, at: At = ()) -> Iterator[tuple[At, Any]]:
    """(path, value) of all that is no mapping and no list."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, (*at, key))
    else:
        yield at, value


def _at(raw: Any, at: At) -> Any:
    for part in at:
        raw = raw[part]
    return raw


def _is_in(at: At, key: tuple[str | None, ...]) -> bool:
    return len(at) >= len(key) and all(k in (None, a) for a, k in zip(at, key, strict=False))


def _nodes(config: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every interpolation."""
    keys: list[Any] = list(config) if isinstance(config, DictConfig) else [*range(len(config))]
    for key in keys:
        if OmegaConf.is_interpolation(config, key):
            yield config, key
        elif not OmegaConf.is_missing(config, key):
            part = config[key]
            if isinstance(part, DictConfig | ListConfig) and part._content is not None:
                yield from _nodes(part)
