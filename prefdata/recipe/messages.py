"""What `messages:` of a column may say: turns with templates, and chats spliced in."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from prefdata.recipe.values import Filled, Frozen


class Turn(Frozen):
    """One message, or in its place all messages of a chat."""

    role: Literal["system", "developer", "user", "assistant"] | None = None
    """Who speaks."""
    content: str | None = None
    """A template. A system or developer turn whose text comes out blank is left out; a last turn of
    the assistant is an answer begun, which the model continues."""
    chat: Filled | None = None
    """A column whose values are chats. Where it comes last, the turns of the assistant that it ends
    with are left out: they are what the model is to write."""

    @model_validator(mode="after")
    def _one_kind(self) -> "Turn":
        is_turn = self.role is not None and self.content is not None
        if self.chat is not None and (self.role is not None or self.content is not None):
            raise ValueError("'chat' brings roles and contents of its own; remove the other keys")
        if self.chat is None and not is_turn:
            raise ValueError(
                "a turn needs 'role' and 'content', or 'chat: <column>' in their place"
            )
        return self


def _as_list(value: Any) -> Any:
    return ({"chat": value},) if isinstance(value, str) else value


Messages = Annotated[
    tuple[Turn, ...],
    BeforeValidator(_as_list, json_schema_input_type=str | list[Turn]),
    Field(min_length=1),
]
"""The name of a chat column, or a list of turns and `{chat: column}`."""
