"""What a person reads in the terminal: plan, preview, summary."""

import shlex
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prefdata.api.records import print_examples
from prefdata.api.terminal import open_console, printable
from prefdata.pairs.calibration import tell_calibration
from prefdata.pairs.diff import tell_changes
from prefdata.pairs.prompts import tell_of_prompts
from prefdata.pairs.verdicts import panels
from prefdata.recipe.loader import LoadedRecipe
from prefdata.recipe.plan import Pass, plan_passes
from prefdata.recipe.schema import Recipe
from prefdata.rows import rows_of
from prefdata.run.estimate import PARAMETERS, WRITTEN_PER_SECOND, Estimate, estimate_pass
from prefdata.run.examples import example_requests
from prefdata.run.gold import tell
from prefdata.run.growth import plan_growth, tell_growth
from prefdata.run.oddities import find_oddities
from prefdata.seeds.seeds import seeds_of
from prefdata.storage.record import Record, first_detail

if TYPE_CHECKING:  # what a build and a plan need none of
    from prefdata.export import Export
    from prefdata.hub.publish import Publication
    from prefdata.report import Report
    from prefdata.run.cleaning import Unneeded

DETAIL = 200
"""Characters of a failure's message that the summary repeats."""
_THOUGHTS = {
    "keep": "kept: trainers are given them, too (export --reasoning drop: answers alone)",
    "drop": "dropped: trainers are given answers alone (export --reasoning keep: them, too)",
}
SAMPLE = 200
"""Seed rows on which `plan` measures prompts."""


def print_summary(record: dict[str, Any], folder: Path) -> None:
    """The table at the end of a run, what is odd about it, and what can be done next."""
    _print_table(folder, _summary(record, folder))
    console = open_console()
    for oddity in find_oddities(record):
        console.print(f"warning: {oddity}", style="yellow")
    run, is_empty = shlex.quote(str(folder)), not record["prompts"]
    for what, command in (
        ("see why", f"inspect {run} --rejects"),
        ("other rules", f"pairs {run} …"),
    ) if is_empty else (
        ("read the pairs", f"inspect {run}"),
        ("see figures", f"report {run}"),
        ("train on them", f"export {run} --format trl"),
    ):  # fmt: skip
        console.print(f"{what:15} prefdata {command}", soft_wrap=True)


def _summary(record: dict[str, Any], folder: Path) -> Iterable[tuple[str, str]]:
    seeds, seconds = record["seeds"], record["seconds"]
    if record["rehearsed"]:
        yield "rehearsal", "scripted answers, no model was loaded"
    yield "seeds", f"{seeds:,}"
    for name, count in record["added"].items():
        yield f"rows added by {name}", f"{count:,}"
    yield "candidates", f"{record['candidates']:,}"
    splits = ", ".join(f"{count:,} {split}" for split, count in record["pairs"].items() if count)
    yield "pairs", f"{splits or 0} from {record['prompts']:,} prompts"
    yield from tell_growth(record.get("growth", ()))
    if record.get("changes"):
        yield "since the last pairs", ""
        yield from ((f"  {name}", told) for name, told in tell_changes(record["changes"]))
    yield from ((f"  {name}", f"{count:,}") for name, count in record.get("sources", {}).items())
    yield "rejects", f"{sum(record['rejects'].values()):,}"
    for number, (reason, count) in enumerate(record["rejects"].items()):
        yield f"  {reason}", f"{count:,}"
        if number == 0 and (detail := first_detail(folder / "rejects", reason)):
            yield "    such as", _shortened(detail)
    if told := tell_of_prompts(record):
        yield "asked", told
    yield from (
        (f"left out, {reason}", f"{count:,}") for reason, count in sorted(record["drops"].items())
    )
    for name, count in record.get("skipped", {}).items():
        yield f"{name}, skipped", f"{count:,} rows, for which it asked nothing"
    yield from _ended(record.get("outcomes", {}))
    for reason, detail in record.get("failures", {}).items():
        yield f"first {reason}", _shortened(detail)
    if record.get("reasoning"):
        yield "reasoning", _THOUGHTS[record["reasoning"]]
    for name, (chosen, rejected) in record["means"].items():
        yield (
            f"mean {name}",
            f"chosen {chosen:.3f}, rejected {rejected:.3f}, difference {chosen - rejected:.3f}",
        )
    yield from ((f"{name} and length", told) for name, told in tell_calibration(record).items())
    for name, counts in record["judges"].items():
        yield from _judged(name, counts)
    for name, alpha in panels(record).items():
        yield f"{name}, panel", f"agreement {alpha:.2f} (Krippendorff's alpha; 1 is full)"
    for name, found in record.get("gold", {}).items():
        yield from ((f"{name}, {what}", how) for what, how in tell(found))
    asked = record["requests"]
    made = f"{asked['generated']:,} generated, {asked['scored']:,} scored"
    yield "requests", f"{made}, {asked['replayed']:,} from the journal"
    tokens = record["tokens"]["completion"]
    if tokens:
        yield (
            "tokens",
            f"{tokens:,} completion tokens, {tokens / seconds['total']:,.0f} per second over "
            "the whole run",
        )
    yield "time", f"{seconds['total']:.1f} s"


