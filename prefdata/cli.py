"""The command line: parse, call, print. What is heavy is imported by the command that needs it."""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from prefdata.errors import PrefdataError

app = typer.Typer(
    help="Build preference datasets: prompts, candidates, scores, pairs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

RecipeFile = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="A recipe in YAML, or hf://datasets/…/recipe.yaml."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Override recipe fields: models.0.model=… num_records=10"
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="The run folder; wins over the recipe's output_dir.")
]


class Backend(StrEnum):
    """Where `prefdata train` trains."""

    trl = "trl"
    nemo_customizer = "nemo_customizer"


DONE, BUG, FIXABLE, LOW_YIELD, INTERRUPTED = 0, 1, 2, 3, 130


@app.command()
def build(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="GPUs to use; 0: CPU; default: one if there is one.")
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="On a CPU: processes a model, sharing the cores.")
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show full records of a few rows, keep nothing.")
    ] = False,
    rows: Annotated[
        int | None, typer.Option("-n", min=1, help="Rows of the preview; 2 where left out.")
    ] = None,
    rehearse: Annotated[
        bool,
        typer.Option(
            "--rehearse", help="Run with scripted answers instead of models, in <out>-rehearsal."
        ),
    ] = False,
    no_publish: Annotated[
        bool, typer.Option("--no-publish", help="Leave the Hub alone, whatever the recipe says.")
    ] = False,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Let models of a recipe from the Hub bring their own code."
        ),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Make one of N slices of the rows, counted from 0."),
    ] = None,
    attempt: Annotated[
        str | None,
        typer.Option(help="A name that no other attempt at the shard has; earlier ones are ended."),
    ] = None,
) -> None:
    """Build the dataset of a recipe; run again, it goes on where it stopped."""
    with _exit_codes():
        if rows and not preview:
            raise PrefdataError(
                f"-n {rows} is of --preview; add it, or set num_records={rows} for a small run"
            )
        loaded = _load(recipe, overrides, out, trust_remote_code)
        if attempt and not shard:
            raise PrefdataError("--attempt is of --shard; leave it out")
        if preview and shard:
            raise PrefdataError("--preview shows a few rows of the whole; leave out --shard")
        if preview:
            _preview(loaded, rows or 2, rehearse, _find_machine(gpus, replicas, rehearse))
            return
        machine = _find_machine(gpus, replicas, rehearse)
        from prefdata.build import build as run

        folder = Path(loaded.recipe.output_dir)
        if rehearse:
            folder = folder.with_name(folder.name + "-rehearsal")
            loaded = loaded.changed(output_path=None)
        if shard:
            _build_shard(loaded, folder, shard, attempt, machine=machine, rehearse=rehearse)
            return
        publish = None if rehearse or no_publish else loaded.recipe.publish
        if publish is not None:
            _check_publishing(publish)
        record = run(loaded, folder, machine=machine, rehearse=rehearse, say=_say)
        from prefdata.summary import print_summary

        print_summary(record, folder)
        _check_yield(record, loaded.recipe.min_yield)
        if publish is not None:
            _publish_built(folder, publish)


def _build_shard(
    loaded: Any, out: Path, text: str, attempt: str | None, *, machine: Any, rehearse: bool
) -> None:
    from prefdata.build import build_shard
    from prefdata.shards import read_shard

    shard = read_shard(text)
    build_shard(loaded, out, shard, attempt=attempt, machine=machine, rehearse=rehearse, say=_say)
    _say(f"shard {text} is finished, in {shard.folder(out)}; prefdata merge joins all of them")


@app.command()
def merge(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    shards: Annotated[
        int | None, typer.Option(min=1, help="How many there are; by default, as many as folders.")
    ] = None,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="The shards were rehearsed, in <out>-rehearsal.")
    ] = False,
    no_publish: Annotated[
        bool, typer.Option("--no-publish", help="Leave the Hub alone, whatever the recipe says.")
    ] = False,
) -> None:
    """Make of finished shards the run that one task would have made, row for row."""
    with _exit_codes():
        loaded = _load(recipe, overrides, out)
        from prefdata.build import merge as join
        from prefdata.shards import count_shards
        from prefdata.summary import print_summary

        folder = Path(loaded.recipe.output_dir)
        if rehearse:
            folder = folder.with_name(folder.name + "-rehearsal")
            loaded = loaded.changed(output_path=None)
        count = count_shards(folder, shards)
        record = join(loaded, folder, count, rehearse=rehearse, say=_say)
        print_summary(record, folder)
        _check_yield(record, loaded.recipe.min_yield)
        publish = None if rehearse or no_publish else loaded.recipe.publish
        if publish is not None:
            _publish_built(folder, publish)


