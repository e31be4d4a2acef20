#!/usr/bin/env bash
# Makes the environment that the Makefile's targets run in, or leaves the one there as it is.
#
# usage: scripts/env.sh [folder, default .venv] [lock, default requirements/cpu.txt]
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
lock=${2:-requirements/cpu.txt}
stamp=$venv/.hetero-ready

fail() { printf 'make env: error: %s\n' "$*" >&2; exit 1; }
say() { printf 'make env: %s\n' "$*"; }

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.11 python3 /usr/bin/python3.11 /usr/local/bin/python3.11; do
    [ -n "$candidate" ] || continue
    # Run it: a version manager's shim may be on PATH with nothing behind it.
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

command -v g++ >/dev/null 2>&1 || say "warning: there is no g++ on this machine. The package then" \
  "uses its slow reference instead of the CPU kernel, and vLLM and torch.compile can't compile;" \
  "install it with: apt-get install g++"

# What was installed is named by its content, not by a time: a clone gives every file a new one.
want=$(cat "$lock" pyproject.toml entry_points.txt | sha256sum | cut -d ' ' -f 1)-$PWD
if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
  exit 0
fi

if [ ! -x "$venv/bin/python" ]; then
  python=$(find_python) || fail "no Python 3.11 found (tried \$PYTHON, python3.11 and python3 on" \
    "PATH). Install it (apt-get install python3.11 python3.11-venv), or name one: make PYTHON=/path"
  say "creating $venv with $("$python" --version) ($python)"
  "$python" -m venv "$venv" || {
    rm -rf "$venv"
    fail "$python can't create a virtual environment; on Debian and Ubuntu: apt-get install" \
      "python3.11-venv"
  }
fi

pip=("$venv/bin/python" -m pip --disable-pip-version-check)
say "installing $(grep -c == "$lock") pinned packages (a few minutes the first time, about 4 GB)"
# torch with its own dependencies first: where an index has no CPU build of it, it needs more
# than the lock names. Everything else exactly as pinned.
"${pip[@]}" install --quiet --no-compile --constraint "$lock" torch setuptools
"${pip[@]}" install --quiet --no-compile --no-deps --requirement "$lock"
"${pip[@]}" install --quiet --no-deps --no-build-isolation --editable .
# Compiled here, on all cores, rather than by pip on one. Not to compile at all would cost far more:
# a verl run starts a dozen processes that import torch, vLLM and transformers, and where
# PYTHONDONTWRITEBYTECODE is set each of them would compile it all again.
"$venv/bin/python" -m compileall -q -j 0 "$venv"/lib/python3.11/site-packages hetero_plugin \
  >/dev/null 2>&1 || true # some packages ship templates that are no Python
log=$("$venv/bin/python" -c 'import torch, vllm, verl, hetero_plugin' 2>&1) ||
  fail "the environment was installed but does not import:" "$log"
printf '%s' "$want" > "$stamp"
say "ready in $venv"
