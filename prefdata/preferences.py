"""From scored rows to pairs and rejects on disk. The rules themselves live in pairs and selection.

Two streams: the first picks within each prompt and hands light facts to `select`, the second
keeps what `select` kept. Every row that goes in comes out in a pair or in a reject.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import fsum
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from prefdata.fingerprint import sampling_seed
from prefdata.pairs import Candidate, Pair, Picked, pick_by_verdict, pick_pairs
from prefdata.projection import DpoPreference, PreferencePairs
from prefdata.ranking import combine_ranks
from prefdata.recipe import META_SUFFIX
from prefdata.rows import ID, REJECTS, Row, is_json, reject
from prefdata.runtime.disk import temporary_name, whole_file
from prefdata.runtime.folders import RowsWriter, read_rows, read_schema, read_tables
from prefdata.selection import VERDICTS, PairFacts, Verdict, select

Projection = DpoPreference | PreferencePairs
BATCH = 1000
_SIDE = {
    "alias": pa.string(),
    "model": pa.string(),
    "temperature": pa.float64(),
    "sample": pa.int32(),
    "finish_reason": pa.string(),
    "completion_tokens": pa.int32(),
}
"""What is kept of each side, as `chosen_<name>` and `rejected_<name>`; `chosen_scores` and
`rejected_scores` hold every score column."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What became of the scored rows.

    Attributes:
        pairs: by split.
        prompts: rows that have at least one pair.
        drops: candidates and pairs left out within prompts, and pairs left out over the whole set.
        means: of every score column, over chosen and over rejected: {column: (chosen, rejected)}.
    """

    pairs: dict[str, int]
    prompts: int
    drops: Counter[str]
    means: dict[str, tuple[float, float]]


def choose_pairs(
    scored: Path,
    pairs: Path,
    rejects: RowsWriter,
    rule: Projection,
    *,
    scores: Sequence[str],
    seed: int,
) -> Choice:
    """Write the folder `pairs` (train and test) and add this step's rejects to `rejects`.

    Args:
        scored: folder of rows with candidates and scores, or responses and verdicts.
        pairs: what the new folder is called.
        rejects: an open writer.
        rule: the recipe's projection.
        scores: columns with a score per candidate, or per response.
        seed: the recipe's.
    """
    picks = temporary_name(pairs.with_name("picks"))
    picking = _Picking(scored, rule, scores, seed)
    try:
        with RowsWriter(picks, _pair_schema(scored, rule, scores)) as writer:
            selection = select(picking.facts(writer, rejects), rule, seed=seed)
        order = None
        if isinstance(rule, PreferencePairs) and rule.order_by is not None:
            order = partial(_easy_first, group=rule.order_group)
        kept = _keep(picks, pairs, selection.codes, order)
    finally:
        shutil.rmtree(picks, ignore_errors=True)
    _reject_unselected(scored, kept, rejects)
    drops = picking.drops + Counter(
        {k: v for k, v in selection.counts.items() if k not in ("train", "test") and v}
    )
    return Choice(kept.pairs, len(kept.rows), drops, _means(pairs, scores))


def write_jsonl(pairs: Path, split: str, place: Path, *, columns: Sequence[str]) -> None:
    """Write one split as JSON lines with these columns alone, whole or not at all."""
    with whole_file(place) as file:
        coded = [field.name for field in read_schema(pairs) if is_json(field)]
        for table in read_tables(pairs, columns=columns, stem=split):
            for row in table.to_pylist():
                row |= {name: orjson.loads(row[name]) for name in coded if name in row}
                file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


@dataclass
class _Kept:
    """Rows with a pair, and rows whose pairs were all dropped, with the reason of the first."""

    pairs: dict[str, int] = field(default_factory=lambda: {"train": 0, "test": 0})
    rows: set[str] = field(default_factory=set)
    lost: dict[str, Verdict] = field(default_factory=dict)


class _Picking:
    """The first stream: picks, writes what it picked, yields facts about it."""

    def __init__(self, scored: Path, rule: Projection, scores: Sequence[str], seed: int) -> None:
        self._scored, self._rule, self._scores, self._seed = scored, rule, scores, seed
        self.drops: Counter[str] = Counter()

    def facts(self, picks: RowsWriter, rejects: RowsWriter) -> Iterator[PairFacts]:
        """Facts of every pair, in the order in which the pairs are written to `picks`."""
        waiting, refused = [], []
        for rows in self._groups():
            made, without = self._pick(rows)
            refused += without
            for row in made:
                waiting.append(row)
                yield PairFacts(
                    _as_text(row["prompt"]), row["chosen"], row["rejected"], row["margin"]
                )
            if len(waiting) >= BATCH:
                picks.write(_as_table(waiting, picks.schema))
                waiting.clear()
            if len(refused) >= BATCH:
                rejects.write(pa.Table.from_pylist(refused, schema=REJECTS))
                refused.clear()
        picks.write(_as_table(waiting, picks.schema))
        rejects.write(pa.Table.from_pylist(refused, schema=REJECTS))

    def _groups(self) -> Iterator[list[Row]]:
        group_by = getattr(self._rule, "group_by", None)
        if group_by is None:
            yield from ([row] for row in read_rows(self._scored))
            return
        # groups may lie anywhere in the set: this one case needs it in memory
        table = pa.concat_tables(read_tables(self._scored))
        keys = table[group_by].to_pylist()
        places: dict[Any, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(_as_text(key), []).append(place)
        for members in places.values():
            yield table.take(pa.array(members)).to_pylist()

    def _pick(self, rows: list[Row]) -> tuple[list[Row], list[Row]]:
        """Pairs of one group, and a reject for every row that gets none of its own."""
        first, field_name = rows[0], self._rule.prompt_field
        prompt = first[field_name]
        strangers = [row for row in rows if row[field_name] != prompt]
        members = [row for row in rows if row[field_name] == prompt]
        refused = [
            reject(
                row,
                stage="pairs",
                reason="prompt_differs",
                detail=f"group of row {first[ID]} has another prompt",
            )
            for row in strangers
        ]
        picked, sides = self._pick_members(members, sampling_seed(self._seed, first[ID], "pairs"))
        self.drops += picked.drops
        if picked.drop is not None:
            reason, detail = picked.drop.reason, picked.drop.detail
            return [], refused + [
                reject(row, stage="pairs", reason=reason, detail=detail) for row in members
            ]
        refused += [
            reject(
                row,
                stage="pairs",
                reason="pooled",
                detail=f"its candidates are pooled under row {first[ID]}",
            )
            for row in members[1:]
        ]
        made = [_pair_row(first[ID], n, prompt, pair, sides) for n, pair in enumerate(picked.pairs)]
        extra = {name: first[name] for name in _kept_columns(self._rule)}
        return [row | extra | _reward(row, self._rule) for row in made], refused

    def _pick_members(self, members: list[Row], seed: int) -> tuple[Picked, dict[int, Row]]:
        if isinstance(self._rule, DpoPreference):
            a, b, sides = _responses(members[0], self._rule, self._scores)
            verdict = members[0][self._rule.judge_field]
            winner = verdict.get(self._rule.winner_field) if isinstance(verdict, dict) else verdict
            return pick_by_verdict(a, b, winner, self._rule, seed=seed), sides
        candidates, sides = _candidates(members, self._rule, self._scores)
        return pick_pairs(candidates, self._rule, seed=seed), sides


def _candidates(
    members: list[Row], rule: PreferencePairs, scores: Sequence[str]
) -> tuple[list[Candidate], dict[int, Row]]:
    """Candidates of a group, and what is recorded of each, by the candidate's id()."""
    described = [one for row in members for one in _described(row, rule, scores)]
    if isinstance(rule.score, dict):
        usable = [_is_usable(one, rule) for one in described]
        ranked = combine_ranks([o["scores"] for o, u in zip(described, usable, strict=True) if u], rule.score)  # fmt: skip  # noqa: E501
        values = iter(ranked)
        totals = [next(values) if is_usable else None for is_usable in usable]
    else:
        totals = [one["scores"].get(rule.score) for one in described]
    found: list[Candidate] = []
    sides: dict[int, Row] = {}
    for one, total in zip(described, totals, strict=True):
        candidate = Candidate(
            text=one["text"],
            score=total,
            alias=one["alias"],
            sample=one["sample"],
            finish_reason=one["finish_reason"],
            scores=one["scores"],
        )
        found.append(candidate)
        sides[id(candidate)] = one
    return found, sides


