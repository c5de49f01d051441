"""The chat template of a model to be trained: lengths, texts and tokens of finished chats."""

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from prefdata.engines.transformers.model import (
    Checkpoint,
    apply_template,
    load_tokenizer,
    wants_objects,
)
from prefdata.errors import RowError

Messages = Sequence[Mapping[str, Any]]


class ChatTemplate:
    """A tokenizer with its template.

    Attributes:
        special: finds a special token of the tokenizer in a text.
        quotes_arguments: whether it prints the arguments of a call as JSON, and so a text in
            quotes.
    """

    def __init__(
        self, checkpoint: Checkpoint, arguments: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Load the tokenizer.

        Raises:
            PrefdataError: there is none, or it has no chat template.
        """
        self._tokenizer: Any = load_tokenizer(checkpoint)
        self._name, self._arguments = checkpoint.model, arguments
        tokens = [token for token in self._tokenizer.all_special_tokens if token.strip()]
        self.quotes_arguments = wants_objects(self._tokenizer)
        self.special = re.compile("|".join(map(re.escape, tokens)) or r"(?!)")

    def measure(
        self,
        prompt: Messages,
        answers: Iterable[Sequence[Mapping[str, Any]]],
        tools: Messages | None = None,
    ) -> tuple[int, int]:
        """Tokens of the prompt as it is asked, and of it with the longer answer.

        `answers`: the messages of each; the last is the assistant's. `tools`: what the model may
        call, here and in the other methods.

        Raises:
            RowError: the template refuses the chat.
        """
        chats = [[*prompt, *answer] for answer in answers]
        whole = max(len(self._apply(chat, tokenize=True, tools=tools)) for chat in chats)
        asked = self._apply(prompt, tokenize=True, add_generation_prompt=True, tools=tools)
        return len(asked), whole

    def render(
        self, prompt: Messages, answer: Mapping[str, Any], tools: Messages | None = None
    ) -> tuple[str, str]:
        """(prompt, answer) as texts with the template's tokens in them; together, the whole chat.

        Raises:
            RowError: the template refuses the chat, or the prompt alone renders differently.
        """
        asked = self._apply(prompt, tokenize=False, add_generation_prompt=True, tools=tools)
        chat = self._apply([*prompt, answer], tokenize=False, tools=tools)
        if not chat.startswith(asked):
            raise RowError(
                "template_prefix",
                f"the chat template of {self._name} renders the prompt differently alone "
                "than before an answer, so the two cannot be separated",
            )
        return asked, chat[len(asked) :]

    def plain_prompt(self, prompt: Messages, tools: Messages | None = None) -> str | None:
        """The prompt as a text that has the tokens of the chat; None where no text has."""
        asked = self._apply(prompt, tokenize=False, add_generation_prompt=True, tools=tools)
        ids = list(self._apply(prompt, tokenize=True, add_generation_prompt=True, tools=tools))
        for text in (asked, asked.removeprefix(self._tokenizer.bos_token or "")):
            if list(self._tokenizer(text)["input_ids"]) == ids:
                return str(text)
        return None

    def count(self, text: str) -> int:
        """Tokens of a text that is not rendered."""
        return len(self._tokenizer(text)["input_ids"])

    def _apply(self, messages: Messages, **options: Any) -> Any:
        return apply_template(
            self._name, self._tokenizer, messages, **{**self._arguments, **options}
        )
