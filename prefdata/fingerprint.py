"""Identity: journal keys, sampling seeds, stage fingerprints, and what is left out of them and why.

A key is content: whatever can change a text or a score changes its key; nothing else does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import blake2b
from typing import Any

import orjson
from pydantic import BaseModel

from prefdata.inference import Sampling, ScoreRequest, TextRequest
from prefdata.recipe.contract import Column
from prefdata.recipe.schema import Model, Recipe

FORMAT = 3
"""Raised when a stage's rows change their meaning or shape, so that old folders are not reused."""

EXCLUDED = {
    "output_dir": "where rows lie, not what they are",
    "output_path": "a copy of rows that are chosen elsewhere",
    "min_yield": "judges the finished run",
    "target_pairs": "how far a run grows: its rows are hashed; max_pairs is this number, too",
    "max_requests": "likewise",
    "max_tokens_total": "likewise",
    "max_gpu_hours": "likewise",
    "publish": "where finished rows go and what is said about them",
    "variables": "other keys hold their values",
    "num_records": "part of the seeds' own fingerprint: the ids say how many there are",
    "inputs": "likewise: their values are hashed with the ids",
    "seed_dataset": "likewise: the ids are hashes of the rows that were read",
    "providers": "where a server is; its name, extra_body and parameters are identity",
    "models.provider": "which program runs the checkpoint; what it has answered stays valid",
    "models.skip_health_check": "a check before work starts",
    "models.trust_remote_code": "a permission; the revision says which code runs",
    "columns.gold": "measures the judge before the run; no row is made of it",
    "columns.judge": "the name of a prompt that ships; its text is identity, as `prompt`",
    "models.engine.tensor_parallel_size": "the same sums, spread over more GPUs",
    "models.engine.gpu_memory_utilization": "room for the cache",
    "models.engine.max_num_seqs": "how many sequences at once",
    "models.engine.max_num_batched_tokens": "how many tokens at once",
    "models.engine.max_batch_tokens": "how many tokens at once",
    "models.engine.enforce_eager": "how a step is launched",
    "models.engine.enable_prefix_caching": "whether a shared prompt is computed again",
    "models.engine.enable_chunked_prefill": "how a prompt is cut into steps",
}
"""Recipe fields that no key and no stage fingerprint contains, each with the reason."""

LATER = frozenset(
    (
        "max_length_advantage", "chosen", "rejected", "one_side", "keep_fraction", "select_by",
        "select_group", "combine", "calibrate_length", "margin", "models_per_row", "always",
        "llm_structured.tools", "pick", "verifier.per", "skip_when", "expand.turns",
        "writes", "otherwise", "filter.candidates", "filter.column", "filter.expression",
        "filter.verifier", "filter.refusals",
        "filter.languages", "filter.repetition", "filter.special_tokens", "filter.tokens",
        "filter.decontaminate", "tournament", "panel", "llm_judge.candidates",
        "llm_judge.responses", "checks", "rubric_judge.max_items", "max_samples", "retry",
    )
)  # fmt: skip
"""Fields that came when runs lay on disks already: one at its default enters no identity, so that
such a run stays finished."""


def digest(*parts: Any, size: int = 16) -> str:
    """Hex hash of JSON-like values; equal for equal content, whatever the order of dict keys.

    Where the order of keys can change a text, hash `_order` too.
    """
    hasher = blake2b(digest_size=size)
    for part in parts:
        hasher.update(_canonical(part))
        hasher.update(b"\x00")
    return hasher.hexdigest()


def _canonical(value: Any) -> bytes:
    return orjson.dumps(value, default=str, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)


def _order(value: Any) -> bytes:
    """What `_canonical` leaves out: the order of keys, nothing where they are sorted already.

    A model that is bound to a schema writes its properties in their order, and a chat template may
    walk through its arguments.
    """
    written = _written(value)
    return b"" if written == _canonical(value) else written


def _written(value: Any) -> bytes:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)


def row_id(fields: Mapping[str, Any]) -> str:
    """Id of a seed row: 20 hex digits from its content alone.

    A null counts as absent and 1.0 as 1, at any depth: which of them a row shows depends on what
    the other rows make of the column's type.
    """
    return digest(_content(fields), size=10)


