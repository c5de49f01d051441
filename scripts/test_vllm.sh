#!/usr/bin/env bash
# The tests that need vLLM, with its CPU build, from a fresh clone: installs into .venv-vllm.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install_vllm.sh
# only the files that have such tests: to import all of them takes a while
mapfile -t files < <(grep -l mark.vllm tests/test_*.py)
.venv-vllm/bin/pytest -m vllm "${files[@]}" "$@"
