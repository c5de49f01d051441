"""What Kubernetes and SkyPilot are given: read by their schemas, and run as it stands."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from conftest import QUICKSTART, ROOT
from gated import make_recipe
from sky_schema import read_schemas
from typer.testing import CliRunner
from waiting import PATIENCE, wait_until

from prefdata.cli import app
from prefdata.cluster.manifests import Tasks, check_words, job_name
from prefdata.errors import PrefdataError
from prefdata.storage.folders import read_rows
from prefdata.storage.journal import read_values

ENGINES = ("k8s", "sky")
ASKED = ("--image", "lab/prefdata:1", "--volume", "runs")


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """The quickstart's models and prompts: files themselves, as tasks follow no link out."""
    return shutil.copytree(QUICKSTART, tmp_path_factory.mktemp("quickstart"), dirs_exist_ok=True)


@pytest.fixture
def here(once, tmp_path, monkeypatch):
    """The working directory: a recipe, and what it reads."""
    make_recipe(tmp_path)
    for name in ("models", "prompts.jsonl"):
        (tmp_path / name).unlink()
    shutil.copytree(once / "models", tmp_path / "models", copy_function=os.link)
    os.link(once / "prompts.jsonl", tmp_path / "prompts.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prefdata(*words, code=0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done.output


def write(engine, *words, code=0, out="run"):
    return prefdata(engine, "recipe.yaml", "--out", out, *ASKED, *words, code=code)


def texts(here, engine, out="run"):
    return [(here / out / engine / f"{name}.yaml").read_text() for name in ("shards", "merge")]


def manifests(here, engine, out="run"):
    return [yaml.safe_load(text) for text in texts(here, engine, out)]


OPTIONS = {
    "few": ["--gpus", "0"],
    "many": ["--gpus", "1", "--shards", "7", "--cpus", "16", "--mem", "64", "--max-restarts", "9",
             "--setup", "export A=\"$HOME\"", "--setup", "pip install 'a b'",
             "columns.0.prompt='a $(HF_HOME): #\nb {{ prompt }}'", "--no-publish"],
}  # fmt: skip


@pytest.mark.parametrize("words", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_kubernetes_knows_every_field(words, version, here):
    write("k8s", *words)
    for job in manifests(here, "k8s"):
        kubernetes_validate.validate(job, version, strict=True)
        job["spec"]["completion"] = 4
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(job, version, strict=True)


@pytest.mark.parametrize("volume", ["runs", "s3://mine/runs"])
@pytest.mark.parametrize("words", OPTIONS.values(), ids=OPTIONS)
def test_skypilot_knows_every_field(words, volume, here):
    write("sky", *words, "--gpus", "H100:1", "--volume", volume)
    of_task, of_resources = read_schemas()
    for task in manifests(here, "sky"):
        jsonschema.validate(task, of_task)
        jsonschema.validate(task["resources"], of_resources)
        for place, schema in ((task, of_task), (task["resources"], of_resources)):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(place | {"sopt": True}, schema)


def expand(text, given):
    """What Kubernetes makes of the words of a command."""

    def put(found):
        return "$" if found[0] == "$$" else given.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", put, text)


def start(engine, manifest, number=None, **given):
    """Run a task's command as it stands, with what the engine gives it."""
    given |= {"PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}", "HOME": os.environ["HOME"]}
    if engine == "k8s":
        (container,) = manifest["spec"]["template"]["spec"]["containers"]
        given |= {one["name"]: one["value"] for one in container["env"]}
        rank, folder = "JOB_COMPLETION_INDEX", container["workingDir"]
        words = [expand(word, given) for word in (*container["command"], *container["args"])]
    else:
        given |= manifest.get("envs", {})
        rank, folder = "SKYPILOT_JOB_RANK", manifest["workdir"]
        words = ["bash", "-c", manifest.get("setup", "") + manifest["run"]]
    given |= {rank: str(number)} if number is not None else {}
    return subprocess.Popen(
        words, cwd=folder, env=given, start_new_session=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def end(process):
    told = process.communicate(timeout=PATIENCE)[0]
    return process.returncode, told


def keys_of(shard):
    """How often each key was answered."""
    files = (shard / "journal").glob("*.jsonl")
    return Counter(key for file in files for key, _ in read_values(file))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_four_tasks_of_which_two_are_killed_make_the_run_in_one_piece(engine, here):
    recipe = yaml.safe_load((here / "recipe.yaml").read_text())
    recipe["columns"].append(  # what is asked behind the gate
        {"name": "note", "type": "llm_text", "model_alias": "bold", "prompt": "{{ length }}"}
    )
    (here / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    asked = ["num_records=60", "--rehearse"]
    prefdata("build", "recipe.yaml", *asked, "--out", "whole")
    mount = here if engine == "k8s" else here / "volume"
    write(engine, *asked, "--gpus", "0", "--shards", "4", "--mount", mount)
    shards, merge = manifests(here, engine, "run-rehearsal")
    out = mount / "run-rehearsal"
    folders = [out / "shards" / f"{number:05d}-of-00004" for number in range(4)]
    tasks = [start(engine, shards, number, GATE=str(here / "gate")) for number in range(4)]
    for task, folder in zip(tasks, folders, strict=True):
        wait_until(lambda folder=folder: len(keys_of(folder)) > 9, task)
    os.killpg(tasks[1].pid, signal.SIGKILL)
    os.killpg(tasks[2].pid, signal.SIGTERM)
    assert end(tasks[1])[0] == -signal.SIGKILL
    code, told = end(tasks[2])
    assert code in (130, -signal.SIGTERM)  # the latter is the shell of SkyPilot
    assert "interrupted; run the same command again to continue" in told
    before = [keys_of(folder) for folder in folders]
    (here / "gate").touch()
    for number in (1, 2):
        assert not (folders[number] / "shard.json").exists()
        tasks[number] = start(engine, shards, number)
    for task, folder, keys in zip(tasks, folders, before, strict=True):
        code, told = end(task)
        assert code == 0, told
        after = keys_of(folder)
        assert keys < after, "it was killed in the middle"
        assert set(after.values()) == {1}, "nothing is asked twice"
    code, told = end(start(engine, merge))
    assert code == 0, told
    for name in ("pairs", "candidates", "rejects"):
        assert [*read_rows(out / name)] == [*read_rows(here / "whole-rehearsal" / name)], name
    assert "finished and merged" in prefdata(engine, "recipe.yaml", *asked, "--status",
                                             "--out", mount / "run")  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
def test_words_come_to_the_command_as_they_were_given(engine, here):
    (here / "bin").mkdir()
    stub = here / "bin" / "prefdata"
    stub.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    stub.chmod(0o755)
    override = "columns.0.prompt='a $(HF_HOME) $HOME: #\n$$ {{ prompt }}'"
    setup = f"export PATH={here}/bin:$PATH"
    write(engine, override, "--setup", setup, "--gpus", "0", "--shards", "4", "--mount", here,
          out="a b/it's")  # fmt: skip
    shards, merge = manifests(here, engine, "a b/it's")
    place = "a b/it's" if engine == "k8s" else f"{here}/a b/it's"
    *words, attempt = json.loads(end(start(engine, shards, 3))[1])
    assert words == ["build", "recipe.yaml", override, "--out", place, "--gpus", "0",
                     "--shard", "3/4", "--attempt"]  # fmt: skip
    assert attempt == "next"
    words = json.loads(end(start(engine, merge))[1])
    assert words == ["merge", "recipe.yaml", override, "--out", place, "--shards", "4"]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_status_is_of_what_was_written_last(engine, here):
    write(engine, "--gpus", "0", "--shards", "2", "--rehearse", "num_records=6")
    words = [engine, "recipe.yaml", "--out", "run", "--rehearse", "--status"]
    waiting = "2 shards: 0 done, 0 running, 2 waiting, 0 failed\nno row is done yet"
    assert prefdata(*words).strip() == waiting  # its number of shards, and nothing is over
    assert json.loads(prefdata(*words, "--json"))["is_over"] is False
    for shard in range(2):
        prefdata("build", "recipe.yaml", "--out", "run", "--rehearse", "num_records=6",
                 "--shard", f"{shard}/2")  # fmt: skip
    assert "2 done" in prefdata(*words)
    prefdata("merge", "recipe.yaml", "--out", "run", "--rehearse", "num_records=6")
    assert prefdata(*words).startswith("finished and merged: 6 rows")
    write(engine, "--gpus", "0", "--rehearse", "num_records=8")
    told = prefdata(*words)
    assert told.startswith(waiting)
    assert "a finished run of another recipe or pair rule is there: 6 rows" in told


WRONG = [
    (["--shards", "300"], "there are 300 shards, but the seeds have only 240 rows"),
    (["--volume", "My Disk"], "--volume 'My Disk': it is no name of "),
    (["--out", "/tmp/elsewhere"], "/tmp/elsewhere: it lies outside of"),
    (["output_path=/tmp/elsewhere/pairs.jsonl"], "/tmp/elsewhere/pairs.jsonl: it lies outside of"),
    (["seed_dataset.path={once}/prompts.jsonl"], "prompts.jsonl: it lies outside of"),
    (["seed_dataset.path=[prompts.jsonl, '{once}/p*.jsonl']"], "prompts.jsonl: it lies outside of"),
    (["seed_dataset.path={once}"], "it lies outside of"),
    (["models.0.chat_template={once}/t.jinja"], "t.jinja: it lies outside of"),
    (
        [
            "columns.1={{name: reward, type: reward_model, model_alias: grader, "
            "candidates: candidates, prompt_file: {once}/t.jinja}}"
        ],
        "t.jinja: it lies outside of",
    ),
    (["models.0.engine={{hf_config_path: {once}/models}}"], "models: it lies outside of"),
    (["seed_dataset.path={here}/prompts.jsonl"], "tasks do not have; write prompts.jsonl, which"),
    (["seed_dataset.path=['{here}/*.jsonl']"], "tasks do not have; write *.jsonl, which is seen"),
    (["models.0.model={here}/models/lm"], "tasks do not have; write models/lm, which is seen"),
    (["output_path={here}/run/pairs.jsonl"], "/run/pairs.jsonl: it lies outside of /work, the vol"),
    (["output_path=../pairs.jsonl"], "../pairs.jsonl: it lies outside of /work, the volume"),
    (["output_path='${{output_dir}}/../../../p.jsonl'"], "it lies outside of /work, the volume"),
    (["--json"], "--json and --watch are for --status"),
]


FORMS = {
    ("k8s", "mount"): ["work", "/mnt/", "/", "/dev/shm", "/proc", "/a:b", "/a$(B)", "/a\nb",
                       "/a/..", ""],
    ("k8s", "image"): ["", "a b", "docker:l/p", "l/P", "l/p:", "l/p\n"],
    ("k8s", "volume"): ["My Disk", "a..b", "-a", "a.", "", "s3://mine"],
    ("k8s", "secret"): ["My Secret", ""],
    ("k8s", "cpus"): ["lots", "", "-1", "4 ", "16+"],
    ("k8s", "memory"): ["400GB", "much", "1.2.3"],
    ("sky", "volume"): ["My Disk", "a..b", "s3://", "s3:///x", "foo://x", "s3://a b"],
    ("sky", "cpus"): ["lots", "500m"],
    ("sky", "memory"): ["400GBs", "1.5GB"],
}  # fmt: skip


@pytest.mark.parametrize(("engine", "name"), FORMS)
def test_an_option_that_the_engine_would_not_take_is_refused(engine, name):
    asked = Tasks(engine, 1, 0, image="lab/prefdata:1", volume="runs", mount="/work")
    for value in FORMS[engine, name]:
        with pytest.raises(PrefdataError) as err:
            check_words([], Path("run"), replace(asked, **{name: value}))
        option = "mem" if name == "memory" else name
        assert f"--{option} {value!r}: it is no " in str(err.value)


WORDS = [
    ("k8s", {"image": "null", "volume": "no", "mount": "/off", "cpus": "500m", "mem": "1",
             "secret": "true"}),
    ("k8s", {"image": "docker:24", "volume": "1e3", "mount": "/mnt/a.b-c_d", "mem": "1.5Gi"}),
    ("sky", {"image": "h:5000/a/b:1@sha256:0a", "volume": "yes", "cpus": "16+", "mem": "64GB+"}),
    ("sky", {"image": "on", "volume": "https://a.b/c/", "mem": "1.5"}),
]  # fmt: skip


@pytest.mark.parametrize(("engine", "given"), WORDS)
def test_an_option_is_a_text_in_the_manifest_whatever_yaml_makes_of_the_word(engine, given, here):
    write(engine, "--gpus", "0", *(word for name in given for word in (f"--{name}", given[name])))
    told = json.dumps(manifests(here, engine)[0])
    for name, value in given.items():
        value = f"docker:{value}" if (engine, name) == ("sky", "image") else value
        assert json.dumps(value) in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["columns.0.prompt='a\rb {{ prompt }}'"], "'\\r' in it would not come to the tasks"),
        (["columns.0.prompt='a\r\nb {{ prompt }}'"], "'\\r' in it would not come to the tasks"),
        (["columns.0.prompt='a\x85b {{ prompt }}'"], "'\\x85' in it would not come to the tasks"),
        (["--setup", "echo a\u2028b"], "'\\u2028' in it would not come to the tasks"),
        (["--setup", "echo a\x0cb"], "'\\x0c' in it would not come to the tasks"),
        (["--out", "u/a\u2028b"], "'\\u2028' in it would not come to the tasks"),
    ],
)
def test_what_yaml_would_take_for_the_end_of_a_line_is_refused(words, told, here):
    assert told in write("k8s", "--gpus", "0", *words, code=2)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("words", "told"), WRONG, ids=[told for _, told in WRONG])
