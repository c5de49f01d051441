"""`prefdata train --backend nemo_customizer`: a run's pairs as files, then the job."""

from pathlib import Path
from typing import Any

from prefdata.errors import Say
from prefdata.export import ExportOptions, export_run
from prefdata.run.finished import open_run
from prefdata.run.stale import check_training
from prefdata.train.nemo_customizer.payloads import TrainingFiles
from prefdata.train.nemo_customizer.settings import CustomizerSettings
from prefdata.train.nemo_customizer.train import train_customizer

FORMATS = {"dpo": "nemo_customizer", "sft": "nemo_customizer_sft"}


def train_on_customizer(
    run: Path,
    settings: CustomizerSettings,
    out: Path,
    *,
    dry_run: bool = False,
    force: bool = False,
    say: Say = print,
) -> dict[str, Any]:
    """Write `out/data/`, then upload, submit, wait and deploy as the settings say.

    Returns:
        What train.json holds.

    Raises:
        PrefdataError: the run cannot be exported, or as from `train_customizer`.
    """
    kind = settings.hyperparameters.training_type
    is_cut = kind == "dpo" and not settings.use_full_message_history
    check_training(run, open_run(run).record, out, is_forced=force)
    options = ExportOptions(last_message_only=is_cut)
    data = export_run(run, FORMATS[kind], options, out / "data", say=say)
    if data.test is None:
        raise AssertionError("both formats need a test set, so there is one")
    lines = ", ".join(f"{count:,} {split}" for split, count in data.lines.items())
    say(f"{data.folder}: {lines}")
    return train_customizer(
        TrainingFiles(data.train, data.test), settings, out, dry_run=dry_run, say=say
    )
