"""The recipe: pydantic models of the YAML. Loading is in `loader`, cross-checks are in `checks`.

A field that does not change rows has no place here: it is a command-line flag.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, field_validator, model_validator

from prefdata.errors import suggest
from prefdata.recipe.chats import SystemPromptMode
from prefdata.recipe.columns import AnyColumn
from prefdata.recipe.contract import At
from prefdata.recipe.layout import Layout
from prefdata.recipe.mix import OutputProjection
from prefdata.recipe.providers import CLIENTS, LOCAL_PROVIDERS
from prefdata.recipe.publication import Publish
from prefdata.recipe.questions import SystemPrompt
from prefdata.recipe.sources import Source
from prefdata.recipe.values import (
    OWN_ID,
    ColumnName,
    EnvironmentName,
    Filled,
    Frozen,
    HttpUrl,
    OneOrMore,
    Place,
    Positive,
    Reasoning,
    Seed,
)

TEMPLATE_CALL = frozenset(
    (
        "self", "name", "tokenizer", "conversation", "messages", "tokenize", "return_dict",
        "return_tensors", "return_assistant_tokens_mask", "continue_final_message", "padding",
        "truncation", "max_length", "tokenizer_kwargs", "processor_kwargs", "chat_template",
        "tools",
    )
)  # fmt: skip
"""Arguments of the call that renders a chat; they are not the chat template's own."""


