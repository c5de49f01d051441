"""Errors of the Hub: what is retried and for how long, and every refusal as one sentence."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Any, TypeVar

from huggingface_hub import HfApi, errors, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from prefdata.errors import PrefdataError, Say

Value = TypeVar("Value")
HTTP_ERRORS: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
"""What the client's HTTP library raises: the connection was lost, or never made."""
_RATE_LIMIT = re.compile(r";\s*r=0\s*;\s*t=(?P<seconds>\d+)")
"""None are left until so many seconds from now (draft-ietf-httpapi-ratelimit-headers-09)."""
PASSING = (408, 409, 412, 429, 500, 502, 503, 504)
"""Statuses that another try may not meet: 409 and 412 mean that somebody else was quicker."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a step is tried: the client's own tries within a request come on top.

    Attributes:
        tries: of a step, the first among them.
        first_wait: seconds; each further wait is twice as long.
        longest_wait: seconds; where the Hub asks for more, it is not waited for.
    """

    tries: int = 6
    first_wait: float = 1.0
    longest_wait: float = 310.0

    def keep_trying(self, step: Callable[[], Value], say: Say) -> Value:
        """Run a step that may be repeated, until it succeeds or no try is left that could."""
        for number in range(1, self.tries + 1):
            try:
                return step()
            except (OSError, HTTP_ERRORS) as err:
                wait = _retry_after(err)
                wait = self.first_wait * 2 ** (number - 1) if wait is None else wait
                if number == self.tries or wait > self.longest_wait or not _may_pass(err):
                    raise
                say(f"the Hub: {describe(err)}; trying again in {wait:g} s ({number} of {self.tries - 1})")  # fmt: skip  # noqa: E501
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")


def check_token(api: HfApi) -> dict[str, Any]:
    """Make sure that there is a token that may write; returns what the Hub says of its owner.

    Raises:
        PrefdataError: there is none, or it may only read.
    """
    if get_token() is None:
        raise PrefdataError(
            "publish: there is no Hub token on this machine; run `hf auth login`, or export "
            "HF_TOKEN, with a token that has write permission"
        )
    account: dict[str, Any] = api.whoami()
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise PrefdataError(
            f"publish: the Hub token of {account['name']!r} is read-only; create one with write "
            "permission (https://huggingface.co/settings/tokens), then run `hf auth login`, or "
            "export HF_TOKEN"
        )
    return account


@contextmanager
def refusals(repo_id: str) -> Iterator[None]:
    """Turn what the Hub refuses, or a network without it, into a PrefdataError of one line."""
    try:
        yield
    except OfflineModeIsEnabled as err:
        raise PrefdataError(
            f"publish: {repo_id}: HF_HUB_OFFLINE is set, so the Hub cannot be used; unset it"
        ) from err
    except HfHubHTTPError as err:
        raise PrefdataError(f"publish: {repo_id}: {_explain(err, repo_id)}") from err
    except (HTTP_ERRORS, ConnectionError, TimeoutError) as err:
        raise PrefdataError(
            f"publish: {repo_id}: the Hub cannot be reached ({describe(err)}); check the "
            "network connection, then publish again"
        ) from err


@contextmanager
def answers(repo_id: str) -> Iterator[None]:
    """What the client calls a ValueError: a card that the Hub refuses, a page in place of JSON."""
    try:
        yield
    except JSONDecodeError as err:
        raise ConnectionError("the answer is not JSON") from err
    except ValueError as err:
        said = "; ".join(line.strip("- ") for line in str(err).splitlines() if line.strip("- "))
        raise PrefdataError(
            f"publish: {repo_id}: the Hub refuses the card: {said}; fix 'publish' in the recipe"
        ) from err


def describe(err: Exception) -> str:
    """What happened, in a few words."""
    if isinstance(err, HfHubHTTPError):
        return f"{err.response.status_code} {err.response.reason_phrase}"
    return (str(err).splitlines() or [""])[0] or type(err).__name__


def _explain(err: HfHubHTTPError, repo_id: str) -> str:
    status, owner = err.response.status_code, repo_id.split("/")[0]
    said = (err.server_message or err.response.headers.get("X-Error-Message") or "").strip()
    told = f" ({said.splitlines()[0]})" if said else ""
    if status == 401:
        return "the Hub does not accept this token; run `hf auth login`, or export another HF_TOKEN"
    if status in (403, 404):
        return (
            f"the token has no permission to write there{told}; ask {owner!r} for it, use a token "
            "that has it, or choose another repository with --repo-id"
        )
    if status in PASSING:
        return f"the Hub keeps returning {describe(err)}{told}; publish again later"
    return f"the Hub refused the request: {describe(err)}{told}"


def _may_pass(err: Exception) -> bool:
    if isinstance(err, OfflineModeIsEnabled):
        return False
    if isinstance(err, HfHubHTTPError):
        return err.response.status_code in PASSING
    return isinstance(err, HTTP_ERRORS | ConnectionError | TimeoutError)


def _retry_after(err: Exception) -> float | None:
    """Seconds that the Hub asks for, where it does."""
    if not isinstance(err, HfHubHTTPError):
        return None
    headers = err.response.headers
    if (told := headers.get("Retry-After", "").strip()).isdigit():
        return float(told)
    limit = _RATE_LIMIT.search(headers.get("RateLimit", ""))
    return float(limit["seconds"]) if limit else None
