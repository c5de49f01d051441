"""`prefdata train --backend trl`: DPO on this machine, and how much better the model is for it."""

import os
import shlex
import shutil
import time
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from prefdata.engines.checkpoints import identify
from prefdata.errors import PrefdataError, Say, install_command
from prefdata.export import Export, ExportOptions, export_run
from prefdata.fingerprint import digest
from prefdata.recipe.loader import LoadedRecipe
from prefdata.recipe.schema import InferenceParameters, Model, Recipe
from prefdata.rows import Row
from prefdata.run.finished import FinishedRun, find_policy, open_run
from prefdata.run.stale import check_training
from prefdata.storage.disk import disk_errors, hold, publish, temporary_name, write_text
from prefdata.train.children import fill_in, run_child
from prefdata.train.evaluation import evaluate, held_out_rows, rows_of_file, verifiers_of
from prefdata.train.processes import count_processes, train_in_processes
from prefdata.train.trl_settings import TrlSettings

Result = dict[str, Any]
MADE = ("checkpoints", "command", "model", "adapter")


def train_trl(
    run: Path, settings: TrlSettings, out: Path, *, force: bool = False, say: Say = print
) -> Result:
    """Train on a run's pairs; run again, it goes on where it stopped.

    The folder gets `data/` (the pairs as TRL reads them), `model/` (weights and tokenizer; with
    adapters also `adapter/`) and `train.json`, which is what is returned.

    Raises:
        PrefdataError: TRL is not installed, or run, model or settings cannot serve.
    """
    _check(settings)
    environment = dict(os.environ)
    _take_one_gpu()
    finished = open_run(run)
    _check_place(out)
    check_training(run, finished.record, out, is_forced=force)
    model = _start(finished, settings)
    options = ExportOptions(max_tokens=settings.max_length, tokenizer=model, drop_too_long=True)
    data = export_run(run, "trl", options, out / "data", say=say)
    with disk_errors(out), hold(out):
        result = _begin(out, settings, model, data)
        _save(out, result)  # which says whose folder it is
        if "finished" in result:
            say(f"nothing to do: {out / 'train.json'} is finished")
            return result
        rows = _rows(finished, model, settings, data, say)
        if rows and "before" not in result:
            result["before"] = _judge(finished, model, rows, settings, say)
            _save(out, result)
        if "training" not in result:
            result["training"] = _train(model, settings, data, out, environment, say)
            _save(out, result)
        if rows:
            trained = model.model_copy(update={"model": str(out / "model"), "revision": None})
            result["after"] = _judge(finished, trained, rows, settings, say)
        result["finished"] = time.time()
        _save(out, result)
    return result


def _check_place(out: Path) -> None:
    """Replace what a training has made, and nothing else."""
    try:
        is_ours = orjson.loads((out / "train.json").read_bytes()).get("backend") == "trl"
    except (OSError, ValueError, AttributeError):
        is_ours = False
    there = [out / name for name in (*MADE, "train.json") if (out / name).exists()]
    if there and not is_ours:
        raise PrefdataError(
            f"{there[0]}: it is there already, and no training with TRL has made it; name a new "
            "folder with --out"
        )


def _take_one_gpu() -> None:
    """Show torch the first GPU alone: over several it would train with DataParallel."""
    # set before torch looks: it reads the list once
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


def check_training_of(loaded: LoadedRecipe, alias: str, settings: TrlSettings) -> None:
    """Find what would stop a training on a recipe's pairs, before there are any.

    `alias`: the model that writes the texts, as the recipe samples it.

    Raises:
        PrefdataError: as from `train_trl`.
    """
    _check(settings)
    if settings.command is None:
        from prefdata.train.dpo import check_arguments  # torch: a command needs none here

        check_arguments(settings)
    recipe = loaded.recipe
    (writer,) = (model for model in recipe.models if model.alias == alias)
    sampling = _sampled(writer, settings)
    if _can_judge(recipe, sampling, settings) and settings.evaluation.path is not None:
        rows_of_file(recipe, settings.evaluation.path)


def _check(settings: TrlSettings) -> None:
    if settings.command is not None:
        return
    for package in ("trl", *(("peft",) if settings.lora else ())):
        if find_spec(package) is None:
            raise PrefdataError(
                f"the backend trl needs the package {package}, which is not installed; run "
                f"{install_command('train')}"
            )
    at_once = settings.micro_batch_size * count_processes(settings)
    if settings.batch_size % at_once:
        raise PrefdataError(
            f"batch_size is {settings.batch_size}, which {at_once} (micro_batch_size, times the "
            "processes) does not divide; choose one that it does"
        )


def _start(run: FinishedRun, settings: TrlSettings) -> Model:
    """The model to begin with, sampled as the recipe does."""
    policy = find_policy(run)
    if policy is None and settings.model is None:
        raise PrefdataError(
            f"{run.folder}: the run does not say which model to train: its texts come from "
            "several checkpoints, from a server or from a file; name one with model=PATH"
        )
    changes: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    if settings.model is not None:
        changes |= {"model": settings.model, "revision": settings.revision, "adapter": None}
    chosen = policy or Model(alias="policy", model=settings.model or "")
    if chosen.adapter is not None and settings.model is None:
        raise PrefdataError(
            f"{run.folder}: its texts were written by the adapter {chosen.adapter}, but training "
            "starts from a full checkpoint; merge the adapter into its base and name the merged "
            "folder with model=PATH"
        )
    engine = {"dtype": settings.dtype} if settings.dtype != "auto" else {}
    return chosen.model_copy(
        update=changes
        | {
            "inference_parameters": _sampled(chosen, settings),
            "provider": "transformers",
            "engine": engine,
            "system_prompt": None,
        }
    )


