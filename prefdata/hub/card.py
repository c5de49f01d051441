"""The dataset card: YAML for the Hub, prose and figures for people. Reads a run, writes nothing."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import yaml
from datasets import Features
from jinja2 import Environment, StrictUndefined

from prefdata.hub.card_columns import describe_columns
from prefdata.hub.card_figures import measure_pairs
from prefdata.hub.content import Content, Contents
from prefdata.pairs.diff import tell_changes
from prefdata.pairs.prompts import tell_of_prompts
from prefdata.pairs.readable import config_of, stem_of
from prefdata.recipe.mix import projections_of
from prefdata.recipe.publication import Publish
from prefdata.recipe.schema import Model
from prefdata.run.finished import FinishedRun
from prefdata.run.public import make_public_recipe, shorten
from prefdata.seeds.files import is_data_file
from prefdata.storage.folders import read_schema, read_tables
from prefdata.storage.record import Record

TAGS = ("preference", "dpo", "rlhf", "synthetic", "prefdata")
SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
Facts = dict[str, Any]


def make_card(
    run: FinishedRun,
    settings: Publish,
    contents: Contents,
    tag: str,
    changes: tuple[str, Record] | None = None,
) -> str:
    """README.md of the published dataset.

    `settings`: the recipe's `publish`, or what stands for it. `contents`: by config and split, of
    what is published; no config is empty.
    """
    template = Path(__file__).with_name("card.md.j2").read_text("utf-8")
    kinds = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False,
        keep_trailing_newline=True,
    )  # fmt: skip
    kinds.filters |= {
        "cell": lambda value: str(value).replace("|", "\\|").replace("\n", " "),
        "count": "{:,}".format,
        "number": lambda value: f"{value:,.3f}" if abs(value) < 100 else f"{value:,.0f}",
        "share": "{:.1%}".format,
    }
    prose = kinds.from_string(template).render(**_facts(run, settings, contents, tag, changes))
    metadata = yaml.safe_dump(
        _metadata(run, settings, contents, tag), sort_keys=False, allow_unicode=True
    )
    return f"---\n{metadata}---\n{prose}"


def _metadata(run: FinishedRun, settings: Publish, contents: Contents, tag: str) -> Facts:
    models, source = _models(run), _source(run)
    pairs = sum(content.rows for content in contents["pairs"].values())
    named: Facts = {
        "license": settings.license,
        "language": [*settings.languages],
        "pretty_name": settings.pretty_name,
        "tags": list(dict.fromkeys((*TAGS, *settings.tags))),
        "size_categories": [_size_category(pairs)],
        "source_datasets": [source["id"]] if source and source["id"] else None,
        "base_model": list(dict.fromkeys(fact["model"] for fact in models if fact["hub"])),
    }
    return {key: value for key, value in named.items() if value} | {
        "configs": [config_of(name, splits) for name, splits in contents.items()],
        "dataset_info": [_info(run, name, splits) for name, splits in contents.items()],
        "prefdata": {
            "version": run.record.get("prefdata", ""),
            "run": tag,
            "models": [{k: f[k] for k in ("alias", "model", "revision")} for f in models],
            "source": source,
        },
    }


def _info(run: FinishedRun, name: str, splits: Mapping[str, Content]) -> Facts:
    """What `push_to_hub` would write: the features, and rows and bytes of every split."""
    features: Any = Features.from_arrow_schema(read_schema(run.folder / name))
    folder = run.folder / name
    files = {one: [*folder.glob(f"{stem_of(name, one)}-*.parquet")] for one in splits}
    sizes = {split: sum(map(_uncompressed, found)) for split, found in files.items()}
    return {
        "config_name": name,
        "features": features._to_yaml_list(),
        "splits": [
            {"name": split, "num_bytes": sizes[split], "num_examples": content.rows}
            for split, content in splits.items()
        ],
        "download_size": sum(file.stat().st_size for found in files.values() for file in found),
        "dataset_size": sum(sizes.values()),
    }


def _uncompressed(file: Path) -> int:
    footer = pq.read_metadata(file)
    return sum(footer.row_group(n).total_byte_size for n in range(footer.num_row_groups))


def _facts(
    run: FinishedRun,
    settings: Publish,
    contents: Contents,
    tag: str,
    changes: tuple[str, Record] | None,
) -> Facts:
    record, recipe = run.record, run.recipe
    public = make_public_recipe(run)
    models, source = _models(run), _source(run)
    return {
        "changes": changes and (changes[0], list(tell_changes(changes[1]))),
        "title": settings.pretty_name or settings.repo_id.split("/")[1],
        "repo": settings.repo_id,
        "tag": tag,
        "license": settings.license,
        "record": record,
        "asked": tell_of_prompts(record),
        "recipe": recipe,
        "may_be_cut": any(
            part.truncated_rejected for part in projections_of(recipe.output_projection).values()
        )
        if recipe
        else record["projection"]["truncated_rejected"],
        "contents": contents,
        "shape": _shape(run),
        "columns": {
            name: [*describe_columns(name, read_schema(run.folder / name), recipe)]
            for name in contents
        },
        "yaml": public,
        "fence": _fence(public or ""),
        "models": models,
        "local": sorted({fact["model"] for fact in models if fact["is_local"]}),
        "source": source,
        "command": _command(run, settings, models, source, tag),
        "figures": measure_pairs(read_tables(run.folder / "pairs")),
    }


def _models(run: FinishedRun) -> list[Facts]:
    """What is known of every model of the recipe."""
    if run.recipe is None or run.loaded is None:
        return []
    known = run.record.get("checkpoints", {})
    facts = []
    for number, model in enumerate(run.recipe.models):
        uses = [column.name for column in run.recipe.columns if model.alias in column.aliases]
        checkpoint, server = str(known.get(model.alias, "")), run.recipe.endpoint(model)
        is_hub = server is None and re.fullmatch("[0-9a-f]{40}", checkpoint) is not None
        facts.append({
            "number": number,
            "alias": model.alias,
            "model": shorten(run.tell(model.weights), run.loaded.folder),
            "hub": is_hub,
            "is_local": server is None and not is_hub,
            "revision": model.revision if server else checkpoint,
            "place": f"server `{server.name}`" if server else
            f"commit `{checkpoint}`" if is_hub else f"local, content hash `{checkpoint}`",
            "uses": uses,
            "sampling": _sampling(model),
        })  # fmt: skip
    return facts


def _sampling(model: Model) -> str:
    given = model.inference_parameters.model_dump(exclude_unset=True)
    return ", ".join(f"{name} {value}" for name, value in given.items() if value is not None)


def _source(run: FinishedRun) -> Facts | None:
    """Where the prompts came from; `id` only where it is a dataset of the Hub."""
    if run.loaded is None:
        return {"id": None, "names": [run.record["source"]], "revision": None}
    config = run.loaded.recipe.seed_dataset
    if config.path is None:
        return None
    names = [shorten(run.tell(path), run.loaded.folder) for path in config.path]
    local = [_is_file_name(path) or Path(run.loaded.locate(path)).exists() for path in config.path]
    is_hub = len(names) == 1 and not local[0]
    return {"id": names[0] if is_hub else None, "names": names, "revision": config.revision}


def _is_file_name(path: str) -> bool:
    is_place = path.startswith(("/", ".", "~")) or any(c in path for c in "*?[")
    return is_place or is_data_file(path)


def _shape(run: FinishedRun) -> str:
    """How the pairs' prompts look: `text`, `messages` or `json`."""
    field = read_schema(run.folder / "pairs").field("prompt")
    if (field.metadata or {}).get(b"prefdata") == b"json":
        return "json"
    return "text" if str(field.type) in ("string", "large_string") else "messages"


