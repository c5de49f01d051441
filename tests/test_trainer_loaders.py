"""The exports, loaded with the trainers' own code up to the tokens that they train on."""

import argparse
import ast
import datetime
import importlib.util
import shlex
import sys
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from itertools import takewhile
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from conftest import QUICKSTART
from exported_pairs import ODD_PAIRS, PAIRS, export_pairs
from test_tool_calls import paired
from transformers import AutoTokenizer

from prefdata.export import ExportOptions, export_run

pytestmark = pytest.mark.trainers

LM = str(QUICKSTART / "models" / "lm")
END = "<|end|>"


@dataclass(frozen=True, order=True)
class Side:
    """One side of a pair: the text that is only read, and the text that is learnt."""

    prompt: str
    answer: str


class Reader:
    """Turns tokens back into what they say."""

    def __init__(self, model=LM):
        self.model = model
        self.tokenizer = AutoTokenizer.from_pretrained(model)

    def side(self, tokens, is_learnt):
        tokens, is_learnt = list(map(int, tokens)), list(map(bool, is_learnt))
        start = is_learnt.index(True)
        assert all(is_learnt[start:]), "what is learnt is not the end of the conversation"
        return Side(self.tokenizer.decode(tokens[:start]), self.tokenizer.decode(tokens[start:]))

    def unpadded_side(self, tokens, is_learnt, is_token):
        tokens, is_learnt = tokens[is_token.bool()], is_learnt[is_token.bool()]
        return self.side(tokens, is_learnt)

    def expected(self, pairs):
        """Both sides of every pair, as the model's own chat template writes them."""
        prompts = [
            self.tokenizer.apply_chat_template(
                list(pair.prompt), add_generation_prompt=True, tokenize=False
            )
            for pair in pairs
        ]
        return [
            (Side(prompt, pair.chosen + END), Side(prompt, pair.rejected + END))
            for prompt, pair in zip(prompts, pairs, strict=True)
        ]


@pytest.fixture(scope="module")
def reader():
    return Reader()


@pytest.fixture
def exported(tmp_path):
    return lambda name, pairs=PAIRS: export_pairs(tmp_path / f"{name}{len(pairs)}", name, pairs)


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "AXOLOTL_DO_NOT_TRACK": "1",
        "DISABLE_VERSION_CHECK": "1",  # LLaMA-Factory wants an older transformers than the others
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
        "MODELSCOPE_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)


def as_arguments(text):
    """The words that a shell passes on; shlex does not know that it joins lines."""
    return shlex.split(text.replace("\\\n", " "))


def need(package):
    pytest.importorskip(package, reason=f"{package} is not installed here")


# Axolotl


def axolotl_datasets(exported, base=LM):
    folder = exported.folder
    need("axolotl")
    from axolotl.cli.config import load_cfg
    from axolotl.loaders import load_tokenizer
    from axolotl.utils.data.rl import prepare_preference_datasets

    model = {
        "base_model": base,
        "sequence_len": 512,
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "num_epochs": 1,
        "learning_rate": 1e-5,
        "output_dir": str(folder.parent / "model"),
        "dataset_prepared_path": str(folder.parent / "prepared"),
        "dataset_num_proc": 1,
    }
    file = folder.parent / "axolotl.yaml"
    config = yaml.safe_load(exported.configuration["axolotl.yaml"])
    file.write_text(yaml.safe_dump(model | config))
    cfg = load_cfg(str(file))
    return prepare_preference_datasets(cfg, load_tokenizer(cfg))


def read_with_axolotl(exported, reader):
    train, test = axolotl_datasets(exported, reader.model)
    from axolotl.core.trainers.dpo.args import AxolotlDPOConfig
    from axolotl.core.trainers.dpo.trainer import AxolotlDPOTrainer
    from transformers import AutoModelForCausalLM

    assert len(test) == 1
    trainer = AxolotlDPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(reader.model),
        args=AxolotlDPOConfig(
            output_dir=str(exported.folder.parent / "model"),
            report_to="none",
            use_cpu=True,
            per_device_train_batch_size=len(train),
        ),
        train_dataset=train,
        processing_class=reader.tokenizer,
    )
    (batch,) = trainer.get_train_dataloader()
    both = [
        reader.unpadded_side(*rows)
        for rows in zip(
            batch["input_ids"], batch["completion_mask"], batch["attention_mask"], strict=True
        )
    ]
    return list(zip(both[: len(train)], both[len(train) :], strict=True))