def test_what_would_fail_on_the_cluster_is_refused_before_it(engine, words, told, here, once):
    (once / "t.jinja").write_text("{{ prompt }}")
    words = [word.format(here=here, once=once) for word in words]
    assert told in " ".join(write(engine, "--gpus", "0", *words, code=2).split())
    assert not (here / "run" / engine).exists()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("name", "target", "words"),
    [
        ("seeds.jsonl", "{once}/prompts.jsonl", ["seed_dataset.path=seeds.jsonl"]),
        ("seeds.jsonl", "{here}/prompts.jsonl", ["seed_dataset.path=seeds.jsonl"]),
        ("lm", "../{up}/models/lm", ["models.0.model=lm"]),
        ("b.jsonl", "{once}/prompts.jsonl", ["seed_dataset.path=a.jsonl"]),
        ("models/lm/more.json", "{once}/prompts.jsonl", []),
        ("seeds/a.jsonl", "{once}/prompts.jsonl", ["seed_dataset.path=seeds"]),
        ("o", "{once}", ["--out", "o/run"]),
    ],
)
def test_a_link_out_of_the_folder_is_refused(name, target, words, engine, here, once):
    (here / name).parent.mkdir(exist_ok=True)
    (here / name).symlink_to(target.format(here=here, once=once, up=once.relative_to(here.parent)))
    (here / "a.jsonl").symlink_to("b.jsonl")
    told = write(engine, "--gpus", "0", *words, code=2)
    assert f"{here / name}: it is a link to " in told


