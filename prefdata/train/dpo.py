"""TRL's DPOTrainer: made from settings, run, saved. Knows no run and no recipe."""

import glob
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from transformers import PrinterCallback, SchedulerType, TrainerCallback, set_seed
from trl import DPOConfig, DPOTrainer

from prefdata.engines.transformers.model import TINY_PARAMETERS, Checkpoint, load_tokenizer
from prefdata.errors import PrefdataError, Say, suggest
from prefdata.recipe.schema import Model
from prefdata.train.trl_settings import TrlSettings

FEW_STEPS = 10
"""A training of fewer steps hardly changes a model."""


class Config(DPOConfig):  # type: ignore[misc]
    """TRL's arguments, whose warmup leaves steps at the full learning rate."""

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """None where the share is less than a step: transformers would make it the whole first one.

        The learning rate of the first step of a warmup is 0, so one step would train nothing.
        """
        if num_training_steps * self.warmup_steps < 1:
            return 0
        wanted = int(super().get_warmup_steps(num_training_steps))
        return min(wanted, num_training_steps - 1)


def check_arguments(settings: TrlSettings) -> None:
    """Look at names alone: no model, no pairs, no GPU.

    Raises:
        PrefdataError: TRL knows no such argument or schedule.
    """
    known = [field.name for field in fields(DPOConfig) if field.init]
    for name in settings.arguments:
        if name not in known:
            raise PrefdataError(
                f"arguments: TRL's DPOConfig refuses the settings: it has no {name!r}; "
                f"{suggest(name, known)}"
            )
    schedules = [one.value for one in SchedulerType]
    if (name := settings.lr_scheduler_type) not in schedules:
        raise PrefdataError(f"lr_scheduler_type: there is no {name!r}; {suggest(name, schedules)}")


def make_trainer(
    model: Model, settings: TrlSettings, files: Mapping[str, Path], checkpoints: Path
) -> Any:
    """A trainer ready to run.

    `files`: pairs in the format `trl`, `train` and perhaps `test`.

    Raises:
        PrefdataError: TRL refuses an argument, or the model does not load.
    """
    for library in (datasets, transformers.utils.logging):
        library.disable_progress_bar()
    set_seed(settings.seed % 2**32)
    places = {split: glob.escape(str(file.absolute())) for split, file in files.items()}
    pairs = datasets.load_dataset("json", data_files=places, cache_dir=str(checkpoints / "cache"))
    checkpoint = Checkpoint.of(model, model.model)
    tokenizer = load_tokenizer(checkpoint)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    try:
        return DPOTrainer(
            model=model.model,
            args=_config(model, settings, checkpoints, "test" in files),
            train_dataset=pairs["train"],
            eval_dataset=pairs["test"] if "test" in files else None,
            processing_class=tokenizer,
            peft_config=_adapters(settings),
        )
    except (OSError, ValueError, TypeError) as err:
        raise PrefdataError(f"TRL refuses to train {model.model}: {err}") from err


def last_checkpoint(checkpoints: Path) -> Path | None:
    """The newest checkpoint that was written to its end; its state is written last."""
    whole = [file.parent for file in checkpoints.glob("checkpoint-*/trainer_state.json")]
    return max(whole, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def run(trainer: Any, checkpoint: Path | None, say: Say) -> dict[str, Any]:
    """Train to the end; steps, loss and, where there is a test set, TRL's figures about it."""
    if trainer.model.num_parameters() < TINY_PARAMETERS:
        torch.set_num_threads(1)  # a second thread costs such a model more than it gives
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Tell(say))
    done = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    figures = {"steps": done.global_step, "loss": done.training_loss}
    if trainer.eval_dataset is not None:
        measured = trainer.evaluate()
        wanted = ("eval_loss", "eval_rewards/accuracies", "eval_rewards/margins")
        figures |= {name: measured[name] for name in wanted if name in measured}
    return figures


def parts_to_save(trainer: Any, settings: TrlSettings) -> dict[str, Callable[[Path], None]]:
    """What is kept, by the name of its folder; adapters also merged into the weights."""

    def save(model: Any) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            model.save_pretrained(folder)
            trainer.processing_class.save_pretrained(folder)

        return write

    model = trainer.accelerator.unwrap_model(trainer.model)
    if settings.lora is None:
        return {"model": save(model)}
    # in this order: merging takes the adapters out of the model
    return {"adapter": save(model), "model": lambda folder: save(model.merge_and_unload())(folder)}


def _config(model: Model, settings: TrlSettings, checkpoints: Path, has_test: bool) -> Config:
    on_gpu = torch.cuda.is_available()
    dtype = settings.dtype if settings.dtype != "auto" or on_gpu else "float32"
    at_once = settings.micro_batch_size * int(os.environ.get("WORLD_SIZE", "1"))
    rate = settings.learning_rate or (1e-5 if settings.lora else 1e-6)
    saving: dict[str, Any] = (
        {"save_strategy": "steps", "save_steps": settings.save_steps}
        if settings.save_steps
        else {"save_strategy": "epoch"}
    )
    given: dict[str, Any] = {
        "output_dir": str(checkpoints),
        "model_init_kwargs": {"dtype": dtype, "revision": model.revision},
        "trust_remote_code": model.trust_remote_code,
        "seed": settings.seed % 2**32,
        "beta": settings.beta,
        "loss_type": list(settings.loss_type),
        "loss_weights": settings.loss_weights and list(settings.loss_weights),
        "learning_rate": rate,
        "lr_scheduler_type": settings.lr_scheduler_type,
        "warmup_steps": settings.warmup_ratio,  # below 1 it is a share of all steps
        "weight_decay": settings.weight_decay,
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.micro_batch_size,
        "per_device_eval_batch_size": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.batch_size // at_once,
        "gradient_checkpointing": on_gpu,
        "max_length": settings.max_length,
        "bf16": on_gpu and torch.cuda.is_bf16_supported() and dtype != "float32",
        "use_cpu": not on_gpu,
        "report_to": "none",
        "disable_tqdm": True,
        "save_total_limit": 1,
        "logging_steps": 10,
    }
    try:
        return Config(**given | saving | settings.arguments)
    except (TypeError, ValueError) as err:
        raise PrefdataError(f"TRL's DPOConfig refuses the settings: {err}") from err


def _adapters(settings: TrlSettings) -> Any:
    if settings.lora is None:
        return None
    from peft import LoraConfig  # only adapters need it

    told = settings.lora.model_dump()
    if not isinstance(told["target_modules"], str):
        told["target_modules"] = list(told["target_modules"])
    return LoraConfig(task_type="CAUSAL_LM", **told)


class _Tell(TrainerCallback):  # type: ignore[misc]
    """How many steps there are where they are few, and one line a log of TRL's."""

    def __init__(self, say: Say) -> None:
        self._say = say

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell of a training that is hardly one."""
        if (count := state.max_steps) < FEW_STEPS:
            self._say(
                f"the training has only {count} step{'s' if count > 1 else ''}, which hardly "
                "changes a model; give it more pairs, more epochs or a smaller batch_size"
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Step, loss, share of pairs whose chosen has the higher implicit reward."""
        if logs and "loss" in logs:
            right = logs.get("rewards/accuracies")
            told = "" if right is None else f", rewards right {right:.1%}"
            self._say(f"step {state.global_step}/{state.max_steps}: loss {logs['loss']:.4f}{told}")
