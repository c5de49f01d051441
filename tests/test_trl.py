"""TRL itself: it reads the exports, its loss covers the answers alone, its training helps."""

import os
import shutil
import signal

import forks
import moments
import orjson
import pytest
import torch
from conftest import QUICKSTART
from runs import DIALOGUE, make_run, read_lines

from prefdata.errors import PrefdataError
from prefdata.export import ExportOptions, export_run
from prefdata.pipeline import build
from prefdata.recipe.loader import load_recipe, load_settings
from prefdata.train.trl import train_trl
from prefdata.train.trl_settings import TrlSettings

pytest.importorskip("trl")
from prefdata.train.dpo import Config  # noqa: E402 (it imports TRL)

pytestmark = pytest.mark.slow

LM = QUICKSTART / "models" / "lm"
ODD = "Zeile 1\nZeile 2\té 日本 🙂 \u2028 \\n"
ROWS = [
    ("What is 2 plus 2?", "The answer is 4.", "5"),
    (DIALOGUE, "6", "It is 7."),
    ("What is 3 plus 3?", ODD, "No idea."),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("trl"), ROWS)
    return export_run(run, "trl", ExportOptions(test_size=1), say=print)


@pytest.fixture(scope="module")
def quickstart(quickstart_run, tmp_path_factory):
    return shutil.copytree(quickstart_run, tmp_path_factory.mktemp("quickstart") / "run")


def settings(*overrides):
    return load_settings(TrlSettings, None, overrides)


def load(exported, kind="train"):
    from datasets import load_dataset

    return load_dataset("json", data_files=str(getattr(exported, kind)), split="train")


def trainer(name, data, folder):
    import trl
    from transformers import AutoTokenizer

    config = getattr(trl, f"{name}Config")(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", max_length=128
    )
    return getattr(trl, f"{name}Trainer")(
        model=str(LM), args=config, train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(LM),
    )  # fmt: skip


def test_the_loss_of_dpo_covers_exactly_the_answers(exported, tmp_path):
    data = load(exported)
    made = trainer("DPO", data, tmp_path)
    tokenizer = made.processing_class
    batch = made.data_collator([made.train_dataset[n] for n in range(len(data))])
    sides = [row[side] for side in ("chosen", "rejected") for row in read_lines(exported.train)]
    prompts = [row["prompt"] for row in read_lines(exported.train)] * 2
    for ids, mask, answer, prompt in zip(
        batch["input_ids"], batch["completion_mask"], sides, prompts, strict=True
    ):
        covered = tokenizer.decode(ids[mask.bool()])
        assert covered == answer[0]["content"] + "<|end|>"
        before = ids[: int(mask.argmax())].tolist()
        assert before == tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, return_dict=False
        )
        assert tokenizer.decode(ids[int(mask.argmax()) + int(mask.sum()) :]).strip("<|pad>") == ""


def test_kto_reads_the_unpaired_export(exported, tmp_path):
    run = exported.folder.parent.parent
    unpaired = export_run(run, "trl_kto", ExportOptions(test_size=1), say=print)
    made = trainer("KTO", load(unpaired), tmp_path)
    rows = [made.train_dataset[n] for n in range(len(made.train_dataset))]
    labels = [line["label"] for line in read_lines(unpaired.train)]
    assert [row["label"] for row in rows] == labels == [True, False] * 2


def test_texts_survive_byte_for_byte(tmp_path):
    run = make_run(tmp_path, [(ODD, ODD + "a", ODD + "b")])
    data = load(export_run(run, "trl", ExportOptions(test_size=0), say=print))
    assert data["prompt"][0][0]["content"] == ODD
    assert data["chosen"][0][0]["content"] == ODD + "a"
    assert data["rejected"][0][0]["content"] == ODD + "b"


def test_training_makes_the_model_better_on_questions_it_never_saw(quickstart, tmp_path):
    given = load_settings(TrlSettings, QUICKSTART / "train.yaml", ["evaluation.limit=150"])
    result = train_trl(quickstart, given, tmp_path / "out", say=print)
    before, after = (result[when]["scores"]["right"] for when in ("before", "after"))
    assert after - before >= 0.05
    assert orjson.loads((tmp_path / "out" / "train.json").read_bytes()) == result


