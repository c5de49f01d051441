"""What is shown to those who score texts: what these were asked, and not who wrote them."""

from collections.abc import Iterable
from typing import Any

import orjson

from prefdata.recipe.chats import Chat, read_chat
from prefdata.recipe.contract import Scored
from prefdata.recipe.origins import Origin, alias_of, origin_of
from prefdata.recipe.questions import Question
from prefdata.recipe.tools import ToolList, with_calls
from prefdata.recipe.values import META_SUFFIX
from prefdata.rows import TURNS, Row
from prefdata.stages.asking import Tools


class Asked:
    """The chats that a column's texts answer, in the order of the texts."""

    def __init__(self, column: Scored, tools: Tools, own: Question | None = None) -> None:
        """Look up who wrote what `column` scores.

        `own`: what stands in the place of what the texts were asked.
        """
        self._column, self._own = column, own
        names = () if own else column.targets
        self._origins = {name: origin_of(name, tools.columns, tools.models) for name in names}

    def chats(self, row: Row) -> list[Chat | None]:
        """A chat for each text of the row, system prompts included; None where nobody knows.

        Raises:
            RowError: as it was when the texts were made.
        """
        candidates, responses = self._column.candidates, self._column.responses or ()
        if self._own is not None:
            texts = row[candidates] if candidates else responses
            return [self._own.chat(row)] * len(texts)
        if candidates:
            chats = self._of(candidates, row, [one.get("alias") for one in row[candidates]])
            return [_with_turns(*both) for both in zip(chats, row[candidates], strict=True)]
        return [chat for name in responses for chat in self._of(name, row, [alias_of(row, name)])]

    def tools(self, row: Row) -> list[ToolList]:
        """What the writer of each text of the row might call; nothing where nobody knows.

        Raises:
            RowError: as it was when the texts were made.
        """
        candidates, responses = self._column.candidates, self._column.responses or ()
        names = [candidates] * len(row[candidates]) if candidates else responses
        found = {name: self._offered(name, row) for name in set(names)}
        return [found[name] for name in names]

    def _offered(self, name: str, row: Row) -> ToolList:
        origin = self._origins.get(name)
        return () if origin is None else origin.offered(row)

    def _of(self, name: str, row: Row, aliases: list[str | None]) -> list[Chat | None]:
        origin: Origin | None = self._origins[name]
        if origin is None:
            return [None for _ in aliases]
        known = {alias: origin.asked(row, alias) for alias in dict.fromkeys(aliases)}
        return [known[alias] for alias in aliases]


def _with_turns(chat: Chat | None, candidate: Row) -> Chat | None:
    """What was asked, and what was said since by the conversation that a candidate ends."""
    turns = candidate.get(TURNS.name)
    return chat if chat is None or not turns else (*chat, *read_chat(orjson.loads(turns)))


def blinded(row: Row, names: Iterable[str]) -> Row:
    """The columns named, of candidates only the texts: a judge must not know who wrote what."""
    return {name: _text_alone(row[name], row.get(name + META_SUFFIX)) for name in names}


def _text_alone(value: Any, meta: Any) -> Any:
    """A value without what tells who wrote it; calls are printed behind their text."""
    if isinstance(value, list) and value and isinstance(value[0], dict) and "text" in value[0]:
        return [{"text": with_calls(one["text"], one)} for one in value]
    return with_calls(value, meta) if isinstance(value, str) and meta else value
