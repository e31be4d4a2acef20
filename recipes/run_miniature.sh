#!/usr/bin/env bash
# One arm of the miniature on CPU cores: real verl, Ray, vLLM and FSDP2.
#
#   recipes/run_miniature.sh recipes/miniature/noise.yaml DEMO OUT
#
# DEMO is a folder that `hetero-noise demo` has prepared (its model/ and data/ are used); OUT gets
# the log, metrics.jsonl, the checkpoint and the merged model.
set -euo pipefail
settings=${1:?give a file of recipes/miniature} demo=${2:?give a prepared demo folder}
out=${3:?give a folder for this run}
exec "${PYTHON:-python3}" -m hetero_plugin.verl "$settings" \
  --model "$demo/model" --train "$demo/data/train.parquet" --val "$demo/data/dev.parquet" \
  --output "$out"
