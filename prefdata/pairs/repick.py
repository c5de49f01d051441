"""`prefdata pairs`: choose again from a finished run, or from scored candidates made elsewhere."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from prefdata.errors import PrefdataError, Say
from prefdata.fingerprint import pairs_fingerprint
from prefdata.pairs.choose import check_columns
from prefdata.pairs.diff import read_before
from prefdata.pairs.files import copies_of, write_jsonl
from prefdata.pairs.prompts import Background
from prefdata.pairs.readable import make_readable, renew_pairs, write_readme
from prefdata.recipe.layout import Layout, plain
from prefdata.recipe.loader import load_recipe, validate_pair_rules
from prefdata.recipe.mix import OutputProjection, picks_of
from prefdata.recipe.reads import score_columns
from prefdata.recipe.schema import SeedDataset
from prefdata.rows import REJECTS, Row
from prefdata.seeds.files import configs_of, may_be_hub_id, read_lines, seed_files
from prefdata.seeds.turns import Turns
from prefdata.stages.functions import Functions
from prefdata.storage.disk import disk_errors
from prefdata.storage.folders import RowsWriter, link_parts, read_schema, read_tables
from prefdata.storage.ownership import Input, check_file, check_folder, hold_run, write_own
from prefdata.storage.record import (
    CUT_SHORT,
    Record,
    read_record,
    restore_record,
    roles_of_record,
    set_aside_record,
    withdraw_record,
    write_record,
)


def is_run(place: Path) -> bool:
    """Whether pairs of this folder have been chosen, or are all that it could hold."""
    names = ("run.json", CUT_SHORT, "recipe.yaml", "stages")
    is_begun = any((place / name).exists() for name in names)
    return place.is_dir() and (is_begun or not seed_files(place))


def pairs_of_run(
    run: Path,
    overrides: Sequence[str],
    out: Path,
    *,
    force: bool = False,
    given: Mapping[str, Callable[..., Any]] | None = None,
) -> Record:
    """Choose pairs again from the candidates of a run; models and journal are not touched.

    `overrides`: `key=value` of the pair rules, on top of the run's own. `out`: gets pairs, rejects,
    recipe.yaml and run.json; the run itself to replace them there. `force`: replace a file of the
    user's in `out`. `given`: functions that the overrides name and that are objects in Python.

    Raises:
        PrefdataError: no finished run there, or a rule that its columns cannot serve.
    """
    record = read_record(run) or read_record(run, CUT_SHORT)
    if record is None or record.keys().isdisjoint(("scored_fingerprint", "projection")):
        raise PrefdataError(f"{run}: no finished run there; run `prefdata build` first")
    is_same = out.resolve() == run.resolve()
    _check_out(out, [Input(run / "candidates", "the run itself")], is_same, is_forced=force)
    before = [row for table in read_tables(run / "rejects") for row in table.to_pylist()]
    kept = [row for row in before if row["stage"] != "pairs"]
    if "projection" in record:
        return _again_from_file(run, record, kept, overrides, out)
    rules = [f"output_projection.{rule}" for rule in overrides]
    loaded = load_recipe(run / "recipe.yaml", rules, is_saved=True)
    rule, seed = loaded.recipe.output_projection, loaded.recipe.seed
    functions = Functions(Path(record.get("folder") or run), given or {})
    is_named = any(one.startswith("pick=") for one in overrides)
    if "fetched" in record and picks_of(rule) and not is_named:
        raise PrefdataError(
            f"{run}: its pairs were picked by a function, and a run from the Hub may call none of "
            "this machine; give another strategy, or a function of yours"
        )
    copies = copies_of(loaded.recipe) if is_same else {}
    if not any(str(place) in record["files"] for place in copies.values()):
        copies = {}  # seen from another folder, or of a variable that is not set here
    for place in copies.values():
        check_file(place, out, is_forced=force)
    with disk_errors(out), hold_run(out):
        if not is_same:
            withdraw_record(out)
            link_parts([run / "candidates"], out / "candidates")
        background = Background(
            score_columns(loaded.recipe), seed, loaded.recipe, roles_of_record(record), functions
        )
        with _record_away(out) if is_same else nullcontext():
            changed = _choose(run / "candidates", out, kept, rule, background)
        code = functions.code_of_picks(loaded.recipe)
        fingerprint = pairs_fingerprint(record["scored_fingerprint"], loaded.recipe, code)
        write_own(out / "recipe.yaml", out, loaded.resolved)
        for split, place in copies.items():
            write_jsonl(out, split, place, reasoning=changed["reasoning"])
        # what models have done is told per second of the build
        seconds = record["seconds"] | {"pairs": changed["seconds"]["pairs"]}
        made = record | changed | {"fingerprint": fingerprint, "seconds": seconds}
        return write_record(out, made, copies.values())


def _again_from_file(
    run: Path, record: Record, kept: list[Row], overrides: Sequence[str], out: Path
) -> Record:
    """Choose again where candidates came from a file, and there is no recipe."""
    layout = Layout.model_validate(record["fields"])
    rule = validate_pair_rules(record["projection"], overrides)
    scored, is_same = run / "candidates", out.resolve() == run.resolve()
    check_columns(read_schema(scored), rule)
    with disk_errors(out), hold_run(out):
        if not is_same:
            withdraw_record(out)
            link_parts([scored], out / "candidates")
        with _record_away(out) if is_same else nullcontext():
            background = Background(layout.score_columns, record["seed"])
            changed = _choose(scored, out, kept, rule, background)
        return write_record(out, record | changed | {"projection": rule.model_dump()})


def pairs_of_file(
    file: Path,
    layout: Layout,
    overrides: Sequence[str],
    out: Path,
    *,
    seed: int,
    say: Say,
    force: bool = False,
    config: str | None = None,
    split: str | None = None,
) -> Record:
    """Choose pairs from scored or labelled texts made elsewhere; lines of a group share a prompt.

    A group's first line sets its prompt; lines with a different prompt, or without a field, are
    rejects.

    `file`: or a folder, or the id of a Hub dataset; fields that the layout does not name are
    ignored but for alias, model, temperature, sample and finish_reason. `overrides`: `key=value` of
    the pair rules; on top of those that go with the layout. `force`: replace a file of the user's
    in `out`.

    Raises:
        PrefdataError: the file is missing or has no usable line, or a rule is wrong.
    """
    rule = validate_pair_rules(layout.rules, overrides)
    background = Background(layout.score_columns, seed)
    if not file.exists() and not may_be_hub_id(str(file)):
        raise PrefdataError(f"{file}: not found; give a run folder or a file of scored candidates")
    _check_out(out, [Input(file, "the file of candidates")], is_same=False, is_forced=force)
    groups, notes = Turns(layout), list[str]()
    if config is None and layout.each in configs_of(file):  # a run's, where its folder is given
        config = layout.each
    source = SeedDataset(path=(str(file),), name=config, split=split)
    at = {"name": "--config", "split": "--split"}
    groups.read(read_lines(source, str(file), notes, at=lambda key: at.get(key, "FILE")))
    groups.check_fields(
        lambda key: f"{file}: --{key.removesuffix('_by')}" if key in _OPTIONS
        else f"{file}{f': {key}' if key else ''}",
        "add --layout {}",
        is_scored=rule.score is not None,
    )  # fmt: skip
    bad = [
        f"{one['source']}: {one['reason']}: {one['detail']}; it goes to rejects"
        for one in groups.rejects[:5]
    ]
    for note in [*notes, *bad, *groups.notes()]:
        say(note)
    table = groups.table()
    check_columns(table.schema, rule)
    with disk_errors(out), hold_run(out):
        make_readable(out, table.schema, rule, background)
        with RowsWriter(out / "candidates", table.schema) as writer:
            writer.write(table)
        withdraw_record(out)
        seeds = len(groups.rows) + len(groups.rejects)
        changed = _choose(out / "candidates", out, groups.rejects, rule, background)
        count = sum(len(row["candidates"]) for row in groups.rows.values())
        base = {
            "prefdata": version("prefdata"),
            "seeds": seeds,
            "rows": seeds,
            "added": {},
            "judges": {},
            "candidates": count,
            "rehearsed": False,
            "source": file.name if file.exists() else str(file),
            "fields": plain(layout),
            "part": source.model_dump(include={"name", "split"}, exclude_none=True),
            "seed": seed,
        }
        work = {
            "requests": {"generated": 0, "scored": 0, "replayed": 0},
            "tokens": {"completion": 0},
        }
        return write_record(out, base | work | changed | {"projection": rule.model_dump()})


_OPTIONS = ("group_by", "prompt", "text", "score")
"""Keys of a layout that are options of their own."""


@contextmanager
def _record_away(out: Path) -> Iterator[None]:
    """The record stays away, unless the choice ends before it has changed the pairs."""
    set_aside_record(out)
    try:
        yield
    except BaseException:
        restore_record(out)
        write_readme(out)
        raise


def _check_out(out: Path, inputs: Sequence[Input], is_same: bool, *, is_forced: bool) -> None:
    check_folder(out, () if is_same else inputs, is_forced=is_forced)
    if not is_same and (out / "stages").exists():
        raise PrefdataError(
            f"{out}: the folder contains a run of `prefdata build`, and its candidates would be "
            "replaced; choose another folder with --out"
        )


def _choose(
    scored: Path, out: Path, before: list[Row], rule: OutputProjection, background: Background
) -> Record:
    """As `renew_pairs`, and how long it took. `before`: rejects of the steps before."""
    start = time.monotonic()
    refused = [pa.Table.from_pylist(before, schema=REJECTS)]
    made = renew_pairs(scored, out, refused, rule, background, read_before(out))
    seconds = time.monotonic() - start
    return made | {"seconds": {"pairs": seconds, "total": seconds}}