class SeedDataset(Frozen):
    """Where the prompts come from."""

    path: Annotated[tuple[Filled, ...], Field(min_length=1), OneOrMore] | None = None
    """Hub id, jsonl/json/csv/parquet file, glob, folder of such files, or `save_to_disk` folder; a
    list of these is read in order.
    """
    candidates: Layout | None = None
    """Set if the seeds are scored or labelled texts: the name of a layout that ships, or a mapping
    that says where a line has what."""
    rows: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)] | None = None
    """The seeds themselves, instead of `path`."""
    name: str | None = None
    """Configuration of a Hub dataset."""
    split: str | None = None
    """Its split; may be left out if it has one only."""
    revision: str | None = None
    """Its branch, tag or commit."""
    fields: tuple[str, ...] | None = None
    """Columns to keep; all if left out."""
    limit: Positive | None = None
    """Maximum number of seeds to read."""
    strategy: Literal["ordered", "shuffle"] = "ordered"
    """`shuffle` takes the rows in a seeded random order."""

    @model_validator(mode="after")
    def _one_source(self) -> "SeedDataset":
        if (self.path is None) == (self.rows is None):
            raise ValueError("give either 'path' or 'rows', not both")
        if self.candidates is not None and self.fields is not None:
            raise ValueError(
                "with 'candidates' the fields to read are already known; remove 'fields'"
            )
        return self

    @field_validator("fields")
    @classmethod
    def _one_id(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value and {"id", OWN_ID} <= set(value):
            raise ValueError(
                f"the seed column 'id' is renamed {OWN_ID!r}, and 'fields' names both; remove "
                "one of them"
            )
        return value

    @property
    def paths(self) -> tuple[str, ...]:
        """What is read, as of other sources."""
        return self.path or ()

    @property
    def kept(self) -> frozenset[str] | None:
        """Names of the seed columns, or None if they are known only after loading the seeds."""
        if self.candidates is not None:
            return frozenset((*self.candidates.columns.values(), *self.candidates.makes))
        names: Iterable[str] | None = self.fields
        if self.fields is None and self.rows is not None:
            names = {name for row in self.rows for name in row}
        return None if names is None else frozenset(OWN_ID if n == "id" else n for n in names)


def _of_the_template(value: dict[str, Any]) -> dict[str, Any]:
    if taken := sorted(TEMPLATE_CALL & value.keys()):
        raise ValueError(
            f"{taken[0]!r} is an argument of the call that renders a chat, not of the chat "
            "template; remove it"
        )
    return value


def _no_tiny(value: float) -> float:
    if 0 < value < 0.01:
        raise ValueError(
            f"a temperature of {value} is almost greedy and overflows; give 0, or 0.01 at least"
        )
    return value


class InferenceParameters(Frozen):
    """How a text model is sampled; names and meanings are vLLM's `SamplingParams`."""

    temperature: Annotated[float, Field(ge=0, le=100), AfterValidator(_no_tiny)] | None = None
    """0 is greedy; below 0.01 a division by it could overflow."""
    max_tokens: Positive | None = None
    """Tokens of thought and answer together, at most."""
    max_reasoning_tokens: Positive | None = None
    """Tokens of the thought, at most: then its end is written for the model, which goes on with
    the answer.
    """
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only the likeliest tokens that together have this probability are drawn."""
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Only so many of the likeliest tokens are drawn; 0 is all."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Only tokens of at least this share of the likeliest one's probability are drawn."""
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    """Above 1, tokens that have occurred become less likely."""
    stop: Annotated[tuple[Filled, ...], OneOrMore] = ()
    """Texts that end the answer and are no part of it."""
    seed: Seed | None = None
    """Mixed into the sampling seeds of this alias; two aliases with one seed still differ."""


Parameter = Literal[
    "temperature", "max_tokens", "seed", "top_p", "stop", "logprobs", "top_logprobs", "top_k",
    "min_p", "repetition_penalty", "chat_template_kwargs",
]  # fmt: skip
"""What a server is sent besides the chat."""
PARAMETERS: tuple[str, ...] = get_args(Parameter)


class Endpoint(Frozen):
    """A server that speaks OpenAI's protocol, under a name that models use as their provider."""

    name: Filled
    """The word that models give as their `provider`."""
    endpoint: HttpUrl
    """The URL including the version, as in https://host/v1."""
    provider_type: Filled = "openai"
    """The protocol that the server speaks."""
    api_key: EnvironmentName | None = None
    """The name of the environment variable that holds the key; no key is sent if left out."""
    max_parallel_requests: Positive = 16
    """Requests at the same time, of all models of this server together."""
    timeout: Annotated[float, Field(gt=0)] = 600.0
    """Timeout of one request, in seconds."""
    max_retries: Annotated[int, Field(ge=0)] = 10
    """How often a request is retried after 429, 5xx, a timeout or a lost connection."""
    structured_outputs: bool = True
    """Whether the server can constrain an answer to a JSON schema (`response_format`)."""
    extra_body: dict[str, Any] = {}
    """Added to the body of every request."""
    parameters: dict[Parameter, Filled | None] = {}
    """Names under which the server knows parameters that are sent; null leaves one out."""

    @field_validator("provider_type")
    @classmethod
    def _known_protocol(cls, value: str) -> str:
        if value not in CLIENTS:
            raise ValueError(f"there is no provider_type {value!r}; {suggest(value, CLIENTS)}")
        return value

    @field_validator("name")
    @classmethod
    def _not_taken(cls, value: str) -> str:
        if value in LOCAL_PROVIDERS:
            raise ValueError(f"{value!r} runs checkpoints on this machine; choose another name")
        return value


class Model(Frozen):
    """A checkpoint under an alias, with the sampling parameters of this alias."""

    alias: Filled
    """The name by which columns ask it."""
    model: Filled
    """Hub id or local folder; the folder of a LoRA adapter stands for it and the base it names."""
    adapter: Filled | None = None
    """LoRA weights on top of `model`, a local folder or a Hub id; adapters of one base share it."""
    revision: str | None = None
    """Branch, tag or commit of a Hub id."""
    provider: Filled = "auto"
    """`auto`, `transformers` or `vllm` on this machine, or the name of an entry of `providers`."""
    inference_parameters: InferenceParameters = InferenceParameters()
    """How it is sampled; a text column needs `temperature` and `max_tokens`."""
    engine: dict[str, Any] = {}
    """Passed on to the engine: dtype, max_model_len, max_num_seqs …"""
    system_prompt: str | None = None
    """A template."""
    system_prompt_mode: SystemPromptMode = "fill"
    """Where a chat begins with a system message of its own: `fill` leaves that one alone, `prepend`
    puts `system_prompt` before its text."""
    system_role: Literal["auto", "merge", "error"] = "auto"
    """Where system messages go if the chat template has no place for them: `auto` puts them at the
    head of the user's turn, `error` stops before the start; `merge` does so whatever the template
    says, as for a server whose template is not known."""
    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(_of_the_template)] = {}
    """Passed to the chat template, such as `enable_thinking`."""
    tool_parser: Filled | None = None
    """What makes calls of an answer: the name of a parser of vLLM's; `hermes`, `llama3_json` and
    `openai` are known without it. Servers send calls by themselves."""
    chat_template: Filled | None = None
    """A chat template in Jinja, or a file with one, in the place of the checkpoint's own."""
    reasoning: Reasoning = "auto"
    """How thoughts are split from answers. `auto` reads the chat template; `none`, a mapping with
    `begin` and `end`, or one with the `parser` of vLLM say it.
    """
    trust_remote_code: bool = False
    """Allow the checkpoint to run Python code that comes with it."""
    skip_health_check: bool = False
    """Skip the check, before work starts, that the checkpoint exists."""

    @property
    def system(self) -> SystemPrompt:
        """Its system prompt, compiled; PrefdataError where the template is wrong."""
        return SystemPrompt.compiled(self.system_prompt or "", self.system_prompt_mode)

    @property
    def weights(self) -> str:
        """The name of what answers: the adapter, where there is one, else the checkpoint."""
        return self.adapter or self.model