# LLaMA-Factory


def import_llama_factory(monkeypatch):
    """Import its data code. torchaudio has no build for this torch, and only sound needs it."""
    need("llamafactory")
    with monkeypatch.context() as patch:
        torchaudio = ModuleType("torchaudio")
        torchaudio.__spec__ = ModuleSpec("torchaudio", None)
        patch.setitem(sys.modules, "torchaudio", torchaudio)
        import llamafactory.data.mm_plugin  # noqa: F401
    from llamafactory.data.formatter import EmptyFormatter, StringFormatter
    from llamafactory.data.template import TEMPLATES, register_template

    if "tiny" not in TEMPLATES:
        register_template(
            name="tiny",
            format_prefix=EmptyFormatter(slots=["<|begin|>"]),
            format_system=StringFormatter(slots=["<|system|>{{content}}<|end|>"]),
            format_user=StringFormatter(slots=["<|user|>{{content}}<|end|><|assistant|>"]),
            format_assistant=StringFormatter(slots=["{{content}}<|end|>"]),
        )


def read_with_llama_factory(exported, reader):
    with pytest.MonkeyPatch.context() as monkeypatch:
        import_llama_factory(monkeypatch)
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args

    model = {
        "model_name_or_path": LM,
        "template": "tiny",
        "do_train": True,
        "finetuning_type": "full",
        "output_dir": str(exported.folder.parent / "model"),
        "report_to": "none",
    }
    config = yaml.safe_load(exported.configuration["llama_factory.yaml"])
    model_args, data_args, training_args, *_ = get_train_args(model | config)
    template = get_template_and_fix_tokenizer(reader.tokenizer, data_args)
    data = get_dataset(
        template, model_args, data_args, training_args, stage="rm", tokenizer=reader.tokenizer
    )
    assert len(data["eval_dataset"]) == 1
    return [
        tuple(
            reader.side(
                row[f"{side}_input_ids"], [label != -100 for label in row[f"{side}_labels"]]
            )
            for side in ("chosen", "rejected")
        )
        for row in data["train_dataset"]
    ]


# ms-swift


def swift_rows(exported, kind):
    """What it trains on in an `--rlhf_type` of this kind: the rows, and the batch of them all."""
    need("swift")
    from swift.arguments import RLHFArguments
    from swift.template import TemplateMeta, register_template
    from swift.utils import parse_args

    register_template(
        TemplateMeta(
            "tiny",
            prefix=["<|begin|>"],
            system_prefix=["<|begin|><|system|>{{SYSTEM}}<|end|>"],
            prompt=["<|user|>{{QUERY}}<|end|><|assistant|>"],
            chat_sep=["<|end|>"],
            suffix=["<|end|>"],
            agent_template="hermes",
        ),
        exist_ok=True,
    )
    model = f"--model {LM} --model_type llama --template tiny --tuner_type full"
    model += f" --torch_dtype float32 --output_dir {exported.folder.parent}/model"
    told = exported.configuration["ms_swift.args"].replace("--rlhf_type dpo", f"--rlhf_type {kind}")
    args, unknown = parse_args(RLHFArguments, as_arguments(f"{model} {told}"))
    assert not unknown
    train, test = args.load_dataset()
    assert len(test) == 1
    template = args.get_template()
    template.set_mode("rlhf")
    rows = [template.encode(row) for row in train]
    return rows, template.data_collator([dict(row) for row in rows])


def read_with_ms_swift(exported, reader):
    rows, _ = swift_rows(exported, "dpo")
    return [
        tuple(
            reader.side(
                row[f"{side}_input_ids"], [label != -100 for label in row[f"{side}_labels"]]
            )
            for side in ("chosen", "rejected")
        )
        for row in rows
    ]


# OpenRLHF


def openrlhf_arguments(script, flags):
    """What its command's parser makes of the flags.

    The parser is built in the script's main block, behind imports that need a GPU: so only the
    statements that build it are run.
    """
    package = importlib.util.find_spec("openrlhf.cli")
    main = ast.parse(Path(package.origin).with_name(f"{script}.py").read_text()).body[-1]
    building = takewhile(lambda line: "parse_args" not in ast.unparse(line), main.body)
    names = {"argparse": argparse, "datetime": datetime.datetime}
    exec(compile(ast.Module(list(building), []), script, "exec"), names)
    from openrlhf.utils.config import hierarchize

    return hierarchize(names["parser"].parse_args(as_arguments(flags)))