@pytest.mark.parametrize("engine", ENGINES)
def test_links_in_the_folder_and_places_on_the_volume_are_kept(engine, here, once):
    (here / "seeds.jsonl").symlink_to("prompts.jsonl")
    (here / "models" / "lm" / "round").symlink_to("round")
    (here / "lm").symlink_to(once / "models" / "lm")
    write(engine, "--gpus", "0", "--mount", once.parent, "seed_dataset.path=seeds.jsonl",
          "models.0.model=lm", f"models.1.model={once}/models/lm",
          f"output_path={once}/pairs.jsonl")  # fmt: skip
    write(engine, "--gpus", "0", "output_path='${output_dir}/pairs.jsonl'", "--force")


def test_what_lies_outside_of_the_run_folder_is_kept_on_the_volume_of_pods_alone(here):
    write("k8s", "--gpus", "0", "output_path=o/op/pairs.jsonl", out="o/op")
    told = write("sky", "--gpus", "0", "output_path=o/op/pairs.jsonl", out="o/op", code=2)
    assert "write output_path='${output_dir}/pairs.jsonl'" in told


@pytest.mark.parametrize("engine", ENGINES)
def test_a_module_that_is_found_elsewhere_is_refused(engine, here, once, monkeypatch):
    pick = ["output_projection.strategy=function", "output_projection.pick=myv:f"]
    column = next(n for n, one in enumerate(yaml.safe_load((here / "recipe.yaml").read_text())
                                            ["columns"]) if one["name"] == "length")  # fmt: skip
    (here / "lib").mkdir()
    (here / "lib" / "myv.py").write_text("def f(text, row): return 1")
    monkeypatch.setenv("PYTHONPATH", str(here / "lib"))
    for words in ([f"columns.{column}.function=myv:f"], pick):
        told = write(engine, "--gpus", "0", *words, code=2)
        assert f"{here}/lib/myv.py: the module of " in told
        assert "is found by PYTHONPATH, which tasks do not have" in told
    monkeypatch.setenv("PYTHONPATH", str(once))
    (once / "myv.py").write_text("def f(text, row): return 1")
    assert f"{once}/myv.py: it lies outside of" in write(engine, "--gpus", "0", *words, code=2)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_recipe_reads_of_the_environment_is_named_and_not_written(engine, here, monkeypatch):
    recipe = here / "recipe.yaml"
    recipe.write_text(
        recipe.read_text() + "variables: {a: '${oc.env:MY_TOPIC}', b: '${oc.env:UNSET,x}'}\n"
    )
    for name in ("MY_TOPIC", "NO", "FAR_BASE_URL", "FAR_API_KEY"):
        monkeypatch.setenv(name, f"http://{name.lower()}_secret")
    told = write(engine, "--gpus", "0", "models.0.provider=far",
                 "models.0.system_prompt='${oc.env:NO}'")  # fmt: skip
    names = ("HF_TOKEN", "FAR_API_KEY", "FAR_BASE_URL", "MY_TOPIC", "NO")
    if engine == "sky":
        assert f"{' '.join(f'--secret {name}' for name in names)} " in told
        assert manifests(here, engine)[0]["secrets"] == dict.fromkeys(names)
    else:
        assert f"pods read {', '.join(names)} from the Secret prefdata" in told
    assert "_secret" not in "".join(texts(here, engine))