def _described(row: Row, rule: PreferencePairs, scores: Sequence[str]) -> Iterator[Row]:
    """Text, provenance and scores of every candidate of a row."""
    if rule.candidates:
        for number, one in enumerate(row[rule.candidates]):
            yield one | {"scores": {name: row[name][number] for name in scores}}
        return
    empty = dict.fromkeys(_SIDE)
    for number, name in enumerate(rule.responses or ()):
        meta = row.get(name + META_SUFFIX) or {}
        rated = {score: (row[score] or {}).get(name) for score in scores}
        yield empty | meta | {"text": row[name] or "", "sample": number, "scores": rated}


def _is_usable(one: Row, rule: PreferencePairs) -> bool:
    """Whether a candidate counts when the others are ranked."""
    return bool(one["text"].strip()) and (
        one["finish_reason"] != "length" or rule.truncated_rejected
    )


def _responses(
    row: Row, rule: DpoPreference, scores: Sequence[str]
) -> tuple[Candidate, Candidate, dict[int, Row]]:
    made = []
    sides: dict[int, Row] = {}
    for name in (rule.response_a_field, rule.response_b_field):
        meta = row.get(name + META_SUFFIX) or {}
        rated = {score: (row[score] or {}).get(name) for score in scores}
        candidate = Candidate(
            text=row[name] or "",
            score=rated.get(rule.score) if rule.score else None,
            finish_reason=meta.get("finish_reason"),
        )
        sides[id(candidate)] = meta | {"scores": rated}
        made.append(candidate)
    return made[0], made[1], sides


