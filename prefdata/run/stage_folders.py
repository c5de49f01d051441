"""The folders of a run, each named after what went into it. Makes none of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prefdata.fingerprint import pairs_fingerprint, stage_fingerprint
from prefdata.recipe.filters import Filter
from prefdata.recipe.loader import LoadedRecipe
from prefdata.recipe.plan import Pass, plan_passes
from prefdata.seeds.benchmarks import identities
from prefdata.stages.functions import Functions


@dataclass(frozen=True)
class StageFolders:
    """The passes of a run, and the folders that they lead from and to.

    Attributes:
        folders: of the seeds, and of every pass; one more than there are passes.
        fingerprint: of the scored rows, in the last folder.
        pairs: fingerprint of the pairs that are made of them.
    """

    passes: tuple[Pass, ...]
    folders: tuple[Path, ...]
    fingerprint: str
    pairs: str

    @property
    def steps(self) -> Iterator[tuple[Pass, Path, Path]]:
        """(pass, source, target)."""
        return zip(self.passes, self.folders[:-1], self.folders[1:], strict=True)


def make_stage_folders(
    loaded: LoadedRecipe, checkpoints: Mapping[str, str], seeds: str, out: Path
) -> StageFolders:
    """Name the folders."""
    functions = Functions(loaded.folder, loaded.given)
    fingerprint, passes = seeds, tuple(plan_passes(loaded.recipe))
    folders = [out / "stages" / f"0-seeds-{seeds[:8]}"]
    for number, step in enumerate(passes, start=1):
        code = [functions.code(c.calls, f"column {c.name!r}") for c in step.columns]
        code += [one for c in step.columns for one in identities(c, loaded.locate)]
        counting = [a for c in step.columns if isinstance(c, Filter) for a in c.tokenizers]
        code += [checkpoints[alias] for alias in counting]
        fingerprint = stage_fingerprint(fingerprint, step.columns, loaded.recipe, checkpoints, code)
        folders.append(out / "stages" / f"{number}-{step.name}-{fingerprint[:8]}")
    pairs = pairs_fingerprint(fingerprint, loaded.recipe, functions.code_of_picks(loaded.recipe))
    return StageFolders(passes, tuple(folders), fingerprint, pairs)
