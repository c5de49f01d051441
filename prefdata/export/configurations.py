"""The lines that make each trainer read its files. Written beside them; knows no pair."""

import json
from dataclasses import dataclass
from pathlib import Path


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
    def train_file(self) -> str:
        """Absolute path."""
        return str(self.folder / self.train)

    @property
    def test_file(self) -> str | None:
        """Absolute path."""
        return str(self.folder / self.test) if self.test else None

    @property
    def files(self) -> dict[str, str]:
        """By split."""
        return {"train": self.train_file} | ({"test": self.test_file} if self.test_file else {})


def trl(place: Place) -> dict[str, str]:
    """For `DPOTrainer`; other trainers of preference pairs read the same."""
    return _python(place, "DPO")


def trl_kto(place: Place) -> dict[str, str]:
    """For `KTOTrainer`."""
    return _python(place, "KTO")


def _python(place: Place, kind: str) -> dict[str, str]:
    evaluation = ', eval_dataset=data["test"]' if place.test else ""
    return {
        f"{kind.lower()}.py": f"""\
from datasets import load_dataset
from trl import {kind}Config, {kind}Trainer

data = load_dataset("json", data_files={json.dumps(place.files, ensure_ascii=False)})
trainer = {kind}Trainer(
    model="MODEL", args={kind}Config(output_dir="trained"),
    train_dataset=data["train"]{evaluation},
)
trainer.train()
"""
    }


def nemo_rl(place: Place) -> dict[str, str]:
    """For NeMo RL's `run_dpo.py` and `run_rm.py`."""
    return _nemo_rl(place, {"dataset_name": "PreferenceDataset"})


def nemo_rl_binary(place: Place) -> dict[str, str]:
    """As `nemo_rl`."""
    keys = {"prompt_key": "prompt", "chosen_key": "chosen", "rejected_key": "rejected"}
    return _nemo_rl(place, {"dataset_name": "BinaryPreferenceDataset"} | keys)


def _nemo_rl(place: Place, told: dict[str, str]) -> dict[str, str]:
    lines = ["data:", "  train:", f"    data_path: {_quoted(place.train_file)}"]
    if place.test_file:
        lines += ["  validation:", f"    data_path: {_quoted(place.test_file)}"]
    told = told | {"prompt_file": "null", "system_prompt_file": "null"}
    lines += ["  default:", *(f"    {key}: {value}" for key, value in told.items())]
    return {"nemo_rl.yaml": "\n".join(lines) + "\n"}


def nemo_customizer(place: Place) -> dict[str, str]:
    """The part of a customization job that is about the data."""
    return _customizer("dpo")


def nemo_customizer_sft(place: Place) -> dict[str, str]:
    """As `nemo_customizer`, for supervised fine-tuning."""
    return _customizer("sft")


def _customizer(training_type: str) -> dict[str, str]:
    job = {
        "dataset": {"name": "DATASET", "namespace": "NAMESPACE"},
        "hyperparameters": {"training_type": training_type, "finetuning_type": "all_weights"},
    }
    return {"job.json": json.dumps(job, indent=2) + "\n"}


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
    test = place.test_file or place.train_file
    files = f"train: [{place.train_file}], validation: [{test}], test: [{test}]"
    return {"nemo_aligner.args": f'"model.data.data_prefix={{{files}}}"\n'}


def axolotl(place: Place) -> dict[str, str]:
    """A part of Axolotl's configuration."""
    warning = (
        "# finds an answer by its text, and cuts elsewhere where that stands before it too, as"
    )
    lines = [warning, "# 'user' may: the format axolotl_passthrough has no such trouble", "rl: dpo"]
    return _axolotl(place, [*lines, "chat_template: tokenizer_default"], "chat_template.default")


def axolotl_passthrough(place: Place) -> dict[str, str]:
    """As `axolotl`, with the preparation left to TRL."""
    lines = ["rl: dpo", "chat_template: tokenizer_default", "skip_prepare_dataset: true"]
    return _axolotl(place, lines, "passthrough.default")


def _axolotl(place: Place, lines: list[str], strategy: str) -> dict[str, str]:
    for key, file in (("datasets", place.train_file), ("test_datasets", place.test_file)):
        if file is None:
            continue
        told = {
            "path": _quoted(file),
            "ds_type": "json",
            "split": "train",
            "type": strategy,
        }
        first, *rest = (f"{name}: {value}" for name, value in told.items())
        lines += [f"{key}:", f"  - {first}", *(f"    {line}" for line in rest)]
    return {"axolotl.yaml": "\n".join(lines) + "\n"}


def llama_factory(place: Place) -> dict[str, str]:
    """A part of the training configuration, and the dataset_info.json that it refers to."""
    names = {"prefdata_train": place.train} | ({"prefdata_test": place.test} if place.test else {})
    info = {
        name: {
            "file_name": file,
            "formatting": "sharegpt",
            "ranking": True,
            "columns": {
                "messages": "conversations",
                "chosen": "chosen",
                "rejected": "rejected",
                **({"tools": "tools"} if place.has_tools else {}),
            },
        }
        for name, file in names.items()
    }
    lines = ["stage: dpo", f"dataset_dir: {_quoted(str(place.folder))}", "dataset: prefdata_train"]
    if place.test:
        lines.append("eval_dataset: prefdata_test")
    return {
        "llama_factory.yaml": "\n".join(lines) + "\n",
        "dataset_info.json": json.dumps(info, indent=2) + "\n",
    }


def openrlhf(place: Place) -> dict[str, str]:
    """Arguments of `openrlhf.cli.train_dpo` and `openrlhf.cli.train_rm`."""
    lines = [f"--data.dataset {_quoted(place.train_file)}", "--data.apply_chat_template"]
    if place.test_file:
        lines.append(f"--eval.dataset {_quoted(place.test_file)} --eval.split train")
    return {"openrlhf.args": _arguments(lines)}


def ms_swift(place: Place) -> dict[str, str]:
    """Arguments of `swift rlhf`."""
    lines = ["--rlhf_type dpo", f"--dataset {_quoted(place.train_file)}"]
    if place.test_file:
        lines.append(f"--val_dataset {_quoted(place.test_file)}")
    return {"ms_swift.args": _arguments(lines)}


def open_instruct(place: Place) -> dict[str, str]:
    """Arguments of `open_instruct/dpo.py`."""
    lines = [f"--mixer_list {_quoted(place.train_file)} 1.0", "--mixer_list_splits train"]
    return {"open_instruct.args": _arguments(lines)}


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
    return {"job.json": json.dumps(job, indent=2) + "\n"}


def _quoted(path: str) -> str:
    """A path as YAML and a shell read it: in quotes where it needs them."""
    plain = path.replace("/", "").replace("-", "").replace("_", "").replace(".", "")
    return path if plain.isalnum() else "'" + path.replace("'", "''") + "'"


def _arguments(lines: list[str]) -> str:
    return " \\\n".join(lines) + "\n"
