#!/usr/bin/env bash
# The tests on a real Slurm, on this host alone: installs into .venv, and Debian's Slurm where it is
# missing and root may.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh dev
if ! command -v slurmctld >/dev/null; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Slurm is missing; install it (Debian: apt-get install slurm-wlm slurm-client munge)" >&2
    exit 2
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    slurm-wlm slurm-client munge iproute2 >/dev/null
fi
.venv/bin/pytest -m slurm tests/test_slurm.py "$@"
