#!/usr/bin/env bash
# From a fresh clone to a served model: environment, tokenizer, training, evaluation, a sample, an export, and
# a separate process that knows TensorFlow only. No data is downloaded. About 8 minutes on 2 cores,
# installation aside.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

run=runs/quickstart
prompt="The assert statement"
stages=()

stage() {  # $1: its name, the rest: its command
  local name=$1 begin=$SECONDS
  shift
  printf '\n== %s\n' "$name"
  "$@"
  stages+=("$(printf '%-36s %3d min %02d s' "$name" $(((SECONDS - begin) / 60)) $(((SECONDS - begin) % 60)))")
}

tfllm() { .venv/bin/tfllm "$@"; }

alone() {  # TensorFlow's start-up notices are shown only when something fails
  local notices
  notices=$(mktemp)
  .venv/bin/python scripts/continue_export.py "$@" 2> "$notices" || { cat "$notices" >&2; return 1; }
  rm "$notices"
}

SECONDS=0
stage "install into .venv" make_environment "."
stage "train the tokenizer, tokenise" tfllm prepare configs/quickstart.yaml
stage "train, evaluate, sample" tfllm train configs/quickstart.yaml --run-dir "$run"
stage "evaluate again, beside gzip" .venv/bin/python scripts/report_quickstart.py "$run"
stage "generate" tfllm generate "$run" "$prompt"
stage "export a SavedModel" tfllm export "$run"
stage "continue it in TensorFlow alone" alone "$run/export" "$prompt"

printf '\n== time\n'
printf '%s\n' "${stages[@]}"
cat <<END

== where everything lies
$run/config.yaml      the resolved config
$run/metrics.jsonl    a line a log; $run/tensorboard for TensorBoard
$run/checkpoints/     the newest checkpoints
$run/samples/         what the model said
$run/export/          versions for TensorFlow Serving

== next
.venv/bin/tfllm generate $run "The with statement" --temperature 0.5 --max-new-tokens 100
.venv/bin/tfllm inspect $run
.venv/bin/tfllm train configs/quickstart.yaml name=mine data.train.type=text_files data.train.path='my_texts/*.txt'
END
