"""What a person reads in the terminal: plan, preview, summary. Computes nothing that is not shown."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prefdata.estimate import Estimate, estimate_pass
from prefdata.plan import plan_passes
from prefdata.recipe_checks import columns_needed
from prefdata.recipe_loader import LoadedRecipe
from prefdata.runtime.folders import read_rows
from prefdata.seeds import load_seeds

SAMPLE = 200
"""Seed rows on which `plan` measures prompts."""


def print_summary(record: dict[str, Any], folder: Path) -> None:
    """The table at the end of a run."""
    table = Table(title=f"{folder}", title_justify="left", show_header=False)
    for name, value in _summary(record):
        table.add_row(name, value)
    Console().print(table)


def _summary(record: dict[str, Any]) -> Iterable[tuple[str, str]]:
    seeds, seconds = record["seeds"], record["seconds"]
    if record["rehearsed"]:
        yield "rehearsal", "scripted answers, no model was loaded"
    yield "seeds", f"{seeds:,}"
    yield "candidates", f"{record['candidates']:,}"
    splits = ", ".join(f"{count:,} {split}" for split, count in record["pairs"].items() if count)
    yield "pairs", f"{splits or 0} from {record['prompts']:,} prompts"
    yield "rejects", f"{sum(record['rejects'].values()):,}"
    yield from ((f"  {reason}", f"{count:,}") for reason, count in record["rejects"].items())
    yield from ((f"left out, {reason}", f"{count:,}") for reason, count in sorted(record["drops"].items()))
    for name, (chosen, rejected) in record["means"].items():
        yield f"mean {name}", f"chosen {chosen:.3f}, rejected {rejected:.3f}, difference {chosen - rejected:.3f}"
    asked = record["requests"]
    yield "requests", f"{asked['generated']:,} generated, {asked['scored']:,} scored, {asked['replayed']:,} from the journal"
    tokens = record["tokens"]["completion"]
    if tokens:
        yield "tokens", f"{tokens:,} completed, {tokens / seconds['total']:,.0f} a second over the whole run"
    yield "time", f"{seconds['total']:.1f} s"


def print_records(run: Path) -> None:
    """Every row of a run in full: candidates or responses, then pairs, then rejects."""
    console = Console()
    for title, folder in (("row", "candidates"), ("pair", "pairs"), ("reject", "rejects")):
        for number, row in enumerate(read_rows(run / folder), start=1):
            console.rule(f"{title} {number}", align="left")
            for name, value in row.items():
                console.print(f"[bold]{escape(name)}[/bold]", end=": ")
                console.print(_shown(value), markup=False, highlight=False)


def _shown(value: Any) -> str:
    if isinstance(value, list | dict):
        return orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode()
    return str(value)


def print_plan(loaded: LoadedRecipe) -> None:
    """Passes, loads, requests and costs of a recipe."""
    recipe = loaded.recipe
    config = recipe.seed_dataset
    seeds = load_seeds(
        config, loaded.locate(config.path), needed=columns_needed(recipe), num_records=recipe.num_records, seed=recipe.seed
    )
    rows = seeds.table.num_rows
    sample = seeds.table.slice(0, SAMPLE).to_pylist()
    paths = {model.alias: loaded.locate(model.model) for model in recipe.models}
    table = Table(title=f"{rows:,} rows ({len(seeds.rejects):,} bad seeds)", title_justify="left")
    for heading in ("pass", "columns", "loads", "requests", "prompt tokens", "completion tokens", "GPU-hours", "disk"):
        table.add_column(heading)
    for number, step in enumerate(plan_passes(recipe), start=1):
        loads = ", ".join(checkpoint.model.model for checkpoint in step.checkpoints.values()) or "none"
        columns = " then ".join(", ".join(column.name for column in wave) for wave in step.waves)
        estimate = estimate_pass(step, recipe, rows, sample, paths)
        table.add_row(str(number), escape(columns), escape(loads), *_cells(estimate))
    console = Console()
    console.print(table)
    console.print(
        "Completion tokens, GPU-hours and disk are upper bounds: every text as long as max_tokens, "
        "300 TFLOP/s a GPU. '?' needs texts that only the run makes.",
        style="dim",
    )


def _cells(estimate: Estimate) -> list[str]:
    hours, prompt = estimate.gpu_hours, estimate.prompt_tokens
    return [
        f"{estimate.requests:,}",
        "?" if prompt is None else f"{prompt:,}",
        f"<= {estimate.completion_tokens:,}",
        "?" if hours is None else f"<= {hours:.3g}",
        f"<= {estimate.disk_bytes / 2**20:,.1f} MiB",
    ]
