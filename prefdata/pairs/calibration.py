"""What scores give a text for its length: one slope a column, over all prompts. Picks nothing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prefdata.pairs.groups import group_keys
from prefdata.recipe.projection import PreferencePairs
from prefdata.recipe.values import META_SUFFIX
from prefdata.rows import ENDS
from prefdata.storage.folders import read_tables

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LengthFit:
    """A regression of scores on tokens within prompts.

    Attributes:
        slope: score for a token more, 0 where it cannot be told.
        tokens: mean of all texts; their scores stay as they are on the whole.
        correlation: of score and tokens within prompts; None where it cannot be told.
        texts: with a score, known tokens and an end.
    """

    slope: float
    tokens: float
    correlation: float | None
    texts: int

    def calibrated(self, score: float | None, tokens: int | None) -> float | None:
        """The score without what the text has for its length; None where either is unknown."""
        if score is None or tokens is None:
            return None
        return score - self.slope * (tokens - self.tokens)


def fit_lengths(
    scored: Path, rule: PreferencePairs, filters: Iterable[str] = ()
) -> dict[str, LengthFit]:
    """The fit of every column of `calibrate_length`, over the texts that may be paired.

    A straight line through the differences within prompts, by least squares: the linear case of
    post-hoc calibration (arXiv 2409.17407, which takes a local regression off the rewards). Within
    prompts, since a prompt that asks for a long answer may be an easy one.

    `filters`: columns that say which candidates are left out.
    """
    places: list[NDArray[np.int64]] = []
    tokens: list[Floats] = []
    scores: dict[str, list[Floats]] = {name: [] for name in rule.calibrate_length or ()}
    if not scores:
        return {}
    numbers: dict[str, int] = {}
    for table in read_tables(scored):
        prompts = _prompts(table, rule, numbers)
        for place, texts, counts, rated in _texts(table, rule, prompts, tuple(scores)):
            places.append(place)
            is_out = _left_out(table, rule, filters) | _are_blank(texts, counts)
            tokens.append(np.where(is_out, np.nan, _tokens(counts)))
            for name, found in scores.items():
                found.append(rated[name])
    if not places:
        return dict.fromkeys(scores, LengthFit(0.0, 0.0, None, 0))
    prompt, lengths = np.concatenate(places), np.concatenate(tokens)
    return {name: _fit(prompt, lengths, np.concatenate(found)) for name, found in scores.items()}


def tell_calibration(record: Mapping[str, Any]) -> dict[str, str]:
    """One sentence for every score of a run from which length was taken off, by column."""
    return {
        name: (
            f"{100 * fit['slope']:+.4g} for 100 tokens more is taken off; correlation with length "
            f"within prompts {fit['correlation']:+.2f} before, of {fit['texts']:,} texts"
            if fit["correlation"] is not None
            else "nothing is taken off: no prompt has two scored texts of different known length"
        )
        for name, fit in record.get("calibration", {}).items()
    }


def _prompts(table: pa.Table, rule: PreferencePairs, numbers: dict[str, int]) -> NDArray[np.int64]:
    """The number of each row's prompt, or group."""
    if rule.group_by is None:
        start = numbers.setdefault("", 0)
        numbers[""] += table.num_rows
        return np.arange(start, start + table.num_rows)
    keys = group_keys(table, rule.group_by, rule.prompt_field)
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _texts(
    table: pa.Table, rule: PreferencePairs, prompts: NDArray[np.int64], scores: Sequence[str]
) -> Iterator[tuple[NDArray[np.int64], pa.Array, pa.StructArray, Mapping[str, Floats]]]:
    """Prompt, text, provenance and scores of some texts at a time."""
    table = table.combine_chunks()
    if not table.num_rows:
        return
    if rule.candidates:
        lists = table[rule.candidates].chunk(0)
        rated = {name: _floats(table[name].chunk(0).flatten()) for name in scores}
        made = lists.flatten()
        parents = prompts[pc.list_parent_indices(lists).to_numpy()]
        yield parents, pc.struct_field(made, "text"), made, rated
        return
    for name in rule.responses or ():
        if name + META_SUFFIX in table.column_names:
            rated = {one: _floats(pc.struct_field(table[one].chunk(0), name)) for one in scores}
            yield prompts, table[name].chunk(0), table[name + META_SUFFIX].chunk(0), rated


def _are_blank(texts: pa.Array, made: pa.StructArray) -> Any:
    """Of every text whether it shows nothing and calls no tool."""
    is_blank = pc.equal(pc.utf8_trim_whitespace(texts), "")
    calls = pc.is_null(_part(made, "tool_calls"))
    return pc.fill_null(pc.and_(is_blank, calls), True).to_numpy(zero_copy_only=False)


def _tokens(texts: pa.StructArray) -> Floats:
    """NaN where they are unknown, or the text has no end."""
    thought = pc.fill_null(_part(texts, "reasoning_tokens"), 0)
    counts = pc.subtract(pc.struct_field(texts, "completion_tokens"), thought)
    reasons = pc.struct_field(texts, "finish_reason")
    is_whole = pc.or_(pc.is_null(reasons), pc.is_in(reasons, pa.array(ENDS)))
    return _floats(pc.if_else(is_whole, counts, pa.scalar(None, counts.type)))


def _part(texts: pa.StructArray, name: str) -> pa.Array:
    """Null where the candidates are of a run from before there was such a part."""
    is_there = texts.type.get_field_index(name) >= 0
    return pc.struct_field(texts, name) if is_there else pa.nulls(len(texts), pa.int32())


def _left_out(table: pa.Table, rule: PreferencePairs, filters: Iterable[str]) -> Any:
    """Of every candidate whether some filter leaves it out."""
    is_out: Any = False
    for name in filters:
        sizes = pc.fill_null(pc.list_value_length(table[rule.candidates]), 0).to_pylist()
        told = zip(table[name].to_pylist(), sizes, strict=True)
        reasons = [why for row, size in told for why in row or [None] * size]
        is_out |= np.array([why is not None for why in reasons], dtype=np.bool_)
    return is_out


def _floats(values: pa.Array) -> Floats:
    found: Floats = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return found


def _fit(prompt: NDArray[np.int64], tokens: Floats, scores: Floats) -> LengthFit:
    known = np.isfinite(tokens) & np.isfinite(scores)
    prompt, tokens, scores = prompt[known], tokens[known], scores[known]
    if not len(prompt):
        return LengthFit(0.0, 0.0, None, 0)
    sizes = np.maximum(np.bincount(prompt), 1)
    across, up = (
        one - (np.bincount(prompt, weights=one) / sizes)[prompt] for one in (tokens, scores)
    )
    spread, rise, both = across @ across, up @ up, across @ up
    slope = both / spread if spread else 0.0
    correlation = both / np.sqrt(spread * rise) if spread and rise else None
    mean = float(tokens.mean())
    return LengthFit(
        float(slope), mean, None if correlation is None else float(correlation), len(prompt)
    )
