"""`hf://datasets/owner/name@revision/recipe.yaml`: a recipe or a run that somebody has published.

It is read as data of a stranger: nothing of this machine is read, written, interpolated or sent
anywhere for it, nor is code run, unless the command line says so. A value that the command line
gives is the user's own.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import orjson
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from prefdata.errors import PrefdataError
from prefdata.hub.access import HTTP_ERRORS, describe
from prefdata.pairs.diff import PairsOfRun, compare_pairs, read_pairs_of
from prefdata.recipe.contract import At
from prefdata.recipe.environment import INTERPOLATION, texts_in
from prefdata.recipe.loader import LoadedRecipe, load_recipe, override_path
from prefdata.recipe.mix import picks_of
from prefdata.recipe.publication import CONFIGS
from prefdata.recipe.schema import Model, Recipe
from prefdata.recipe.weights import is_file
from prefdata.report.compare import recipe_differences
from prefdata.rows import REJECTS
from prefdata.run.finished import FinishedRun, open_run
from prefdata.seeds.files import is_data_file
from prefdata.storage.folders import RowsWriter
from prefdata.storage.record import Record, read_record

SCHEME = "hf://"
OWN_PLACES = ("output_dir", "output_path", "publish")
"""Where its author wrote to; a user writes elsewhere."""
ENGINE = frozenset({
    "block_size", "cpu_offload_gb", "dtype", "enable_chunked_prefill", "enable_prefix_caching",
    "enforce_eager", "gpu_memory_utilization", "kv_cache_dtype", "max_batch_tokens",
    "max_logprobs", "max_model_len", "max_num_batched_tokens", "max_num_seqs",
    "pipeline_parallel_size", "quantization", "seed", "swap_space", "tensor_parallel_size",
})  # fmt: skip
"""Options of engines that name no file, no code and no address."""
_ADDRESS = re.compile(
    r"hf://datasets/(?P<repo>[\w.-]+/(?P<name>[\w.-]+))"
    r"(?:@(?P<revision>refs/pr/\d+|[^/\s]+))?/(?P<file>[^\s]+\.ya?ml)",
    re.ASCII,
)
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_REVISION = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)
_WORD = re.compile(r"[\w.-]*", re.ASCII)
_RUN_ADDRESS = re.compile(
    r"hf://datasets/(?P<repo>[\w.-]+/(?P<name>[\w.-]+))(?:@(?P<revision>\S+))?", re.ASCII
)
_INTERPOLATED = re.compile(r"(?<!\\)((?:\\\\)*)\$\{")
"""`${` that is not escaped."""
_FETCHED = ".cache/huggingface"
"""What a download into a folder leaves there."""
RUN_FILES = ("run.json", "recipe.yaml", "README.md")


def load_fetched(
    address: str, overrides: Sequence[str] = (), *, trust_remote_code: bool = False
) -> LoadedRecipe:
    """Fetch a recipe and check it.

    It is built in a folder called like its dataset, in the current one, and published nowhere, if
    the overrides say nothing else.

    `address`: begins with `hf://datasets/`. `overrides`: `key=value`. `trust_remote_code`: whether
    its models may keep `trust_remote_code: true`.

    Raises:
        PrefdataError: it does not exist, is not valid, or asks for more than it is allowed.
    """
    file, stranger = _fetch(address), _Stranger(address, overrides, trust_remote_code)
    loaded = load_recipe(file, overrides, prepare=stranger.prepare)
    loaded = replace(loaded, folder=Path.cwd())
    stranger.check(loaded)
    return loaded


def _fetch(address: str) -> Path:
    found = _parts(address)
    with _hub_errors(address, "recipe"):
        return Path(
            hf_hub_download(
                found["repo"], found["file"], revision=found["revision"], repo_type="dataset"
            )
        )


@contextmanager
def _hub_errors(address: str, what: str) -> Iterator[None]:
    """Tell in a sentence why something cannot be had from the Hub."""
    try:
        yield
    except LocalEntryNotFoundError as err:
        raise PrefdataError(
            f"{address}: the Hub cannot be reached, and this machine has no copy of the "
            f"{what}; check the network connection, or give a path of this machine"
        ) from err
    except HFValidationError as err:
        raise PrefdataError(f"{address}: not the address of a {what}: {err}") from err
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError) as err:
        kinds = {RepositoryNotFoundError: "dataset", RevisionNotFoundError: "revision"}
        missing = next((w for kind, w in kinds.items() if isinstance(err, kind)), "file")
        raise PrefdataError(
            f"{address}: the {missing} does not exist on the Hub, or it is private and this "
            "machine has no token for it; check the address, or run `hf auth login`"
        ) from err
    except (HfHubHTTPError, HTTP_ERRORS) as err:
        raise PrefdataError(
            f"{address}: could not download the {what} from the Hub: {describe(err)}; check the "
            "token (`hf auth whoami`), or try again later"
        ) from err


def _parts(address: str) -> re.Match[str]:
    found = _ADDRESS.fullmatch(address)
    if found is None or {found["name"], *found["file"].split("/")} & {".", ".."}:
        raise PrefdataError(
            f"{address}: not the address of a recipe; write hf://datasets/owner/name/recipe.yaml, "
            "or hf://datasets/owner/name@revision/recipe.yaml"
        )
    return found


class Permission(NamedTuple):
    """Something that a recipe from elsewhere may have only if the command line says so.

    Attributes:
        at: the key by which it says so; of a list, with the place in it.
        value: of the key; `…` where only the user can know it.
    """

    at: At
    why: str
    value: str = "…"


class _Stranger:
    """A recipe from elsewhere: what of it counts, and what is refused.

    Attributes:
        named: keys that the command line sets; what stands below one is the user's.
    """

    def __init__(self, address: str, overrides: Sequence[str], trust_remote_code: bool) -> None:
        self._address, self._trust = address, trust_remote_code
        self.named = [override_path(override) for override in overrides]
        self._servers: list[str] = []
        self._adapted: set[int] = set()

    def prepare(self, raw: dict[str, Any]) -> None:
        """Leave out its author's places; refuse what loading itself would act upon."""
        for key in OWN_PLACES:
            raw.pop(key, None)
        raw["output_dir"] = _parts(self._address)["name"]
        self._refuse(_texts(raw))
        self._adapted = {n for n, model in _entries(raw, "models") if "adapter" in model}
        self._servers = [str(one.get("name")) for _, one in _entries(raw, "providers")]

    def check(self, loaded: LoadedRecipe) -> None:
        """Refuse files of this machine, code and servers that the command line does not name."""
        self._refuse(_sources(loaded))
        self._refuse(_functions(loaded.recipe))
        self._refuse(self._sent(loaded.recipe))
        for number, model in enumerate(loaded.recipe.models):
            if loaded.recipe.endpoint(model) is None:
                self._refuse(self._run_here(number, model, loaded))

    def _refuse(self, needed: Iterable[Permission]) -> None:
        for at, why, value in needed:
            if not any(at[: len(key)] == key for key in self.named):
                key = _dotted(at[:-1] if isinstance(at[-1], int) else at)
                raise PrefdataError(
                    f"{self._address}: {key}: {why}; to decide that yourself, add {key}={value}, "
                    "or download and read the recipe, then build it from the file"
                )

    def _sent(self, recipe: Recipe) -> Iterator[Permission]:
        """Servers that would get prompts: the recipe's own, and those of the user's environment."""
        for number, server in enumerate(recipe.providers):
            if server.name in self._servers:
                secret = f" with the key in ${server.api_key}" if server.api_key else ""
                why = f"prompts would be sent to {server.endpoint}{secret}"
                yield Permission(("providers", number, "endpoint"), why, server.endpoint)
                if server.api_key:
                    yield Permission(("providers", number, "api_key"), why, server.api_key)
                continue
            why = f"prompts would be sent to your server {server.name!r}, with your key"
            for place, model in enumerate(recipe.models):
                if model.provider == server.name:
                    yield Permission(("models", place, "provider"), why, server.name)

    def _run_here(self, number: int, model: Model, loaded: LoadedRecipe) -> Iterator[Permission]:
        """What a model would read and run on this machine."""
        at: At = ("models", number)
        wanted = [("model", model.model)]
        if model.adapter is not None:
            # an adapter that the recipe does not name has been named as the model
            wanted.append(("adapter" if number in self._adapted else "model", model.adapter))
        for key, name in wanted:
            if loaded.locate(name) != name:
                yield Permission((*at, key), f"{name!r} would be read on this machine")
            elif not _HUB_ID.fullmatch(name):
                kind = "a model" if key == "model" else "an adapter"
                yield Permission((*at, key), f"{name!r} is not the id of {kind} on the Hub")
        yield from _revision((*at, "revision"), model.revision)
        for key, value in model.engine.items():
            is_plain = isinstance(value, bool | int | float) or bool(_WORD.fullmatch(str(value)))
            if not (key in ENGINE and is_plain):
                why = "this engine option may name files, code or servers"
                yield Permission((*at, "engine", key), why)
        if model.trust_remote_code and not self._trust:
            why = (
                f"code of {model.model!r} would run here (--trust-remote-code allows it; read that "
                "code first)"
            )
            yield Permission((*at, "trust_remote_code"), why, "false")


