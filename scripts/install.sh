#!/usr/bin/env bash
# Makes .venv beside the code and installs what is asked for, once: `install.sh` or `install.sh dev`.
# A second call with the same pyproject.toml and constraints.txt installs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
extra=${1:-}

fingerprint=$(cat pyproject.toml constraints.txt | sha256sum | cut -c1-16)
stamp=.venv/.installed-${extra:-core}
if [ -x .venv/bin/prefdata ] && [ "$(cat "$stamp" 2>/dev/null)" = "$fingerprint" ]; then
  exit 0
fi

export PIP_COMPILE=no  # Python compiles what it imports, a part of what is installed
python=$(command -v python3.11 || command -v python3)
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "Python 3.11 or newer is needed; found $("$python" --version)" >&2; exit 2; }
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
  --editable ".${extra:+[$extra]}"
if [ "$extra" = dev ]; then  # SkyPilot's schemas alone: what it depends on is of other versions
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps skypilot==0.14.1
fi
echo "$fingerprint" > "$stamp"
