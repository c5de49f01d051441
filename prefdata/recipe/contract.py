"""What every column says of itself: what it reads, makes and asks. Knows no kind of column.

A new kind overrides what differs; nothing outside its class and its stage asks which kind it is.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, field_validator, model_validator

from prefdata.errors import suggest
from prefdata.recipe.messages import Messages
from prefdata.recipe.prompts import Prompt, compile_prompt
from prefdata.recipe.sources import Gold, Source
from prefdata.recipe.values import META_SUFFIX, ColumnName, Filled, Frozen, OneOrMore

At = tuple[str | int, ...]
Role = Literal["text", "reward"]
Holds = Literal["text", "candidates", "chat", "score", "value", "any"]
"""What a column must hold to be named by a key; a `value` is anything but a chat."""


def _check_aliases(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) < len(value) or not value:
        raise ValueError("name at least one alias, and each only once")
    return value


Aliases = Annotated[tuple[Filled, ...], OneOrMore, AfterValidator(_check_aliases)]
"""One alias or a list of them."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that the user must fix, and its YAML path."""

    at: At
    message: str


class Named(NamedTuple):
    """A column that a key names, and what it must hold."""

    key: str
    column: str
    holds: Holds = "value"


class Column(Frozen):
    """What every column has, and says of itself."""

    name: ColumnName
    """Name of the column that is made, by which templates and other columns read it."""
    type: str
    """Narrowed by each kind to its own word, the key of `stages.STAGES`."""
    skip_when: Filled | None = None
    """A template; rows for which it comes out true ask nothing, and the column is null there."""

    role: ClassVar[Role] = "text"
    """What its models are asked for: texts, or raw scores."""
    expands: ClassVar[bool] = False
    """Whether it makes several rows of one; then it has a pass to itself."""
    filters: ClassVar[bool] = False
    """Whether it rejects rows, so that nothing is asked for them any more."""
    named_by: ClassVar[str] = "name"
    """Key that names the columns made."""
    rates_items: ClassVar[bool] = False
    """Whether what it keeps beside the scores are ratings by item."""
    has_meta: ClassVar[bool] = False
    """Whether a column beside it says how its cells came to be."""
    meaning: ClassVar[str]
    """A cell in words, for the dataset card; may name {aliases} and {source}."""

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, value: str) -> str:
        if value == "id" or value.endswith(META_SUFFIX):
            raise ValueError(
                f"the name {value!r} is reserved: 'id' is the row's key, and "
                f"'…{META_SUFFIX}' columns record how a text was made; choose another name"
            )
        return value

    # What it reads.

    @property
    def templates(self) -> Mapping[str, str]:
        """Its templates, by key."""
        return {}

    @property
    def named(self) -> Sequence[Named]:
        """The columns that it names outside of templates."""
        return ()

    @property
    def inserted(self) -> frozenset[str]:
        """Names that its stage gives its templates besides the row's columns."""
        return frozenset()

    @property
    def conditions(self) -> Mapping[str, str]:
        """Templates that decide whether a row is asked, by key; no model reads them."""
        return {} if self.skip_when is None else {"skip_when": self.skip_when}

    @property
    def references(self) -> Iterator[tuple[str, str]]:
        """(key, column) for all that it reads.

        Raises:
            PrefdataError: a template cannot be compiled.
        """
        for key, source in self.templates.items():
            names = compile_prompt(source).columns - self.inserted
            yield from ((key, name) for name in sorted(names))
        for key, source in self.conditions.items():
            yield from ((key, name) for name in sorted(compile_prompt(source).columns))
        yield from ((one.key, one.column) for one in self.named)

    @property
    def reads(self) -> frozenset[str]:
        """Names of the columns that it needs; templates must have been checked before."""
        return frozenset(name for _, name in self.references)

    @property
    def source(self) -> str | None:
        """The text column of which its texts are parts; they share its provenance."""
        return None

    @property
    def calls(self) -> str | None:
        """The Python function that it calls, `package.module:name`; it is given the whole row."""
        return None

    # What it makes.

    @property
    def holds_candidates(self) -> bool:
        """Whether a cell is a list of candidates."""
        return False

    @property
    def holds_chat(self) -> bool:
        """Whether a cell is a chat."""
        return False

    @property
    def makes(self) -> tuple[str, ...]:
        """Names of the columns that its stage adds."""
        return with_meta(self.name) if self.has_meta else (self.name,)

    @property
    def texts(self) -> tuple[str, ...]:
        """Those of them that hold texts."""
        return ()

    @property
    def answers(self) -> tuple[str, ...]:
        """Those of them that hold a model's answer, or a part of it, which a judge may compare."""
        return ()

    @property
    def answer_schema(self) -> Mapping[str, Any] | None:
        """The JSON schema of a cell that is a dict, such as a verdict."""
        return None

    @property
    def size(self) -> int:
        """Texts in a cell."""
        return 1

    @property
    def most_times(self) -> float:
        """Times its size that a row without a pair may have, at most."""
        return 1.0

    @property
    def most_rows(self) -> int | None:
        """Rows that it makes of one, at most; None where nothing bounds them."""
        return 1

    @property
    def cell(self) -> str:
        """`meaning`, of this very column."""
        return self.meaning

    # What it asks.

    @property
    def aliases(self) -> tuple[str, ...]:
        """The models that it asks, none where it is pure CPU work."""
        return ()

    @property
    def writers(self) -> tuple[str, ...]:
        """Those of them that write its texts."""
        return self.aliases

    def role_of(self, alias: str) -> Role:
        """What one of them is asked for."""
        return self.role

    def requests(self, columns: Sequence["Column"]) -> int:
        """Completions or scores that one row asks of models; `columns` are all of the recipe."""
        return int(bool(self.aliases))

    @property
    def may_ask_less(self) -> bool:
        """Whether `requests` is the most that it asks: how much depends on the rows."""
        return False

    @property
    def asks_in_turns(self) -> bool:
        """Whether what it asks of one model may depend on what another has answered."""
        return False

    # How it judges, for those that compare two responses.

    @property
    def winner_key(self) -> str | None:
        """The key of `answer_schema` that names the better response."""
        return None

    @property
    def wants_both_orders(self) -> bool:
        """Whether it is to ask in both orders."""
        return False

    @property
    def known(self) -> Gold | None:
        """The preferences by which it is measured before the run."""
        return None

    @property
    def sources(self) -> Sequence[tuple[At, Source]]:
        """What it reads lines from besides the rows, each with its key."""
        return [] if self.known is None else [(("gold",), self.known)]

    @property
    def compares_many(self) -> bool:
        """Whether it compares the texts that it scores with each other."""
        return False

    def compared(self, columns: Sequence["Column"]) -> tuple[str, str] | None:
        """The two responses that it compares, or None if it looks at one row as a whole."""
        return None

    def swapped(self, columns: Sequence["Column"]) -> tuple[str, str] | None:
        """The two responses where it asks in both orders."""
        return self.compared(columns) if self.wants_both_orders else None

    # What must hold between it and the columns before it, besides that these exist.

    def problems(self, scope: "Scope") -> Iterator[Problem]:
        """What the user must fix, with paths inside the column."""
        return iter(())


