"""What a user gets wrong is one sentence that names the place and the remedy, never a traceback."""

import shutil
import sys

import orjson
import pytest
import torch
from conftest import QUICKSTART
from datasets import load_dataset
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from prefdata.cli import app
from prefdata.cli.program import exit_codes
from prefdata.recipe.schema import TEMPLATE_CALL

LM = QUICKSTART / "models" / "lm"
BIG = 10**30


@pytest.fixture
def build(project, monkeypatch):
    """Run `prefdata build` on the project's recipe: (exit code, what it says on stderr)."""
    monkeypatch.chdir(project.folder)

    def run(*arguments, command="build"):
        target = [] if command != "build" else [str(project.write())]
        done = CliRunner().invoke(app, [command, *target, *map(str, arguments)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stderr

    return run


def rejects(project):
    folder = project.folder / "run-rehearsal" / "rejects"
    return [*load_dataset("parquet", data_files=str(folder / "*.parquet"), split="train")]


# Checkpoints


def copy_of_lm(folder, **texts):
    copy = shutil.copytree(LM, folder / "lm")
    for name, text in texts.items():
        file = copy / f"{name}.json"
        file.unlink() if text is None else file.write_text(text)
    return copy


def spoil(copy):
    [file] = copy.glob("*.safetensors")
    weights = {name: tensor * torch.nan for name, tensor in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    return copy


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"config": None}, "contains no config.json, so it is not a checkpoint"),
        ({"config": "{"}, "config.json cannot be used"),
        ({"config": "[]"}, "it holds no JSON object"),
        ({"config": '{"architectures": "x"}'}, "its 'architectures' are no list"),
        ({"tokenizer": "{"}, "its tokenizer could not be loaded"),
        ({"tokenizer": "{}"}, "its tokenizer could not be loaded"),
        ({"tokenizer_config": "{"}, "tokenizer_config.json cannot be used"),
    ],
    ids=lambda value: next(iter(value.items())) if isinstance(value, dict) else "",
)
def test_a_damaged_model_folder_is_named(build, project, files, told):
    copy = copy_of_lm(project.folder, **files)
    code, said = build(f"models.0.model={copy}", f"models.1.model={QUICKSTART / 'models' / 'rm'}")
    assert code == 2
    assert str(copy) in said
    assert told in said


def test_weights_that_are_not_numbers_are_named(build, project):
    copy = spoil(copy_of_lm(project.folder))
    code, said = build(f"models.0.model={copy}", f"models.1.model={QUICKSTART / 'models' / 'rm'}")
    assert code == 2
    assert "logits that are not finite numbers" in said


# Values


@pytest.mark.parametrize(
    "key",
    [
        "num_records", "seed", "seed_dataset.limit", "models.0.inference_parameters.max_tokens",
        "models.0.inference_parameters.top_k", "models.0.engine.max_model_len",
        "models.0.chat_template_kwargs.budget", "columns.0.samples", "output_projection.max_pairs",
        "output_projection.test_size", "output_projection.max_pairs_per_prompt", "inputs.n",
    ],
)  # fmt: skip
def test_integers_beyond_64_bits_are_refused_wherever_they_stand(build, key):
    code, said = build(f"{key}={BIG}", "--rehearse")
    assert code == 2
    assert f"{key}: {BIG} needs more than 64 bits" in said


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (f"columns.0.samples={2**31}", "columns.0.samples"),
        (f"models.0.inference_parameters.max_tokens={2**31}", "max_tokens"),
        ("models.0.inference_parameters.temperature=1e-320", "give 0, or 0.01 at least"),
        ("models.0.inference_parameters.temperature=1e300", "temperature"),
        ("models.0.inference_parameters.repetition_penalty=1e-320", "repetition_penalty"),
        ("models.0.inference_parameters.repetition_penalty=1e300", "repetition_penalty"),
        ("output_projection.keep=[nothing]", "nothing"),
        ('columns.0.prompt="a\\0b"', "NUL character"),
        ('seed_dataset.path="a\\0b"', "NUL character"),
        ('output_path="a\\0b"', "NUL character"),
        ('models.0.model="a\\0b"', "NUL character"),
    ],
)
def test_values_that_nothing_can_hold_are_refused(build, override, told):
    code, said = build(override, "--rehearse")
    assert code == 2
    assert told in said


@pytest.mark.parametrize("name", sorted(TEMPLATE_CALL))
def test_template_arguments_cannot_be_those_of_the_call(build, name):
    code, said = build(f"models.0.chat_template_kwargs.{name}=true", "--rehearse")
    assert code == 2
    assert f"models.0.chat_template_kwargs: {name!r} is an argument of the call" in said


@pytest.mark.parametrize("key", ["reference", "function", "pattern"])
def test_a_verifier_that_names_nothing_is_refused(build, project, key):
    method = {"reference": "exact_match", "pattern": "regex"}.get(key, key)
    column = {"name": "v", "type": "verifier", "candidates": "candidates", "method": method}
    project.recipe["columns"].append(column | {key: ""})
    code, said = build("--rehearse")
    assert code == 2
    assert f"columns.2.{key}: it must not be empty" in said


# Seeds


