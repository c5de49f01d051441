"""From scored rows to pairs and rejects on disk. The rules themselves live in pairs and selection.

Two streams: the first picks within each prompt and hands light facts to `select`, the second
keeps what `select` kept. Every row that goes in comes out in a pair or in a reject.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import orjson
import pyarrow as pa

from prefdata.errors import PrefdataError, suggest
from prefdata.fingerprint import sampling_seed
from prefdata.pairs.calibration import LengthFit, fit_lengths
from prefdata.pairs.candidates import SIDE, candidates_of, responses_of
from prefdata.pairs.files import (
    as_text,
    count_lengths,
    easy_first,
    keep_pairs,
    mean_scores,
    reject_unselected,
)
from prefdata.pairs.groups import read_groups
from prefdata.pairs.pair import SKIPPED, Pair, said
from prefdata.pairs.picking import Drop, Pick, Picked, pick_by_verdict, pick_pairs
from prefdata.pairs.prompts import Background, PairPrompts
from prefdata.pairs.selection import PairFacts, select
from prefdata.recipe.filters import filters_before
from prefdata.recipe.mix import SOURCE
from prefdata.recipe.pair_rules import SetRules
from prefdata.recipe.projection import DpoPreference, PreferencePairs
from prefdata.recipe.reads import all_columns, projected, texts_of_rule
from prefdata.recipe.values import META_SUFFIX, SKIPPED_SUFFIX
from prefdata.rows import ID, REJECTS, TURNS, Row, is_json, mark_filtered, reject
from prefdata.seeds.identity import prompt_identity, root_identity, says_nothing, words_of
from prefdata.storage.disk import temporary_name
from prefdata.storage.folders import RowsWriter, read_rows, read_schema

Projection = DpoPreference | PreferencePairs
BATCH = 1000


@dataclass(frozen=True, slots=True)
class Choice:
    """The result for the scored rows.

    Attributes:
        prompts: rows that have at least one pair.
        drops: candidates and pairs left out within prompts, and pairs left out over the whole set.
        prompt_field: the rule's, or `asked`.
        asked: how the pairs' prompts differ from what was asked; see `prompts.Told`.
        means: of every score column, over chosen and over rejected: {column: (chosen, rejected)}.
        lengths: pairs whose chosen is longer, and those whose chosen is shorter.
        calibration: of every column of `calibrate_length`, its fit.
        sources: pairs by the projection of a mix.
    """

    pairs: dict[str, int]
    prompts: int
    drops: Counter[str]
    means: dict[str, tuple[float, float]]
    prompt_field: str
    asked: dict[str, int]
    lengths: tuple[int, int]
    calibration: dict[str, LengthFit]
    sources: dict[str, int] = field(default_factory=dict)

    def told(self) -> Row:
        """What the record of the run says of it."""
        return asdict(self) | {"drops": dict(self.drops)}


def choose_pairs(
    scored: Path, pairs: Path, rejects: RowsWriter, rule: Projection, background: Background
) -> Choice:
    """Write the folder `pairs` (train and test) and add this step's rejects to `rejects`.

    `scored`: folder of rows with candidates and scores, or responses and verdicts.
    """
    check_columns(read_schema(scored), rule)
    picks = temporary_name(pairs.with_name("picks"))
    picking = _Picking(scored, rule, background)
    try:
        schema = pair_schema(read_schema(scored), rule, background.scores, picking.prompts)
        with RowsWriter(picks, schema) as writer:
            selection = select(picking.facts(writer, rejects), rule, seed=background.seed)
        order = None
        if isinstance(rule, PreferencePairs) and rule.order_by is not None:
            order = partial(easy_first, group=rule.order_group)
        kept = keep_pairs(picks, pairs, selection.codes, order)
    finally:
        shutil.rmtree(picks, ignore_errors=True)
    reject_unselected(scored, kept, rejects)
    return Choice(
        pairs=kept.pairs,
        prompts=len(kept.rows),
        drops=picking.drops + selection.drops,
        means=mean_scores(pairs, background.scores),
        prompt_field=rule.prompt_field,
        asked=dict(picking.prompts.told),
        lengths=count_lengths(pairs),
        calibration=picking.fits,
    )


def check_columns(found: pa.Schema, rule: Projection) -> None:
    """Raise PrefdataError for a column of the rule that the rows lack; seeds show theirs late."""
    for key, name, _ in projected(rule):
        if name not in found.names:
            raise PrefdataError(
                f"output_projection.{key}: the rows have no column {name!r}; "
                f"{suggest(name, found.names)}"
            )
        if key.endswith("largest_gap") and name + META_SUFFIX not in found.names:
            raise PrefdataError(
                f"output_projection.{key}: {name!r} has no ratings by item beside it; name a "
                "rubric_judge column of the run"
            )


class _Picking:
    """The first stream: picks, writes what it picked, yields facts about it."""

    def __init__(self, scored: Path, rule: Projection, background: Background) -> None:
        self._scored, self._rule, self._background = scored, rule, background
        self.prompts = PairPrompts(rule, background.recipe, background.roles)
        self.drops: Counter[str] = Counter()
        self.fits: dict[str, LengthFit] = {}
        self._own: Pick | None = None
        columns = all_columns(background.recipe) if background.recipe else ()
        self._filters = filters_before(None, columns)
        if isinstance(rule, PreferencePairs):
            own = [name for target, name in self._filters if target == rule.candidates]
            self.fits = fit_lengths(scored, rule, own)
            if rule.pick:
                self._own = background.functions.find(rule.pick, "output_projection.pick")

    def facts(self, picks: RowsWriter, rejects: RowsWriter) -> Iterator[PairFacts]:
        """Facts of every pair, in the order in which the pairs are written to `picks`."""
        waiting, refused = [], []
        for rows in self._groups():
            made, without = self._pick(rows)
            refused += without
            for row in made:
                waiting.append(row)
                yield facts_of(row, self._rule, is_turn=self._background.has_turns)
            if len(waiting) >= BATCH:
                picks.write(as_table(waiting, picks.schema))
                waiting.clear()
            if len(refused) >= BATCH:
                rejects.write(pa.Table.from_pylist(refused, schema=REJECTS))
                refused.clear()
        picks.write(as_table(waiting, picks.schema))
        rejects.write(pa.Table.from_pylist(refused, schema=REJECTS))

    def _groups(self) -> Iterator[list[Row]]:
        group_by = getattr(self._rule, "group_by", None)
        groups: Iterable[list[Row]] = ([row] for row in read_rows(self._scored))
        if group_by is not None:
            groups = read_groups(self._scored, group_by, self._rule.prompt_field)
        for rows in groups:
            yield [mark_filtered(row, self._filters) for row in rows] if self._filters else rows

    def _pick(self, rows: list[Row]) -> tuple[list[Row], list[Row]]:
        """Pairs of one group, and a reject for every row that gets none of its own."""
        first, prompt = rows[0], self.prompts.of_row(rows[0])
        if not self.prompts.is_asked and says_nothing(prompt):
            detail = f"{self._rule.prompt_field!r} asks nothing: it is empty or blank"
            return [], [
                _refuse(row, _told(row, self._rule, Drop("empty_prompt", detail))) for row in rows
            ]
        identity, members, refused = prompt_identity(prompt), [first], list[Row]()
        strange = Drop(
            "prompt_differs",
            f"the group of row {first[ID]} has a different prompt; name the prompt's column in "
            "group_by, too, to keep such rows apart",
        )
        for row in rows[1:]:
            if prompt_identity(self.prompts.of_row(row)) == identity:
                members.append(row)
            else:
                refused.append(_refuse(row, strange))
        seed = sampling_seed(self._background.seed, first[ID], "pairs")
        picked, sides = self._pick_members(members, seed)
        if (drop := picked.drop) is not None:
            told = [_told(row, self._rule, drop) for row in members]
            if any(one is drop for one in told):  # a text that nobody was to rate has no fault
                self.drops += picked.drops
            return [], refused + [_refuse(*one) for one in zip(members, told, strict=True)]
        self.drops += picked.drops
        pooled = Drop("pooled", f"its candidates are pooled under row {first[ID]}")
        refused += [_refuse(row, pooled) for row in members[1:]]
        given = self.prompts.tools_of(first) if picked.pairs else {}
        made = [
            _pair_row(first, n, pair, sides, self.prompts) | given
            for n, pair in enumerate(picked.pairs)
        ]
        kept = [row for row in made if row["prompt"] != []]
        if len(kept) < len(made):
            self.drops["asked_differently"] += len(made) - len(kept)
        if not kept:
            detail = (
                "the two texts of a pair do not answer the same last turn, so no prompt is true of "
                "both; name a column as output_projection.prompt_field"
            )
            return [], [*refused, _refuse(first, Drop("asked_differently", detail))]
        extra = {name: first[name] for name in _kept_columns(self._rule)}
        return [row | extra | _reward(row, self._rule) for row in kept], refused

    def _pick_members(self, members: list[Row], seed: int) -> tuple[Picked, dict[int, Row]]:
        rule, scores = self._rule, self._background.scores
        if isinstance(rule, DpoPreference):
            a, b, sides = responses_of(members[0], rule, scores)
            verdict = members[0][rule.judge_field]
            winner = verdict.get(rule.winner_field) if isinstance(verdict, dict) else verdict
            if verdict is None:  # the judge is skipped: the reward decides, where it decides ties
                winner = "tie" if rule.ties == "reward" else SKIPPED
            return pick_by_verdict(a, b, winner, rule, seed=seed), sides
        candidates, sides = candidates_of(members, rule, scores, self.fits)
        margin = members[0].get(rule.margin or "")
        return pick_pairs(candidates, rule, seed=seed, margin=margin, own=self._own), sides


def _refuse(row: Row, why: Drop) -> Row:
    return reject(row, stage="pairs", reason=why.reason, detail=why.detail)


def _told(row: Row, rule: Projection, drop: Drop) -> Drop:
    """Why a row has no pair: what the rule misses may not have been asked at all."""
    if drop.reason not in ("empty_prompt", "single_candidate", "empty", "no_score", SKIPPED):
        return drop
    if isinstance(rule, DpoPreference):
        needed: Sequence[str] = (rule.judge_field,)
    else:
        needed = (rule.otherwise,) if rule.otherwise else rule.scores
    for name in (rule.prompt_field, *texts_of_rule(rule), *needed):
        if why := row.get(name + SKIPPED_SUFFIX):
            return Drop(SKIPPED, f"column {name!r} asked nothing: {why}")
    return drop


def facts_of(pair: Row, rule: SetRules, *, is_turn: bool) -> PairFacts:
    """What the selection needs of a pair; its group is a mix's source unless the rule has one.

    `is_turn`: whether other pairs may be of the same conversation.
    """
    prompt = pair["prompt"]
    return PairFacts(
        prompt_identity(prompt),
        _said_on(pair, "chosen"),
        _said_on(pair, "rejected"),
        pair["margin"],
        words_of(prompt),
        as_text(pair[rule.select_group or SOURCE]) if rule.select_group or SOURCE in pair else "",
        root_identity(prompt) if is_turn else None,
        pair["is_tie"],
    )


def _said_on(pair: Row, side: str) -> str:
    return said(pair[side], pair.get(f"{side}_tool_calls"), pair.get(f"{side}_turns"))


def _kept_columns(rule: Projection) -> tuple[str, ...]:
    """Columns of the row that its pairs keep."""
    groups = (getattr(rule, "order_group", None), rule.select_group)
    return tuple(dict.fromkeys((*rule.keep, *filter(None, groups))))


def _reward(row: Row, rule: Projection) -> Row:
    of = getattr(rule, "reward", None)
    return {} if of is None else {"reward": row["margin" if of == "margin" else "chosen_score"]}


def _pair_row(
    first: Row, number: int, pair: Pair, sides: dict[int, Row], prompts: PairPrompts
) -> Row:
    both = {"chosen": sides[id(pair.chosen)], "rejected": sides[id(pair.rejected)]}
    row = {
        ID: f"{first[ID]}-{number}",
        "row_id": first[ID],
        "prompt": prompts.of_pair(first, **both),
        "chosen": pair.chosen.text,
        "rejected": pair.rejected.text,
        "chosen_score": pair.chosen.score,
        "rejected_score": pair.rejected.score,
        "margin": pair.margin,
        "z_margin": pair.z_margin,
        "is_tie": pair.is_tie,
    }
    for side, told in both.items():
        kept = told.keys() - {"row", "column"}
        row.update({f"{side}_{name}": told[name] for name in kept})
    return row


def pair_schema(
    before: pa.Schema,
    rule: Projection,
    scores: Sequence[str],
    prompts: PairPrompts,
) -> pa.Schema:
    """The schema of pairs."""
    fields = [
        pa.field(ID, pa.string()),
        pa.field("row_id", pa.string()),
        *prompts.fields(before),
        *(pa.field(name, pa.string()) for name in ("chosen", "rejected")),
        *(
            pa.field(name, pa.float64())
            for name in ("chosen_score", "rejected_score", "margin", "z_margin")
        ),
        pa.field("is_tie", pa.bool_()),
    ]
    told = SIDE | ({TURNS.name: TURNS.type} if has_turns(before, rule) else {})
    for side in ("chosen", "rejected"):
        fields += [pa.field(f"{side}_{name}", kind) for name, kind in told.items()]
        if scores:
            kind = pa.struct({name: pa.float64() for name in scores})
            fields.append(pa.field(f"{side}_scores", kind))
    fields += [before.field(name) for name in _kept_columns(rule)]
    if getattr(rule, "reward", None) is not None:
        fields.append(pa.field("reward", pa.float64()))
    return pa.schema(fields)


def has_turns(rows: pa.Schema, rule: Projection) -> bool:
    """Whether there may be turns between the prompt and a text."""
    name = getattr(rule, "candidates", None)
    kind = rows.field(name).type if name else None
    kind = kind.value_type if kind is not None and pa.types.is_list(kind) else None
    return kind is not None and pa.types.is_struct(kind) and kind.get_field_index(TURNS.name) >= 0


def as_table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    """Pairs as they are written."""
    coded = [field.name for field in schema if is_json(field)]
    if coded:
        rows = [r | {n: orjson.dumps(r[n]).decode() for n in coded} for r in rows]
    return pa.Table.from_pylist(rows, schema=schema)
