"""The recipe as a JSON schema, by which editors complete, check and explain a recipe."""

from pathlib import Path
from typing import Any

from prefdata.recipe.layout import layout_names
from prefdata.recipe.schema import Recipe

SHIPPED = Path(__file__).with_name("recipe.schema.json")
"""The schema as a file of the package, which a recipe can name at its head."""
_INTERPOLATION = {"type": "string", "pattern": r"\$\{.+\}"}
_PROMPT_FILE = {"type": "string", "description": "A file with the prompt, beside the recipe."}
_LAYOUT = {"enum": layout_names(), "description": "A layout that ships; other keys replace its."}


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of what may be written, before interpolation and `prompt_file`."""
    schema = Recipe.model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        fields = part.get("properties", {})
        for name, field in fields.items():
            field.pop("title", None)
            fields[name] = _with_interpolation(field)
        if "prompt" in fields and "messages" in fields:
            fields["prompt_file"] = _PROMPT_FILE
    schema["$defs"]["SeedDataset"]["properties"]["candidates"]["anyOf"] += [_LAYOUT]
    schema["$defs"]["Layout"]["properties"]["layout"] = _LAYOUT
    schema["required"].remove("output_dir")  # the command line may give it
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _with_interpolation(field: dict[str, Any]) -> dict[str, Any]:
    """A number or a switch may be taken from the environment or another key."""
    kept = {key: field.pop(key) for key in ("description", "default") if key in field}
    kinds = field.get("anyOf", [field])
    if any(kind.get("type") in ("integer", "number", "boolean") for kind in kinds):
        field = {"anyOf": [*kinds, _INTERPOLATION]}
    return field | kept
