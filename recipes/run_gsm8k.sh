#!/usr/bin/env bash
# GRPO on GSM8K with verl, on one node of GPUs, in the experiments' common setting.
#
#   recipes/run_gsm8k.sh clean                         the baseline
#   recipes/run_gsm8k.sh E5b                           recipes/specs/E5b.yaml
#   SIZE=7b recipes/run_gsm8k.sh E7c trainer.save_freq=58
#
# MODEL, DATA (train.parquet, test.parquet), OUT, GPUS and SEED can be set in the environment;
# further words are Hydra overrides for verl.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
arm=${1:?give clean, or the name of a file in recipes/specs without .yaml}
shift

case ${SIZE:-1.5b} in
  1.5b) batch=128 mini=32 micro=4 lr=5e-7 tp=1 response=1024 steps=116
        model=${MODEL:-Qwen/Qwen2.5-1.5B-Instruct} ;;
  7b)   batch=64 mini=16 micro=2 lr=1e-7 tp=2 response=512 steps=232
        model=${MODEL:-Qwen/Qwen2.5-7B-Instruct} ;;
  *) echo "SIZE=$SIZE: it must be 1.5b or 7b" >&2; exit 2 ;;
esac
data=${DATA:-data/gsm8k} out=${OUT:-runs/$arm-seed${SEED:-0}}
for file in "$data/train.parquet" "$data/test.parquet"; do
  [ -f "$file" ] || { echo "$file is missing; set DATA to a folder with verl's GSM8K" >&2; exit 2; }
done

noise=()
if [ "$arm" != clean ]; then
  spec=$here/specs/$arm.yaml
  [ -f "$spec" ] || { echo "$spec is missing; there are: $(ls "$here/specs")" >&2; exit 2; }
  export HETERO_NOISE_CONFIG=$spec
  noise=(actor_rollout_ref.rollout.quantization=hetero_noise)
fi
mkdir -p "$out"
export VERL_FILE_LOGGER_PATH=$out/metrics.jsonl

python3 -m verl.trainer.main_ppo \
  algorithm.adv_estimator=grpo \
  data.train_files="$data/train.parquet" data.val_files="$data/test.parquet" \
  data.train_batch_size=$batch data.max_prompt_length=512 data.max_response_length=$response \
  data.seed="${SEED:-0}" \
  actor_rollout_ref.model.path="$model" \
  actor_rollout_ref.model.enable_gradient_checkpointing=True \
  actor_rollout_ref.actor.strategy=fsdp2 \
  actor_rollout_ref.actor.optim.lr=$lr \
  actor_rollout_ref.actor.ppo_mini_batch_size=$mini \
  actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=$micro \
  actor_rollout_ref.rollout.name=vllm actor_rollout_ref.rollout.n=5 \
  actor_rollout_ref.rollout.tensor_model_parallel_size=$tp \
  actor_rollout_ref.rollout.gpu_memory_utilization=0.8 \
  actor_rollout_ref.rollout.seed="${SEED:-0}" \
  actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=$micro \
  trainer.n_gpus_per_node="${GPUS:-8}" trainer.nnodes=1 \
  trainer.total_training_steps=$steps trainer.total_epochs=2 \
  trainer.test_freq=20 trainer.save_freq=$steps trainer.val_before_train=True \
  trainer.default_local_dir="$out/checkpoints" \
  trainer.logger='["console","file"]' \
  trainer.project_name=hetero_noise trainer.experiment_name="$arm" \
  "${noise[@]}" "$@" 2>&1 | tee -a "$out/train.log"