def test_jobs_of_other_runs_have_other_names():
    outs = ["r1/mine", "r2/mine", "mine", "mine-merge", "日本", "日本-rehearsal", "-rehearsal"]
    outs += [letter * 70 + end for letter in ("1", "é", "ab") for end in ("", "-rehearsal")]
    names = [job_name(f"runs/volume/{out}") + end for out in outs for end in ("", "-merge")]
    assert len(set(names)) == 2 * len(outs)
    assert all(re.fullmatch("[a-z]([a-z0-9-]{0,50}[a-z0-9])?", name) for name in names)
    assert all("rehearsal" in job_name(out) for out in outs if "rehearsal" in out)


THREE = ["models.2.engine={tensor_parallel_size: 3}", "models.2.provider=vllm"]
MISSING = [
    (["k8s", "--volume", "runs"], "--image is missing: a pod runs prefdata from a container"),
    (["k8s", "--image", "i"], "--volume is missing: tasks keep what is finished on a volume"),
    (["k8s", "--image", "i", "--volume", "s3://mine"], "a pod mounts no bucket"),
    (["sky", "--image", "", "--volume", "runs"], "nothing brings prefdata to the machines"),
    (["k8s", *ASKED, *THREE], "3 GPUs (tensor_parallel_size x pipeline_parallel_size)"),
    (["sky", "--volume", "runs"], "nothing brings prefdata to the machines"),
    (["sky", *ASKED, "--gpus", "8"], "--gpus 8: give kind and number, as in H100:8"),
    (["sky", "--image", "i"], "--volume is missing"),
]