@pytest.mark.parametrize(
    "warmup, steps, expected",
    [(0.1, 1, 0), (0.1, 9, 0), (0.1, 10, 1), (0.1, 42, 5), (0.99, 3, 2), (5, 1, 0), (5, 42, 5)],
)
def test_warmup_leaves_steps_to_train(warmup, steps, expected, tmp_path):
    config = Config(output_dir=str(tmp_path), warmup_steps=warmup, use_cpu=True, bf16=False)
    assert config.get_warmup_steps(steps) == expected


def test_one_step_trains_and_few_steps_are_told(tmp_path):
    run = make_run(tmp_path, [(f"question {n}", f"right {n}", f"wrong {n}") for n in range(5)])
    said = []
    given = settings(f"model={LM}")
    result = train_trl(run, given, tmp_path / "out", say=said.append)
    assert result["training"]["steps"] == 1
    assert any("the training has only 1 step, which" in line for line in said)
    first, trained = load_weights(LM), load_weights(tmp_path / "out" / "model")
    assert any(not first[name].equal(trained[name]) for name in first)


def test_adapters_are_kept_and_merged(quickstart, tmp_path):
    given = settings(
        "lora.r=4", "learning_rate=1e-3", "evaluation.samples=1", "batch_size=32", "epochs=1"
    )
    result = train_trl(quickstart, given, tmp_path, say=print)
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    adapted = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(LM, dtype=torch.float32)
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        logits = [model(ids).logits for model in (adapted, merged, base)]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-3, rtol=1e-3)
    assert (logits[0] - logits[2]).abs().max() > 1e-2
    assert result["after"]["prompts"] == 24


def test_a_finished_training_is_not_repeated(quickstart, tmp_path):
    given = settings("evaluation.samples=1", "evaluation.limit=4", "epochs=0.2")
    first = train_trl(quickstart, given, tmp_path, say=print)
    said = []
    assert train_trl(quickstart, given, tmp_path, say=said.append) == first
    assert any("nothing to do" in line for line in said)
    other = train_trl(quickstart, settings("epochs=0.3", "evaluation.limit=4"), tmp_path, say=print)
    assert other["fingerprint"] != first["fingerprint"]


def test_a_killed_training_goes_on_from_its_checkpoint_to_the_same_weights(tmp_path):
    run = make_run(tmp_path, [(f"question {n}", f"right {n}", f"wrong {n}") for n in range(40)])
    told = [f"model={LM}", "learning_rate=5e-5", "batch_size=8", "epochs=1", "save_steps=1"]
    train_trl(run, settings(*told), tmp_path / "whole", say=print)
    out, said = tmp_path / "killed", []
    killed = moments.command(out, signal.SIGKILL, "mkdir .*checkpoint-3")
    ended = forks.run("train", run, *told, "--out", out, watched=killed)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not (out / "model").exists()
    train_trl(run, settings(*told), out, say=said.append)
    assert any("going on from checkpoint-" in line for line in said)
    from safetensors.torch import load_file

    whole, killed = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "killed")
    )
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, killed[name], atol=1e-5, rtol=1e-4)


def test_what_is_trained_on_is_no_test(quickstart, tmp_path):
    seen = tmp_path / "seen.jsonl"
    pairs = export_run(quickstart, "trl", ExportOptions(), tmp_path / "x", say=print)
    seen.write_bytes(
        b"".join(
            orjson.dumps({"prompt": line["prompt"][0]["content"], "answer": 1}) + b"\n"
            for line in read_lines(pairs.train)[:5]
        )
    )
    given = settings(f"evaluation.path={seen}", "evaluation.samples=1", "epochs=0.1")
    with pytest.raises(PrefdataError, match="none of the 5 prompts can be used for evaluation"):
        train_trl(quickstart, given, tmp_path / "o", say=print)
    with seen.open("ab") as file:
        file.write(b'{"prompt": "What is one plus one?", "answer": 2}\n')
    said = []
    result = train_trl(quickstart, given, tmp_path / "o", say=said.append)
    assert any("5 of 6 prompts are trained on, and are left out" in line for line in said)
    assert result["after"]["prompts"] == 1


