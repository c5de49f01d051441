"""The chat template in a checkpoint's files: read and rendered without a tokenizer."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from prefdata.engines.checkpoints import find_file, read_json
from prefdata.errors import PrefdataError, RowError
from prefdata.recipe.chats import ALL_ROLES, Roles
from prefdata.recipe.schema import Model

Messages = Sequence[Mapping[str, Any]]
FILES = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
"""Where transformers looks, the later file winning."""
_MARK = "\ue000END\ue000"
_HELLO = {"role": "user", "content": "Hello!"}
_ANSWER = {"role": "assistant", "content": "Hi."}


@dataclass(frozen=True, slots=True)
class TemplateFile:
    """A chat template and the tokens that it may print.

    Attributes:
        arguments: what a model of the recipe passes to it.
    """

    name: str
    text: str
    tokens: Mapping[str, str]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def render(self, messages: Messages, *, is_finished: bool = False) -> str:
        """A chat as its model reads it, special tokens spelled out.

        `messages`: a last turn of the assistant is continued, unless `is_finished`. `is_finished`:
        no answer is due; a reward model reads such chats.

        Raises:
            RowError: `chat_template_refused`.
        """
        from transformers.utils.chat_template_utils import render_jinja_template  # slow

        opens = not is_finished and messages[-1] == {"role": "user", "content": ""}
        messages = mark_end(messages) if opens else messages
        continues = not is_finished and messages[-1]["role"] == "assistant"
        options = {
            "add_generation_prompt": not is_finished and not continues and not opens,
            "continue_final_message": continues,
        }
        try:
            rendered: Any = render_jinja_template(
                [[dict(message) for message in messages]],
                chat_template=self.text,
                **{**self.tokens, **options, **self.arguments},
            )
        except (jinja2.TemplateError, ValueError) as err:
            why = f"the chat template of {self.name} says: {err}"
            raise RowError("chat_template_refused", why) from err
        text = str(rendered[0][0])
        return cut_at_mark(text, self.name) if opens else text


def mark_end(messages: Messages) -> list[dict[str, Any]]:
    """The messages, the end of the last one marked."""
    chat = [dict(message) for message in messages]
    chat[-1]["content"] = f"{chat[-1]['content']}{_MARK}"
    return chat


def cut_at_mark(text: str, name: str) -> str:
    """A rendered chat up to the mark.

    Raises:
        RowError: the template does not print what the user says.
    """
    head, mark, _ = text.rpartition(_MARK)
    if not mark:
        why = f"the chat template of {name} does not print the user's text as it is"
        raise RowError("chat_template_refused", why)
    return head


def read_template(model: Model, path: str, *, fetch: bool = False) -> TemplateFile | None:
    """The template of a checkpoint; None where its files hold none.

    `model`: whose `chat_template_kwargs` it is given; its own `chat_template` wins. `fetch`:
    whether files of the Hub may be fetched; else only those on this machine count.

    Raises:
        PrefdataError: a file is damaged.
    """
    text: str | None = None
    tokens: dict[str, str] = {}
    for name in FILES:
        file = _find(model, path, name, fetch=fetch)
        if file is None:
            continue
        if name.endswith(".jinja"):
            text = file.read_text(encoding="utf-8")
            continue
        told = read_json(file)
        tokens |= {key: _token(told[key]) for key in told if key.endswith("_token") and told[key]}
        text = _default(told.get("chat_template")) or text
    text = model.chat_template or text
    return None if text is None else TemplateFile(path, text, tokens, model.chat_template_kwargs)


def roles_of_model(model: Model, template: TemplateFile | None, *, is_finished: bool) -> Roles:
    """The leading roles that a model is sent: those of its template, or as the recipe says.

    `model`: whose `system_role` counts. `template`: None where it cannot be known, as that of a
    server.
    """
    if model.system_role == "merge":
        return Roles(system=False, developer=False)
    return ALL_ROLES if template is None else find_roles(template, is_finished=is_finished)


def find_roles(template: TemplateFile, *, is_finished: bool = False) -> Roles:
    """Which leading roles a template shows; it may refuse others, or drop them without a word."""
    if not _shows(template, [{**_HELLO, "content": _MARK}], is_finished):
        return ALL_ROLES  # it wants more than a chat: nothing can be told by trying
    leading = ({"role": role, "content": _MARK} for role in ("system", "developer"))
    return Roles(*(_shows(template, [turn, _HELLO], is_finished) for turn in leading))


def _shows(template: TemplateFile, messages: list[dict[str, str]], is_finished: bool) -> bool:
    try:
        chat = [*messages, _ANSWER] if is_finished else messages
        return _MARK in template.render(chat, is_finished=is_finished)
    except RowError:
        return False


def _find(model: Model, path: str, name: str, *, fetch: bool) -> Path | None:
    with suppress(PrefdataError):
        file = find_file(model, path, name, model.revision, fetch=fetch)
        return file if file.is_file() else None
    return None


def _token(told: Any) -> str:
    return str(told["content"] if isinstance(told, Mapping) else told)


def _default(template: Any) -> str | None:
    """The template that chats get; a checkpoint may have several, by name."""
    if isinstance(template, list):
        template = {one["name"]: one["template"] for one in template}
    if isinstance(template, Mapping):
        template = template.get("default")
    return None if template is None else str(template)
