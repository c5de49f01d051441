"""The recipe's `publish`: where the finished dataset goes and how it is described."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, field_validator

from prefdata.recipe.values import Filled, Frozen, OneOrMore

ConfigName = Literal["pairs", "candidates", "rejects"]
CONFIGS: tuple[ConfigName, ...] = ("pairs", "candidates", "rejects")
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,95}"


def check_repo_id(name: str) -> str:
    """Refuse what the Hub would refuse.

    Raises:
        ValueError: it is not `owner/name`.
    """
    if not re.fullmatch(f"{_NAME}/{_NAME}", name) or name.endswith((".git", ".", "-")):
        raise ValueError(
            f"{name!r} is not a valid dataset name; write owner/name, made of letters, digits, "
            "'-', '_' and '.'"
        )
    return name


class Publish(Frozen):
    """A dataset repository on the Hub; nothing here changes a row."""

    repo_id: Annotated[str, AfterValidator(check_repo_id)]
    """`owner/name`; created if it does not exist."""
    private: bool = True
    """Visibility of a repository that is created; an existing one keeps its visibility."""
    revision: Filled | None = None
    """The branch; created if it does not exist, `main` if left out."""
    license: Filled | None = None
    """The Hub's identifier, for example `cc-by-4.0`; never assumed."""
    languages: Annotated[tuple[Filled, ...], OneOrMore] = ()
    """ISO 639 codes."""
    pretty_name: Filled | None = None
    """The title of the dataset card."""
    tags: tuple[Filled, ...] = ()
    """Tags in addition to preference, dpo, rlhf, synthetic and prefdata."""
    configs: tuple[ConfigName, ...] = CONFIGS
    """Which of pairs, candidates and rejects are published; pairs always are."""

    @field_validator("configs")
    @classmethod
    def _with_pairs(cls, value: tuple[ConfigName, ...]) -> tuple[ConfigName, ...]:
        if "pairs" not in value:
            raise ValueError("'pairs' is missing, but pairs are always published; add it")
        return tuple(name for name in CONFIGS if name in value)