def test_one_gpu_is_used_the_first_that_may_be(quickstart, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    given = settings("evaluation.limit=1", "evaluation.samples=1", "epochs=0.1")
    train_trl(quickstart, given, tmp_path, say=print)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"


def test_answers_that_a_verifier_cannot_judge_are_counted(tmp_path):
    (tmp_path / "odd.py").write_text(
        "def grade(text, row):\n    return 1 if row['answer'] % 2 else float('nan')\n"
    )
    recipe = (QUICKSTART / "recipe.yaml").read_text().replace("models/", f"{QUICKSTART}/models/")
    recipe = recipe.replace("prompts.jsonl", str(QUICKSTART / "prompts.jsonl")).replace(
        "method: number, reference: answer", "method: function, function: 'odd:grade'"
    )
    (tmp_path / "recipe.yaml").write_text(recipe)
    out = tmp_path / "run"
    words = [f"output_dir={out}", "num_records=80"]
    build(load_recipe(tmp_path / "recipe.yaml", words), out, say=print)
    result = train_trl(out, settings("epochs=0.1", "evaluation.samples=2"), tmp_path / "o", say=print)  # fmt: skip  # noqa: E501
    after = result["after"]
    assert after["scores"] == {"right": 1.0}
    assert 0 < after["without_score"]["right"] < after["prompts"] * after["samples"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["batch_size=10"], "does not divide"),
        (["arguments.no_such=1"], "DPOConfig refuses the settings: .*no_such"),
        (["model=/no/such/model"], "/no/such/model"),
        (["evaluation.path=/no/such/file.jsonl"], "^evaluation.path: .*/no/such/file.jsonl"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_what_cannot_be_trained_is_one_message(overrides, message, quickstart, tmp_path):
    given = settings("evaluation.limit=2", "evaluation.samples=1", *overrides)
    with pytest.raises(PrefdataError, match=message):
        train_trl(quickstart, given, tmp_path, say=print)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rat=1e-6", "did you mean 'learning_rate'"),
        ("lora.rank=8", "there is no key 'rank' here"),
        ("epochs=0", "command line: epochs"),
        ("warmup_ratio=1", "command line: warmup_ratio"),
        ("loss_type=sigmod", "there is no loss_type 'sigmod'; did you mean 'sigmoid'"),
    ],
)
def test_a_wrong_setting_is_one_message(override, message):
    with pytest.raises(PrefdataError, match=message):
        settings(override)


def test_a_run_without_a_recipe_needs_a_model_and_has_no_verifier(tmp_path):
    run = make_run(tmp_path, [(f"question {n}", f"right {n}", f"wrong {n}") for n in range(20)])
    with pytest.raises(PrefdataError, match="name one with model=PATH"):
        train_trl(run, settings(), tmp_path / "out", say=print)
    said = []
    result = train_trl(run, settings(f"model={LM}"), tmp_path / "out", say=said.append)
    assert "before" not in result
    assert any("no verifier" in line for line in said)
    assert train_trl(run, settings(f"model={LM}"), tmp_path / "out", say=print) == result


def test_two_processes_train_one_model_and_batches_stay_as_large(quickstart, tmp_path):
    given = ["epochs=1", "max_length=256", "evaluation.limit=5", "evaluation.samples=1"]
    sizes = ["batch_size=32", "learning_rate=1e-5"]
    alone = train_trl(quickstart, settings(*given, *sizes), tmp_path / "alone", say=print)
    said = []
    both = train_trl(
        quickstart, settings(*given, *sizes, "processes=2"), tmp_path / "both", say=said.append
    )
    assert any("the training has only" in line for line in said)  # --quiet can leave it out
    assert both["training"]["steps"] == alone["training"]["steps"]
    assert both["training"]["loss"] == pytest.approx(alone["training"]["loss"], abs=0.01)
    weights = [load_weights(tmp_path / name / "model") for name in ("alone", "both")]
    first = load_weights(LM)
    moved = [sum((one[k] - first[k]).norm() for k in first) for one in weights]
    apart = sum((weights[0][k] - weights[1][k]).norm() for k in first)
    assert apart < 0.5 * min(moved)  # the batches are drawn otherwise, the way is the same


@pytest.mark.parametrize(
    "given, expected",
    [
        (["processes=2", "lora.r=4"], "processes and lora are both given"),
        (["processes=3"], "batch_size is 32, which 24"),
        (["accelerate=nowhere.yaml"], "num_processes cannot be read"),
    ],
)
def test_settings_for_many_devices_that_do_not_fit_are_refused(
    quickstart, tmp_path, given, expected
):
    with pytest.raises(PrefdataError, match=expected):
        train_trl(quickstart, settings(*given), tmp_path, say=print)


def load_weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")
