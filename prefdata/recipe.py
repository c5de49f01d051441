"""The recipe: pydantic models of the YAML. Loading and cross-checks live in recipe_loader.

A field that does not change rows has no place here: it is a command-line flag.
"""

import os
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from prefdata.projection import DpoPreference, OutputProjection, PreferencePairs

ColumnName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
Filled = Annotated[str, StringConstraints(min_length=1)]
Place = Annotated[Filled, AfterValidator(os.path.expanduser)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]

META_SUFFIX = "__meta"
"""Added to a text column's name for the column that says how the text came to be."""
OWN_ID = "source_id"
"""What a seed column called `id` is renamed to: `id` is ours."""


def _check_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Refuse what every engine would stumble over, and what YAML makes of unquoted words."""
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict) or not all(
        isinstance(p, dict) for p in properties.values()
    ):
        raise ValueError("'properties' must map each key of the answer to its own schema")
    if not isinstance(required, list) or (properties and set(required) - properties.keys()):
        raise ValueError(f"'required' is {required!r}; list keys that 'properties' has")
    if not isinstance(schema.get("enum", []), list):
        raise ValueError(f"'enum' is {schema['enum']!r}; give a list of values")
    if schema.get("type") == "string" and not all(
        isinstance(v, str) for v in schema.get("enum", [])
    ):
        raise ValueError(
            f"'enum' has values that are no strings: {schema['enum']!r}; put them in quotes (YAML "
            "reads yes, no, on and off as true and false)"
        )
    for part in properties.values():
        _check_schema(part)
    if isinstance(schema.get("items"), dict):
        _check_schema(schema["items"])
    return schema


JsonSchema = Annotated[dict[str, Any], AfterValidator(_check_schema)]


class Frozen(BaseModel):
    """What every part of a recipe shares: no unknown keys, no NaN, no later change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SeedDataset(Frozen):
    """Where the prompts come from."""

    path: Filled
    """Hub id, jsonl/json/csv/parquet file, glob, folder of such files, or `save_to_disk` folder."""
    name: str | None = None
    """Configuration of a Hub dataset."""
    split: str | None = None
    revision: str | None = None
    fields: tuple[str, ...] | None = None
    """Columns to keep; all of them where left out."""
    limit: Positive | None = None
    """Seeds to read, at most."""
    strategy: Literal["ordered", "shuffle"] = "ordered"

    @field_validator("fields")
    @classmethod
    def _one_id(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value and {"id", OWN_ID} <= set(value):
            raise ValueError(f"'id' is renamed {OWN_ID!r} here, and both are named; leave one out")
        return value

    @property
    def kept(self) -> frozenset[str] | None:
        """Names of the seed columns, or None where they show only when the seeds are loaded."""
        if self.fields is None:
            return None
        return frozenset(OWN_ID if name == "id" else name for name in self.fields)


class InferenceParameters(Frozen):
    """How a text model is sampled; names and meanings are vLLM's `SamplingParams`."""

    temperature: Annotated[float, Field(ge=0)] | None = None
    max_tokens: Positive | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    stop: tuple[Filled, ...] = ()
    seed: Seed | None = None
    """Mixed into the sampling seeds of this alias; two aliases with one seed still differ."""

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class Model(Frozen):
    """A checkpoint under an alias, with the way this alias samples it."""

    alias: Filled
    model: Filled
    """Hub id or local folder."""
    revision: str | None = None
    provider: Literal["auto", "transformers", "vllm"] = "auto"
    inference_parameters: InferenceParameters = InferenceParameters()
    engine: dict[str, Any] = {}
    """Passed on to the engine: dtype, max_model_len, max_num_seqs …"""
    system_prompt: str | None = None
    chat_template_kwargs: dict[str, Any] = {}
    trust_remote_code: bool = False
    skip_health_check: bool = False
    """Do not look whether the checkpoint is there before work starts."""


class Column(Frozen):
    """What every column has."""

    name: ColumnName

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, value: str) -> str:
        if value == "id" or value.endswith(META_SUFFIX):
            raise ValueError(
                f"{value!r} is taken: 'id' is the row's key and '…{META_SUFFIX}' tells how a text "
                "was made; choose another name"
            )
        return value


class LlmText(Column):
    """One completion, a string."""

    type: Literal["llm_text"]
    model_alias: Filled
    prompt: str


class LlmStructured(Column):
    """One completion that satisfies a JSON schema, a dict."""

    type: Literal["llm_structured"]
    model_alias: Filled
    prompt: str
    output_format: JsonSchema


