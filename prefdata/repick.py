"""`prefdata pairs`: choose again from a finished run, or from scored candidates made elsewhere."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from prefdata.errors import PrefdataError, suggest
from prefdata.fingerprint import digest, pairs_fingerprint
from prefdata.preferences import choose_pairs
from prefdata.recipe_columns import score_columns
from prefdata.recipe_loader import load_recipe, validate_pair_rules
from prefdata.record import Record, count_reasons, read_record, withdraw_record, write_record
from prefdata.rows import CANDIDATE, REJECTS, Row, reject
from prefdata.runtime.disk import disk_errors, hold, write_text
from prefdata.runtime.folders import RowsWriter, read_tables

Say = Callable[[str], None]
_DEFAULTS = {
    "type": "preference_pairs",
    "candidates": "candidates",
    "score": "score",
    "strategy": "best_vs_worst",
}


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of the fields of a JSONL of scored candidates, one candidate a line."""

    group: str
    prompt: str
    text: str
    score: str


def pairs_of_run(run: Path, overrides: Sequence[str], out: Path) -> Record:
    """Choose pairs again from the candidates of a run; models and journal are not touched.

    Args:
        run: folder of a finished run.
        overrides: `key=value` of the pair rules, on top of the run's own.
        out: gets pairs, rejects, recipe.yaml and run.json; the run itself to replace them there.

    Raises:
        PrefdataError: no finished run there, or a rule that its columns cannot serve.
    """
    record = read_record(run)
    if record is None or "scored_fingerprint" not in record:
        raise PrefdataError(f"{run}: no finished run there; run `prefdata build` first")
    loaded = load_recipe(run / "recipe.yaml", [f"output_projection.{rule}" for rule in overrides])
    before = [row for table in read_tables(run / "rejects") for row in table.to_pylist()]
    kept = [row for row in before if row["stage"] != "pairs"]
    rule, seed = loaded.recipe.output_projection, loaded.recipe.seed
    with disk_errors(out), hold(out):
        changed = _choose(run / "candidates", out, kept, rule, score_columns(loaded.recipe), seed)
        fingerprint = pairs_fingerprint(record["scored_fingerprint"], loaded.recipe)
        write_text(out / "recipe.yaml", loaded.resolved)
        return write_record(out, record | changed | {"fingerprint": fingerprint})


def pairs_of_file(
    file: Path, fields: Fields, overrides: Sequence[str], out: Path, *, seed: int, say: Say
) -> Record:
    """Choose pairs from a JSONL of scored candidates; lines of equal group belong to one prompt.

    A group's first line says what its prompt is; lines that disagree, or lack a field, are rejects.

    Args:
        file: one JSON object a line; other fields are ignored but for alias, model, temperature,
            sample and finish_reason, which are carried along.
        fields: what its fields are called.
        overrides: `key=value` of the pair rules; best_vs_worst where they name no strategy.
        out: gets candidates, pairs, rejects and run.json.
        seed: of draws, samples and splits.
        say: told of bad lines.

    Raises:
        PrefdataError: the file is missing or has no usable line, or a rule is wrong.
    """
    rule = validate_pair_rules(_DEFAULTS, overrides)
    groups = _Groups(fields)
    try:
        with file.open("rb") as lines:
            groups.read(lines, file.name)
    except FileNotFoundError as err:
        raise PrefdataError(f"{file}: there is no such run folder and no such file") from err
    if not groups.rows:
        first = (
            f"; the first: {groups.rejects[0]['source']}: {groups.rejects[0]['detail']}"
            if groups.rejects
            else ""
        )
        raise PrefdataError(f"{file}: there is no usable line{first}")
    for bad in groups.rejects[:5]:
        say(f"{bad['source']}: {bad['reason']}: {bad['detail']}; it goes to rejects")
    with disk_errors(out), hold(out):
        _save(groups, out / "candidates")
        seeds = len(groups.rows) + len(groups.rejects)
        changed = _choose(out / "candidates", out, groups.rejects, rule, ["score"], seed)
        count = sum(len(row["candidates"]) for row in groups.rows.values())
        base = {
            "seeds": seeds,
            "rows": seeds,
            "added": {},
            "judges": {},
            "candidates": count,
            "rehearsed": False,
            "source": file.name,
        }
        work = {
            "requests": {"generated": 0, "scored": 0, "replayed": 0},
            "tokens": {"completion": 0},
        }
        return write_record(out, base | work | changed | {"projection": rule.model_dump()})