def _content(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _content(part) for name, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_content(part) for part in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def copy_id(row: str, copy: int) -> str:
    """Id of the n-th row of equal content; the first keeps the content's id."""
    return digest(row, copy, size=10) if copy else row


def sampling_seed(recipe_seed: int, *names: str | int | None) -> int:
    """63-bit seed from the recipe's seed and what the draw belongs to.

    The names are row id, column, alias, sample index and the alias's own seed: never a worker,
    a shard or a position, so that the draw does not depend on how the run is cut.
    """
    text = "\x1f".join([str(recipe_seed), *map(str, names)])
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1


def model_identity(model: Model, checkpoint: str) -> str:
    """What of a model enters keys: the checkpoint's content and the engine fields that count.

    `checkpoint`: hash of the weights, or the commit of a Hub repository; adapter included.
    """
    engine = {k: v for k, v in model.engine.items() if f"models.engine.{k}" not in EXCLUDED}
    # what was answered before this was told apart by default stays valid
    told = [] if model.reasoning == "auto" else [model.model_dump(include={"reasoning"})]
    template = [] if model.chat_template is None else [{"chat_template": model.chat_template}]
    parser = [] if model.tool_parser is None else [{"tool_parser": model.tool_parser}]
    return digest(checkpoint, engine, *told, *template, *parser)


class TextKeys:
    """Journal keys of completions by one model."""

    def __init__(self, identity: str) -> None:
        self._identity = identity
        # the parts that thousands of requests share are hashed once; they are kept in the value
        # so that an id() cannot be given to another object
        self._shared: dict[tuple[Sampling, int, int, int, bool], tuple[Any, Any, Any]] = {}

    def key(self, request: TextRequest) -> str:
        """32 hex digits of the model, what it is asked, how it is sampled, and the seed."""
        known = (
            request.sampling, id(request.schema), id(request.chat_template_kwargs),
            request.top_logprobs, request.continues,
        )  # fmt: skip
        if known not in self._shared:
            self._shared[known] = (
                self._hash(request),
                request.schema,
                request.chat_template_kwargs,
            )
        hasher = self._shared[known][0].copy()
        hasher.update(orjson.dumps(request.messages))
        hasher.update(request.seed.to_bytes(8))
        if request.tools:
            hasher.update(b"tools" + _written(request.tools))
        return hasher.hexdigest()  # type: ignore[no-any-return]

    def _hash(self, request: TextRequest) -> Any:
        shared = [
            self._identity,
            {k: v for k, v in asdict(request.sampling).items() if k != "max_reasoning_tokens" or v},
            request.schema,
            request.chat_template_kwargs,
            *([request.top_logprobs] if request.top_logprobs else []),
            *([{"continues": True}] if request.continues else []),
        ]
        order = _order([request.schema, request.chat_template_kwargs])
        return blake2b(b"text" + _canonical(shared) + order, digest_size=16)


class ScoreKeys:
    """Journal keys of scores by one reward model."""

    def __init__(self, identity: str) -> None:
        self._base = blake2b(b"score" + identity.encode(), digest_size=16)

    def key(self, request: ScoreRequest) -> str:
        """32 hex digits from identity, messages and tools."""
        hasher = self._base.copy()
        hasher.update(orjson.dumps(request.messages))
        if request.tools:
            hasher.update(b"tools" + _written(request.tools))
        return hasher.hexdigest()


def stage_fingerprint(
    parent: str,
    columns: tuple[Column, ...],
    recipe: Recipe,
    checkpoints: Mapping[str, str],
    code: Sequence[str] = (),
) -> str:
    """Identity of a stage's rows: its parent's, its columns', and its models'."""
    models = [_model_facts(recipe.model(a), checkpoints[a]) for c in columns for a in c.aliases]
    dumped = [_facts(c) for c in columns]
    order = _order([dumped, models]).decode()
    return digest(FORMAT, parent, recipe.seed, dumped, models, [*code], order)


def _model_facts(model: Model, checkpoint: str) -> dict[str, Any]:
    facts = model.model_dump(
        exclude={"engine", "provider", "skip_health_check", "trust_remote_code"}
    )
    return {**facts, "identity": model_identity(model, checkpoint)}


def pairs_fingerprint(parent: str, recipe: Recipe, code: str = "") -> str:
    """Identity of the pairs: the scored rows', the projection's, its function's and the seed's."""
    own = [code] if code else []
    if recipe.expands_turns and recipe.output_projection.test_size:
        own.append("conversations are in one split")  # once each prompt was split by itself
    return digest(FORMAT, parent, recipe.seed, _facts(recipe.output_projection), *own)


def _facts(part: BaseModel) -> dict[str, Any]:
    fields, kind = type(part).model_fields, getattr(part, "type", "")
    later = {name for name in fields if not LATER.isdisjoint((name, f"{kind}.{name}"))}
    same = {name for name in later if getattr(part, name) == fields[name].default}
    told = {name for name in fields if kind and f"columns.{name}" in EXCLUDED}
    return part.model_dump(exclude=same | told)