@pytest.mark.parametrize(("words", "told"), MISSING, ids=[told for _, told in MISSING])
def test_what_is_missing_is_told(words, told, here):
    engine, *rest = words
    message = prefdata(engine, "recipe.yaml", "--out", "run", *rest, code=2)
    assert told in " ".join(message.split())


def test_what_is_asked_for_is_in_the_manifest(here):
    told = write("k8s", "--gpus", "8", "--shards", "6", "--nodes", "2", "--cpus", "64", "--mem",
                 "400Gi", "--secret", "keys", "--max-restarts", "5")  # fmt: skip
    job, merge = manifests(here, "k8s")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 6, 2)
    assert spec["backoffLimitPerIndex"] == 5
    (container,) = pod["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "64", "memory": "400Gi"}, "limits": {"nvidia.com/gpu": 8},
    }  # fmt: skip
    assert container["envFrom"] == [{"secretRef": {"name": "keys", "optional": True}}]
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "runs"}
    assert "resources" not in merge["spec"]["template"]["spec"]["containers"][0]
    name = job["metadata"]["name"]
    assert f"kubectl wait --for=condition=complete --timeout=-1s job/{name} && kubectl" in told


def test_no_more_pods_than_shards_are_asked_for(here):
    write("k8s", "--gpus", "0", "--shards", "2", "--nodes", "5")
    assert manifests(here, "k8s")[0]["spec"]["parallelism"] == 2


