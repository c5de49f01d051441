"""Which layout that ships the lines of a file have."""

from collections.abc import Iterable, Sequence

from prefdata.errors import RowError
from prefdata.recipe.layout import Preset, layout_names, load_preset
from prefdata.rows import Row
from prefdata.seeds.layouts import given
from prefdata.seeds.paths import find, is_there


def recognise(lines: Iterable[Row]) -> Preset | None:
    """The preset that most lines can be read by; of several, the one that reads the most.

    `lines`: some of a file, say the first 20.
    """
    rows = list(lines)
    fitting = [preset for name in layout_names() if _fits(preset := load_preset(name), rows)]
    return max(fitting, key=_reads, default=None)


def _reads(preset: Preset) -> int:
    paths = {path for _, path in preset.paths} | {*preset.columns_beside}
    return len(paths) + len(preset.markers)


def _fits(preset: Preset, rows: Sequence[Row]) -> bool:
    read = []
    paths = [*preset.columns_beside, *(path for _, path in preset.paths)]
    for row in rows:
        if not all(is_there(row, path, preset) for path in paths):
            continue
        try:
            read.append((row, given(row, preset)))
        except RowError:
            continue
    if 2 * len(read) <= len(rows):
        return False
    whole = [one for _, one in read]
    has_scores = all(
        any(score is not None for one in whole for score in one.scores[name])
        for name in preset.score_columns
    )
    is_named = not any(key.endswith("alias") for key, _ in preset.paths) or any(
        told["alias"] is not None for one in whole for told in one.candidates
    )
    return has_scores and is_named and (not preset.markers or _is_marked(preset, rows))


def _is_marked(preset: Preset, rows: Sequence[Row]) -> bool:
    texts = [find(row, path) for row in rows for _, path in preset.paths]
    return any(mark.strip() in text for text in texts if isinstance(text, str)
               for mark in preset.markers.values())  # fmt: skip
