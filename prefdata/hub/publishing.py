"""What is asked of a publication, and what comes of it. Knows no Hub."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """What the command line says of a publication; None leaves it to the recipe."""

    repo_id: str | None = None
    revision: str | None = None
    private: bool | None = None
    create_pr: bool = False


@dataclass(frozen=True, slots=True)
class Publication:
    """What has been published where.

    Attributes:
        commit: 40 hex digits; it is on the Hub and was read back.
        tag: the commit's name; None in a pull request.
    """

    repo_id: str
    revision: str
    commit: str
    tag: str | None
    url: str
    is_new: bool
    rows: dict[str, dict[str, int]]
