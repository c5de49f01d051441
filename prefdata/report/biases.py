"""The panels about what pairs prefer: margins, writers, lengths, places."""

from prefdata.pairs.calibration import tell_calibration
from prefdata.pairs.verdicts import panels
from prefdata.report.cells import Cell, Chart, Numbers, Table, histogram, label, number, percent
from prefdata.report.sides import RATIO_EDGES, UNKNOWN
from prefdata.report.spreads import wilson
from prefdata.run.gold import tell


def margins_cell(run: Numbers) -> Cell:
    """How much higher chosen is scored."""
    if run.margins is None:
        return Cell("The pairs of this run have no scores, so they have no margin.", is_empty=True)
    spread = run.margins
    low, middle, high = (number(value) for value in spread.quantiles)
    summary = (
        f"The median margin is {middle}; 10% of the margins are below {low}, 10% above {high}."
    )
    chart = histogram("Pairs by margin", spread.grid, [("pairs", spread.counts)], "margin", "pairs")
    edges = [number(edge) for edge in spread.grid.edges]
    told = zip(edges, edges[1:], spread.counts, strict=False)
    bins = [(f"{low} to {high}", count) for low, high, count in told if count]
    return Cell(summary, [chart], [("Numbers", Table(("margin", "pairs"), bins))])


def wins_cell(run: Numbers) -> Cell:
    """Whose texts are chosen."""
    wins, groups = run.wins, run.wins.groups
    if not groups:
        return Cell("This run has no pair in which one side is preferred.", is_empty=True)
    if {name for name, _ in groups} == {UNKNOWN}:
        return Cell("The texts of this run came without alias and model.", is_empty=True)
    first = groups[0]
    share, low, high = wins.share(first)
    if len(groups) == 1:
        summary = f"One writer, {label(first)}, wrote both sides of every pair."
    else:
        summary = (
            f"{label(first)} is the chosen side in {percent(share)} of its appearances "
            f"(95\u00a0% interval {percent(low)} to {percent(high)})."
        )
    if wins.ties:
        summary += f" {wins.ties:,} ties are left out."
    shares = [wins.share(group)[0] * 100 for group in groups]
    chart = Chart(
        "bars", "Win rate", [label(g) for g in groups], [("chosen", shares)],
        "% of appearances", "",
        marks=[(50.0, "even")], is_percent=True,
    )  # fmt: skip
    rows = []
    for group in groups:
        share, low, high = wins.share(group)
        won, lost = wins.duels(group)
        rows.append(
            (
                label(group), *wins.count(group),
                percent(share), f"{percent(low)} – {percent(high)}", f"{won:,} : {lost:,}",
            )
        )  # fmt: skip
    heads = ("writer", "chosen", "rejected", "win rate", "95% interval", "against others")
    return Cell(summary, [chart], [("Numbers", Table(heads, rows))])


def length_cell(run: Numbers) -> Cell:
    """Which of two lengths is chosen."""
    found = run.lengths
    if not found.pairs:
        return Cell("This run has no pair.", is_empty=True)
    chosen, rejected = found.chosen, found.rejected
    share, low, high = found.share
    summary = (
        f"Chosen has {chosen:,.0f} characters on average, rejected {rejected:,.0f}. The longer one "
        f"is chosen in {percent(share)} of the pairs whose lengths differ "
        f"(95\u00a0% interval {percent(low)} to {percent(high)})."
    )
    if (correlation := found.correlation) is not None:
        summary += f" Length and margin correlate with {correlation:.2f}."
    chart = Chart("columns", "Pairs by length", _ratio_names(), [("pairs", found.ratios.tolist())], "length of chosen : rejected", "pairs")  # fmt: skip  # noqa: E501
    rows = [*zip(_ratio_names(), found.ratios.tolist(), strict=True)]
    means = {"characters, mean": (chosen, rejected)}
    if found.tokens:
        means["tokens, mean"] = found.tokens
    sides: list[tuple[str | int, ...]] = [
        *((name, f"{one:,.1f}", f"{other:,.1f}") for name, (one, other) in means.items()),
        ("the longer one, pairs", found.longer, found.shorter),
    ]
    calibrated = list(tell_calibration(run.record).items())
    tables = [
        ("Chosen and rejected", Table(("", "chosen", "rejected"), sides)),
        *([("Calibrated scores", Table(("score", "length"), calibrated))] if calibrated else []),
        ("Numbers", Table(("length of chosen : rejected", "pairs"), rows)),
    ]
    return Cell(summary, [chart], tables)


def _ratio_names() -> list[str]:
    bounds = [f"{2**edge:.2g}" for edge in RATIO_EDGES]
    inner = [f"{a}–{b}" for a, b in zip(bounds, bounds[1:], strict=False)]
    return [f"< {bounds[0]}", *inner, f"> {bounds[-1]}"]


def judges_cell(run: Numbers) -> Cell:
    """Agreement and position bias of judges that are asked in both orders."""
    judged = {name: counts for name, counts in run.record["judges"].items() if counts["rows"]}
    told = [
        f"{name}: its judges agree to {alpha:.2f} (Krippendorff's alpha, 1 is full agreement)."
        for name, alpha in panels(run.record).items()
    ]
    gold = _gold_tables(run)
    if not judged:
        none = "No judge of this run compares two responses in both orders."
        return Cell(" ".join([none, *told]), [], gold, is_empty=not told and not gold)
    rows = []
    shares: list[list[float]] = [[], [], []]
    for name, counts in judged.items():
        agreed, ties = counts["agreed"] / counts["rows"], counts["ties"] / counts["rows"]
        places = [counts[place] for place in ("first", "second", "neither")]
        named = places[0] + places[1]
        first, low, high = wilson(places[0], named)
        told.append(
            f"{name}: both orders agree in {percent(agreed)} of {counts['rows']:,} comparisons; "
            f"of the verdicts that name a response, {percent(first)} name the one shown first "
            f"({percent(0.5)} is fair)."
        )
        for series, place in zip(shares, places, strict=True):
            series.append(100 * place / max(sum(places), 1))
        rows.append(
            (
                name, counts["rows"], percent(agreed), percent(ties), *places,
                f"{percent(low)} – {percent(high)}",
            )
        )  # fmt: skip
    chart = Chart(
        "bars", "What single verdicts name", list(judged),
        list(zip(("names the first", "names the second", "neither"), shares, strict=True)),
        "% of verdicts", "", marks=[(50.0, "fair")], is_percent=True,
    )  # fmt: skip
    heads = ("judge", "comparisons", "orders agree", "ties", "first", "second", "neither", "95% for first")  # fmt: skip  # noqa: E501
    return Cell(" ".join(told), [chart], [*gold, ("Numbers", Table(heads, rows))])


def _gold_tables(run: Numbers) -> list[tuple[str, Table]]:
    """What judges have found of known preferences, and whether their confidence means anything."""
    found = run.record.get("gold", {})
    lines = [(name, *line) for name, counts in found.items() for line in tell(counts)]
    bins = [
        (name, percent(one["confidence"]), one["rows"], percent(one["accuracy"]))
        for name, counts in found.items()
        for one in counts["calibration"]
    ]
    if not lines:
        return []
    return [
        ("Known preferences", Table(("judge", "", ""), lines)),
        ("Calibration", Table(("judge", "confidence", "known preferences", "found"), bins)),
    ]