def _entries(raw: dict[str, Any], key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    told = raw.get(key)
    for number, one in enumerate(told if isinstance(told, list) else ()):
        if isinstance(one, dict):
            yield number, one


def _texts(raw: dict[str, Any]) -> Iterator[Permission]:
    """What loading would insert from this machine."""
    for at, text in texts_in(raw):
        if _names_a_file(at, text):
            yield Permission(
                at, "it names a file of this machine; a published recipe holds its texts"
            )
        elif INTERPOLATION.search(text):
            why = "it holds '${…}', which would insert environment variables of this machine"
            yield Permission(at, why)


def _sources(loaded: LoadedRecipe) -> Iterator[Permission]:
    """Rows that would be read on this machine, or cannot be read at all."""
    for at, source in loaded.recipe.sources:
        for number, path in enumerate(source.paths):
            if why := _why_no_dataset(loaded, path):
                yield Permission((*at, "path", number), f"{path!r} {why}")
        yield from _revision((*at, "revision"), source.revision)


def _why_no_dataset(loaded: LoadedRecipe, path: str) -> str | None:
    is_here = loaded.locate(path) != path
    if is_here or path.startswith(("/", ".", "~")) or Path(path).is_absolute():
        return "would be read on this machine"
    if is_data_file(path) or any(c in path for c in "*?["):
        return "was a file of the author's machine, and is not in the repository"
    return None if _HUB_ID.fullmatch(path) else "is not the id of a dataset on the Hub"


def _revision(at: At, revision: str | None) -> Iterator[Permission]:
    if revision and not _REVISION.fullmatch(revision):
        yield Permission(at, f"{revision!r} is not a branch, a tag or a commit")


def _functions(recipe: Recipe) -> Iterator[Permission]:
    """Python that the recipe would call."""
    no = "and a recipe from the Hub may call no Python function"
    for number, column in enumerate(recipe.columns):
        if column.calls is not None:
            why = f"a {column.type} calls {column.calls!r}, {no}"
            yield Permission(("columns", number, "function"), why)
    for key, pick in picks_of(recipe.output_projection).items():
        yield Permission(("output_projection", *key.split(".")), f"{pick!r} picks the pairs, {no}")


def _names_a_file(at: At, text: str) -> bool:
    """Whether loading would read a file for this text of a recipe."""
    return at[-1] == "prompt_file" or (at[-1] == "chat_template" and is_file(text))


def _dotted(at: Sequence[str | int]) -> str:
    return ".".join(map(str, at))


def fetch_run(address: str, out: Path | None = None, *, tables: Sequence[str] = CONFIGS) -> Path:
    """Fetch a run that was published, `hf://datasets/owner/name`; returns its folder.

    `address`: to which `@revision` may be added. `out`: the folder; one called like the dataset, in
    the current one, by default. `tables`: which of them are wanted.

    Raises:
        PrefdataError: it does not exist, prefdata did not make it, or a folder is in the way.
    """
    found = _RUN_ADDRESS.fullmatch(address)
    if found is None or found["name"] in (".", ".."):
        raise PrefdataError(
            f"{address}: not the address of a run; write hf://datasets/owner/name, or "
            "hf://datasets/owner/name@revision"
        )
    folder = out or Path(found["name"])
    if folder.exists() and any(folder.iterdir()) and not (folder / _FETCHED).is_dir():
        raise PrefdataError(
            f"{folder}: the folder is there already, and was not fetched from the Hub; name "
            "another one, as in open_run(address, out)"
        )
    with _hub_errors(address, "run"):
        snapshot_download(
            found["repo"], revision=found["revision"], repo_type="dataset", local_dir=folder,
            allow_patterns=[*(f"{name}/*.parquet" for name in tables), *RUN_FILES],
        )  # fmt: skip
    record = read_record(folder)
    if record is None or "files" not in record:
        raise PrefdataError(f"{address}: the dataset has no run.json; prefdata did not make it")
    _settle(folder, record, address)
    return folder


def read_pairs(place: str) -> tuple[FinishedRun, PairsOfRun]:
    """A finished run, or a published one, and its pairs; of the latter no more than these remain.

    Args:
        place: a run folder, or `hf://datasets/owner/name`, to which `@revision` may be added.
    """
    if not place.startswith(SCHEME):
        run = open_run(Path(place))
        return run, read_pairs_of(run.folder, run.record)
    with TemporaryDirectory() as folder:
        run = open_run(fetch_run(place, Path(folder), tables=("pairs", "rejects")))
        return run, read_pairs_of(run.folder, run.record)


def compare_runs(run: str, other: str) -> dict[str, Any]:
    """What has become of the pairs of a run in another, as `Diff.told`, and `recipe`.

    `run`, `other`: as `read_pairs` takes them. `recipe`: (field, value, value in the other) of what
    differs in their recipes.
    """
    (one, pairs), (another, others) = (read_pairs(place) for place in (run, other))
    texts = [found.loaded.resolved if found.loaded else "" for found in (one, another)]
    recipe = recipe_differences(*texts) if all(texts) else []
    return {**compare_pairs(pairs, others).told(), "recipe": recipe}


def _settle(folder: Path, record: Record, address: str) -> None:
    """Make a run folder of what was published: empty tables were not, and the recipe is data."""
    if not record["rejects"] and not (folder / "rejects").exists():
        with RowsWriter(folder / "rejects", REJECTS):
            pass
    if (folder / "recipe.yaml").is_file():
        loaded = load_recipe(folder / "recipe.yaml", prepare=lambda raw: _tame(raw, address))
        (folder / "recipe.yaml").write_text(loaded.resolved, encoding="utf-8")
    told = (
        record
        | {"fetched": address}
        | {"files": {k: v for k, v in record["files"].items() if (folder / k).is_file()}}
    )
    (folder / "run.json").write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2))


def _tame(raw: dict[str, Any], address: str) -> None:
    """Let nothing of this machine into the recipe of a stranger's run, which will not be built."""
    raw.pop("publish", None)
    raw.pop("output_path", None)
    for at, text in [*texts_in(raw)]:
        if _names_a_file(at, text):
            raise PrefdataError(f"{address}: {_dotted(at)} names a file of this machine")
        if "${" in text:
            holder: Any = raw
            for part in at[:-1]:
                holder = holder[part]
            holder[at[-1]] = _INTERPOLATED.sub(r"\1\\${", text)
