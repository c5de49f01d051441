#!/usr/bin/env bash
# From a fresh clone to a preference dataset of real models: installs into .venv, builds
# recipes/quickstart, prints the summary. Run again, it finds the work done.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh
.venv/bin/prefdata quickstart "$@"
