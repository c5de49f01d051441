#!/usr/bin/env bash
# Lint, types and all tests, from a fresh clone: installs into .venv, then checks.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh dev
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/pytest -m "not slurm" "$@"  # those start a cluster of their own: test_slurm.sh