def _kept_columns(rule: Projection) -> tuple[str, ...]:
    """Columns of the row that its pairs keep."""
    group = getattr(rule, "order_group", None)
    return tuple(dict.fromkeys((*rule.keep, *([group] if group else []))))


def _reward(row: Row, rule: Projection) -> Row:
    of = getattr(rule, "reward", None)
    return {} if of is None else {"reward": row["margin" if of == "margin" else "chosen_score"]}


def _pair_row(row_id: str, number: int, prompt: Any, pair: Pair, sides: dict[int, Row]) -> Row:
    row = {
        ID: f"{row_id}-{number}",
        "row_id": row_id,
        "prompt": prompt,
        "chosen": pair.chosen.text,
        "rejected": pair.rejected.text,
        "chosen_score": pair.chosen.score,
        "rejected_score": pair.rejected.score,
        "margin": pair.margin,
        "z_margin": pair.z_margin,
        "is_tie": pair.is_tie,
    }
    for side, candidate in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        row.update({f"{side}_{name}": value for name, value in sides[id(candidate)].items()})
    return row


def _pair_schema(scored: Path, rule: Projection, scores: Sequence[str]) -> pa.Schema:
    before = read_schema(scored)
    fields = [
        pa.field(ID, pa.string()),
        pa.field("row_id", pa.string()),
        before.field(rule.prompt_field).with_name("prompt"),
        *(pa.field(name, pa.string()) for name in ("chosen", "rejected")),
        *(
            pa.field(name, pa.float64())
            for name in ("chosen_score", "rejected_score", "margin", "z_margin")
        ),
        pa.field("is_tie", pa.bool_()),
    ]
    for side in ("chosen", "rejected"):
        fields += [pa.field(f"{side}_{name}", kind) for name, kind in _SIDE.items()]
        if scores:
            kind = pa.struct({name: pa.float64() for name in scores})
            fields.append(pa.field(f"{side}_scores", kind))
    fields += [before.field(name) for name in _kept_columns(rule)]
    if getattr(rule, "reward", None) is not None:
        fields.append(pa.field("reward", pa.float64()))
    return pa.schema(fields)


