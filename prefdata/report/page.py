"""`prefdata report`: one HTML file about a run, or about two side by side. It asks no network.

Reads the run twice: once for ranges, once for figures; then its pairs go into the page.
"""

from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prefdata.errors import PrefdataError
from prefdata.recipe.filters import filters_before
from prefdata.recipe.mix import first_projection
from prefdata.recipe.projection import DpoPreference
from prefdata.recipe.questions import ASKED
from prefdata.recipe.reads import score_columns
from prefdata.report.breakdown import breakdown_cell, can_be_told
from prefdata.report.cells import Figure, Numbers, Panel
from prefdata.report.compare import delta, recipe_differences
from prefdata.report.excerpt import Candidates, Excerpt, embed, take_candidates, take_excerpt
from prefdata.report.figures import (
    Sized,
    Sources,
    funnel,
    largest_rows,
    matches_in,
    scores_by_writer,
    slowest_rows,
)
from prefdata.report.panels import EXCERPT, key_figures, make_panels, verdict
from prefdata.report.sides import WRITER, Group, count_wins, measure_lengths, read_sides
from prefdata.report.spreads import Spread, grid_over, numbers, spread_of
from prefdata.rows import ID, rows_of
from prefdata.run.finished import FinishedRun, open_run
from prefdata.run.public import make_public_recipe
from prefdata.run.stale import is_report
from prefdata.seeds.identity import words_of
from prefdata.storage.disk import disk_errors, hold, whole_file
from prefdata.storage.folders import count_rows, read_schema, read_tables, row_bytes
from prefdata.storage.ownership import check_name
from prefdata.storage.record import identify_pairs

SCRIPTS = ("vendor/chart.umd.min.js", "vendor/diff.min.js", "report.js")
LICENCES = ("vendor/chart.LICENSE.md", "vendor/diff.LICENSE")
REJECT_BYTES = 16 * 2**20
MOST_READ = 2**30
"""Bytes of candidates above which the page has only those that are in pairs."""


@dataclass(frozen=True)
class Report:
    """A page that is written.

    Attributes:
        warnings: what the user should look at, by run.
        shown: (pairs, of how many) that the page holds in full.
    """

    file: Path
    bytes: int
    shown: tuple[int, int]
    warnings: list[str]


def make_report(
    run: Path,
    out: Path | None = None,
    *,
    compare: Path | None = None,
    is_forced: bool = False,
    is_held: bool = False,
) -> Report:
    """Write the report of a finished run, or of two side by side.

    `out`: the file; `report.html` in the run by default. `is_forced`: also in the place of a file
    of the user's. `is_held`: whether the caller holds the run.

    Raises:
        PrefdataError: no finished run is there, or the file cannot be written.
    """
    place = out or run / "report.html"
    if out is not None and place.resolve() != (run / "report.html").resolve():
        check_name(place, run)
    if place.is_dir():
        raise PrefdataError(f"{place}: a folder lies there; name a file with --out")
    if place.exists() and not (is_report(place) or is_forced):
        raise PrefdataError(
            f"{place}: it exists already and is not a report of prefdata; move it away, or run "
            "`prefdata report` with --out for another file or --force to replace it"
        )
    opened = [open_run(folder) for folder in ([run] if compare is None else [run, compare])]
    names = _names([one.folder for one in opened])
    sources = [_sources(one) for one in opened]
    found = _count(opened, sources, names)
    panels = make_panels(found)
    pairs = [take_excerpt(one.folder / "pairs") for one in opened]
    rejects = [take_excerpt(one.folder / "rejects", most_bytes=REJECT_BYTES) for one in opened]
    candidates = [_all_candidates(*one) for one in zip(opened, sources, pairs, strict=True)]
    inside = place.resolve().is_relative_to(run.resolve()) and not is_held
    with disk_errors(place), hold(run) if inside else nullcontext(), whole_file(place) as file:
        for part in _page(opened, found, panels, pairs, rejects, candidates):
            file.write(part.encode())
    warnings = [warning for one in found for warning in one.warnings]
    shown = sum(one.shown for one in pairs), sum(one.rows for one in pairs)
    return Report(place, place.stat().st_size, shown, warnings)


