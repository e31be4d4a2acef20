#!/usr/bin/env bash
# Makes the environment that `make docs` builds the site in, or leaves the one there as it is.
#
# usage: scripts/docs_env.sh [folder, default .venv-docs]
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv-docs}
lock=requirements/docs.txt
want=$(sha256sum "$lock" | cut -d ' ' -f 1)
if [ "$(cat "$venv/.hetero-ready" 2>/dev/null)" = "$want" ]; then
  exit 0
fi
python=${PYTHON:-$(command -v python3.11 || command -v python3)}
echo "make docs: installing $(grep -c == "$lock") pinned packages into $venv"
"$python" -m venv --clear "$venv"
"$venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --requirement "$lock"
printf '%s' "$want" > "$venv/.hetero-ready"
