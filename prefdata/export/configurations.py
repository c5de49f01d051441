"""The lines that make each trainer read its files. Written beside them; knows no pair."""

import glob
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class Place:
    """Where an export lies.

    Attributes:
        test: file name in it; None where there is none.
        has_tools: whether its lines have tools and calls of them.
    """

    folder: Path
    train: str
    test: str | None
    has_tools: bool = False

    @property
    def files(self) -> dict[str, str]:
        """Absolute paths by split."""
        names = {"train": self.train, "test": self.test}
        return {split: str(self.folder / name) for split, name in names.items() if name}


def trl(place: Place, kind: str = "DPO") -> dict[str, str]:
    """For `DPOTrainer` or `KTOTrainer`; other trainers of preference pairs read the same."""
    evaluation = ', eval_dataset=data["test"]' if place.test else ""
    patterns = {split: glob.escape(file) for split, file in place.files.items()}
    return {
        f"{kind.lower()}.py": f"""\
from datasets import load_dataset
from trl import {kind}Config, {kind}Trainer

data = load_dataset("json", data_files={json.dumps(patterns, ensure_ascii=False)})
trainer = {kind}Trainer(
    model="MODEL", args={kind}Config(output_dir="trained"),
    train_dataset=data["train"]{evaluation},
)
trainer.train()
"""
    }


def nemo_rl(place: Place, kind: str = "PreferenceDataset", **keys: str) -> dict[str, str]:
    """For NeMo RL's `run_dpo.py` and `run_rm.py`; `keys` name the columns."""
    splits = {"train": "train", "test": "validation"}
    data = {splits[split]: {"data_path": file} for split, file in place.files.items()}
    default = {"dataset_name": kind, **keys, "prompt_file": None, "system_prompt_file": None}
    return {"nemo_rl.yaml": _as_yaml({"data": data | {"default": default}})}


def nemo_customizer(place: Place, training_type: str = "dpo") -> dict[str, str]:
    """The part of a customization job that is about the data."""
    job = {
        "dataset": {"name": "DATASET", "namespace": "NAMESPACE"},
        "hyperparameters": {"training_type": training_type, "finetuning_type": "all_weights"},
    }
    return {"job.json": _as_json(job)}


def nemo_platform(place: Place) -> dict[str, str]:
    """Both files belong at the root of one fileset."""
    return {
        "job.py": """\
job = sdk.customization.rl.jobs.create(
    spec={"model": "MODEL", "dataset": "WORKSPACE/FILESET", "training": {"type": "dpo"}},
    workspace="WORKSPACE",
)
"""
    }


def nemo_aligner(place: Place) -> dict[str, str]:
    """An argument of `train_gpt_dpo.py`."""
    train, test = place.files["train"], place.files.get("test", place.files["train"])
    files = f"train: [{train}], validation: [{test}], test: [{test}]"
    return {"nemo_aligner.args": f'"model.data.data_prefix={{{files}}}"\n'}


def axolotl(place: Place) -> dict[str, str]:
    """A part of Axolotl's configuration."""
    warning = (
        "# finds an answer by its text, and cuts elsewhere where that stands before it too, as\n"
        "# 'user' may: the format axolotl_passthrough has no such trouble\n"
    )
    return {"axolotl.yaml": warning + _axolotl(place, "chat_template.default")}


def axolotl_passthrough(place: Place) -> dict[str, str]:
    """As `axolotl`, with the preparation left to TRL."""
    return {"axolotl.yaml": _axolotl(place, "passthrough.default", skip_prepare_dataset=True)}


def _axolotl(place: Place, strategy: str, **more: bool) -> str:
    told: dict[str, Any] = {"rl": "dpo", "chat_template": "tokenizer_default", **more}
    for split, file in place.files.items():
        key = "datasets" if split == "train" else "test_datasets"
        told[key] = [{"path": file, "ds_type": "json", "split": "train", "type": strategy}]
    return _as_yaml(told)


def llama_factory(place: Place) -> dict[str, str]:
    """A part of the training configuration, and the dataset_info.json that it refers to."""
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
    columns |= {"tools": "tools"} if place.has_tools else {}
    kind = {"formatting": "sharegpt", "ranking": True, "columns": columns}
    info = {"prefdata_train": {"file_name": place.train} | kind}
    told = {"stage": "dpo", "dataset_dir": str(place.folder), "dataset": "prefdata_train"}
    if place.test:
        info["prefdata_test"] = {"file_name": place.test} | kind
        told["eval_dataset"] = "prefdata_test"
    return {"llama_factory.yaml": _as_yaml(told), "dataset_info.json": _as_json(info)}


def openrlhf(place: Place) -> dict[str, str]:
    """Arguments of `openrlhf.cli.train_dpo` and `openrlhf.cli.train_rm`."""
    options = {"train": "--data.dataset {}", "test": "--eval.dataset {} --eval.split train"}
    return _arguments("openrlhf", ["--data.apply_chat_template", *_filled_in(options, place)])


def ms_swift(place: Place) -> dict[str, str]:
    """Arguments of `swift rlhf`."""
    options = {"train": "--dataset {}", "test": "--val_dataset {}"}
    return _arguments("ms_swift", ["--rlhf_type dpo", *_filled_in(options, place)])


def open_instruct(place: Place) -> dict[str, str]:
    """Arguments of `open_instruct/dpo.py`."""
    lines = _filled_in({"train": "--mixer_list {} 1.0"}, place)
    return _arguments("open_instruct", [*lines, "--mixer_list_splits train"])


def openai(place: Place) -> dict[str, str]:
    """A supervised fine-tuning job on uploaded files."""
    return _openai(place, {"type": "supervised"})


def openai_preference(place: Place) -> dict[str, str]:
    """A DPO job on uploaded files."""
    return _openai(place, {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1}}})


def _openai(place: Place, method: dict[str, object]) -> dict[str, str]:
    job = {"model": "MODEL", "training_file": "FILE-ID", "method": method}
    if place.test:
        job["validation_file"] = "FILE-ID"
    return {"job.json": _as_json(job)}


def _as_yaml(told: dict[str, Any]) -> str:
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=10**9)


def _as_json(told: dict[str, Any]) -> str:
    return json.dumps(told, indent=2) + "\n"


def _filled_in(options: dict[str, str], place: Place) -> list[str]:
    """Options with the file of each split."""
    files = place.files
    return [text.format(shlex.quote(files[s])) for s, text in options.items() if s in files]


def _arguments(name: str, lines: list[str]) -> dict[str, str]:
    return {f"{name}.args": " \\\n".join(lines) + "\n"}
