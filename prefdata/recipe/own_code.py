"""The column type that is a Python function of the user: a stage."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from prefdata.recipe.contract import Aliases, Column, Role, with_meta
from prefdata.recipe.values import META_SUFFIX, ColumnName, Filled

Returned = Literal["str", "int", "float", "bool", "json", "candidates"]


class Stage(Column):
    """What an `async def stage(row, ask) -> dict` makes of a row."""

    type: Literal["stage"]
    function: Filled
    """`package.module:name`, or the name of a package's entry point; see docs/extending.md."""
    model_alias: Aliases | None = None
    """The text models that it may `ask`."""
    reward_alias: Aliases | None = None
    """The reward models with which it may `score`."""
    returns: Annotated[dict[ColumnName, Returned], Field(min_length=1)] | None = None
    """The columns that it returns, each with its type: `str`, `int`, `float`, `bool`, `json` (any
    value), or `candidates` (a list of texts; then the only one, and called like the stage). One
    `str` with the stage's name if left out.
    """

    asks_in_turns: ClassVar[bool] = True
    meaning = "made by a Python function"

    @model_validator(mode="after")
    def _columns_that_can_be(self) -> "Stage":
        for name, kind in self.columns.items():
            if name == "id" or name.endswith(META_SUFFIX):
                raise ValueError(f"the name {name!r} in 'returns' is reserved; choose another one")
            if kind == "candidates" and self.columns != {self.name: kind}:
                raise ValueError(
                    "a stage that returns candidates returns nothing else, in a column with its "
                    f"own name; write returns: {{{self.name}: candidates}}"
                )
        if both := {*(self.model_alias or ())} & {*(self.reward_alias or ())}:
            raise ValueError(f"{min(both)!r} is both asked and used to score; name it once")
        return self

    @property
    def columns(self) -> dict[str, Returned]:
        """Types by column."""
        return self.returns or {self.name: "str"}

    @property
    def calls(self) -> str:
        return self.function

    @property
    def makes(self) -> tuple[str, ...]:
        return (*self.columns, *with_meta(*self.texts)[len(self.texts) :])

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(name for name, kind in self.columns.items() if kind == "str")

    @property
    def holds_candidates(self) -> bool:
        return "candidates" in self.columns.values()

    @property
    def aliases(self) -> tuple[str, ...]:
        return (*(self.model_alias or ()), *(self.reward_alias or ()))

    def role_of(self, alias: str) -> Role:
        return "reward" if alias in (self.reward_alias or ()) else "text"

    def requests(self, columns: Sequence[Column]) -> int:
        """One of each model: how many it asks is known to the function alone."""
        return len(self.aliases)