@app.command()
def slurm(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    nodes: Annotated[int, typer.Option(min=1, help="Tasks at the same time, a node each.")] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of each node; 0: its CPU.")] = 8,
    shards: Annotated[
        int | None, typer.Option(min=1, help="Tasks in all; as many as nodes by default.")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="As for sbatch.")] = None,
    time: Annotated[str | None, typer.Option(help="Limit of one task, as for sbatch.")] = None,
    account: Annotated[str | None, typer.Option(help="As for sbatch.")] = None,
    container: Annotated[
        str | None, typer.Option(help="Image for srun --container-image (Pyxis).")
    ] = None,
    sbatch_extra: Annotated[
        list[str] | None,
        typer.Option(help="Another line of #SBATCH, say --qos=high; may be given several times."),
    ] = None,
    max_requeues: Annotated[
        int, typer.Option(min=0, help="Times that one task may be started again.")
    ] = 20,
    submit: Annotated[
        bool, typer.Option("--submit", help="Submit what is missing, and print the ids.")
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Tell how far the shards are, from their files.")
    ] = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Answer with scripted engines: no model is loaded.")
    ] = False,
    no_publish: Annotated[
        bool, typer.Option("--no-publish", help="Leave the Hub alone, whatever the recipe says.")
    ] = False,
) -> None:
    """Write batch scripts that make a run in shards on a cluster, and join them."""
    with _exit_codes():
        if recipe.startswith("hf://"):
            raise PrefdataError(
                f"{recipe}: every node would fetch it anew; bring it here first with "
                "`hf download`, then give its path"
            )
        loaded = _load(recipe, overrides, out)
        from prefdata.runtime.slurm_scripts import Cluster
        from prefdata.shards import count_shards
        from prefdata.slurm import run_on_slurm, shards_submitted, tell_status

        asked = Path(loaded.recipe.output_dir).absolute()
        folder = asked.with_name(asked.name + "-rehearsal") if rehearse else asked
        count = count_shards(folder, shards, default=shards_submitted(folder) or nodes)
        if status:
            print("\n".join(tell_status(folder, count)))
            return
        named = {"partition": partition, "time": time, "account": account}
        options = [f"--{name}={value}" for name, value in named.items() if value]
        cluster = Cluster(
            nodes, gpus, count, (*options, *(sbatch_extra or ())), container,
            max_requeues=max_requeues, is_published=not no_publish,
        )  # fmt: skip
        words = [str(Path(recipe).absolute()), *(overrides or ()), "--out", str(asked)]
        words += ["--rehearse"] * rehearse
        run_on_slurm(
            loaded, words, folder, cluster, is_submitted=submit, rehearse=rehearse, say=print
        )


@app.command()
def plan(recipe: RecipeFile, overrides: Overrides = None, out: Out = None) -> None:
    """Show passes, model loads, requests, tokens, GPU-hours and disk. Runs no model."""
    with _exit_codes():
        loaded = _load(recipe, overrides, out)
        from prefdata.summary import print_plan

        print_plan(loaded)


