#!/usr/bin/env bash
# The tests that load the exports with the trainers' own code: installs into .venv-trainers.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install_trainers.sh
.venv-trainers/bin/pytest -m trainers tests/test_trainer_loaders.py "$@"