@pytest.mark.parametrize("line", ["[" * 500 + "]" * 500, '{"prompt": "x", "answer": %s}'])
def test_a_line_that_is_nested_too_deep_is_one_bad_row(build, project, line):
    deep = "[" * 500 + "]" * 500
    project.write_seeds([{"prompt": "fine", "answer": "1"}, (line.replace("%s", deep)).encode()])
    code, said = build("--rehearse")
    assert code == 0, said
    [lost] = rejects(project)
    assert lost["reason"] == "bad_line"
    assert lost["source"] == "seeds.jsonl:2"
    assert "nested more than 100 deep" in lost["detail"]


# Python functions


def verify(project, name, source):
    if source is not None:
        (project.folder / f"{name}.py").write_text(source)
    project.recipe["columns"].append(
        {"name": "v", "type": "verifier", "method": "function", "candidates": "candidates",
         "function": f"{name}:f"}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("def f(:\n", "SyntaxError"),
        ("import sys\nsys.exit(7)\n", ".py:2: 7"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("import is_not_installed\n", "No module named 'is_not_installed'"),
        ("f = 5\n", "f is not a function"),
        (None, "No module named"),
    ],
)
def test_a_function_that_cannot_be_imported_is_named(build, project, source, told):
    name = f"checks_{abs(hash(told))}"
    verify(project, name, source)
    code, said = build("--rehearse")
    sys.modules.pop(name, None)
    assert code == 2
    assert f"column 'v': the function '{name}:f' cannot be imported" in said
    assert told in said


@pytest.mark.parametrize(
    "body", ["sys.exit(7)", "raise ValueError('x')", "return 'many'", "return 10**400"]
)
def test_whatever_a_function_does_with_a_text_rejects_its_row(build, project, body):
    name = f"rules_{abs(hash(body))}"
    verify(project, name, f"import sys\ndef f(text, row):\n    {body}\n")
    code, said = build("--rehearse", "num_records=3")
    sys.modules.pop(name, None)
    assert code in (0, 2, 3), said
    if code != 2:
        assert [row["reason"] for row in rejects(project)] == ["verifier"] * 3


def test_a_function_that_comes_with_python_has_a_fingerprint(build, project):
    verify(project, "unused", None)
    project.recipe["columns"][-1]["function"] = "builtins:len"
    code, said = build("--rehearse", "num_records=3")
    assert code in (0, 2, 3), said  # len takes one argument: every row is a reject


# Runs


COMMANDS = [["report"], ["export", "--format", "trl"], ["inspect"], ["publish"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_a_run_without_its_recipe_is_told(build, project, command):
    assert build("--rehearse", "num_records=3")[0] in (0, 3)
    (project.folder / "run-rehearsal" / "recipe.yaml").unlink()
    code, said = build(*command[1:], project.folder / "run-rehearsal", command=command[0])
    assert code == 2
    assert "recipe.yaml is missing" in said


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_a_record_that_is_no_record_is_told(build, project, command):
    assert build("--rehearse", "num_records=3")[0] in (0, 3)
    (project.folder / "run-rehearsal" / "run.json").write_bytes(orjson.dumps({"pairs": {}}))
    code, said = build(*command[1:], project.folder / "run-rehearsal", command=command[0])
    assert code == 2
    assert "run.json" in said


def test_a_place_where_no_folder_can_be_made_is_told(build):
    code, said = build("--rehearse", "--out", "/proc/nowhere/run")
    assert code == 2
    assert "no folder can be made there; choose another folder with --out" in said


LONG = "a" * 5000


@pytest.mark.parametrize("name", [LONG, "b" * 300, "b" * 300 + "/seeds.jsonl"])
@pytest.mark.parametrize("key", ["seeds", "output_path", "model", "adapter", "verifier", "--out"])
def test_a_path_too_long_for_the_system_is_told_in_short(build, project, key, name):
    if key == "seeds":
        project.recipe["seed_dataset"]["path"] = name
    elif key == "output_path":
        project.recipe["output_path"] = name
    elif key == "verifier":
        project.recipe["columns"].append(
            {"name": "v", "type": "verifier", "candidates": "candidates", "method": "function",
             "function": f"{name}:f"}
        )  # fmt: skip
    elif key != "--out":
        project.recipe["models"][0][key] = name
    code, said = build(*(["--out", name] if key == "--out" else []))
    assert code == 2
    assert "too long" in said
    assert len(said) < 1500


# Bugs


def test_a_bug_says_where_its_traceback_lies_and_what_is_kept(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    with pytest.raises(Exception) as left, exit_codes() as command:  # noqa: PT011
        command.folder = tmp_path / "run"
        raise KeyError("prompt")
    assert left.value.exit_code == 1
    said = capsys.readouterr().err
    [log] = (tmp_path / "run" / "logs").iterdir()
    assert "unexpected error: KeyError: 'prompt'\nThis is a bug in prefdata. The " in said
    assert f"traceback is in {log};" in said
    assert f"What was finished is kept in {tmp_path / 'run'}" in said
    assert "Traceback" not in said
    assert 'raise KeyError("prompt")' in log.read_text()


def test_a_bug_before_there_is_a_run_has_a_log_too(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(Exception) as left, exit_codes():  # noqa: PT011
        raise ValueError("odd")
    assert left.value.exit_code == 1
    [log] = tmp_path.iterdir()
    assert str(log) in capsys.readouterr().err


def test_a_bug_whose_log_cannot_be_written_shows_its_traceback(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file" / "below"))
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception), exit_codes():  # noqa: B017, PT011
        raise ValueError("odd")
    assert 'raise ValueError("odd")' in capsys.readouterr().err