@app.command()
def pairs(
    source: Annotated[
        Path,
        typer.Argument(metavar="RUN|FILE", help="A finished run, or a JSONL of scored candidates."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Pair rules: strategy=exhaustive min_margin=0.5 test_size=0.05 …",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write; a run is rewritten in place by default.")
    ] = None,
    group: Annotated[
        str, typer.Option(help="FILE: field whose equal values are one turn.")
    ] = "prompt",
    prompt: Annotated[
        str, typer.Option(help="FILE: field with the prompt, a text or a list of messages.")
    ] = "prompt",
    text: Annotated[str, typer.Option(help="FILE: field with the candidate's text.")] = "text",
    score: Annotated[str, typer.Option(help="FILE: field with its score.")] = "score",
    seed: Annotated[int, typer.Option(help="FILE: seed of draws, samples and splits.")] = 0,
) -> None:
    """Choose pairs again, from a finished run or from scored candidates made elsewhere."""
    with _exit_codes():
        from prefdata.recipe import GivenCandidates
        from prefdata.repick import pairs_of_file, pairs_of_run
        from prefdata.summary import print_summary

        if not source.exists():
            raise PrefdataError(f"{source}: there is no such run folder and no such file")
        if source.is_dir():
            record, folder = pairs_of_run(source, overrides or (), out or source), out or source
        else:
            if out is None:
                raise PrefdataError(f"{source}: say with --out DIR where the pairs go")
            fields = GivenCandidates(group_by=(group,), prompt=prompt, text=text, score=score)
            record, folder = (
                pairs_of_file(source, fields, overrides or (), out, seed=seed, say=_say),
                out,
            )
        print_summary(record, folder)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    formats: Annotated[
        list[str], typer.Option("--format", help="A trainer's format; may be given several times.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where to; <RUN>/exports/<format> by default.")
    ] = None,
    test_size: Annotated[
        str | None,
        typer.Option(
            help="Prompts in test, a count or a fraction; the run's own split by default, or 0.05 "
            "(nemo_customizer: 0.2) where it has none."
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tell how many pairs a trainer that cuts at this length spoils."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Checkpoint to be trained; by default the one that wrote the texts."),
    ] = None,
    drop_too_long: Annotated[
        bool, typer.Option("--drop-too-long", help="Leave out pairs above --max-tokens.")
    ] = False,
    last_message_only: Annotated[
        bool,
        typer.Option(
            "--last-message-only", help="nemo_customizer: the last message alone as the prompt."
        ),
    ] = False,
) -> None:
    """Write a run's pairs in the formats of trainers, with the lines that make them read them."""
    with _exit_codes():
        from prefdata.export import ExportOptions, export_run
        from prefdata.summary import print_export

        if out is not None and len(formats) > 1:
            raise PrefdataError("--out is the folder of one format; leave it out, or give one")
        options = ExportOptions(
            _test_size(test_size), max_tokens, tokenizer, drop_too_long, last_message_only
        )
        for name in formats:
            print_export(export_run(run, name, options, out, say=_say))


@app.command()
def publish(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    repo_id: Annotated[
        str | None, typer.Option("--repo-id", help="owner/name; the recipe's by default.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="A branch, made where there is none; main by default.")
    ] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Propose it in a pull request, without a tag.")
    ] = False,
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public", help="Who may see a new dataset; the recipe's, else private."
        ),
    ] = None,
) -> None:
    """Bring a finished run to the Hub with its card, load it back, compare; twice does nothing."""
    with _exit_codes():
        from prefdata.export.publishing import Wishes

        _publish(run, Wishes(repo_id, revision, private, create_pr))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    out: Annotated[
        Path | None, typer.Option(help="The file; <RUN>/report.html by default.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Another finished run, shown beside this one.")
    ] = None,
) -> None:
    """Write one HTML file with a run's figures, pairs and rejects. It needs no network."""
    with _exit_codes():
        from prefdata.export import make_report
        from prefdata.summary import print_report

        print_report(make_report(run, out, compare=compare))


@app.command()
def inspect(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    rejects: Annotated[
        bool, typer.Option("--rejects", help="Rejects with their reasons, instead of pairs.")
    ] = False,
    search: Annotated[
        str, typer.Option(help="Only rows that hold these words, in any text and any case.")
    ] = "",
    rows: Annotated[
        int | None, typer.Option("-n", min=1, help="Print so many and do not ask.")
    ] = None,
) -> None:
    """Page through a run's pairs; where no terminal is, all are printed as plain text."""
    with _exit_codes():
        from itertools import islice

        from prefdata.pager import Shelf, find_rows, page_rows, print_rows
        from prefdata.terminal import open_console

        console, kind = open_console(), "reject" if rejects else "pair"
        opened = find_rows(run, rejects=rejects, search=search)
        if rows is None and console.is_terminal and sys.stdin.isatty():
            page_rows(console, Shelf(opened), kind, input)
        else:
            print_rows(console, islice(opened(), rows), kind)


@app.command()
def train(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings: learning_rate=1e-6 epochs=2 …"),
    ] = None,
    backend: Annotated[
        Backend, typer.Option(help="trl: DPO on this machine; nemo_customizer: a job there.")
    ] = Backend.trl,
    settings: Annotated[
        Path | None, typer.Option(help="Settings in YAML; KEY=VALUE goes on top.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to; <RUN>/trained/<backend> by default.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="nemo_customizer: write the files, print what would be sent."
        ),
    ] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="nemo_customizer: cancel the job that runs.")
    ] = False,
) -> None:
    """Train a model on a run's pairs; run again, it goes on where it stopped."""
    with _exit_codes():
        from prefdata.recipe_loader import load_settings

        folder = out or run / "trained" / backend.value
        if backend is Backend.nemo_customizer:
            _train_on_customizer(run, settings, overrides or [], folder, dry_run, cancel)
        else:
            if dry_run or cancel:
                raise PrefdataError("--dry-run and --cancel are of nemo_customizer; remove them")
            from prefdata.summary import print_training
            from prefdata.train.trl import train_trl
            from prefdata.train.trl_settings import TrlSettings

            chosen = load_settings(TrlSettings, settings, overrides or ())
            print_training(train_trl(run, chosen, folder, say=_say), folder)


