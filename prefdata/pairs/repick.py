"""`prefdata pairs`: choose again from a finished run, or from scored candidates made elsewhere."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from prefdata.errors import PrefdataError
from prefdata.fingerprint import pairs_fingerprint
from prefdata.pairs.choose import check_columns, choose_pairs
from prefdata.pairs.files import copies_of, write_jsonl
from prefdata.pairs.outcomes import count_outcomes, settle_reasoning
from prefdata.pairs.readable import make_readable, write_readme
from prefdata.recipe.chats import Roles
from prefdata.recipe.loader import load_recipe, validate_pair_rules
from prefdata.recipe.reads import score_columns
from prefdata.recipe.schema import GivenCandidates, Recipe, SeedDataset
from prefdata.rows import REJECTS, Row
from prefdata.seeds.files import read_lines
from prefdata.seeds.turns import Turns
from prefdata.storage.disk import disk_errors
from prefdata.storage.folders import RowsWriter, link_folder, read_tables
from prefdata.storage.ownership import Input, check_file, check_folder, hold_run, write_own
from prefdata.storage.record import (
    CUT_SHORT,
    Record,
    count_reasons,
    read_record,
    restore_record,
    roles_of_record,
    set_aside_record,
    withdraw_record,
    write_record,
)

Say = Callable[[str], None]
DEFAULTS = {
    "type": "preference_pairs",
    "candidates": "candidates",
    "score": "score",
    "strategy": "best_vs_worst",
}
"""The default pair rules where neither a recipe nor the command line gives any."""


def pairs_of_run(run: Path, overrides: Sequence[str], out: Path, *, force: bool = False) -> Record:
    """Choose pairs again from the candidates of a run; models and journal are not touched.

    Args:
        run: folder of a finished run.
        overrides: `key=value` of the pair rules, on top of the run's own.
        out: gets pairs, rejects, recipe.yaml and run.json; the run itself to replace them there.
        force: replace a file of the user's in `out`.

    Raises:
        PrefdataError: no finished run there, or a rule that its columns cannot serve.
    """
    record = read_record(run) or read_record(run, CUT_SHORT)
    if record is None or "scored_fingerprint" not in record:
        raise PrefdataError(f"{run}: no finished run there; run `prefdata build` first")
    is_same = out.resolve() == run.resolve()
    _check_out(out, [Input(run / "candidates", "the run itself")], is_same, is_forced=force)
    rules = [f"output_projection.{rule}" for rule in overrides]
    loaded = load_recipe(run / "recipe.yaml", rules, is_saved=True)
    before = [row for table in read_tables(run / "rejects") for row in table.to_pylist()]
    kept = [row for row in before if row["stage"] != "pairs"]
    rule, seed = loaded.recipe.output_projection, loaded.recipe.seed
    copies = copies_of(loaded.recipe) if is_same else {}
    if not any(str(place) in record["files"] for place in copies.values()):
        copies = {}  # seen from another folder, or of a variable that is not set here
    for place in copies.values():
        check_file(place, out, is_forced=force)
    with disk_errors(out), hold_run(out):
        if not is_same:
            withdraw_record(out)
            link_folder(run / "candidates", out / "candidates")
        scores, roles = score_columns(loaded.recipe), roles_of_record(record)
        with _record_away(out) if is_same else nullcontext():
            changed = _choose(
                run / "candidates", out, kept, rule, scores, seed, loaded.recipe, roles
            )
        fingerprint = pairs_fingerprint(record["scored_fingerprint"], loaded.recipe)
        write_own(out / "recipe.yaml", out, loaded.resolved)
        for split, place in copies.items():
            write_jsonl(out, split, place, reasoning=changed["reasoning"])
        # what models have done is told per second of the build
        seconds = record["seconds"] | {"pairs": changed["seconds"]["pairs"]}
        made = record | changed | {"fingerprint": fingerprint, "seconds": seconds}
        return write_record(out, made, copies.values())


def pairs_of_file(
    file: Path,
    fields: GivenCandidates,
    overrides: Sequence[str],
    out: Path,
    *,
    seed: int,
    say: Say,
    force: bool = False,
) -> Record:
    """Choose pairs from a file of scored candidates; lines of a group share a prompt.

    A group's first line sets its prompt; lines with a different prompt, or without a field, are
    rejects.

    Args:
        file: one candidate a line; other fields are ignored but for alias, model, temperature,
            sample and finish_reason, which are carried along.
        fields: what its fields are called.
        overrides: `key=value` of the pair rules; best_vs_worst where they name no strategy.
        out: gets candidates, pairs, rejects and run.json.
        seed: of draws, samples and splits.
        say: called with messages about bad lines.
        force: replace a file of the user's in `out`.

    Raises:
        PrefdataError: the file is missing or has no usable line, or a rule is wrong.
    """
    rule = validate_pair_rules(DEFAULTS, overrides)
    if not file.is_file():
        raise PrefdataError(f"{file}: not found; give a run folder or a file of scored candidates")
    _check_out(out, [Input(file, "the file of candidates")], is_same=False, is_forced=force)
    groups = Turns(fields)
    groups.read(read_lines(SeedDataset(path=(str(file),)), str(file), []))
    groups.check_fields(
        lambda key: f"{file}: --{key.removesuffix('_by')}", is_scored=rule.score is not None
    )
    if not groups.rows:
        first = (
            f"; the first: {groups.rejects[0]['source']}: {groups.rejects[0]['detail']}"
            if groups.rejects
            else ""
        )
        raise PrefdataError(f"{file}: there is no usable line{first}")
    for bad in groups.rejects[:5]:
        say(f"{bad['source']}: {bad['reason']}: {bad['detail']}; it goes to rejects")
    for note in groups.notes():
        say(note)
    table = groups.table()
    check_columns(table.schema, rule)
    with disk_errors(out), hold_run(out):
        make_readable(out, table.schema, rule, ["score"])
        with RowsWriter(out / "candidates", table.schema) as writer:
            writer.write(table)
        withdraw_record(out)
        seeds = len(groups.rows) + len(groups.rejects)
        changed = _choose(out / "candidates", out, groups.rejects, rule, ["score"], seed)
        count = sum(len(row["candidates"]) for row in groups.rows.values())
        base = {
            "prefdata": version("prefdata"),
            "seeds": seeds,
            "rows": seeds,
            "added": {},
            "judges": {},
            "candidates": count,
            "rehearsed": False,
            "source": file.name,
            "fields": fields.model_dump(exclude_none=True),
            "seed": seed,
        }
        work = {
            "requests": {"generated": 0, "scored": 0, "replayed": 0},
            "tokens": {"completion": 0},
        }
        return write_record(out, base | work | changed | {"projection": rule.model_dump()})


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
    scored: Path,
    out: Path,
    before: list[Row],
    rule: Any,
    scores: Sequence[str],
    seed: int,
    recipe: Recipe | None = None,
    roles: Mapping[str, Roles] | None = None,
) -> dict[str, Any]:
    start = time.monotonic()
    write_readme(out, has_test=False)  # until there is one again
    with RowsWriter(out / "rejects", REJECTS) as rejects:
        rejects.write(pa.Table.from_pylist(before, schema=REJECTS))
        choice = choose_pairs(
            scored,
            out / "pairs",
            rejects,
            rule,
            scores=scores,
            seed=seed,
            recipe=recipe,
            roles=roles,
        )
    write_readme(out)
    return {
        **choice.told(),
        "rejects": count_reasons(out / "rejects"),
        "outcomes": count_outcomes(scored),
        "reasoning": settle_reasoning(scored, rule),
        "seconds": {"pairs": time.monotonic() - start, "total": time.monotonic() - start},
    }
