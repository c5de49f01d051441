"""The panels of a report, in order, and those about the run itself. Reads no file, no HTML."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prefdata.pairs.prompts import tell_of_prompts
from prefdata.report.biases import judges_cell, length_cell, margins_cell, wins_cell
from prefdata.report.cells import (
    Cell,
    Chart,
    Figure,
    Numbers,
    Panel,
    Table,
    duration,
    histogram,
    label,
    number,
    percent,
)
from prefdata.report.figures import Rates, Sized, rates, slowest_rows
from prefdata.report.sides import Group
from prefdata.report.spreads import Spread

EXCERPT = 160
"""Characters of a prompt that stand in a table."""
REPLICA = (
    ("gpus", "GPUs"),
    ("answered", "requests"),
    ("tokens", "tokens"),
    ("tokens_per_second", "tokens a second"),
    ("utilization_percent", "mean utilisation, %"),
    ("memory_mib_peak", "peak memory, MiB"),
    ("power_watts", "mean power, W"),
    ("queue_peak", "longest queue"),
)
"""Keys of a replica in run.json, and what the table calls them."""


def make_panels(runs: Sequence[Numbers]) -> list[Panel]:
    """The panels that have something to show, in the order of the page."""
    panels = [
        Panel(id, title, lead, [tell(run) for run in runs])
        for id, title, lead, tell in (
            ("funnel", "From seeds to pairs", "What each step leaves of the rows.", _funnel),
            ("scores", "Scores", "How the scores of each writer's texts are spread.", _scores),
            ("margins", "Margins", "How much higher chosen is scored than rejected.", margins_cell),
            ("wins", "Who wins", "How often each writer's texts are the chosen ones.", wins_cell),
            ("length", "Length", "Whether the longer text is preferred.", length_cell),
            ("judges", "Judges", "Whether a verdict depends on the order shown.", judges_cell),
            (
                "throughput",
                "Throughput",
                "What models have done, over the last build.",
                _throughput,
            ),
            (
                "breakdown",
                "By seed column",
                "The pairs by the values of columns that they keep.",
                lambda run: run.breakdown,
            ),
            ("rows", "Slowest and largest rows", "What took or holds the most.", _rows),
        )
    ]
    return [panel for panel in panels if not panel.is_empty]


def verdict(run: Numbers) -> str:
    """What the run has come to, in two sentences."""
    record, pairs = run.record, sum(run.record["pairs"].values())
    kept = percent(record["prompts"] / record["rows"]) if record["rows"] else "–"
    told = f"{pairs:,} pairs, from {kept} of {record['rows']:,} rows"
    if run.margins:
        told += f"; at the median chosen scores {number(run.margins.quantiles[1])} more"
    found = len(run.warnings)
    odd = f"{found} thing{'s' * (found > 1)} to look at before you train." if found else "Nothing odd was found."  # fmt: skip  # noqa: E501
    return f"{told}. {odd}"


def key_figures(run: Numbers) -> list[Figure]:
    """The numbers at the head of the page."""
    record = run.record
    splits, rejects = record["pairs"], sum(record["rejects"].values())
    pairs = " + ".join(f"{n:,} {split}" for split, n in splits.items() if n) or "0"
    with_pair = f"{record['prompts']:,} of {record['rows']:,}"
    told = [
        Figure("Seeds", f"{record['seeds']:,}", record["seeds"]),
        Figure("Candidates", f"{record['candidates']:,}", record["candidates"]),
        Figure("Pairs", pairs, sum(splits.values())),
        Figure("Prompts with a pair", with_pair, record["prompts"]),
        Figure("Rejects", f"{rejects:,}", rejects),
    ]
    if run.margins:
        middle = run.margins.quantiles[1]
        told.append(Figure("Median margin", number(middle), middle))
    for name, (chosen, rejected) in record["means"].items():
        text = f"{chosen:.3g} : {rejected:.3g}"
        told.append(Figure(f"Mean {name}, chosen : rejected", text, chosen - rejected))
    if run.lengths.pairs:
        told.append(
            Figure("Longer one chosen", percent(share := run.lengths.share[0]), 100 * share)
        )
    if tokens := record["tokens"]["completion"]:
        told.append(Figure("Completion tokens", f"{tokens:,}", tokens))
    seconds = record["seconds"]["total"]
    return [*told, Figure("Time", duration(seconds), seconds)]


def _funnel(run: Numbers) -> Cell:
    record, steps = run.record, run.steps
    kept = percent(record["prompts"] / record["rows"]) if record["rows"] else "–"
    summary = f"{record['prompts']:,} of {record['rows']:,} rows ({kept}) have a pair."
    going = [step.rows - step.lost for step in steps]
    names, lost = [step.name for step in steps], [step.lost for step in steps]
    series = [("go on", going), ("rejected here", lost)]
    chart = Chart("bars", "Rows at each step", names, series, "rows", "")
    drops = sorted(record["drops"].items(), key=lambda item: -item[1])
    ended = [
        (name, alias, reason, count)
        for name, aliases in record.get("outcomes", {}).items()
        for alias, counts in aliases.items()
        for reason, count in counts.items()
    ]
    tables: dict[str, tuple[tuple[str, ...], Iterable[Sequence[str | int]]]] = {
        "Numbers": (
            ("step", "rows that come", "rejected here"),
            [(step.name, step.rows, step.lost) for step in steps],
        ),
        "Rejected rows by reason": (("reason", "rows"), record["rejects"].items()),
        "Candidates and pairs left out, also where the row has a pair": (
            ("reason", "left out"),
            drops,
        ),
        "How texts came to their end": (("column", "alias", "finish reason", "texts"), ended),
        "Texts with items of benchmarks": (("row", "item of a benchmark, overlap"), run.matches),
        "Rows for which a column asked nothing": (
            ("column", "rows"),
            record.get("skipped", {}).items(),
        ),
    }
    filled = [(name, Table(heads, [*rows])) for name, (heads, rows) in tables.items() if rows]
    asked = tell_of_prompts(record)
    warnings = [f"{asked[0].upper()}{asked[1:]}."] if asked else []
    return Cell(summary, [chart], filled, warnings)


def _scores(run: Numbers) -> Cell:
    if not any(run.scores.values()):
        return Cell("No column of this run scores the texts one by one.", is_empty=True)
    charts, tables, told = [], [], []
    for name, groups in run.scores.items():
        if not groups:
            continue
        best = max(groups, key=lambda group: groups[group].mean)
        mean = number(groups[best].mean)
        told.append(
            f"{name}: the highest mean is {mean}, of {label(best)}."
            if len(groups) > 1
            else f"{name}: the mean is {mean}."
        )
        charts.append(_spreads(name, groups))
        tables.append((f"{name}: numbers", _spread_table({label(g): s for g, s in groups.items()})))
    return Cell(" ".join(told), charts, tables)


def _spreads(name: str, groups: Mapping[Group, Spread]) -> Chart:
    grid = next(iter(groups.values())).grid
    series = [(label(group), [100 * n / s.count for n in s.counts]) for group, s in groups.items()]
    return histogram(f"{name}, by writer", grid, series, name, "% of texts")


def _spread_table(spreads: Mapping[str, Spread]) -> Table:
    heads = ("", "texts", "mean", "deviation", "lowest", "10%", "median", "90%", "highest")
    rows = [
        (name, f"{s.count:,}", *map(number, (s.mean, s.deviation, s.low, *s.quantiles, s.high)))
        for name, s in spreads.items()
    ]
    return Table(heads, rows)


def _throughput(run: Numbers) -> Cell:
    found, record = rates(run.record), run.record
    asked = record["requests"]
    replayed = f" {asked['replayed']:,} answers came from the journal." if asked["replayed"] else ""
    replicas = list(_replicas(record.get("replicas", {})))
    if not {"throughput", "pace"} & record.keys():  # the second was its name in earlier runs
        told = "This run has not recorded its throughput." + replayed
        return Cell(told, tables=replicas, is_empty=not replicas)
    if found is None or not any(found.requests):
        was_asked = asked["generated"] + asked["scored"]
        told = "It was over too soon to measure." if was_asked else "No model was asked."
        return Cell(f"Of the last build: {told}{replayed}", tables=replicas, is_empty=not replicas)
    summary = (
        f"{asked['generated']:,} texts and {asked['scored']:,} scores in "
        f"{duration(record['seconds']['total'])}.{replayed}"
    )
    charts = []
    if any(found.tokens):
        busy = record["tokens"]["completion"] / max(record["seconds"]["total"], 1e-9)
        summary += f" {busy:,.0f} completion tokens a second over the whole run, {max(found.tokens):,.0f} at best."  # fmt: skip  # noqa: E501
        charts.append(_speed(found, "tokens a second", found.tokens))
    charts.append(_speed(found, "requests a second", found.requests))
    spent = [(name, duration(took)) for name, took in record["seconds"].items()]
    rows = [
        (number(s), number(r), number(t))
        for s, r, t in zip(found.seconds, found.requests, found.tokens, strict=True)
    ]
    tables = [
        *replicas,
        ("Time of each step", Table(("step", "time"), spent)),
        ("Numbers", Table(("second", "requests a second", "tokens a second"), rows)),
    ]
    return Cell(summary, charts, tables)


def _replicas(told: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Table]]:
    """The figures of each replica that some replica has; none of a run without workers."""
    known = [(key, head) for key, head in REPLICA if any(one.get(key) for one in told.values())]
    rows = [(name, *(_figure(one.get(key)) for key, _ in known)) for name, one in told.items()]
    if rows:
        yield "Replicas", Table(("replica", *(head for _, head in known)), rows)


def _figure(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "–" if value is None else number(value)


def _speed(found: Rates, name: str, values: Sequence[float]) -> Chart:
    return Chart("lines", name.capitalize(), found.seconds, [(name, values)], "seconds since the start", name, marks=found.passes, lasts=found.lasted, bands=found.loads)  # fmt: skip  # noqa: E501


def _rows(run: Numbers) -> Cell:
    slowest = slowest_rows(run.record)
    tables = []
    if slowest:
        rows = [
            (row.id, duration(row.size), row.where, run.excerpts.get(row.id, "")) for row in slowest
        ]
        heads = ("row", "in flight", "pass", "prompt")
        tables.append(("Slowest rows", Table(heads, rows, has_ids=True, is_open=True)))
    if run.largest:
        unit = run.largest_by.replace("_", " ")
        big = [(row.id, f"{row.size:,.0f}", run.excerpts.get(row.id, "")) for row in run.largest]
        tables.append(("Largest rows", Table(("row", unit, "prompt"), big, has_ids=True)))
    return Cell(" ".join(_rows_told(run, slowest)), tables=tables)


def _rows_told(run: Numbers, slowest: Sequence[Sized]) -> Iterable[str]:
    if slowest:
        yield (
            f"The slowest row was {duration(slowest[0].size)} in flight, waiting for a free place "
            "in the engine included."
        )
    else:
        yield "This run has not recorded how long its rows took."
    if run.largest:
        unit = run.largest_by.replace("_", " ")
        yield f"The texts of the largest row have {run.largest[0].size:,.0f} {unit} together."