class Asking(Column):
    """A column with a question: a template of the user's one turn, or a chat."""

    prompt: str | None = None
    """A template; over a chat column `{{ column }}` and nothing else is the chat."""
    messages: Messages | None = None
    """The name of a chat column, or turns with templates and chats among them."""

    may_inherit: ClassVar[bool] = False
    """Whether what its texts were asked takes the place of a question of its own."""

    @property
    def needs_question(self) -> bool:
        """Whether it cannot do without a question."""
        return not self.may_inherit

    @model_validator(mode="after")
    def _one_question(self) -> "Asking":
        if self.prompt is not None and self.messages is not None:
            raise ValueError("'prompt' and 'messages' both say what the model is asked; keep one")
        if self.prompt is None and self.messages is None and self.needs_question:
            raise ValueError(
                "the model has nothing to answer; add 'prompt' (or 'prompt_file'), or 'messages'"
            )
        return self

    @property
    def templates(self) -> Mapping[str, str]:
        """The prompt, or the contents of turns."""
        turns = enumerate(self.messages or ())
        contents = {f"messages.{n}.content": turn.content for n, turn in turns}
        return {k: v for k, v in ({"prompt": self.prompt} | contents).items() if v is not None}

    @property
    def named(self) -> Sequence[Named]:
        """The chats among the turns."""
        turns = enumerate(self.messages or ())
        chats = [Named(f"messages.{n}.chat", turn.chat, "chat") for n, turn in turns if turn.chat]
        return (*super().named, *chats)


class Prompted(Asking):
    """A column that asks models."""

    model_alias: str | tuple[str, ...]
    """Narrowed by each kind to one alias, or to a list."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """What `model_alias` names."""
        return (self.model_alias,) if isinstance(self.model_alias, str) else self.model_alias


class Scored(Column):
    """The texts to score: those of a `candidates` column, or of named response columns."""

    candidates: str | None = None
    """The column of candidates whose texts are scored."""
    responses: tuple[str, ...] | None = None
    """Text columns that are scored, in the place of candidates."""

    @model_validator(mode="after")
    def _one_target(self) -> "Scored":
        if (self.candidates is None) == (not self.responses):
            raise ValueError(
                "it is not clear what is scored; give either 'candidates: <column>' or "
                "'responses: [<column>, …]'"
            )
        if len(set(self.responses or ())) < len(self.responses or ()):
            raise ValueError("'responses' names a column twice; name each once")
        return self

    @property
    def named(self) -> Sequence[Named]:
        """What is scored."""
        target = [Named("candidates", self.candidates, "candidates")] if self.candidates else []
        texts = (Named(f"responses.{n}", one, "text") for n, one in enumerate(self.responses or ()))
        return (*super().named, *target, *texts)

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns that are scored."""
        return (self.candidates,) if self.candidates else self.responses or ()

    @property
    def reads_asked(self) -> bool:
        """Whether it looks at what its texts were asked."""
        return False

    @property
    def needs_asked(self) -> bool:
        """Whether it cannot do without."""
        return self.reads_asked

    def texts_scored(self, columns: Sequence[Column]) -> int:
        """Texts of one row."""
        if self.responses:
            return len(self.responses)
        return next(column for column in columns if column.name == self.candidates).size