class LlmJudge(Column):
    """A verdict as a dict that satisfies a JSON schema.

    Where it compares two responses it asks in both orders; verdicts that disagree are a tie.
    """

    type: Literal["llm_judge"]
    model_alias: Filled
    prompt: str
    output_format: JsonSchema
    compare: tuple[str, str] | None = None
    """The two text columns compared; where left out, the prompt's only two `llm_text` columns."""
    winner_field: str = "winner"
    """The key of the verdict, whose values are "A" (the first of the two) and "B"."""
    both_orders: bool = True

    @field_validator("compare")
    @classmethod
    def _two_columns(cls, value: tuple[str, str] | None) -> tuple[str, str] | None:
        if value and value[0] == value[1]:
            raise ValueError("a column cannot be compared with itself; name two")
        return value


class Candidates(Column):
    """`samples` completions from every alias, as a list of structs."""

    type: Literal["candidates"]
    model_alias: tuple[Filled, ...]
    prompt: str
    samples: Positive

    @field_validator("model_alias", mode="before")
    @classmethod
    def _one_alias_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("model_alias")
    @classmethod
    def _each_alias_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value) or not value:
            raise ValueError("name each alias once, at least one; raise 'samples' for more of one")
        return value


class Scored(Column):
    """What is scored: the texts of a `candidates` column, or of named response columns."""

    candidates: str | None = None
    responses: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _one_target(self) -> "Scored":
        if (self.candidates is None) == (not self.responses):
            raise ValueError(
                "it must say what is scored, and only once: give either 'candidates: <column>' "
                "or 'responses: [<column>, …]'"
            )
        if len(set(self.responses or ())) < len(self.responses or ()):
            raise ValueError("'responses' names a column twice; name each once")
        return self


class RewardModel(Scored):
    """One raw score (no sigmoid) per text, by a reward model."""

    type: Literal["reward_model"]
    model_alias: Filled
    prompt: str
    """The user's turn as the reward model reads it."""


class Verifier(Scored):
    """One rule-based score per text: 1 right, 0 wrong, or what a function returns."""

    type: Literal["verifier"]
    method: Literal["exact_match", "regex", "number", "function"]
    reference: str | None = None
    """The column with the right answer (`exact_match`, `number`)."""
    pattern: str | None = None
    """Searched in the text (`regex`)."""
    function: str | None = None
    """`package.module:name`, called with (text, row) and returning a number (`function`)."""

    @model_validator(mode="after")
    def _parameter_of_the_method(self) -> "Verifier":
        needed = {"regex": "pattern", "function": "function"}.get(self.method, "reference")
        for field in ("reference", "pattern", "function"):
            if (getattr(self, field) is not None) != (field == needed):
                verb = "needs" if field == needed else "does not read"
                raise ValueError(f"method {self.method!r} {verb} '{field}'")
        try:
            re.compile(self.pattern or "")
        except re.error as err:
            raise ValueError(f"the pattern is no regular expression: {err}") from err
        return self


class Expression(Column):
    """A Jinja template rendered from the row, cast to `dtype`."""

    type: Literal["expression"]
    expression: str
    dtype: Literal["str", "int", "float", "bool"] = "str"


class Category(Column):
    """A seeded draw from `values`."""

    type: Literal["category"]
    values: Annotated[tuple[str, ...], Field(min_length=1)]


AnyColumn = Annotated[
    LlmText
    | LlmStructured
    | LlmJudge
    | Candidates
    | RewardModel
    | Verifier
    | Expression
    | Category,
    Field(discriminator="type"),
]
TextColumn = LlmText | LlmStructured | LlmJudge | Candidates
"""The columns that sample a text model."""


class Recipe(Frozen):
    """A whole recipe, as written; `recipe_loader` checks it across columns."""

    output_dir: Place
    """The run folder; `--out` wins over it."""
    output_path: Place | None = None
    """A JSONL file with the pairs alone, besides the run folder."""
    num_records: Positive | None = None
    """Rows to make; above the number of seeds they are cycled. All seeds where left out."""
    seed_dataset: SeedDataset
    models: tuple[Model, ...] = ()
    columns: tuple[AnyColumn, ...]
    output_projection: OutputProjection
    seed: Seed = 0
    """Every sampling seed, draw, shuffle and split derives from it."""
    min_yield: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the seeds that must end in a pair; below it `build` exits with 3."""

    def model(self, alias: str) -> Model:
        """The model behind an alias that the loader has checked."""
        return next(model for model in self.models if model.alias == alias)


__all__ = [
    "AnyColumn", "Candidates", "Category", "Column", "DpoPreference", "Expression",
    "InferenceParameters", "LlmJudge", "LlmStructured", "LlmText", "META_SUFFIX", "Model",
    "OWN_ID", "OutputProjection", "PreferencePairs", "Recipe", "RewardModel", "Scored",
    "SeedDataset", "TextColumn", "Verifier",
]  # fmt: skip