def _all_candidates(run: FinishedRun, source: Sources, pairs: Excerpt) -> Candidates | None:
    """Every candidate of the rows whose pairs are shown; of a very large run none."""
    folder = run.folder / "candidates"
    if source.candidates is None or row_bytes(folder) * count_rows(folder) > MOST_READ:
        return None
    return take_candidates(folder, source.candidates, source.scores, pairs)


def _names(folders: Sequence[Path]) -> list[str]:
    """What the page calls the runs: their folders, with as much of the path as tells them apart."""
    whole = [folder.absolute() for folder in folders]
    for depth in range(1, max(len(path.parts) for path in whole) + 1):
        names = ["/".join(path.parts[-depth:]) for path in whole]
        if len(set(names)) == len(names):
            return names
    raise PrefdataError(f"{folders[0]}: a run can be compared with another one only; name that")


def _sources(run: FinishedRun) -> Sources:
    if run.recipe is None:
        told = run.record["projection"]
        return Sources(told["candidates"], (), run.given_scores, told["prompt_field"], ())
    recipe, rule = run.recipe, first_projection(run.recipe.output_projection)
    stages = tuple(column.name for column in recipe.columns)
    scores = tuple(score_columns(recipe, rule))
    if isinstance(rule, DpoPreference):
        sides = (rule.response_a_field, rule.response_b_field)
        return Sources(None, sides, scores, rule.prompt_field, stages)
    responses = tuple(rule.responses or ())
    return Sources(rule.candidates, responses, scores, rule.prompt_field, stages)


def _count(
    runs: Sequence[FinishedRun], sources: Sequence[Sources], names: Sequence[str]
) -> list[Numbers]:
    """The figures of each run, in bins that all of them share."""
    scored, margins = [], []
    for run, source in zip(runs, sources, strict=True):
        columns = [*source.meta(*WRITER), *source.scores]
        scored.append(scores_by_writer(_candidates(run, columns) if source.scores else (), source))
        parts = read_tables(run.folder / "pairs", columns=["margin"])
        margins.append(np.concatenate([np.empty(0), *(numbers(part["margin"]) for part in parts)]))
    grids = {
        name: grid_over(values for found in scored for values in found.get(name, {}).values())
        for name in dict.fromkeys(name for found in scored for name in found)
    }
    axis = grid_over(margins)
    made = []
    for n, run in enumerate(runs):
        spreads = {
            name: {
                group: spread
                for group, values in groups.items()
                if (grid := grids[name]) and (spread := spread_of(values, grid))
            }
            for name, groups in scored[n].items()
        }
        margin = spread_of(margins[n], axis) if axis else None
        made.append(_count_run(run, sources[n], names[n], spreads, margin))
    return made


def _count_run(
    run: FinishedRun,
    source: Sources,
    name: str,
    scores: dict[str, dict[Group, Spread]],
    margins: Spread | None,
) -> Numbers:
    kept = _kept(run)
    sides = read_sides(read_tables(run.folder / "pairs"), kept)
    largest, unit = _largest(run, source)
    wanted = {row.id for row in (*largest, *slowest_rows(run.record))}
    return Numbers(
        name=name,
        record=run.record,
        steps=funnel(run.record, source.stages),
        scores=scores,
        margins=margins,
        wins=count_wins(sides),
        lengths=measure_lengths(sides),
        largest=largest,
        largest_by=unit,
        excerpts=_excerpts(run, source, wanted),
        breakdown=breakdown_cell(sides, kept),
        matches=_matches(run),
    )


def _matches(run: FinishedRun) -> list[tuple[str, str]]:
    filters = filters_before(None, run.recipe.columns) if run.recipe else []
    names = [name for _, name in filters if name in read_schema(run.folder / "candidates").names]
    rejects = read_tables(run.folder / "rejects", columns=[ID, "reason", "detail"])
    return matches_in(rejects, read_tables(run.folder / "candidates", columns=[ID, *names]), names)


def _kept(run: FinishedRun) -> list[str]:
    """Columns of the seeds that the pairs keep, and whose values can be told apart."""
    rule = run.record.get("projection", {})
    if run.recipe:
        rule = first_projection(run.recipe.output_projection).model_dump()
    names = [*(rule.get("keep") or ()), rule.get("order_group")]
    known = {one.name for one in read_schema(run.folder / "pairs") if can_be_told(one.type)}
    return [name for name in dict.fromkeys(names) if name in known]