BUDGETS = ("max_requests", "max_tokens_total", "max_gpu_hours")
"""Fields that end a run which grows."""


class Recipe(Frozen):
    """A whole recipe, as written; `checks` compares its parts."""

    output_dir: Place
    """The run folder; `--out` overrides it."""
    output_path: Place | None = None
    """A JSONL file with only the pairs, written in addition to the run folder."""
    num_records: Positive | None = None
    """Rows to make; if larger than the number of seeds, these are repeated. All seeds if left
    out.
    """
    variables: dict[str, Any] = {}
    """Values that other keys read, as in `${variables.model}`; on the command line `model=…` sets
    one. They are no columns.
    """
    inputs: dict[ColumnName, str | int | float | bool] = {}
    """Columns that every row gets unless the seeds have them, for example a number used in
    prompts.
    """
    seed_dataset: SeedDataset
    """The rows that the run starts from."""
    providers: tuple[Endpoint, ...] = ()
    """Servers that answer."""
    models: tuple[Model, ...] = ()
    """Checkpoints under aliases, each with its sampling."""
    columns: tuple[AnyColumn, ...]
    """What is made for every row, in this order; a column reads those above it."""
    output_projection: OutputProjection
    """How pairs are made of the rows."""
    seed: Seed = 0
    """Every sampling seed, draw, shuffle and split derives from it."""
    target_pairs: Positive | None = None
    """Pairs to make, after all rules: the run goes on with fresh seeds, then with more samples for
    rows without a pair (see `max_samples`), until it has them; `max_pairs` is this number, too,
    unless it is given. It begins with `num_records` rows, or as many as pairs.
    """
    max_requests: Positive | None = None
    """A run that grows asks so many requests at most, those in its journal included."""
    max_tokens_total: Positive | None = None
    """Likewise of tokens, of prompts and completions."""
    max_gpu_hours: Annotated[float, Field(gt=0)] | None = None
    """Likewise of hours of all its GPUs together, loading included."""
    min_yield: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Minimum share of the seeds that must end in a pair; below it `build` exits with 3."""
    publish: Publish | None = None
    """Where on the Hub `build` publishes its result; not published if left out."""

    @model_validator(mode="before")
    @classmethod
    def _no_more_than_the_target(cls, value: Any) -> Any:
        target = value.get("target_pairs") if isinstance(value, dict) else None
        is_number = isinstance(target, int) and target > 0  # another one is told where it stands
        rule = value.get("output_projection") if is_number else None
        if isinstance(rule, dict) and rule.get("max_pairs") is None:
            return {**value, "output_projection": {**rule, "max_pairs": target}}
        return value

    @model_validator(mode="after")
    def _budgets_are_for_growing(self) -> "Recipe":
        grows = self.target_pairs is not None or any(
            getattr(c, "max_samples", None) for c in self.columns
        )
        if told := [name for name in BUDGETS if getattr(self, name) is not None and not grows]:
            raise ValueError(
                f"{told[0]} ends a run that grows, and this one does not; add target_pairs, or "
                "max_samples to the candidates"
            )
        return self

    @property
    def seed_fields(self) -> frozenset[str] | None:
        """Columns that the rows start with, or None if known only after loading the seeds."""
        kept = self.seed_dataset.kept
        return None if kept is None else kept | self.inputs.keys()

    @property
    def sources(self) -> Iterator[tuple[At, Source]]:
        """What lines are read from, each with its key."""
        yield ("seed_dataset",), self.seed_dataset
        for number, column in enumerate(self.columns):
            for at, source in column.sources:
                yield ("columns", number, *at), source

    @property
    def expands_turns(self) -> bool:
        """Whether several rows may be of one conversation, whose pairs then stay in one split."""
        return any(column.expands and column.holds_chat for column in self.columns)

    def model(self, alias: str) -> Model:
        """The model behind an alias that the loader has checked."""
        return next(model for model in self.models if model.alias == alias)

    def endpoint(self, model: Model) -> Endpoint | None:
        """The server behind a model, or None for one that runs on this machine."""
        return next((one for one in self.providers if one.name == model.provider), None)