def print_diff(title: str, told: Record, recipe: Sequence[tuple[str, str, str]]) -> None:
    """What has become of pairs, and which fields of the recipe differ."""
    lines = [*(("recipe", f"{name}: {a} -> {b}") for name, a, b in recipe), *tell_changes(told)]
    _print_table(title, lines)


def print_unneeded(run: Path, found: "Unneeded", *, is_meant: bool) -> None:
    """What a run needs no more, and what has become of it."""
    lines = [(folder.name, f"{size / 2**20:,.1f} MiB") for folder, size in found.stages.items()]
    for file, (count, size) in found.journals.items():
        lines.append((f"journal/{file.name}", f"{count:,} records, {size / 2**20:,.1f} MiB"))
    _print_table(run, lines or [("nothing to clean", "everything there is needed")])
    console = open_console()
    if found.note:
        console.print(f"the journal is left as it is: {found.note}", style="yellow")
    done = "removed" if is_meant else "not needed; --yes removes it"
    if lines:
        console.print(f"{found.bytes / 2**20:,.1f} MiB {done}")


def _shortened(detail: str) -> str:
    return detail if len(detail) <= DETAIL else detail[:DETAIL] + "…"


def _ended(outcomes: dict[str, dict[str, dict[str, int]]]) -> Iterable[tuple[str, str]]:
    """How texts ended, where not all have come to their end."""
    for name, aliases in outcomes.items():
        for alias, counts in aliases.items():
            if counts.keys() - {"stop"}:
                told = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
                yield f"{name} by {alias}", told


def _judged(name: str, counts: dict[str, float]) -> Iterable[tuple[str, str]]:
    rows, named = counts["rows"], counts["first"] + counts["second"]
    if not rows:
        return
    agreed, ties = counts["agreed"] / rows, counts["ties"] / rows
    yield f"{name}, both orders", f"{agreed:.1%} of {rows:,} agree, {ties:.1%} are ties"
    if named:
        first = counts["first"] / named
        yield f"{name}, position bias", f"{first:.1%} for the response shown first; 50% is fair"


def print_export(export: "Export") -> None:
    """Where an export lies, and what the trainer is told."""
    print_line = partial(open_console().print, soft_wrap=True)
    lines = ", ".join(f"{count:,} {split}" for split, count in export.lines.items() if count)
    print_line(f"{export.format}: {lines} in {export.folder}", style="bold")
    for name, text in export.configuration.items():
        print_line(f"{export.folder / name}:", style="dim")
        print_line(text)


def print_publication(made: "Publication") -> None:
    """Where a publication is, and what was read back."""
    table = Table(show_header=False)
    table.add_row("dataset", escape(made.repo_id))
    news = "new" if made.is_new else "nothing has changed"
    table.add_row("commit", f"{made.commit[:12]} on {escape(made.revision)}, {news}")
    if made.tag is not None:
        table.add_row("tag", made.tag)
    for config, splits in made.rows.items():
        told = ", ".join(f"{count:,} {split}" for split, count in splits.items())
        table.add_row(config, f"{told}, read back and equal")
    console = Console()
    console.print(table)
    console.print(made.url, markup=False, soft_wrap=True)


def print_training(result: dict[str, Any], folder: Path) -> None:
    """The table at the end of a training."""
    _print_table(folder, _trained(result))


def _print_table(title: Path | str, lines: Iterable[tuple[str, str]]) -> None:
    table = Table(title=escape(str(title)), title_justify="left", show_header=False)
    for name, value in lines:
        table.add_row(escape(printable(name)), escape(printable(value)))
    Console().print(table)


def _trained(result: dict[str, Any]) -> Iterable[tuple[str, str]]:
    training, pairs = result["training"], result["pairs"]
    yield "pairs", ", ".join(f"{count:,} {split}" for split, count in pairs.items())
    if "steps" in training:  # a command of the user's tells of none
        yield "steps", f"{training['steps']:,} in {training['seconds']:.1f} s"
        yield "loss", f"{training['loss']:.4f}"
    if (right := training.get("eval_rewards/accuracies")) is not None:
        yield (
            "test pairs",
            f"{right:.1%} of the pairs get a higher implicit reward for the chosen text",
        )
    if "before" not in result:
        return
    before, after = result["before"]["scores"], result["after"]["scores"]
    for name, score in before.items():
        yield (
            f"held-out {name}",
            f"{score:.3f} before, {after[name]:.3f} after, {after[name] - score:+.3f}",
        )
    asked = result["after"]
    for name, count in asked["without_score"].items():
        if count:
            yield f"without {name}", f"{count:,} answers"
    yield "held out", f"{asked['prompts']:,} prompts, {asked['samples']} answers each, temperature {asked['temperature']}"  # fmt: skip  # noqa: E501


def print_report(report: "Report") -> None:
    """Where a report lies, and what it warns of."""
    console = open_console()
    pairs, whole = report.shown
    told = f"{pairs:,} pairs" if pairs == whole else f"{pairs:,} of {whole:,} pairs"
    size = f"{report.bytes / 2**20:,.1f} MiB"
    console.print(f"{report.file}: {told}, {size}; open it in a browser")
    for warning in report.warnings:
        console.print(warning, style="yellow")


