"""Writes docs/columns.md: what every column of a run holds, from the code that makes them."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import yaml

from prefdata import rows
from prefdata.hub.card_columns import NESTED, describe_columns
from prefdata.pipeline import build
from prefdata.recipe.loader import load_recipe
from prefdata.recipe.schema import AnyColumn
from prefdata.stages import fields_of
from prefdata.storage.folders import read_schema

PAGE = Path(__file__).parent.parent / "docs" / "columns.md"
CHOICE = {"type": "object", "properties": {"winner": {"enum": ["A", "B"]}}, "required": ["winner"]}
ASKS = {"model_alias": "lm", "prompt": "{{ prompt }}"}
SCORES = {"candidates": "candidates"}
COLUMNS = [
    {"name": "text", "type": "llm_text", **ASKS},
    {"name": "other", "type": "llm_text", **ASKS},
    {"name": "facts", "type": "llm_structured", **ASKS, "output_format": {"type": "object"}},
    {"name": "verdict", "type": "llm_judge", "model_alias": "lm", "output_format": CHOICE,
     "prompt": "{{ prompt }} {{ text }} {{ other }}"},
    {"name": "candidates", "type": "candidates", **ASKS, "samples": 2},
    {"name": "judged", "type": "llm_judge", "model_alias": "lm", **SCORES,
     "tournament": {"type": "swiss"}},
    {"name": "reward", "type": "reward_model", "model_alias": "rm", **SCORES},
    {"name": "rubric", "type": "rubric_judge", "model_alias": "lm", **SCORES,
     "scale": [1, 5], "criteria": {"help": "helpful"}},
    {"name": "right", "type": "verifier", "method": "number", "reference": "answer", **SCORES},
    {"name": "item", "type": "expand", "column": "text", "lines": True},
    {"name": "part", "type": "extract", "column": "text", "pattern": "(?P<first>.*) (?P<last>.*)"},
    {"name": "length", "type": "expression", "expression": "{{ text | length }}", "dtype": "int"},
    {"name": "topic", "type": "category", "values": ["one", "two"]},
    {"name": "own", "type": "stage", "function": "own:stage",
     "returns": {"draft": "str", "gain": "float"}},
    {"name": "talk", "type": "converse", **ASKS, "user_alias": "lm", "turns": 2},
    {"name": "kept", "type": "filter", "function": "own:keep"},
    {"name": "fine", "type": "filter", "refusals": True, **SCORES, "skip_when": "{{ length > 9 }}"},
]  # fmt: skip
OWN = "async def stage(row, ask): ...\ndef keep(row): ...\n"
HEAD = """\
# Columns

What each column of a run holds; `scripts/write_columns.py` writes this page from the code.
`load_dataset(RUN, "pairs")` reads the folder of this name, likewise `candidates` and `rejects`;
`stages/` holds the rows after each pass. A column is a JSON text where Arrow has no type for it.
"""
SEEDS = """\
## Seeds

`stages/0-seeds-…` holds the fields that `seed_dataset.fields` names, as the files have them, and:

| column | type | holds |
|---|---|---|
| `id` | string | the row's key: a hash of the seed, or of what `expand` made it of |
"""
MADE = """\
## Candidates

`candidates/` holds the seeds' columns and those that the recipe's columns add, here by their type.
The names are examples: a column adds its own `name`.

| type | column | type in Arrow | holds |
|---|---|---|---|
"""
PARTS = """\
## Parts of nested columns

Of a candidate, and of what stands in `…__meta` beside a text:

| part | type | holds |
|---|---|---|
"""


def recipe(columns: list[dict[str, Any]], **rule: Any) -> dict[str, Any]:
    """A recipe of two models with these columns."""
    sampling = {"temperature": 0.9, "max_tokens": 32}
    return {
        "output_dir": "run",
        "seed_dataset": {"path": "seeds.jsonl", "fields": ["prompt", "answer"]},
        "models": [{"alias": "lm", "model": "lm", "inference_parameters": sampling},
                   {"alias": "rm", "model": "rm"}],
        "columns": columns,
        "output_projection": {"type": "preference_pairs", "candidates": "candidates",
                              "score": "reward", "strategy": "best_vs_worst", **rule},
    }  # fmt: skip


def columns_page() -> str:
    """The page as it should be."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "own.py").write_text(OWN)
        (folder / "seeds.jsonl").write_text('{"prompt": "a", "answer": 1}\n')
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(COLUMNS)))
        loaded = load_recipe(folder / "recipe.yaml", [])
        made = "".join(_made(loaded.recipe))
        asked = [one for one in COLUMNS if one["name"] in ("candidates", "reward")]
        whole = recipe(asked, keep=["answer"], reward="margin", margin_unit="z_score")
        (folder / "recipe.yaml").write_text(yaml.safe_dump(whole))
        run = folder / "run"
        build(load_recipe(folder / "recipe.yaml", []), run, rehearse=True, say=lambda line: None)
        tables = [
            f"\n## {config.capitalize()}\n\n{lead}\n\n| column | type | holds |\n|---|---|---|\n"
            + "".join(
                f"| `{one.name}` | {one.type} | {one.meaning} |\n"
                for one in describe_columns(config, read_schema(run / config), None)
            )
            for config, lead in (
                ("pairs", "`pairs/` has train and test. `answer` stands for what `keep` names."),
                ("rejects", "`rejects/` has every row without a pair."),
            )
        ]
    nested = {f.name: f for kind in _structs() for f in kind.fields}
    parts = "".join(f"| `{n}` | {_plain(nested[n])} | {m} |\n" for n, m in NESTED.items())
    return f"{HEAD}\n{SEEDS}\n{MADE}{made}\n{PARTS}{parts}{''.join(tables)}"


def _made(loaded: Any) -> Iterator[str]:
    types = {get_args(one.model_fields["type"].annotation)[0] for one in get_args(get_args(AnyColumn)[0])}  # fmt: skip  # noqa: E501
    assert types == {column.type for column in loaded.columns}, "COLUMNS lacks a type"
    seen = set()
    for column in loaded.columns:
        fields = pa.schema(fields_of(column))
        for one in describe_columns("candidates", fields, loaded):
            if (column.type, one.type) not in seen:
                kind = one.type if len(one.type) < 40 else f"{one.type.split(',')[0]}, …}}"
                yield f"| `{column.type}` | `{one.name}` | {kind} | {one.meaning} |\n"
            seen.add((column.type, one.type))


def _structs() -> list[pa.StructType]:
    one = pa.struct([rows.TURNS])
    metas = [rows.STRUCTURED_META, rows.PANEL_META, rows.TOURNAMENT_META, rows.EXPAND_META]
    return [rows.CANDIDATE, *metas, one, rows.LEFT_OUT]


def _plain(field: pa.Field) -> str:
    if pa.types.is_list(field.type) and pa.types.is_struct(field.type.value_type):
        return f"list of {{{', '.join(part.name for part in field.type.value_type.fields)}}}"
    return str(field.type).replace("list<item: double>", "list of float64").replace("double", "float64").replace("list<item: string>", "list of string")  # fmt: skip  # noqa: E501


if __name__ == "__main__":
    PAGE.write_text(columns_page())
