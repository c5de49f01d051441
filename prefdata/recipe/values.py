"""Value types that several parts of a recipe share. Knows none of the parts."""

import os
import re
import warnings
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)
from pydantic_core import PydanticCustomError

NAME = r"^[A-Za-z][A-Za-z0-9_]*$"
ColumnName = Annotated[str, StringConstraints(pattern=NAME)]
Filled = Annotated[str, StringConstraints(min_length=1)]
Place = Annotated[Filled, AfterValidator(os.path.expanduser)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]
"""A count; the libraries below hold it in 32 bits."""
Retries = Annotated[int, Field(ge=0)]


def as_list(value: Any) -> Any:
    """A single value as a list of it."""
    return value if value is None or isinstance(value, list | tuple | dict) else (value,)


OneOrMore = BeforeValidator(as_list, json_schema_input_type=str | list[str])
"""A text stands for a list of it."""
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PydanticCustomError("url", "the URL should begin with http:// or https:// and a host")
    if parts.username or parts.password or parts.query:
        raise PydanticCustomError(
            "secret",
            (
                "the URL contains a user, a password or a query, which would be written to run "
                "folders; remove them, and give the name of the environment variable with the "
                "key"
            ),
        )
    return url.rstrip("/")


def _check_environment_name(name: str) -> str:
    if not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
        raise PydanticCustomError(  # never repeats what it found: that may be the key itself
            "secret",
            (
                "expected the name of an environment variable, such as NVIDIA_API_KEY, not the "
                "key itself; export the key, and give the variable's name"
            ),
        )
    return name


HttpUrl = Annotated[str, AfterValidator(_check_url)]
EnvironmentName = Annotated[str, AfterValidator(_check_environment_name)]

FAILURES_SUFFIX = "__failures"
SKIPPED_SUFFIX = "__skipped"
"""Added to the name of a column with `skip_when` for the column that says why a row is skipped."""
META_SUFFIX = "__meta"
"""Added to a text column's name for the column that says how the text came to be."""
OWN_ID = "source_id"
"""The new name of a seed column called `id`, since `id` is the row's own key."""


def _check_parts(schema: dict[str, Any]) -> None:
    """Refuse schemas that no engine accepts, and values that YAML misreads without quotes."""
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not all(isinstance(part, dict) for part in properties.values()):
        raise ValueError("'properties' must map each key of the answer to its own schema")
    if properties and set(required) - properties.keys():
        raise ValueError(f"'required' is {required!r}; list only keys that 'properties' has")
    words = schema.get("enum", []) if schema.get("type") == "string" else []
    if not all(isinstance(word, str) for word in words):
        raise ValueError(
            f"'enum' has values that are not strings: {words!r}; put them in quotes (YAML reads "
            "yes, no, on and off as true and false)"
        )
    for part in (*properties.values(), schema.get("items")):
        if isinstance(part, dict):
            _check_parts(part)


def _check_schema(schema: dict[str, Any]) -> dict[str, Any]:
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for

    try:
        validator_for(schema, Draft202012Validator).check_schema(schema)
    except SchemaError as err:
        at = ".".join(map(str, err.absolute_path)) or "its top level"
        raise ValueError(f"this is not a valid JSON schema: {at}: {err.message}") from err
    _check_parts(schema)
    return schema


def _close(schema: dict[str, Any]) -> dict[str, Any]:
    """Let no object have keys that its schema does not list, unless the schema says so.

    Every engine is then bound to the same answers, and none has a key without a column.
    """
    closed = dict(schema)
    if isinstance(properties := schema.get("properties"), dict):
        closed["properties"] = {name: _close(part) for name, part in properties.items()}
        closed.setdefault("additionalProperties", False)
    if isinstance(schema.get("items"), dict):
        closed["items"] = _close(schema["items"])
    return closed


JsonSchema = Annotated[dict[str, Any], AfterValidator(_check_schema), AfterValidator(_close)]
"""A JSON schema. Objects that list properties have no others, unless `additionalProperties`."""


def _check_object(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type") != "object":
        raise ValueError(
            "the answer is read as a dict, so the schema needs 'type: object' at its top level"
        )
    return schema


JsonObject = Annotated[JsonSchema, AfterValidator(_check_object)]
"""The JSON schema of a dict."""


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A regular expression, in which `.` matches line ends too.

    Raises:
        ValueError: it is none.
    """
    import regex  # 0.1 s, and few recipes have a pattern

    try:
        with warnings.catch_warnings(action="ignore"):
            compiled = re.compile(pattern, re.DOTALL)
            regex.compile(pattern)  # it is what searches
            return compiled
    except (re.error, regex.error) as err:
        raise ValueError(f"the pattern is not a valid regular expression: {err}") from err


class Frozen(BaseModel):
    """What every part of a recipe shares: no unknown keys, no NaN, no later change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ReasoningTags(Frozen):
    """The strings around a model's thoughts."""

    begin: str = ""
    """Empty if the chat template always opens the thought."""
    end: Filled
    """What stands between the thought and the answer."""


class ReasoningParser(Frozen):
    """One of vLLM's reasoning parsers."""

    parser: Filled
    """Its name, as in `vllm serve --reasoning-parser`."""


Reasoning = Literal["auto", "none"] | ReasoningTags | ReasoningParser


class SettingsModel(Frozen):
    """Settings that have a file of their own."""

    paths: ClassVar[tuple[str, ...]] = ()


class Retry(Frozen):
    """Which answers are asked again, and how."""

    when: Literal["truncated"]
    """`truncated`: `max_tokens` has ended the answer, or the thought before it."""
    max_tokens: Positive
    """More than the model's own; the seed stays."""