def _sampled(model: Model, settings: TrlSettings) -> InferenceParameters:
    told = settings.evaluation.model_dump(include={"temperature", "max_tokens"}, exclude_none=True)
    return model.inference_parameters.model_copy(update=told)


def _begin(out: Path, settings: TrlSettings, model: Model, data: Export) -> Result:
    """What is known of this training so far; what another one left here is removed."""
    manifest = orjson.loads((data.folder / "export.json").read_bytes())
    told = settings.model_dump(mode="json")
    checkpoint = identify(model, model.model)
    sampling = model.inference_parameters.model_dump()
    fingerprint = digest(told, sampling, manifest["sha256"], checkpoint, size=10)
    file = out / "train.json"
    if file.is_file():
        before: Result = orjson.loads(file.read_bytes())
        if before.get("fingerprint") == fingerprint:
            return before
    for name in MADE:
        shutil.rmtree(out / name, ignore_errors=True)
    packages = ("trl", "transformers", "torch", "peft", "accelerate")
    return {
        "backend": "trl",
        "fingerprint": fingerprint,
        "run": manifest["run"],
        "model": model.model,
        "checkpoint": checkpoint,
        "settings": told,
        "pairs": data.lines,
        "started": time.time(),
        "versions": {name: version(name) for name in packages if find_spec(name)},
    }


def _save(out: Path, result: Result) -> None:
    write_text(out / "train.json", orjson.dumps(result, option=orjson.OPT_INDENT_2).decode())


def _rows(
    run: FinishedRun, model: Model, settings: TrlSettings, data: Export, say: Say
) -> list[Row]:
    """Prompts to evaluate on; none where nothing can judge."""
    if not _can_judge(run.recipe, model.inference_parameters, settings):
        say("the recipe has no verifier, so the model is not evaluated before and after training")
        return []
    if data.test is None and settings.evaluation.path is None:
        say("there is no test set, so the model is not evaluated before and after training")
        return []
    return held_out_rows(run, data, settings.evaluation, say=say)


def _can_judge(recipe: Recipe | None, sampling: InferenceParameters, settings: TrlSettings) -> bool:
    """Whether the recipe has a verifier; then all that an evaluation needs is there."""
    if recipe is None or not verifiers_of(recipe):
        if settings.evaluation.path:
            raise PrefdataError(
                "evaluation.path is given, but the recipe has no verifier that could judge the "
                "answers; add one to the recipe, or remove evaluation.path"
            )
        return False
    if sampling.temperature is None or sampling.max_tokens is None:
        raise PrefdataError(
            "the run does not say how the model is sampled, so it cannot be evaluated; set "
            "evaluation.temperature and evaluation.max_tokens"
        )
    return True


def _judge(
    run: FinishedRun, model: Model, rows: list[Row], settings: TrlSettings, say: Say
) -> Result:
    found = evaluate(run, model, rows, settings.evaluation, seed=settings.seed)
    scores = ", ".join(f"{name} {score:.1%}" for name, score in found["scores"].items())
    say(f"{model.model}: {scores} of {found['prompts']:,} prompts x {found['samples']} answers")
    return found


def _run(
    line: str, model: Model, data: Export, out: Path, environment: Mapping[str, str]
) -> Result:
    """Let a command of the user's train; what it left half done stays for it to go on with."""
    start, place = time.monotonic(), out / "command"
    place.mkdir(exist_ok=True)
    words = fill_in(line, {"pairs": data.train, "model": model.model, "out": place})
    if code := run_child(words, environment):
        raise PrefdataError(
            f"the command of the training ended with exit code {code}, for what it says above: "
            f"{shlex.join(words)}"
        )
    if not (place / "config.json").is_file():
        raise PrefdataError(
            f"{place}: the command of the training ended well, but left no model there (no "
            "config.json); let it write into {out}"
        )
    publish(place, out / "model")
    return {"seconds": time.monotonic() - start}


def _train(
    model: Model,
    settings: TrlSettings,
    data: Export,
    out: Path,
    environment: Mapping[str, str],
    say: Say,
) -> Result:
    """Train, write `model/`, and return what TRL measured."""
    if settings.command is not None:
        return _run(settings.command, model, data, out, environment)
    from prefdata.train import dpo

    start = time.monotonic()
    files = {"train": data.train} | ({"test": data.test} if data.test else {})
    if settings.processes > 1 or settings.accelerate:
        figures = train_in_processes(model, settings, files, out, environment, say)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        return figures | {"seconds": time.monotonic() - start}
    trainer = dpo.make_trainer(model, settings, files, out / "checkpoints")
    checkpoint = dpo.last_checkpoint(out / "checkpoints")
    if checkpoint is not None:
        say(f"going on from {checkpoint.name}")
    figures = dpo.run(trainer, checkpoint, say)
    for name, save in dpo.parts_to_save(trainer, settings).items():
        temporary = temporary_name(out / name)
        save(temporary)
        publish(temporary, out / name)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return figures | {"seconds": time.monotonic() - start}
