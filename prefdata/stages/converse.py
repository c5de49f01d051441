"""`converse`: the turns of a model that plays the user, and of one that answers."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson
import pyarrow as pa

from prefdata.errors import RowError
from prefdata.inference import Completion, Message
from prefdata.recipe.chats import LEADING, Chat, plain_turns
from prefdata.recipe.converse import Converse
from prefdata.recipe.prompts import compile_prompt
from prefdata.recipe.questions import own_question
from prefdata.recipe.values import META_SUFFIX
from prefdata.rows import CANDIDATE, CHAT, ID, TEXT_META, TURNS, Row, is_answer, is_blank
from prefdata.stages.asking import Asker, Stage, Tools, answers

DONE = "[DONE]"
BEGINNING = "(The conversation begins.)"
"""The first turn of what the user's model is shown: many templates want one of the user's."""
INSTRUCTION = """\
You play a person who talks to an assistant; the assistant's messages are what you are told.
Write the person's next message and nothing else: no name before it, no quotes around it."""


@dataclass
class _Talk:
    """One conversation as it goes on.

    Attributes:
        made: how each turn was made that a model has written.
    """

    chat: list[Message]
    made: list[Row] = field(default_factory=list)

    @property
    def turns(self) -> int:
        """Of the user."""
        return sum(message["role"] == "user" for message in self.chat)


def converse_fields(column: Converse) -> list[pa.Field]:
    """A chat, and how each of its turns was made that a model wrote; or candidates with turns."""
    if column.samples is not None:
        return [pa.field(column.name, pa.list_(pa.struct([*CANDIDATE.fields, TURNS])))]
    return [pa.field(column.name, CHAT), pa.field(column.name + META_SUFFIX, pa.list_(TEXT_META))]


def converse(column: Converse, tools: Tools) -> Stage:
    """Turn by turn; what a model has said is in the journal, so it is never asked for again."""
    talking = _Talking(column, tools)
    question = own_question(column)

    async def stage(row: Row) -> Row:
        opening = [] if question is None else [*question.chat(row)]
        if question is not None and all(is_blank(one["content"]) for one in opening):
            raise RowError("empty_prompt", f"the prompt of column {column.name!r} is blank")
        if column.samples is None:
            plain_turns(opening)  # before anything is asked
            talk = await talking.talk(row, opening, 0)
            return {column.name: plain_turns(talk.chat), column.name + META_SUFFIX: talk.made}
        found = await asyncio.gather(
            *(talking.candidate(row, opening, k) for k in range(column.samples)),
            return_exceptions=True,  # all come to their end, so that what they ask is kept
        )
        for one in found:
            if isinstance(one, BaseException) and not isinstance(one, RowError):
                raise one
        failed = [one for one in found if isinstance(one, RowError)]
        if len(failed) == len(found):
            raise failed[0]
        return {
            column.name: [
                talking.failed(one, k) if isinstance(one, RowError) else one
                for k, one in enumerate(found)
            ]
        }

    return stage


class _Talking:
    """The two models of a column."""

    def __init__(self, column: Converse, tools: Tools) -> None:
        self._column = column
        self._user = Asker(tools, column.user_alias, column.name)
        self._policy = Asker(tools, column.model_alias, column.name)

    async def talk(self, row: Row, opening: Sequence[Message], sample: int) -> _Talk:
        """A conversation, until the user has had all turns or is done.

        Raises:
            RowError: a turn has no answer, or is cut off and not the last.
        """
        talk, before = _Talk([*opening]), max(0, _Talk([*opening]).turns - 1)
        instruction = self._instruction(row)
        while True:
            if not talk.chat or talk.chat[-1]["role"] != "user":
                chat = self._flipped(talk, instruction, row)
                said = await self._say(self._user, talk, chat, row, sample)
                if DONE.casefold() in said.text.casefold() or is_blank(said.text):
                    talk.made.pop()
                    if not talk.turns:
                        raise RowError("no_conversation", "the user is done before the first turn")
                    return talk
                talk.chat.append(Message(role="user", content=said.text.strip()))
            is_last = talk.turns - before >= self._column.turns
            if is_last and self._column.samples is None:
                return talk
            chat = self._policy.under_system(tuple(talk.chat), row)
            said = await self._say(self._policy, talk, chat, row, sample)
            talk.chat.append(Message(role="assistant", content=said.text))
            if is_last:
                return talk

    async def candidate(self, row: Row, opening: Sequence[Message], sample: int) -> Row:
        """A conversation as a candidate of what it begins with."""
        talk = await self.talk(row, opening, sample)
        between = talk.chat[len(opening) : -1]
        turns = orjson.dumps(between).decode() if between else None
        text = talk.chat[-1]["content"]
        return {"text": text, "sample": sample, **talk.made[-1], TURNS.name: turns}

    def failed(self, err: RowError, sample: int) -> Row:
        """What stands for a conversation that came to no end."""
        empty = dict.fromkeys(one.name for one in CANDIDATE)
        told = {"text": "", "sample": sample, "finish_reason": err.reason, TURNS.name: None}
        return empty | {"alias": self._policy.model.alias} | told

    async def _say(
        self, asker: Asker, talk: _Talk, chat: Chat, row: Row, sample: int
    ) -> Completion:
        """The next turn, noted in `talk`."""
        if talk.made and talk.made[-1]["finish_reason"] == "length":
            raise RowError(
                "truncated", "a turn is cut off, so nobody can answer it; raise max_tokens"
            )
        request = asker.request(row[ID], chat, sample, turn=len(talk.made))
        [said] = await answers(asker.engine, [request])
        if not is_answer(said.finish_reason):
            detail = f"the model {asker.model.alias!r} has given no answer in turn {talk.turns}"
            raise RowError(said.finish_reason, detail)
        talk.made.append(asker.meta(request, said))
        return said

    def _instruction(self, row: Row) -> str:
        column = self._column
        told = (
            ("The person: {}", column.persona),
            ("What the person wants: {}", column.goal),
            (f"Write {DONE} alone when {{}}.", column.done_when or "the person has nothing to ask"),
        )
        parts = [form.format(compile_prompt(one).render(row)) for form, one in told if one]
        return "\n".join((INSTRUCTION, *parts))

    def _flipped(self, talk: _Talk, instruction: str, row: Row) -> Chat:
        """The conversation as the user's model sees it, whose own turns are the user's."""
        chat = [
            Message(role="system", content=instruction),
            Message(role="user", content=BEGINNING),
        ]
        for one in talk.chat:
            if one["role"] not in LEADING:
                role = "assistant" if one["role"] == "user" else "user"
                chat.append(Message(role=role, content=one["content"]))
        return self._user.under_system(tuple(chat), row)
