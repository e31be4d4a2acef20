#!/usr/bin/env bash
# dieharder's whole battery on streams of the generator, an hour or more an order.
#   tests/batteries/dieharder.sh [-s SEED] [-o FOLDER] [ORDER ...]      default: every order
# About one p-value in a hundred is WEAK by chance, and a run has over a hundred; so each test with a
# WEAK result runs once more with another seed. Exit status 1 if anything FAILED, or if the same
# test was WEAK with both seeds. What is in the folder already is not run again.
set -euo pipefail
seed=1 folder=runs/dieharder
while getopts s:o: option; do
  case $option in
    s) seed=$OPTARG ;;
    o) folder=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
command -v dieharder >/dev/null || {
  echo "dieharder is not installed: apt-get install dieharder" >&2
  exit 2
}
noise=$(command -v hetero-noise || echo .venv/bin/hetero-noise)
# shellcheck disable=SC2046
[ $# -gt 0 ] || set -- $("$noise" random --list | awk '{print $1}')
mkdir -p "$folder"

# The tests of `dieharder -a` one by one, so that an interrupted battery goes on where it was.
parts="$(seq 0 17) 100 101 102 $(printf '200:%d ' $(seq 1 12)) $(printf '201:%d ' $(seq 2 5))
  $(printf '202:%d ' $(seq 2 5)) $(printf '203:%d ' $(seq 0 32)) 204 205 206 207 208 209"

battery() { # order, seed, file: each test writes a file of its own, aside first, so that a file is whole
  local part done=0 all
  all=$(wc -w <<<"$parts")
  mkdir -p "$3.parts"
  for part in $parts; do
    if [ ! -s "$3.parts/$part" ]; then
      # shellcheck disable=SC2046
      "$noise" random --order "$1" --seed "$2" |
        dieharder -d "${part%:*}" $([ "$part" = "${part#*:}" ] || echo "-n ${part#*:}") -g 200 |
        grep -E 'PASSED|WEAK|FAILED' >"$3.parts/.$part"
      mv "$3.parts/.$part" "$3.parts/$part"
    fi
    done=$((done + 1))
    [ ! -t 2 ] || printf '\r%s: %d of %d tests' "$1" "$done" "$all" >&2
  done
  [ ! -t 2 ] || echo >&2
  (cd "$3.parts" && cat $parts) >"$3.whole"
  mv "$3.whole" "$3"
  rm -r "$3.parts"
}
weak() { # file -> "test|ntuple" of each weak result
  { grep WEAK "$1" || true; } | tr -d ' ' | cut -d'|' -f1,2 | sort -u
}
repeat() { # order, seed, file, weak tests: those tests alone
  : >"$3"
  local test name size
  for test in $4; do
    name=${test%|*} size=
    # The families that have a size take it as an option; of the rest, one run covers every size.
    case $name in rgb_* | dab_*) size="-n ${test#*|}" ;; esac
    # shellcheck disable=SC2086
    "$noise" random --order "$1" --seed "$2" | dieharder -d "$name" $size -g 200 >>"$3"
  done
}

status=0
for order in "$@"; do
  first=$folder/$order.seed$seed.txt
  again=
  [ -s "$first" ] || battery "$order" "$seed" "$first"
  tests=$(weak "$first")
  if [ -n "$tests" ]; then
    again=$folder/$order.seed$((seed + 1000)).txt
    repeat "$order" $((seed + 1000)) "$again" "$tests"
    both=$(comm -12 <(echo "$tests") <(weak "$again"))
    if [ -n "$both" ]; then
      echo "$order: WEAK with both seeds: $both"
      status=1
    fi
  fi
  # shellcheck disable=SC2086
  if grep -H FAILED "$first" $again; then status=1; fi
  echo "$order: $(grep -c PASSED "$first") passed, $(grep -c WEAK "$first" || true) weak," \
    "$(grep -c FAILED "$first" || true) failed (seed $seed)"
done
exit $status