def _as_table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    coded = [field.name for field in schema if is_json(field)]
    if coded:
        rows = [r | {n: orjson.dumps(r[n]).decode() for n in coded} for r in rows]
    return pa.Table.from_pylist(rows, schema=schema)


def _easy_first(table: pa.Table, group: str | None) -> pa.Table:
    """Pairs by falling margin; those of a group together, groups by their falling mean margin."""
    margins = table["margin"].to_pylist()
    keys = table[group].to_pylist() if group else list(range(len(margins)))
    told = [_as_text(key) for key in keys]
    sums: dict[str, list[float]] = {}
    for key, margin in zip(told, margins, strict=True):
        sums.setdefault(key, []).append(margin or 0.0)
    means = {key: fsum(found) / len(found) for key, found in sums.items()}
    order = sorted(range(len(told)), key=lambda n: (-means[told[n]], told[n], -(margins[n] or 0.0)))
    return table.take(pa.array(order, pa.int64()))


def _keep(
    picks: Path, pairs: Path, codes: Any, order: Callable[[pa.Table], pa.Table] | None
) -> _Kept:
    """The second stream: kept pairs to their split; rows that lost all their pairs are noted.

    Where there is an `order`, a split is held in memory until it can be written in it.
    """
    kept, names, start = _Kept(), list(VERDICTS), 0
    held: dict[str, list[pa.Table]] = {"train": [], "test": []}
    with RowsWriter(pairs, read_schema(picks), stem="train") as writer:
        for table in read_tables(picks):
            mine = codes[start : start + table.num_rows].tolist()
            start += table.num_rows
            for split in ("train", "test"):
                places = [n for n, code in enumerate(mine) if names[code] == split]
                if not places:
                    continue
                kept.pairs[split] += len(places)
                if order is None:
                    writer.write(table.take(pa.array(places)), stem=split)
                else:
                    held[split].append(table.take(pa.array(places)))
            for row, code in zip(table["row_id"].to_pylist(), mine, strict=True):
                if names[code] in kept.pairs:
                    kept.rows.add(row)
                else:
                    kept.lost.setdefault(row, names[code])
        for split, tables in held.items():
            if order is not None and tables:
                writer.write(order(pa.concat_tables(tables)), stem=split)
    kept.lost = {row: reason for row, reason in kept.lost.items() if row not in kept.rows}
    return kept


def _reject_unselected(scored: Path, kept: _Kept, rejects: RowsWriter) -> None:
    if not kept.lost:
        return
    for table in read_tables(scored):
        places = [n for n, row in enumerate(table[ID].to_pylist()) if row in kept.lost]
        rows = table.take(pa.array(places, pa.int64())).to_pylist()
        refused = [
            reject(
                row, stage="pairs", reason=kept.lost[row[ID]], detail=VERDICTS[kept.lost[row[ID]]]
            )
            for row in rows
        ]
        rejects.write(pa.Table.from_pylist(refused, schema=REJECTS))


def _means(pairs: Path, scores: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Mean of each score column over chosen and over rejected, nulls left out."""
    seen: dict[str, tuple[_Mean, _Mean]] = {name: (_Mean(), _Mean()) for name in scores}
    if not seen:
        return {}
    for table in read_tables(pairs, columns=["chosen_scores", "rejected_scores"]):
        for at, column in enumerate(table.columns):
            for row in column.to_pylist():
                for name, value in row.items():
                    seen[name][at].add(value)
    return {name: (c.mean, r.mean) for name, (c, r) in seen.items() if c.count and r.count}


@dataclass
class _Mean:
    """A running mean that passes over nulls."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float | None) -> None:
        if value is not None:
            self.total += value
            self.count += 1

    @property
    def mean(self) -> float:
        return self.total / self.count


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