def _command(
    run: FinishedRun, settings: Publish, models: list[Facts], source: Facts | None, tag: str
) -> str:
    """The command that builds it again, with what must be given where the repository lacks it."""
    if run.recipe is None:
        return _repick_command(run)
    words = ["prefdata", "build", f"hf://datasets/{settings.repo_id}@{tag}/recipe.yaml"]
    if source and source["id"] is None:
        value = source["names"][0] if len(source["names"]) == 1 else str(source["names"])
        words.append(f"seed_dataset.path={value}")
    words += [f"models.{f['number']}.model={f['model']}" for f in models if f["is_local"]]
    for number, one in enumerate(run.recipe.providers):
        words.append(f"providers.{number}.endpoint={run.tell(one.endpoint)}")
        if one.api_key:
            words.append(f"providers.{number}.api_key={one.api_key}")
    return " ".join(map(shlex.quote, words))


def _repick_command(run: FinishedRun) -> str:
    record = run.record
    words = ["prefdata", "pairs", record["source"]]
    for key, value in record["projection"].items():
        if value is not None and key != "type":
            words.append(f"{key}={orjson.dumps(value).decode()}")
    defaults = {"prompt": None, "score": None} if "text" in record["fields"] else {}
    for key, value in (defaults | record["fields"]).items():
        is_plain = isinstance(value, str) and yaml.safe_load(value) == value
        told = value if is_plain else orjson.dumps(value).decode()
        words += ["--map", f"{key}={told}"]
    part = record.get("part", {})
    words += [word for key, option in (("name", "--config"), ("split", "--split"))
              if key in part for word in (option, part[key])]  # fmt: skip
    words += ["--seed", str(run.seed), "--out", "again"]
    return " ".join(map(shlex.quote, words))


def _size_category(rows: int) -> str:
    thousands = len(str(rows)) - len("1000")
    return "n<1K" if thousands < 0 else f"{SIZES[thousands]}<n<{SIZES[thousands + 1]}"


def _fence(text: str) -> str:
    """More backticks than stand together anywhere in the text."""
    return "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
