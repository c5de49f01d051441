"""What can be told of the image without building it."""

import re

from conftest import ROOT

LINES = (ROOT / "Dockerfile.gpu").read_text().splitlines()


def argument(word):
    return [line.removeprefix(word).strip() for line in LINES if line.startswith(word)]


def test_the_base_image_has_a_version():
    [image] = argument("FROM")
    assert re.fullmatch(r"vllm/vllm-openai:v\d+\.\d+\.\d+", image)


def test_it_runs_as_somebody_else_than_root_and_is_the_command():
    assert argument("USER") == ["prefdata"]
    assert argument("ENTRYPOINT") == ['["prefdata"]']


def test_what_it_adds_is_pinned():
    added = re.findall(r"^ +(.*==.*) \. \\$", "\n".join(LINES), flags=re.MULTILINE)
    assert all("==" in package for package in added[0].split())
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert set(added[0].split()) <= set(constraints)


def test_what_it_copies_is_there():
    for sources in argument("COPY"):
        for name in sources.split()[:-1]:
            assert (ROOT / name).exists()