def _choose(
    scored: Path, out: Path, before: list[Row], rule: Any, scores: Sequence[str], seed: int
) -> dict[str, Any]:
    withdraw_record(out)
    start = time.monotonic()
    with RowsWriter(out / "rejects", REJECTS) as rejects:
        rejects.write(pa.Table.from_pylist(before, schema=REJECTS))
        choice = choose_pairs(scored, out / "pairs", rejects, rule, scores=scores, seed=seed)
    return {
        "pairs": choice.pairs,
        "prompts": choice.prompts,
        "rejects": count_reasons(out / "rejects"),
        "drops": dict(choice.drops),
        "means": choice.means,
        "seconds": {"pairs": time.monotonic() - start, "total": time.monotonic() - start},
    }


class _Groups:
    """Lines of scored candidates, gathered into one row a group."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self.rows: dict[str, Row] = {}
        self.rejects: list[Row] = []

    def read(self, lines: Iterable[bytes], name: str) -> None:
        for number, raw in enumerate(lines, start=1):
            if raw.strip():
                self._add(raw, f"{name}:{number}")

    def _add(self, raw: bytes, source: str) -> None:
        try:
            line = orjson.loads(raw)
        except orjson.JSONDecodeError as err:
            return self._refuse(
                source,
                {"raw": raw.decode("utf-8", "replace")},
                "bad_line",
                f"not valid JSON: {err}",
            )
        if not isinstance(line, dict):
            return self._refuse(source, {"raw": line}, "bad_line", "a line is one JSON object")
        names = self._fields
        for field in (names.group, names.prompt, names.text, names.score):
            if line.get(field) is None and field != names.score:
                why = f"there is no {field!r}; {suggest(field, line)}"
                return self._refuse(source, line, "missing_field", why)
        if not isinstance(line[names.text], str):
            return self._refuse(source, line, "field_type", f"{names.text!r} is no text")
        if not _is_prompt(line[names.prompt]):
            why = f"{names.prompt!r} is neither a text nor a list of messages with role and content"
            return self._refuse(source, line, "field_type", why)
        row = self.rows.setdefault(digest(line[names.group], size=10), self._new_row(line))
        if row["prompt"] != _prompt(line[names.prompt]):
            why = f"another line of the group {line[names.group]!r} has another prompt"
            return self._refuse(source, line, "prompt_differs", why)
        row["candidates"].append(_candidate(line, names, len(row["candidates"])))
        row["score"].append(_number(line.get(names.score)))
        return None

    def _new_row(self, line: Row) -> Row:
        group = digest(line[self._fields.group], size=10)
        return {
            "id": group,
            "prompt": _prompt(line[self._fields.prompt]),
            "candidates": [],
            "score": [],
        }

    def _refuse(self, source: str, line: Row, reason: str, detail: str) -> None:
        row = reject(line, stage="seeds", reason=reason, detail=detail, source=source)
        self.rejects.append({**row, "id": digest(source, line, size=10)})


def _is_prompt(value: Any) -> bool:
    if not isinstance(value, list):
        return isinstance(value, str)
    turns = [turn if isinstance(turn, dict) else {} for turn in value]
    return bool(turns) and all(
        isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str) for turn in turns
    )


def _prompt(value: Any) -> Any:
    """A text, or a list of messages with role and content alone."""
    if isinstance(value, str):
        return value
    return [{"role": turn["role"], "content": turn["content"]} for turn in value]


def _candidate(line: Row, names: Fields, position: int) -> Row:
    known = {field.name: line.get(field.name) for field in CANDIDATE.fields}
    return known | {"text": line[names.text], "sample": line.get("sample", position)}


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):  # no score: pairs drops the candidate and counts it
        return None


def _save(groups: _Groups, folder: Path) -> None:
    prompt = pa.array([row["prompt"] for row in groups.rows.values()]).type
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("prompt", prompt),
            ("candidates", pa.list_(CANDIDATE)),
            ("score", pa.list_(pa.float64())),
        ]
    )
    with RowsWriter(folder, schema) as writer:
        rows = iter(groups.rows.values())
        while chunk := list(islice(rows, 1000)):
            writer.write(pa.Table.from_pylist(chunk, schema=schema))
