"""What a recipe will cost, before it runs: requests, tokens, GPU-hours, disk. Loads no model."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import mean
from typing import Any, Literal

from prefdata.engines.checkpoints import (
    TokenCounter,
    active_parameters,
    count_parameters,
    count_tokens,
    read_config,
)
from prefdata.errors import PrefdataError, RowError
from prefdata.recipe.chats import Chat
from prefdata.recipe.contract import Asking, Column
from prefdata.recipe.origins import columns_read
from prefdata.recipe.plan import Checkpoint, Pass
from prefdata.recipe.questions import (
    Question,
    SystemPrompt,
    own_question,
    question_of,
)
from prefdata.recipe.reads import all_columns
from prefdata.recipe.schema import Model, Recipe

PARAMETERS = 8.03e9
"""Of the model with which the two rates were measured: bf16 on one H200, see docs/benchmarks.md."""
LEAST_PARAMETERS = 2e9
"""A smaller model counts as one of so many: what vLLM does for each token besides it stays."""
WRITTEN_PER_SECOND = 22_444
"""Completion tokens, prompts of 144 tokens read besides."""
READ_PER_SECOND = 44_900
"""Tokens of chats that a reward model scores, or of prompts."""
UNKNOWN_TOKENS = 512
"""Of a chat that only the run makes."""
SCORE_TOKENS = 64
"""In whose time a chat is scored, roughly."""
BYTES_PER_TOKEN = 4.5
"""Of text; typical of English under a large vocabulary."""
COPIES = 3
"""A text lies in the journal and in about two stage folders."""


Bound = Literal["", "at most ", "about "]


@dataclass(frozen=True, slots=True)
class Estimate:
    """One pass. Completion tokens are upper bounds: every text as long as max_tokens.

    Attributes:
        bound: of the requests: some rows may need fewer, or they are counted on the sample alone.
        prompt_tokens: None where a prompt needs a column that only the run makes, or a tokenizer
            that is not on this machine.
        parameters: of the largest checkpoint, those that a token passes through; None where its
            config.json is neither here nor on the Hub, or of an unusual shape.
    """

    requests: int
    prompt_tokens: int | None
    completion_tokens: int
    parameters: int | None
    bound: Bound = ""

    @property
    def gpu_hours(self) -> float | None:
        """At the measured rates, in proportion to the parameters; None where these are unknown.

        A prompt that only the run makes counts `UNKNOWN_TOKENS`.
        """
        if self.parameters is None:
            return None
        prompt = self.prompt_tokens
        read = UNKNOWN_TOKENS * self.requests if prompt is None else prompt
        seconds = self.completion_tokens / WRITTEN_PER_SECOND + read / READ_PER_SECOND
        return seconds * max(self.parameters, LEAST_PARAMETERS) / PARAMETERS / 3600

    @property
    def disk_bytes(self) -> int:
        """Texts in journal and stage folders."""
        return round(self.completion_tokens * BYTES_PER_TOKEN * COPIES)


def estimate_pass(
    step: Pass,
    recipe: Recipe,
    rows: int,
    sample: Sequence[Mapping[str, Any]],
    paths: Mapping[str, str],
) -> Estimate:
    """Estimate one pass.

    `rows`: rows that will go through, if none is rejected before.
    """
    requests = completion = 0
    prompt: float | None = 0.0
    for column in step.columns:
        count = _requests_of_a_row(column, recipe, sample)
        requests += round(count * rows)
        texts = [alias for alias in column.aliases if column.role_of(alias) == "text"]
        if texts:
            models = [recipe.model(alias) for alias in texts]
            longest = [model.inference_parameters.max_tokens or 0 for model in models]
            completion += round(mean(longest) * count * rows)
        measured = _prompt_tokens(column, recipe, sample, paths)
        prompt = None if prompt is None or measured is None else prompt + measured * count * rows
    local = [c.model for c in step.checkpoints.values() if recipe.endpoint(c.model) is None]
    known = [_parameters(model, paths[model.alias]) for model in local]
    sizes = [size for size in known if size is not None]
    parameters = max(sizes) if sizes else None
    bound: Bound = ""
    if any(column.may_ask_less or column.skip_when for column in step.columns):
        bound = "at most "
    if recipe.seed_dataset.candidates is not None and rows > len(sample):
        bound = "about "
    tokens = None if prompt is None else round(prompt)
    return Estimate(requests, tokens, completion, parameters, bound)


def tokens_of(passes: Sequence[Pass], recipe: Recipe, rows: int) -> dict[str, float]:
    """Tokens that each checkpoint, by its key, writes at most; a score counts as some."""
    found = defaultdict[str, float](float)
    for step in passes:
        for one, asked in requests_of(step, recipe):
            most = one.model.inference_parameters.max_tokens or SCORE_TOKENS
            found[one.key] += asked * rows * most
    return found


def requests_of(step: Pass, recipe: Recipe) -> Iterator[tuple[Checkpoint, float]]:
    """How many requests a row has in a pass for the checkpoint of each alias, in the mean."""
    columns = all_columns(recipe)
    for column in step.columns:
        for alias in column.aliases:
            checkpoint = Checkpoint(column.role_of(alias), recipe.model(alias))
            yield checkpoint, column.requests(columns) / len(column.aliases)


def _requests_of_a_row(
    column: Column, recipe: Recipe, sample: Sequence[Mapping[str, Any]]
) -> float:
    """Where seeds bring their candidates, the mean over the sample: rows have their own number."""
    columns = all_columns(recipe)
    if recipe.seed_dataset.candidates is None or not sample:
        return column.requests(columns)
    given, *others = columns
    sizes = Counter(len(row[given.name]) for row in sample)
    asked = (
        count * column.requests([given.model_copy(update={"samples": size}), *others])
        for size, count in sizes.items()
    )
    return sum(asked) / len(sample)


def _parameters(model: Model, path: str) -> int | None:
    with suppress(PrefdataError):
        if (found := active_parameters(read_config(model, path))) is not None:
            return found
    return count_parameters(path)


def _prompt_tokens(
    column: Column, recipe: Recipe, sample: Sequence[Mapping[str, Any]], paths: Mapping[str, str]
) -> float | None:
    """Mean prompt tokens a request on the sample; 0 for CPU work, None if they cannot be known."""
    if not column.aliases:
        return 0.0
    if column.role != "text":
        return None
    names = columns_read(column, recipe) | column.inserted
    if not isinstance(column, Asking) or own_question(column) is None:
        return None
    if not sample or not names <= sample[0].keys():
        return None
    system, path = recipe.model(column.aliases[0]).system, paths[column.aliases[0]]
    chats = list(_chats(question_of(column), system, sample))
    if not chats or not TokenCounter.is_there(path):  # the Hub could take minutes, offline
        return None
    try:
        return mean(count_tokens(path, chats))
    except (OSError, ValueError):  # no tokenizer or no chat template there
        return None


def _chats(
    question: Question, system: SystemPrompt, sample: Sequence[Mapping[str, Any]]
) -> Iterator[Chat]:
    for row in sample:
        with suppress(RowError):  # the run will reject it
            yield system.over(question.chat(row), row)