def _largest(run: FinishedRun, source: Sources) -> tuple[list[Sized], str]:
    unit = "completion_tokens"
    found = largest_rows(_candidates(run, [ID, *source.meta(unit)]), source, by=unit)
    if found:
        return found, unit
    unit = "characters"
    return largest_rows(_candidates(run, [ID, *source.texts]), source, by=unit), unit


def _candidates(run: FinishedRun, columns: Sequence[str]) -> Iterator[pa.Table]:
    return read_tables(run.folder / "candidates", columns=list(columns))


def _excerpts(run: FinishedRun, source: Sources, wanted: set[str]) -> dict[str, str]:
    """Beginnings of prompts, by row."""
    found: dict[str, str] = {}
    ids = pa.array(sorted(wanted), pa.string())
    if source.prompt == ASKED:  # no column: only the pairs have it
        key, prompt = "row_id", "prompt"
        tables = read_tables(run.folder / "pairs", columns=[key, prompt])
    else:
        key, prompt = ID, source.prompt
        tables = _candidates(run, [key, prompt])
    for table in tables:
        for row in rows_of(table.filter(pc.is_in(table[key], ids))):
            text = words_of(row[prompt])
            found[row[key]] = text if len(text) <= EXCERPT else f"{text[:EXCERPT]}…"
    return found


def _page(
    runs: Sequence[FinishedRun],
    found: Sequence[Numbers],
    panels: Sequence[Panel],
    pairs: Sequence[Excerpt],
    rejects: Sequence[Excerpt],
    candidates: Sequence[Candidates | None],
) -> Iterable[str]:
    """The page in pieces, so that it is never in memory as a whole."""
    style = Markup(read_template("report.css"))
    scripts = [Markup(read_template(name)) for name in SCRIPTS]
    data = {
        "charts": [[cell.charts for cell in panel.cells] for panel in panels],
        "runs": [
            {
                "name": one.name,
                "pairs": _told(p),
                "rejects": _told(r),
                "scores": c.scores if c else (),
            }
            for one, p, r, c in zip(found, pairs, rejects, candidates, strict=True)
        ],
    }
    recipes = [make_public_recipe(run) or "" for run in runs]  # the page leaves this machine
    environment = Environment(
        loader=PackageLoader("prefdata.report"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html.jinja").generate(
        runs=found,
        identity=identify_pairs(runs[0].folder, runs[0].record),
        figures=_side_by_side(found),
        verdicts=[verdict(one) for one in found],
        recipes=recipes,
        differences=recipe_differences(*recipes) if len(recipes) == 2 else [],
        started=[_date(run.record) for run in runs],
        panels=panels,
        pairs=pairs,
        rejects=rejects,
        candidates=candidates,
        data=embed(data),
        style=style,
        scripts=scripts,
        licences=[read_template(name) for name in LICENCES],
        policy=_policy(style, scripts),
        version=version("prefdata"),
    )


def _side_by_side(found: Sequence[Numbers]) -> list[tuple[str, list[str]]]:
    """(name, value of each run; of two, how much more the second has)."""
    told = [{figure.name: figure for figure in key_figures(one)} for one in found]
    lines = []
    for name in dict.fromkeys(name for one in told for name in one):
        figures = [one.get(name, Figure(name, "–")) for one in told]
        texts = [figure.text for figure in figures]
        if len(figures) == 2:
            texts.append(delta(figures[0].value, figures[1].value))
        lines.append((name, texts))
    return lines


def _told(excerpt: Excerpt) -> dict[str, Any]:
    return {"fields": excerpt.fields, "rows": excerpt.rows, "shown": excerpt.shown}


def _date(record: Mapping[str, Any]) -> str:
    started = record.get("started")
    return f"{datetime.fromtimestamp(started, UTC):%Y-%m-%d %H:%M} UTC" if started else ""


def read_template(name: str) -> str:
    """A file of the page's templates, without a line that names a source map."""
    text = files("prefdata.report").joinpath("templates", name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("//# sourceMappingURL=")]
    return "\n".join(lines)


def _policy(style: str, scripts: Sequence[str]) -> str:
    """A content security policy: nothing is loaded, and only these texts run."""
    told = [f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in scripts]
    own = b64encode(sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src {' '.join(told)}; style-src 'sha256-{own}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
