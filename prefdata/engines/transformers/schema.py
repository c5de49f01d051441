"""JSON-schema constraints on sampled tokens, by llguidance. Knows tokens and masks, no model."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from llguidance import LLExecutor, LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from prefdata.errors import PrefdataError

_JSON_DUMPS: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""The separators of Python's `json.dumps`, which is what models have seen most and vLLM emits."""
_NAMED = frozenset(("properties", "$defs", "definitions"))
_NESTED = frozenset(("items", "prefixItems", "additionalProperties", "anyOf"))
_COMBINING = re.compile(
    r'"(allOf|oneOf|if|patternProperties|unevaluatedProperties|dependentSchemas)": '
)
"""Where several schemas speak about one object, closing one of them could contradict another."""


class SchemaCompiler:
    """Matchers for one tokenizer; a schema is compiled once."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, eos_ids: Sequence[int]
    ) -> None:
        """Cheap: llguidance sees the tokenizer with the first schema.

        `vocab_size`: width of the model's logits, which may exceed the tokenizer's vocabulary.
        """
        self.vocab_size = vocab_size
        self._tokenizer, self._eos_ids = tokenizer, list(eos_ids)
        self._ll_tokenizer: LLTokenizer | None = None
        self._compiled: dict[str, LLMatcher] = {}
        self._executor = LLExecutor()

    def start(self, schema: Mapping[str, Any]) -> LLMatcher:
        """A matcher for one new completion.

        Raises:
            PrefdataError: llguidance cannot enforce the schema.
        """
        key = json.dumps(schema)
        if key not in self._compiled:
            self._compiled[key] = self._compile(schema)
        return self._compiled[key].deep_copy()

    def allowed(self, matchers: Sequence[LLMatcher]) -> Tensor:
        """Which tokens may come next: bool (matchers, vocab_size), on the CPU."""
        width = (self.vocab_size + 31) // 32 * 32
        bits = allocate_token_bitmask(len(matchers), width)
        fill_next_token_bitmask_par(
            self._executor, [(matcher, row) for row, matcher in enumerate(matchers)], bits
        )
        mask = np.unpackbits(bits.view(np.uint8), axis=1, count=self.vocab_size, bitorder="little")
        return torch.from_numpy(mask).bool()

    def _compile(self, schema: Mapping[str, Any]) -> LLMatcher:
        text = json.dumps(schema)
        if not _COMBINING.search(text):
            text = json.dumps(_close_objects(schema))
        grammar = LLMatcher.grammar_from_json_schema(text, overrides=_JSON_DUMPS)
        matcher = LLMatcher(self._load_tokenizer(), grammar)
        if matcher.is_error():
            raise PrefdataError(
                f"the JSON schema cannot be enforced: {matcher.get_error()}; remove that "
                f"part from the schema {json.dumps(schema)}"
            )
        return matcher

    def _load_tokenizer(self) -> LLTokenizer:
        if self._ll_tokenizer is None:
            tokenizer = self._tokenizer
            if not isinstance(tokenizer, PreTrainedTokenizerFast):
                raise PrefdataError(
                    "a JSON schema needs a fast tokenizer, but this model has a "
                    f"{type(tokenizer).__name__}; set provider: vllm or remove the schema"
                )
            self._ll_tokenizer = from_tokenizer(
                tokenizer, n_vocab=self.vocab_size, eos_token=self._eos_ids
            )
        return self._ll_tokenizer


def _close_objects(schema: Any) -> Any:
    """The schema with `additionalProperties: false` wherever an object lists its properties.

    As xgrammar does in vLLM: what an open object additionally allows is noise in an answer.
    """
    if isinstance(schema, list):
        return [_close_objects(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    closed = dict(schema)
    for key in _NAMED.intersection(schema):
        closed[key] = {name: _close_objects(part) for name, part in schema[key].items()}
    for key in _NESTED.intersection(schema):
        closed[key] = _close_objects(schema[key])
    if "properties" in schema:
        closed.setdefault("additionalProperties", False)
    return closed