def test_spot_machines_and_their_bucket_are_in_the_task(here):
    told = write("sky", "--gpus", "H100:8", "--shards", "6", "--volume", "s3://mine/runs")
    task, merge = manifests(here, "sky")
    assert task["resources"]["accelerators"] == "H100:8"
    assert (task["resources"]["use_spot"], merge["resources"]["use_spot"]) == (True, False)
    assert task["file_mounts"]["/work"]["mode"] == "MOUNT_CACHED"
    assert "exec" not in task["run"]  # SkyPilot waits for uploads behind it
    assert "accelerators" not in merge["resources"]
    assert "sky jobs launch --num-jobs 6 --secret HF_TOKEN" in told
    write("sky", "--on-demand", "--gpus", "0")
    assert not manifests(here, "sky")[0]["resources"]["use_spot"]


@pytest.mark.parametrize("engine", ENGINES)
def test_no_manifest_has_a_token_and_the_merge_may_leave_the_hub_alone(engine, here, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("MY_KEY", "my_secret")
    write(engine, "--no-publish", "--gpus", "0",
          "providers=[{name: far, endpoint: 'http://x/v1', api_key: MY_KEY}]")  # fmt: skip
    shards, merge = texts(here, engine)
    assert "_secret" not in shards + merge
    assert all(name in text for name in ("HF_TOKEN", "MY_KEY") for text in (shards, merge))
    assert ("--no-publish" in shards, "--no-publish" in merge) == (False, True)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_edited_manifest_stays_and_what_changes_in_others_is_told(engine, here):
    write(engine, "--gpus", "0")
    told = write(engine, "--gpus", "0", "--max-restarts", "7")
    assert f"{here}/run/{engine}/shards.yaml is replaced; what changes in it:\n  -" in told
    file = here / "run" / engine / "shards.yaml"
    edited = file.read_text() + "# mine\n"
    file.write_text(edited)
    assert "prefdata did not write it as it is" in write(engine, "--gpus", "0", code=2)
    assert file.read_text() == edited
    write(engine, "--gpus", "0", "--force")
    assert "# mine" not in file.read_text()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_recipe_that_ships_keeps_its_name(engine, here):
    (here / "simpo").mkdir()
    prefdata(engine, "simpo", "model=models/lm", "prompts=prompts.jsonl", "--rehearse",
             *ASKED, "--gpus", "0", "--out", "run")  # fmt: skip
    assert "prefdata build simpo model=models/lm" in texts(here, engine, "run-rehearsal")[0]
