"""What a model's entry names on disk: adapter folders and files with chat templates.

Both become plain values of the entry before the recipe is validated. Knows no engine.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from prefdata.errors import PrefdataError
from prefdata.recipe.contract import At
from prefdata.recipe.faults import Lines

Locate = Callable[[str], str]


class Gone(NamedTuple):
    """A value of the recipe that has become another one.

    Attributes:
        at: its YAML path.
        target: where it is now, if anywhere.
        file: that was read in its place.
    """

    at: At
    target: At | None = None
    file: Path | None = None


ADAPTER_CONFIG = "adapter_config.json"


def read_model_files(raw: dict[str, Any], locate: Locate, lines: Lines) -> list[Gone]:
    """Turn the paths of adapters and templates in `models` into what they stand for.

    A `model` that is a folder with LoRA weights becomes the base that it names, with the folder as
    its `adapter`; a `chat_template` that is a path becomes the text of the file. An adapter that
    was trained under another template than its base has keeps it.

    `raw`: the recipe as resolved; changed in place. `locate`: a path of the recipe as an existing
    one, or unchanged.

    Raises:
        PrefdataError: an adapter names no base, or a template's file cannot be read.
    """
    gone: list[Gone] = []
    models = raw.get("models")
    for number, entry in enumerate(models if isinstance(models, list) else ()):
        if not isinstance(entry, dict):
            continue
        at: At = ("models", number)
        if isinstance(entry.get("model"), str) and "adapter" not in entry:
            _name_base(entry, locate, lines.place((*at, "model")))
            if "adapter" in entry:
                gone.append(Gone((*at, "model"), (*at, "adapter")))
        if is_file(entry.get("chat_template")):
            file = Path(locate(entry["chat_template"]))
            _read_template(entry, file, lines.place((*at, "chat_template")))
            gone.append(Gone((*at, "chat_template"), file=file))
        elif isinstance(entry.get("adapter"), str) and "chat_template" not in entry:
            _keep_template(entry, locate)
    return gone


def is_file(template: Any) -> bool:
    """Whether a recipe's `chat_template` is the path of a file and not a template."""
    return isinstance(template, str) and not re.search(r"[{\n]", template)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no whole checkpoint."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def read_template(folder: Path) -> str | None:
    """The chat template of a tokenizer's folder, or None where it has none or more than one."""
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    told = _read_json(config).get("chat_template") if config.is_file() else None
    return told if isinstance(told, str) else None


def _name_base(entry: dict[str, Any], locate: Locate, place: str) -> None:
    folder = Path(locate(entry["model"]))
    if not is_adapter(folder):
        return
    config = _read_json(folder / ADAPTER_CONFIG)
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise PrefdataError(
            f"{place}: {folder} is an adapter that names no base model; write the base as 'model' "
            "and this folder as 'adapter'"
        )
    beside = folder / base
    entry["adapter"], entry["model"] = entry["model"], str(beside) if beside.is_dir() else base
    if config.get("revision") and not Path(locate(entry["model"])).is_dir():
        entry.setdefault("revision", config["revision"])


def _read_template(entry: dict[str, Any], file: Path, place: str) -> None:
    try:
        entry["chat_template"] = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise PrefdataError(
            f"{place}: {entry['chat_template']!r} is neither a chat template in Jinja nor a file "
            f"that can be read ({err}); relative paths are looked up beside the recipe"
        ) from err


def _keep_template(entry: dict[str, Any], locate: Locate) -> None:
    template = read_template(Path(locate(entry["adapter"])))
    model = entry.get("model")
    of_base = read_template(Path(locate(model))) if isinstance(model, str) else None
    if template is not None and template != of_base:
        entry["chat_template"] = template


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise PrefdataError(
            f"{file}: it cannot be read ({err}); copy or save the adapter again"
        ) from err
    return found if isinstance(found, dict) else {}
