"""`hf://datasets/owner/name@revision/recipe.yaml`: a recipe that somebody has published.

It is read as data: what would run code, read files of this machine or send anything to a server
that the user has not named is refused.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from prefdata.errors import PrefdataError
from prefdata.hub.access import HTTP_ERRORS, describe
from prefdata.recipe.loader import LoadedRecipe, load_recipe
from prefdata.recipe.schema import Recipe
from prefdata.seeds.files import SUFFIXES

SCHEME = "hf://"
_ADDRESS = re.compile(
    r"hf://datasets/(?P<repo>[^/@\s]+/[^/@\s]+)"
    r"(?:@(?P<revision>refs/pr/\d+|[^/\s]+))?/(?P<file>[^\s]+\.ya?ml)"
)
_INTERPOLATION = re.compile(r"(?<!\\)(?:\\\\)*\$\{")


def load_fetched(
    address: str, overrides: Sequence[str] = (), *, trust_remote_code: bool = False
) -> LoadedRecipe:
    """Fetch a recipe and check it; relative paths are sought in the current folder.

    Args:
        address: begins with `hf://datasets/`.
        overrides: `key=value`.
        trust_remote_code: whether its models may keep `trust_remote_code: true`.

    Raises:
        PrefdataError: it is not there, not valid, or asks for more than it may.
    """
    file = _fetch(address)
    _check_text(address, file.read_text("utf-8-sig"))
    loaded = replace(load_recipe(file, overrides), folder=Path.cwd())
    named = {override.partition("=")[0].strip() for override in overrides}
    if not any(key.split(".")[0] == "publish" for key in named):
        loaded = loaded.changed(publish=None)  # its author's place, not the user's
    _check_recipe(address, loaded.recipe, named, trust_remote_code)
    _check_seeds(address, loaded)
    return loaded


def _fetch(address: str) -> Path:
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise PrefdataError(
            f"{address}: no address of a recipe; write hf://datasets/owner/name/recipe.yaml, or "
            "hf://datasets/owner/name@revision/recipe.yaml"
        )
    try:
        return Path(
            hf_hub_download(
                found["repo"], found["file"], revision=found["revision"], repo_type="dataset"
            )
        )
    except LocalEntryNotFoundError as err:
        raise PrefdataError(
            f"{address}: the Hub cannot be reached, and this machine has no copy of the recipe; "
            "see that it has the network, or give the path of a file"
        ) from err
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError) as err:
        what = {RepositoryNotFoundError: "dataset", RevisionNotFoundError: "revision"}
        missing = next((w for kind, w in what.items() if isinstance(err, kind)), "file")
        raise PrefdataError(
            f"{address}: there is no such {missing} on the Hub, or it is private and this "
            "machine has no token for it; see the address, or run `hf auth login`"
        ) from err
    except (HfHubHTTPError, HTTP_ERRORS) as err:
        raise PrefdataError(
            f"{address}: the Hub does not give the recipe: {describe(err)}; see the token "
            "(`hf auth whoami`), or try again later"
        ) from err


def _check_text(address: str, text: str) -> None:
    """Refuse what loading itself would act upon."""
    if _INTERPOLATION.search(text):
        raise PrefdataError(
            f"{address}: it holds '${{…}}', which would put variables of this machine into it; a "
            "published recipe has none. Download and read it, then build it from the file"
        )
    try:
        raw: Any = yaml.safe_load(text)
    except yaml.YAMLError:
        return  # the loader says where
    columns = raw.get("columns") if isinstance(raw, dict) else None
    if any(isinstance(one, dict) and "prompt_file" in one for one in columns or ()):
        raise PrefdataError(
            f"{address}: it names a prompt_file, a file of this machine; a published recipe holds "
            "its prompts. Download and read it, then build it from the file"
        )


def _check_recipe(address: str, recipe: Recipe, named: set[str], trust: bool) -> None:
    for number, column in enumerate(recipe.columns):
        if column.calls is not None:
            raise PrefdataError(
                f"{address}: columns.{number}: a {column.type} calls {column.calls!r}, and a "
                "recipe from the Hub may call no Python function; download and read it, then build "
                "it from the file"
            )
    for number, model in enumerate(recipe.models):
        if model.trust_remote_code and not trust:
            raise PrefdataError(
                f"{address}: models.{number}.trust_remote_code is true, so code of {model.model!r} "
                "would run here; read it, then say --trust-remote-code, or "
                f"models.{number}.trust_remote_code=false"
            )
    for number, server in enumerate(recipe.providers):
        key = f"providers.{number}.endpoint"
        if key not in named and "providers" not in named:
            secret = f" with the key in ${server.api_key}" if server.api_key else ""
            raise PrefdataError(
                f"{address}: prompts would be sent to {server.endpoint}{secret}; if you know that "
                f"server, say {key}={server.endpoint}"
            )


def _check_seeds(address: str, loaded: LoadedRecipe) -> None:
    for path in loaded.recipe.seed_dataset.path or ():
        is_file = path.startswith(("/", ".", "~")) or any(c in path for c in "*?[")
        is_file = is_file or Path(path).suffix in SUFFIXES
        if is_file and loaded.locate(path) == path and not Path(path).exists():
            raise PrefdataError(
                f"{address}: its seeds were in {path!r}, a file of whoever built it, which the "
                "repository does not have; give yours with seed_dataset.path=…"
            )
