"""`build` and `preview`: from a recipe, in whatever form, to a run, also inside of a notebook."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow.parquet as pq
from datasets import Dataset

from prefdata import pipeline
from prefdata.api.apart import run_apart
from prefdata.api.loading import load, run_folder
from prefdata.api.records import Records, check_count, records_of
from prefdata.api.run import Run, open_run
from prefdata.errors import PrefdataError, Say
from prefdata.recipe.loader import LoadedRecipe, RecipeSource
from prefdata.storage.disk import disk_errors
from prefdata.storage.ownership import check_folder, claim_folder, own_file
from prefdata.workers.machine import Machine, find_machine

SeedRows: TypeAlias = Dataset | Sequence[Mapping[str, Any]]
SEEDS = "seeds.parquet"
"""In the run folder: the seeds that were given as a `Dataset`, so that the run can be repeated."""
ROWS_PER_GROUP = 10_000


@disk_errors()
def build(
    recipe: RecipeSource | LoadedRecipe,
    out: Path | str | None = None,
    *,
    seeds: SeedRows | None = None,
    overrides: Sequence[str] = (),
    gpus: int | None = None,
    replicas: int | None = None,
    rehearse: bool = False,
    force: bool = False,
    trust_remote_code: bool = False,
    say: Say = print,
    progress: bool = True,
) -> Run:
    """Build the dataset of a recipe, or go on where an earlier call or command has stopped.

    Args:
        recipe: a path, an address `hf://datasets/…/recipe.yaml`, a YAML text, a dict or a `Recipe`.
            In a dict, `seed_dataset` or its `path` may be a `Dataset`.
        out: the run folder; the recipe's `output_dir` by default.
        seeds: a `Dataset`, or a list of rows, in the place of the recipe's own seeds.
        overrides: as on the command line, such as `num_records=10`.
        gpus: how many to use; 0 for the CPU; by default one if there is one.
        replicas: on a CPU: processes per model.
        rehearse: scripted answers instead of models, in `<out>-rehearsal`.
        force: replace a file of yours that is in the way.
        trust_remote_code: whether models of a recipe from the Hub may run code of their own.
        say: called with each message, one line at a time.
        progress: whether to show it.

    Raises:
        PrefdataError: an error that you can fix; everything finished so far is kept.
        KeyboardInterrupt: it was interrupted; called again, it goes on.
    """
    loaded = _load(recipe, seeds, overrides, out, rehearse=rehearse, trust=trust_remote_code)
    place = out if isinstance(recipe, LoadedRecipe) and out else loaded.recipe.output_dir
    folder = run_folder(place, rehearse)
    if rehearse:
        loaded = loaded.changed(output_path=None)
    with _machine(gpus, replicas, rehearse=rehearse) as machine:
        run_apart(
            lambda ending: pipeline.build(
                loaded, folder, machine=machine, rehearse=rehearse, force=force, say=say,
                progress=progress, ending=ending,
            )
        )  # fmt: skip
    return open_run(folder)


@disk_errors()
def preview(
    recipe: RecipeSource | LoadedRecipe,
    n: int = 2,
    *,
    seeds: SeedRows | None = None,
    overrides: Sequence[str] = (),
    gpus: int | None = None,
    replicas: int | None = None,
    rehearse: bool = False,
    trust_remote_code: bool = False,
    say: Say = print,
    progress: bool = True,
) -> Records:
    """A request of every column and the first `n` rows, pairs and rejects; keeps nothing.

    The other arguments are those of `build`.

    Raises:
        PrefdataError: as from `build`.
    """
    check_count(n)
    with tempfile.TemporaryDirectory(prefix="prefdata-preview-") as folder:
        out = Path(folder)
        loaded = _load(recipe, seeds, overrides, out, trust=trust_remote_code)
        small = loaded.changed(num_records=n, output_path=None)
        with _machine(gpus, replicas, rehearse=rehearse) as machine:
            run_apart(
                lambda ending: pipeline.build(
                    small, out, machine=machine, rehearse=rehearse, say=say, progress=progress,
                    ending=ending,
                )
            )  # fmt: skip
        return run_apart(lambda _: records_of(out, small))


def _load(
    source: RecipeSource | LoadedRecipe,
    seeds: SeedRows | None,
    overrides: Sequence[str],
    out: Path | str | None,
    *,
    rehearse: bool = False,
    trust: bool,
) -> LoadedRecipe:
    """The recipe with the given seeds; a `Dataset` among them is a file of the run folder then."""
    if isinstance(source, LoadedRecipe):
        return source
    recipe, found = _take_seeds(source)
    seeds = found if seeds is None else seeds
    read = partial(load, recipe, overrides, out, trust_remote_code=trust)
    if seeds is None:
        return read()
    if isinstance(seeds, Dataset):
        folder = run_folder(read(seeds={"path": SEEDS}).recipe.output_dir, rehearse)
        return read(seeds={"path": str(_keep(seeds, folder).absolute())})
    if isinstance(seeds, str) or not all(isinstance(row, Mapping) for row in seeds):
        raise PrefdataError(
            f"no seeds can be read from {type(seeds).__name__}; give a datasets.Dataset (one "
            "split), or a list of dicts"
        )
    return read(seeds={"rows": [dict(row) for row in seeds]})


def _take_seeds(recipe: RecipeSource) -> tuple[RecipeSource, Dataset | None]:
    """The recipe without a `Dataset` in it, and that."""
    if not isinstance(recipe, Mapping):
        return recipe, None
    told = recipe.get("seed_dataset")
    if isinstance(told, Dataset):
        return {**recipe, "seed_dataset": {}}, told
    if isinstance(told, Mapping) and isinstance(told.get("path"), Dataset):
        kept = {key: value for key, value in told.items() if key != "path"}
        return {**recipe, "seed_dataset": kept}, told["path"]
    return recipe, None


def _keep(seeds: Dataset, out: Path) -> Path:
    """The file of the run folder with these seeds."""
    check_folder(out)
    claim_folder(out)
    schema = seeds.features.arrow_schema.remove_metadata()
    with own_file(out / SEEDS, out) as file, pq.ParquetWriter(file, schema) as writer:
        for batch in seeds.with_format("arrow").iter(ROWS_PER_GROUP):
            writer.write_table(batch.cast(schema))
    return out / SEEDS


@contextmanager
def _machine(gpus: int | None, replicas: int | None, *, rehearse: bool) -> Iterator[Machine]:
    """What the models may use; with 0 GPUs they see none while they are loaded."""
    if rehearse:
        yield Machine()
        return
    name, before = "CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpus == 0:
        os.environ[name] = ""
    try:
        yield find_machine(gpus, replicas)
    finally:
        if gpus == 0 and before is None:
            os.environ.pop(name, None)
        elif before is not None:
            os.environ[name] = before
