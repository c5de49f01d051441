"""The recipe as a JSON schema, by which editors complete, check and explain a recipe."""

import ast
from inspect import cleandoc
from itertools import pairwise
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
    schema, docs = Recipe.model_json_schema(), _FieldDocs()
    for kind, part in (("Recipe", schema), *schema["$defs"].items()):
        fields, told = part.get("properties", {}), docs.of(kind)
        for name, field in fields.items():
            field.pop("title", None)
            if name in told:
                field["description"] = told[name]
            fields[name] = _with_interpolation(field)
        if "prompt" in fields and "messages" in fields:
            fields["prompt_file"] = _PROMPT_FILE
    schema["$defs"]["SeedDataset"]["properties"]["candidates"]["anyOf"] += [_LAYOUT]
    schema["$defs"]["Layout"]["properties"]["layout"] = _LAYOUT
    schema["required"].remove("output_dir")  # the command line may give it
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


class _FieldDocs:
    """What stands below the fields of a recipe's models.

    pydantic would read all sources to know it, whenever a recipe is loaded.
    """

    def __init__(self) -> None:
        files = Path(__file__).parent.glob("*.py")
        nodes = [node for file in files for node in ast.parse(file.read_text("utf-8")).body]
        classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
        self._classes = {
            node.name: node for node in classes if "Protocol" not in map(ast.unparse, node.bases)
        }

    def of(self, kind: str) -> dict[str, str]:
        """By field, those of its bases among them."""
        told: dict[str, str] = {}
        if (node := self._classes.get(kind)) is None:
            return told
        for base in reversed(node.bases):
            told |= self.of(ast.unparse(base))
        for field, below in pairwise((*node.body, ast.Pass())):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                told.pop(name := field.target.id, None)
                if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                    told[name] = cleandoc(str(below.value.value))
        return told


def _with_interpolation(field: dict[str, Any]) -> dict[str, Any]:
    """A number or a switch may be taken from the environment or another key."""
    kept = {key: field.pop(key) for key in ("description", "default") if key in field}
    kinds = field.get("anyOf", [field])
    if any(kind.get("type") in ("integer", "number", "boolean") for kind in kinds):
        field = {"anyOf": [*kinds, _INTERPOLATION]}
    return field | kept