def _load(
    recipe: str, overrides: list[str] | None, out: Path | None, trust_remote_code: bool = False
) -> Any:
    given = [*(overrides or ())]
    if out:  # in quotes: a folder may be called 2024 or a: b, and ${ is no interpolation here
        quoted = str(out).replace("${", r"\${").replace("'", "''")
        given.append(f"output_dir='{quoted}'")
    if recipe.startswith("hf://"):
        from prefdata.export.fetched import load_fetched

        return load_fetched(recipe, given, trust_remote_code=trust_remote_code)
    if trust_remote_code:
        raise PrefdataError(
            "--trust-remote-code is for recipes from the Hub; in a file of yours set "
            "trust_remote_code: true for the model"
        )
    from prefdata.recipe_loader import load_recipe  # yaml, pydantic: not needed for --help

    return load_recipe(Path(recipe), given)


def _check_publishing(settings: Any) -> None:
    from prefdata.export.hub import check_publishing

    try:
        check_publishing(settings, say=_say)
    except PrefdataError as err:
        raise PrefdataError(
            f"{err}; or build with --no-publish, and run `prefdata publish` later"
        ) from err


def _publish_built(run: Path, settings: Any) -> None:
    from prefdata.export.publishing import Wishes

    try:
        _publish(run, Wishes(), settings)
    except PrefdataError as err:
        raise PrefdataError(
            f"{err}. The run is finished and whole: `prefdata publish {run}` tries again"
        ) from err


def _publish(run: Path, wishes: Any, settings: Any = None) -> None:
    from prefdata.export.hub import publish_run
    from prefdata.summary import print_publication

    print_publication(publish_run(run, wishes, settings=settings, say=_say))


def _find_machine(gpus: int | None, replicas: int | None, rehearse: bool) -> Any:
    if gpus == 0:  # set before importing torch: it reads the list once
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from prefdata.runtime.machine import Machine, find_machine

    return Machine() if rehearse else find_machine(gpus, replicas)


def _preview(loaded: Any, rows: int, rehearse: bool, machine: Any) -> None:
    from prefdata.build import build as run
    from prefdata.summary import print_records

    with tempfile.TemporaryDirectory(prefix="prefdata-preview-") as folder:
        run(
            loaded.changed(num_records=rows, output_path=None),
            Path(folder),
            machine=machine,
            rehearse=rehearse,
            say=_say,
        )
        print_records(Path(folder))


def _train_on_customizer(
    run: Path, file: Path | None, overrides: list[str], out: Path, dry_run: bool, cancel: bool
) -> None:
    from prefdata.recipe_loader import load_settings
    from prefdata.train.customizer_settings import CustomizerSettings
    from prefdata.train.nemo_customizer import cancel_customizer
    from prefdata.train.submit import train_on_customizer

    settings = load_settings(CustomizerSettings, file, overrides)
    if cancel:
        cancel_customizer(settings, out, say=_say)
    else:
        train_on_customizer(run, settings, out, dry_run=dry_run, say=print if dry_run else _say)


def _test_size(text: str | None) -> int | float | None:
    """A count or a fraction, as the rules of pairs have it."""
    if text is None:
        return None
    from prefdata.recipe_loader import validate_pair_rules
    from prefdata.repick import DEFAULTS

    return validate_pair_rules(DEFAULTS, [f"test_size={text}"]).test_size


def _check_yield(record: dict[str, Any], min_yield: float) -> None:
    share = record["prompts"] / record["rows"]
    if share < min_yield:
        _say(f"the yield is {share:.1%}, below min_yield {min_yield:.1%}: {record['prompts']:,} of {record['rows']:,} rows have a pair")  # fmt: skip  # noqa: E501
        raise typer.Exit(LOW_YIELD)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _exit_codes() -> Iterator[None]:
    """What the user can fix: message and 2. Ctrl-C and SIGTERM: 130. A bug keeps its traceback."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except PrefdataError as err:
        _say(f"error: {err}")
        raise typer.Exit(FIXABLE) from err
    except KeyboardInterrupt as err:
        _say("interrupted; the same command goes on where it stopped")
        raise typer.Exit(INTERRUPTED) from err


def main() -> None:
    """Entry point of the `prefdata` command."""
    app()
