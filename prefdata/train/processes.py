"""DPO in processes of its own, by accelerate: what starts them, and what each of them does.

    accelerate launch … -m prefdata.train.processes JOB.json

Each process trains its share of every batch; how weights are spread over the devices (FSDP,
DeepSpeed) is accelerate's configuration.
"""

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import yaml

from prefdata.errors import PrefdataError, Say
from prefdata.recipe.schema import Model
from prefdata.storage.disk import publish, temporary_name, write_text
from prefdata.train.children import run_child
from prefdata.train.trl_settings import TrlSettings

JOB, FIGURES = "job.json", "figures.json"


def count_processes(settings: TrlSettings) -> int:
    """How many there will be.

    Raises:
        PrefdataError: accelerate's configuration cannot be read or does not say it.
    """
    if settings.accelerate is None:
        return settings.processes
    try:
        told = yaml.safe_load(Path(settings.accelerate).read_text("utf-8"))
        return int(told["num_processes"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as err:
        raise PrefdataError(
            f"accelerate: {settings.accelerate}: num_processes cannot be read ({err!r}); write the "
            "file with `accelerate config`"
        ) from err


def train_in_processes(
    model: Model,
    settings: TrlSettings,
    files: Mapping[str, Path],
    out: Path,
    environment: Mapping[str, str],
    say: Say,
) -> dict[str, Any]:
    """Train, write `out/model`, and return what TRL measured.

    Raises:
        PrefdataError: the processes failed, or left no weights.
    """
    import torch  # slow to import

    place = temporary_name(out / "model")
    job = {
        "model": model.model_dump(mode="json"),
        "settings": settings.model_dump(mode="json"),
        "files": {split: str(file) for split, file in files.items()},
        "out": str(out),
        "place": str(place),
    }
    write_text(out / JOB, orjson.dumps(job).decode())
    how = ["--config_file", settings.accelerate] if settings.accelerate else [
        "--num_processes", str(settings.processes), "--num_machines", "1", "--mixed_precision",
        "no", "--dynamo_backend", "no", "--multi_gpu" if torch.cuda.is_available() else "--cpu",
    ]  # fmt: skip
    launch = [sys.executable, "-m", "accelerate.commands.launch", *how]
    if code := run_child([*launch, "-m", __name__, str(out / JOB)], environment, say):
        raise PrefdataError(
            f"the processes of the training ended with exit code {code}, for what they say above"
        )
    if not any(place.glob("*.safetensors")):
        raise PrefdataError(
            f"{place}: the processes of the training ended well, but left no weights; with FSDP "
            "set fsdp_state_dict_type: FULL_STATE_DICT in accelerate's configuration"
        )
    publish(place, out / "model")
    figures: dict[str, Any] = orjson.loads((out / FIGURES).read_bytes())
    return figures


def _work(job: Mapping[str, Any]) -> None:
    """What each process does; the first of them writes and tells."""
    from prefdata.train import dpo

    model, settings = Model(**job["model"]), TrlSettings(**job["settings"])
    files = {split: Path(file) for split, file in job["files"].items()}
    out, place = Path(job["out"]), Path(job["place"])
    trainer = dpo.make_trainer(model, settings, files, out / "checkpoints")
    is_first = trainer.accelerator.is_main_process
    # the command that has started this hears it
    say = partial(print, flush=True) if is_first else lambda line: None
    figures = dpo.run(trainer, dpo.last_checkpoint(out / "checkpoints"), say)
    trainer.save_model(str(place))
    if is_first:
        trainer.processing_class.save_pretrained(place)
        write_text(out / FIGURES, orjson.dumps(figures).decode())
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


if __name__ == "__main__":
    try:
        _work(orjson.loads(Path(sys.argv[1]).read_bytes()))
    except PrefdataError as err:
        print(f"error: {err}", file=sys.stderr, flush=True)
        sys.exit(2)
