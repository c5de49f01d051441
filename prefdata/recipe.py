"""The recipe: pydantic models of the YAML. Loading and cross-checks live in recipe_loader.

A field that does not change rows has no place here: it is a command-line flag.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from prefdata.projection import DpoPreference, OutputProjection, PreferencePairs

ColumnName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
Alias = Annotated[str, StringConstraints(min_length=1)]
Positive = Annotated[int, Field(ge=1)]

META_SUFFIX = "__meta"
"""Added to a text column's name for the column that says how the text came to be."""


class Frozen(BaseModel):
    """What every part of a recipe shares: no unknown keys, no NaN, no later change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SeedDataset(Frozen):
    """Where the prompts come from."""

    path: str
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


class InferenceParameters(Frozen):
    """How a text model is sampled; names and meanings are vLLM's `SamplingParams`."""

    temperature: Annotated[float, Field(ge=0)] | None = None
    max_tokens: Positive | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    """Mixed into the sampling seeds of this alias; two aliases with one seed still differ."""

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class Model(Frozen):
    """A checkpoint under an alias, with the way this alias samples it."""

    alias: Alias
    model: str
    """Hub id or local folder."""
    revision: str | None = None
    provider: Literal["auto", "transformers"] = "auto"
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
    model_alias: Alias
    prompt: str


class LlmStructured(Column):
    """One completion that satisfies a JSON schema, a dict."""

    type: Literal["llm_structured"]
    model_alias: Alias
    prompt: str
    output_format: dict[str, Any]


class LlmJudge(Column):
    """A verdict as a dict that satisfies a JSON schema.

    Where it compares two responses it asks in both orders; verdicts that disagree are a tie.
    """

    type: Literal["llm_judge"]
    model_alias: Alias
    prompt: str
    output_format: dict[str, Any]
    compare: tuple[str, str] | None = None
    """The two text columns compared; where left out, the prompt's only two `llm_text` columns."""
    winner_field: str = "winner"
    """The key of the verdict, whose values are "A" (the first of the two) and "B"."""
    both_orders: bool = True


class Candidates(Column):
    """`samples` completions from every alias, as a list of structs."""

    type: Literal["candidates"]
    model_alias: tuple[Alias, ...]
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
        return self


class RewardModel(Scored):
    """One raw score (no sigmoid) per text, by a reward model."""

    type: Literal["reward_model"]
    model_alias: Alias
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

    output_dir: str
    """The run folder; `--out` wins over it."""
    output_path: str | None = None
    """A JSONL file with the pairs alone, besides the run folder."""
    num_records: Positive | None = None
    """Rows to make; above the number of seeds they are cycled. All seeds where left out."""
    seed_dataset: SeedDataset
    models: tuple[Model, ...] = ()
    columns: tuple[AnyColumn, ...]
    output_projection: OutputProjection
    seed: int = 0
    """Every sampling seed, draw, shuffle and split derives from it."""
    min_yield: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the seeds that must end in a pair; below it `build` exits with 3."""

    def model(self, alias: str) -> Model:
        """The model behind an alias that the loader has checked."""
        return next(model for model in self.models if model.alias == alias)


__all__ = [
    "AnyColumn", "Candidates", "Category", "Column", "DpoPreference", "Expression",
    "InferenceParameters", "LlmJudge", "LlmStructured", "LlmText", "META_SUFFIX", "Model",
    "OutputProjection", "PreferencePairs", "Recipe", "RewardModel", "Scored", "SeedDataset",
    "TextColumn", "Verifier",
]  # fmt: skip
