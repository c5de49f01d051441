#!/usr/bin/env bash
# The tests of the report in headless Chromium: installs playwright into .venv, and Debian's Chromium
# where it is missing and root may.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh dev,browser
if ! command -v chromium >/dev/null; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "chromium is missing; install it (Debian: apt-get install chromium)" >&2
    exit 2
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null
fi
# only the files that have such tests: to import all of them takes a while
mapfile -t files < <(grep -l mark.browser tests/test_*.py)
.venv/bin/pytest -m browser "${files[@]}" "$@"
