"""`pairs`, `diff`, `export`, `report`, `inspect`: what can be made of a run."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from prefdata.cli.program import Force, Run, check_yield, exit_codes, run_of, say, tell_stale
from prefdata.errors import PrefdataError


def pairs(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|FILE",
            help="A finished run, or scored or labelled texts: a file, a folder or a Hub dataset.",
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Pair rules: strategy=exhaustive min_margin=0.5 better=lower test_size=0.05 …",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write; by default, a run is changed in place.")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="FILE: how its lines look: nectar, helpsteer3, trl … (docs/layouts.md), or a "
            "YAML file."
        ),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="KEY=PATH",
            help="FILE: where a line has what, as in each=completions; may be given several times.",
        ),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            help="FILE: field whose equal values are one turn, the prompt's by default; may be "
            "given several times."
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="FILE: field with the prompt, a text or a list of messages."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="FILE: field with the candidate's text.")] = None,
    score: Annotated[
        str | None,
        typer.Option(help="FILE: field with its score; the lowest is the best with better=lower."),
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="FILE: the configuration to read of a folder that has some.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="FILE: the split to read of a folder that has some.")
    ] = None,
    seed: Annotated[int, typer.Option(help="FILE: seed for random draws, samples and splits.")] = 0,
    force: Force = False,
) -> None:
    """Choose pairs again, from a finished run or from scored or labelled texts made elsewhere."""
    with exit_codes():
        from prefdata.cli.summary import print_summary
        from prefdata.pairs.repick import is_run, pairs_of_file, pairs_of_run
        from prefdata.recipe.loader import load_layout
        from prefdata.seeds.files import may_be_hub_id

        named = {"prompt": prompt, "text": text, "score": score}
        told = [f"{key}={json.dumps(path)}" for key, path in named.items() if path is not None]
        told += [f"group_by={json.dumps(group)}"] if group else []
        told += mapping or []
        is_mapped = bool(told or layout)
        if not (source.exists() or (is_mapped and may_be_hub_id(str(source)))):
            raise PrefdataError(
                f"{source}: not found; give a run folder or a file of scored candidates"
            )
        if is_run(source) and not (is_mapped or config or split):
            folder = out or source
            record = pairs_of_run(source, overrides or (), folder, force=force)
        else:
            if out is None:
                raise PrefdataError(
                    f"{source}: for a file, the output folder is required; give it with --out DIR"
                )
            folder = out
            fields = load_layout(layout, told)
            record = pairs_of_file(
                source, fields, overrides or (), out, seed=seed, say=say, force=force,
                config=config, split=split,
            )  # fmt: skip
        print_summary(record, folder)
        tell_stale(folder)
        check_yield(record, min_yield=0)


def diff(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A finished run, or hf://datasets/owner/name.")
    ],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="Another one, say a later one.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show which pairs of a run are in another one: kept, changed, gone and new, by reason."""
    with exit_codes():
        from prefdata.cli.summary import print_diff
        from prefdata.hub.fetched import compare_runs

        places = [one if "://" in one else str(run_of(Path(one))) for one in (run, other)]
        told = compare_runs(*places)
        if as_json:
            print(json.dumps({"run": run, "other": other, **told}))
        else:
            print_diff(f"{run} -> {other}", told, told["recipe"])


def export(
    run: Run,
    formats: Annotated[
        list[str],
        typer.Option("--format", help="The trainer's format or module:function; can be repeated."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Output folder; <RUN>/exports/<format> by default.")
    ] = None,
    test_size: Annotated[
        str | None,
        typer.Option(
            help=(
                "Prompts in test, a count or a fraction; by default the run's own split, or "
                "0.05 (nemo_customizer: 0.2) if it has none."
            )
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Report how many pairs are longer than this, so that a trainer would cut them.",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Checkpoint to be trained; by default the one that wrote the texts."),
    ] = None,
    drop_too_long: Annotated[
        bool,
        typer.Option("--drop-too-long", help="Leave out pairs that are longer than --max-tokens."),
    ] = False,
    reasoning: Annotated[
        str | None,
        typer.Option(
            help="keep or drop the thoughts before the answers; as the run says by default."
        ),
    ] = None,
    last_message_only: Annotated[
        bool,
        typer.Option(
            "--last-message-only", help="nemo_customizer: use only the last message as the prompt."
        ),
    ] = False,
) -> None:
    """Write a run's pairs in the formats of trainers, with the lines that make them read them."""
    with exit_codes():
        from prefdata.cli.summary import print_export
        from prefdata.export import ExportOptions, export_run

        if out is not None and len(formats) > 1:
            raise PrefdataError(
                "--out is the folder of one format, but several formats are given; leave it "
                "out, or give one format"
            )
        options = ExportOptions(
            _as_number(test_size),
            max_tokens,
            tokenizer,
            drop_too_long,
            last_message_only,
            cast(Any, reasoning),
            may_be_text=True,
        )
        run = run_of(run)
        for name in formats:
            print_export(export_run(run, name, options, out, say=say))
        tell_stale(run)


def _as_number(text: str | None) -> Any:
    """A number as it is written; what is none is refused where it is read."""
    for kind in (int, float):
        with suppress(ValueError, TypeError):
            return kind(text or "")
    return text


def report(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(help="Output file; <RUN>/report.html by default.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Another finished run, shown beside this one.")
    ] = None,
    force: Force = False,
) -> None:
    """Write one HTML file with a run's figures, pairs and rejects. It needs no network."""
    with exit_codes():
        from prefdata.cli.summary import print_report
        from prefdata.report import make_report

        run, compare = run_of(run), compare and run_of(compare)
        print_report(make_report(run, out, compare=compare, is_forced=force))
        tell_stale(run)


def inspect(
    run: Run,
    rejects: Annotated[
        bool, typer.Option("--rejects", help="Rejects with their reasons, instead of pairs.")
    ] = False,
    search: Annotated[
        str,
        typer.Option(help="Only rows that contain these words in any text, upper or lower case."),
    ] = "",
    rows: Annotated[
        int | None, typer.Option("-n", min=1, help="Print this many rows and do not ask.")
    ] = None,
) -> None:
    """Page through a run's pairs; where no terminal is, all are printed as plain text.

    RUN may be one that is not finished: then the rows of its latest stage are shown.
    """
    with exit_codes():
        from itertools import islice

        from prefdata.api.terminal import open_console
        from prefdata.cli.pager import open_rows, page_rows, print_rows

        console, opened = open_console(), open_rows(run_of(run), rejects=rejects)
        if search:
            opened = opened.search(search)
            say(f"{opened.count:,} {opened.kind}{'s' * (opened.count != 1)} with {search!r}")
        if rows is None and console.is_terminal and sys.stdin.isatty():
            page_rows(console, opened, input)
        else:
            if opened.note:
                say(opened.note)
            if not (opened.count or search):
                say(f"there are no {opened.kind}s")
            print_rows(console, islice(opened.rows(), rows), opened.kind)
