"""`converse`: a model plays the user, another answers, for some turns."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from prefdata.recipe.contract import Column, Prompted, with_meta
from prefdata.recipe.values import Filled, Positive


class Converse(Prompted):
    """A conversation of two models: a chat that ends with the user's last turn.

    With `samples`, so many conversations that part from each other after the same prompt, as
    candidates: each has the last answer as its text and the turns before it as `turns`.
    """

    type: Literal["converse"]
    model_alias: Filled
    """Who answers."""
    user_alias: Filled
    """Who plays the user."""
    turns: Annotated[int, Field(ge=1, le=100)]
    """Turns of the user, at most; the one with which `prompt` or `messages` ends is the first."""
    persona: Filled | None = None
    """A template: who the user is."""
    goal: Filled | None = None
    """A template: what the user wants, say a related question, or the same in other words."""
    done_when: Filled | None = None
    """A template: when the user stops."""
    samples: Positive | None = None
    """How many conversations part after the prompt; then the column holds candidates."""

    may_inherit = True
    asks_in_turns: ClassVar[bool] = True
    may_ask_less: ClassVar[bool] = True

    @model_validator(mode="after")
    def _something_to_do(self) -> "Converse":
        has_prompt = self.prompt is not None or self.messages is not None
        if self.samples is not None and not has_prompt:
            raise ValueError("'samples' part after a prompt; give 'prompt' or 'messages'")
        if self.samples is None and has_prompt and self.turns == 1:
            raise ValueError("the one turn is the prompt, so nothing is asked; raise 'turns'")
        return self

    @property
    def holds_candidates(self) -> bool:
        return self.samples is not None

    @property
    def holds_chat(self) -> bool:
        return self.samples is None

    @property
    def cell(self) -> str:
        if self.samples is None:
            return f"a conversation of `{self.user_alias}` with `{self.model_alias}`"
        return "the last answers of conversations by {aliases}: text, turns before it, tokens"

    @property
    def templates(self) -> Mapping[str, str]:
        told = {key: getattr(self, key) for key in ("persona", "goal", "done_when")}
        return {**super().templates, **{key: one for key, one in told.items() if one is not None}}

    @property
    def makes(self) -> tuple[str, ...]:
        return (self.name,) if self.samples else with_meta(self.name)

    @property
    def size(self) -> int:
        return self.samples or 1

    @property
    def aliases(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.model_alias, self.user_alias)))

    @property
    def writers(self) -> tuple[str, ...]:
        return (self.model_alias,)

    def requests(self, columns: Sequence[Column]) -> int:
        by_user = self.turns - (self.prompt is not None or self.messages is not None)
        answers = self.turns if self.samples else self.turns - 1
        return (self.samples or 1) * (by_user + answers)
