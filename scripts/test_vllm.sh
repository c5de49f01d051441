#!/usr/bin/env bash
# The tests that need vLLM, with its CPU build, from a fresh clone: installs into .venv-vllm.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install_vllm.sh
.venv-vllm/bin/pytest -m vllm "$@"