def print_plan(
    loaded: LoadedRecipe, *, gpus: int | None = None, price: float | None = None
) -> None:
    """Passes, loads, requests and costs of a recipe.

    `price`: of one of them for an hour, in any currency.
    """
    recipe = loaded.recipe
    seeds = seeds_of(recipe, loaded.locate, loaded.place)
    rows: int | None = seeds.table.num_rows
    sample = rows_of(seeds.table.slice(0, SAMPLE))
    paths = {model.alias: loaded.locate(model.model) for model in recipe.models}
    print_line = partial(open_console().print, soft_wrap=True)
    print_line(f"{rows:,} rows, {len(seeds.rejects):,} bad seeds")
    for line in (*plan_growth(recipe, Path(recipe.output_dir)), *seeds.notes, *loaded.notes):
        print_line(line)
    steps = plan_passes(recipe)
    hours: list[float | None] = []
    for number, step in enumerate(steps, start=1):
        if step.expands:
            most = step.expands.most_rows
            rows = rows * most if rows and most else None
            title = step.name
            told = [("makes", f"at most {most or '?'} rows per row, {_count(rows)} in all")]
        else:
            estimate = None if rows is None else estimate_pass(step, recipe, rows, sample, paths)
            if _loads(step, recipe):
                hours.append(estimate.gpu_hours if estimate is not None else None)
            levels = (" + ".join(column.name for column in level) for level in step.levels)
            title, told = ", then ".join(levels), [*_work(step, recipe, estimate)]
        print_line(f"pass {number}: {title}", style="bold")
        for name, value in told:
            print_line(f"  {name:12} {value}")
    distinct = {
        key
        for step in steps
        for key, checkpoint in step.checkpoints.items()
        if recipe.endpoint(checkpoint.model) is None
    }
    print_line(f"{len(steps)} passes, {len(distinct)} model loads")
    if gpus or price is not None:
        print_line(_bill(hours, gpus or 1, price))
    print_examples(open_console(), example_requests(loaded, sample[0]))
    print_line(
        "Completion tokens, GPU-hours and disk are upper bounds: every text as long as "
        f"max_tokens, at {WRITTEN_PER_SECOND:,} tokens/s of a model of {PARAMETERS / 1e9:.0f}B as "
        "measured in bf16 on one H200, less for a larger one. '?' is known only after "
        "the run, or needs a checkpoint that is not on this machine.",
        style="dim",
    )


def _loads(step: Pass, recipe: Recipe) -> list[str]:
    """What a pass loads on this machine."""
    models = [checkpoint.model for checkpoint in step.checkpoints.values()]
    aliases = {alias for column in step.columns for alias in column.aliases}
    adapted = [m.adapter for m in recipe.models if m.alias in aliases and m.adapter]
    here = [model.model for model in models if recipe.endpoint(model) is None]
    return [*here, *(f"adapter {adapter}" for adapter in adapted)]


def _work(step: Pass, recipe: Recipe, estimate: Estimate | None) -> Iterable[tuple[str, str]]:
    """What a pass loads, skips, asks and costs."""
    yield "loads", ", ".join(_loads(step, recipe)) or "nothing"
    for column in step.columns:
        if column.skip_when is not None:
            yield "skips", f"{column.name}: nothing is asked where {column.skip_when}"
    models = [checkpoint.model for checkpoint in step.checkpoints.values()]
    asks = [f"{m.model} at {m.provider}" for m in models if recipe.endpoint(m) is not None]
    if asks:
        yield "asks", ", ".join(asks)
    yield from _costs(estimate)
    for column in step.columns:
        if column.calls and column.aliases:
            yield (
                "a guess",
                f"{column.name} counts as one request of each of its models a row; how many it "
                "makes is known to its function alone",
            )


def _bill(hours: Sequence[float | None], gpus: int, price: float | None) -> str:
    """What all passes cost at most; start-up is not counted."""
    known = [hour for hour in hours if hour is not None]
    least = "" if len(known) == len(hours) else f" without {len(hours) - len(known)} unknown passes"
    told = f"at most {sum(known):.3g} GPU-hours{least}, {sum(known) / gpus:.3g} h on {gpus} GPUs"
    return told if price is None else f"{told}, {sum(known) * price:,.2f} at {price:g} a GPU-hour"


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _costs(estimate: Estimate | None) -> Iterable[tuple[str, str]]:
    if estimate is None:
        yield "requests", "?"
        return
    hours, prompt = estimate.gpu_hours, estimate.prompt_tokens
    yield "requests", f"{estimate.bound}{estimate.requests:,}"
    if not estimate.requests:
        return
    yield (
        "tokens",
        f"{_count(prompt)} prompt, at most {estimate.completion_tokens:,} completion",
    )
    yield "GPU-hours", "?" if hours is None else f"at most {hours:.3g}"
    yield "disk", f"at most {estimate.disk_bytes / 2**20:,.1f} MiB"
