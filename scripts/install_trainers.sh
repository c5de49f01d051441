#!/usr/bin/env bash
# Makes .venv-trainers beside the code, once: the trainers whose loaders the tests run, and prefdata.
set -euo pipefail
cd "$(dirname "$0")/.."

fingerprint=$(cat pyproject.toml scripts/install_trainers.sh | sha256sum | cut -c1-16)
stamp=.venv-trainers/.installed
if [ "$(cat "$stamp" 2>/dev/null)" = "$fingerprint" ]; then
  exit 0
fi

export PIP_COMPILE=no  # Python compiles what it imports, a part of what is installed
python=$(command -v python3.11 || command -v python3)
[ -x .venv-trainers/bin/python ] || "$python" -m venv .venv-trainers
pip() { .venv-trainers/bin/python -m pip --quiet --disable-pip-version-check "$@"; }
# first what the loaders import, in the versions that Axolotl pins; of the others OpenRLHF and
# LLaMA-Factory want an older transformers, and ms-swift's trainers an older trl
pip install --editable . pytest hypothesis torch==2.13.0 transformers==5.16.1 datasets==4.8.4 \
  accelerate==1.13.0 peft==0.20.0 trl==1.9.0 \
  addict==2.4.0 aiohttp==3.14.5 colorama==0.4.6 einops==0.8.2 json_repair==0.64.5 \
  modelscope==1.40.2 numba==0.68.1 pandas==3.1.1 pillow==13.0.0 posthog==7.91.1 psutil==7.2.2 \
  pylatexenc==2.11 sentencepiece==0.2.3 sympy==1.14.0
# without their dependencies: those are CUDA builds and servers, which no loader imports
pip install --no-deps axolotl==0.19.0 llamafactory==0.9.5 openrlhf==0.11.2 ms-swift==4.6.0
echo "$fingerprint" > "$stamp"
