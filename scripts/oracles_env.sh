#!/usr/bin/env bash
# Makes the environment that `make oracles` asks other people's number formats in, or leaves the one
# there as it is. It is not the tests': transformers and PEFT import torchao wherever it is.
#
# usage: scripts/oracles_env.sh [folder, default .venv-oracles]
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv-oracles}
lock=requirements/oracles.txt
want=$(sha256sum "$lock" | cut -d ' ' -f 1)
if [ "$(cat "$venv/.hetero-ready" 2>/dev/null)" = "$want" ]; then
  exit 0
fi
python=${PYTHON:-$(command -v python3.11 || command -v python3)}
echo "make oracles: installing $(grep -c == "$lock") pinned packages into $venv (1 GB)"
"$python" -m venv --clear "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check)
# torch with its own dependencies first, as in scripts/env.sh; the rest exactly as pinned.
"${pip[@]}" install --quiet --constraint "$lock" torch setuptools
"${pip[@]}" install --quiet --no-deps --requirement "$lock"
printf '%s' "$want" > "$venv/.hetero-ready"
