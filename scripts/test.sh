#!/usr/bin/env bash
# Lint, types and all tests, from a fresh clone: installs into .venv, then checks.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh dev
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# two threads for models this small cost more than one, all the more where all cores are busy
export OMP_NUM_THREADS=1
# a process a core, files whole; those that start a Slurm of their own are in test_slurm.sh
.venv/bin/pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder \
  -m "not slurm" "$@"
