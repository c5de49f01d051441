"""The folders of a run, each named after what went into it. Makes none of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prefdata.fingerprint import stage_fingerprint
from prefdata.recipe.loader import LoadedRecipe
from prefdata.recipe.plan import Pass, plan_passes
from prefdata.stages import code_of


@dataclass(frozen=True)
class StageFolders:
    """The passes of a run, and the folders that they lead from and to.

    Attributes:
        passes: in order.
        folders: of the seeds, and of every pass; one more than there are passes.
        fingerprint: of the scored rows, in the last folder.
    """

    passes: tuple[Pass, ...]
    folders: tuple[Path, ...]
    fingerprint: str

    @property
    def steps(self) -> Iterator[tuple[Pass, Path, Path]]:
        """(pass, source, target)."""
        return zip(self.passes, self.folders[:-1], self.folders[1:], strict=True)


def make_stage_folders(
    loaded: LoadedRecipe, checkpoints: Mapping[str, str], seeds: str, out: Path
) -> StageFolders:
    """Name the folders.

    Args:
        loaded: the recipe.
        checkpoints: content hash or commit of every alias's checkpoint.
        seeds: fingerprint of the seeds.
        out: the run folder.
    """
    fingerprint, passes = seeds, tuple(plan_passes(loaded.recipe))
    folders = [out / "stages" / f"0-seeds-{seeds[:8]}"]
    for number, step in enumerate(passes, start=1):
        code = [code_of(column, loaded.folder) for column in step.columns]
        fingerprint = stage_fingerprint(fingerprint, step.columns, loaded.recipe, checkpoints, code)
        folders.append(out / "stages" / f"{number}-{step.name}-{fingerprint[:8]}")
    return StageFolders(passes, tuple(folders), fingerprint)