class OneProcess:
    """Its strategy, of which the datasets use no more than this."""

    def __init__(self, args):
        self.args = args

    def print(self, *words):
        print(*words)

    def is_rank_0(self):
        return True


def openrlhf_dataset(exported, *, is_dpo):
    need("openrlhf")
    from openrlhf.datasets import RewardDataset
    from openrlhf.datasets.utils import blending_datasets
    from openrlhf.utils import get_tokenizer

    script = "train_dpo" if is_dpo else "train_rm"
    args = openrlhf_arguments(script, exported.configuration["openrlhf.args"])
    strategy = OneProcess(args)
    test = blending_datasets(args.eval.dataset, None, strategy, dataset_split=args.eval.split)
    assert len(test) == 1
    train = blending_datasets(args.data.dataset, None, strategy, dataset_split="train")
    tokenizer = get_tokenizer(LM, None, "right", strategy)
    return RewardDataset(
        train, tokenizer, args.data.max_len, strategy, is_dpo=is_dpo, num_processors=1
    )


def read_with_openrlhf(exported, reader):
    return [
        tuple(
            reader.side(tokens[0], [place >= length for place in range(tokens.shape[1])])
            for tokens in (chosen, rejected)
        )
        for chosen, _, rejected, _, length in openrlhf_dataset(exported, is_dpo=True)
    ]


READERS = {
    "axolotl": read_with_axolotl,
    "axolotl_passthrough": read_with_axolotl,
    "llama_factory": read_with_llama_factory,
    "ms_swift": read_with_ms_swift,
    "openrlhf": read_with_openrlhf,
}


@pytest.mark.parametrize("name", READERS)
def test_the_trainer_learns_the_answers_and_reads_the_prompts(name, exported, reader):
    # Axolotl and ms-swift shuffle
    assert sorted(READERS[name](exported(name), reader)) == sorted(reader.expected(PAIRS))


@pytest.mark.parametrize("name", READERS)
def test_odd_answers_are_learnt_as_they_are(name, exported, reader, request):
    if name == "axolotl":  # it looks for the answer's text in a rendered conversation
        request.applymarker(pytest.mark.xfail(strict=True, reason="cuts elsewhere"))
    assert READERS[name](exported(name, ODD_PAIRS), reader) == reader.expected(ODD_PAIRS)


@pytest.mark.parametrize("name", READERS)
def test_swapped_answers_are_learnt_swapped(name, exported, reader):
    swapped = [replace(pair, chosen=pair.rejected, rejected=pair.chosen) for pair in PAIRS[:1]]
    learnt = READERS[name](exported(name, swapped), reader)
    assert learnt == reader.expected(swapped) != reader.expected(PAIRS[:1])


def test_openrlhf_trains_a_reward_model_on_whole_conversations_and_margins(exported, reader):
    dataset = openrlhf_dataset(exported("openrlhf"), is_dpo=False)
    decode = reader.tokenizer.decode
    read = [(decode(row[0][0]), decode(row[2][0]), row[4]) for row in dataset]
    assert read == [
        (chosen.prompt + chosen.answer, rejected.prompt + rejected.answer, pair.margin)
        for (chosen, rejected), pair in zip(reader.expected(PAIRS), PAIRS, strict=True)
    ]


def test_ms_swift_trains_a_reward_model_with_margins(exported):
    _, batch = swift_rows(exported("ms_swift"), "rm")
    assert sorted(batch["margin"].tolist()) == sorted(pair.margin for pair in PAIRS)


@pytest.mark.parametrize("name", ["axolotl_passthrough", "llama_factory", "ms_swift"])
def test_calls_are_learnt_and_tools_are_read(name, project, tmp_path, reader):
    run, model = paired(project, tmp_path)
    made = export_run(run, name, ExportOptions(test_size=1), tmp_path / name / "out", say=print)
    sides = READERS[name](made, Reader(model) if "axolotl" in name else reader)
    assert sides
    for chosen, rejected in sides:
        assert "weather" in chosen.prompt and "The weather of a city." in chosen.prompt
        assert "Paris" in chosen.answer and "weather" in chosen.answer
        assert "Rome" in rejected.answer and "Paris" not in rejected.answer