@dataclass
class Scope:
    """The columns that exist before a given point of the recipe.

    Attributes:
        made: by every name that a column makes, its meta column's too.
        chats: seed columns that hold chats, or None if they are not known yet.
    """

    seed_fields: frozenset[str] | None
    made: dict[str, Column] = field(default_factory=dict)
    chats: frozenset[str] | None = None
    later: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()

    @property
    def columns(self) -> tuple[Column, ...]:
        """Each column once, in order."""
        return tuple({id(column): column for column in self.made.values()}.values())

    def has(self, name: str) -> bool:
        """Whether a column may be read here."""
        if name == "id" or name in self.made:
            return True
        if name.removesuffix(META_SUFFIX) in self.made:  # a kind of column without one
            return False
        if self.seed_fields is None:  # seen only when the seeds are loaded
            return name not in self.later
        return name in self.seed_fields

    def holds_chat(self, name: str) -> bool:
        """Whether the column is known to hold chats."""
        return name in (self.chats or ()) or (name in self.made and self.made[name].holds_chat)

    def check_printed(self, prompt: Prompt, at: At) -> Iterator[Problem]:
        """A template must not print a chat."""
        for name in filter(self.holds_chat, sorted(prompt.printed)):
            message = (
                f"column {name!r} holds chats, and this template would print one as JSON into a "
                f"single turn; to send it turn by turn write 'messages: {name}', or "
                f"'{{chat: {name}}}' among other turns of 'messages'; to print it as a text write "
                f"{{{{ {name} | transcript }}}}"
            )
            yield Problem(at, message)

    def check(self, one: Named) -> Iterator[Problem]:
        """Whether a column is there and holds what it must; of seed columns only rows tell that."""
        name, made = one.column, self.made.get(one.column.removesuffix(META_SUFFIX))
        holds_candidates = made is not None and made.holds_candidates
        if not self.has(name):
            yield Problem(path_of(one.key), self.missing(name))
        elif one.holds == "candidates" and not holds_candidates:
            message = f"column {name!r} has no candidates; name a column of type 'candidates'"
            yield Problem(path_of(one.key), message)
        elif one.holds == "text" and holds_candidates and "responses" in one.key:
            message = f"column {name!r} contains candidates; write 'candidates: {name}'"
            yield Problem(path_of(one.key), message)
        elif one.holds == "text" and made is not None and name not in made.texts:
            message = f"column {name!r} contains no text; name a column of type 'llm_text'"
            yield Problem(path_of(one.key), message)
        elif one.holds in ("text", "value") and self.holds_chat(name):
            message = (
                f"column {name!r} contains chats, but a text is needed; make a text from one with "
                f"an expression column, say {{{{ {name}[-1].content }}}}"
            )
            yield Problem(path_of(one.key), message)
        elif one.holds == "chat" and not self.holds_chat(name) and (made or self.chats is not None):
            turn = f"{{role: user, content: '{{{{ {name} }}}}'}}"
            message = f"column {name!r} contains no chats; write a turn {turn} to send its text"
            yield Problem(path_of(one.key), message)

    def missing(self, name: str) -> str:
        """Why a column cannot be read here."""
        known = [*sorted(self.seed_fields or ()), *self.made]
        if name in self.own:
            return f"column {name!r} is made here, and is not there yet; {suggest(name, known)}"
        if name in self.later:
            before = ", ".join(known) or "none"
            return (
                f"column {name!r} is made further down; move it above this one. Known here: "
                f"{before}"
            )
        return f"there is no column {name!r} before this point; {suggest(name, known)}"


def dotted(at: At) -> str:
    """A YAML path as a message shows it."""
    return ".".join(map(str, at))


def path_of(key: str) -> At:
    """The YAML path of a key such as `messages.0.content`, or `messages[0].content`."""
    parts = re.sub(r"\[(\w+)\]", r".\1", key).split(".")
    return tuple(int(p) if p.isascii() and p.isdigit() else p for p in parts if p)


def with_meta(*names: str) -> tuple[str, ...]:
    """Names of text columns, then of the columns that tell how the texts were made."""
    return (*names, *(name + META_SUFFIX for name in names))
