#!/usr/bin/env bash
# Is a set that cannot be learned from the start learned by way of easier images, those with heavier substructure?
#   bash jobs/easier.sh SET                         such as common
# A network is trained with labels where substructure has FACTORS (4, then 2) times its mass, and finetuned on SET itself, on
# 1, 10 and 100 % of its labels, beside the same network from scratch. Two cores, beside other work: 41 minutes.
# Last result: docs/results.md.
set -euo pipefail
set=$1 run=${RAYLENS:-uv run python} rows=${ROWS:-8000} steps=${STEPS:-4000} seeds=${SEEDS:-0 1}
factors=${FACTORS:-4 2} encoder=${ENCODER:-small} fit="--fit.steps $steps --fit.report_every $((steps / 4))"

simulate() {  # SEED FOLDER [FLAGS]: images of another seed each, so that none is seen before the test
  [ -e "$2" ] || $run -m raylens.data simulate "$set" --rows "$rows" --size 64 --seed "$1" --out "$2" "${@:3}"
}

simulate 1 "shards/$set-64"
seed=1 last=""
for factor in $factors; do
  name=$set-heavier$factor
  simulate $((seed += 1)) "shards/$name-64" --heavier "$factor"
  if [ -z "$last" ]; then
    $run -m raylens.train supervised --name "$name" --encoder "$encoder" --data.source "shards/$name-64" $fit
    last=runs/$name/last
  else
    $run -m raylens.finetune "$last" classification --no-scratch --name "$name" --data.source "shards/$name-64" $fit
    last=runs/$name/best
  fi
done
$run -m raylens.finetune "$last" classification --labels 1% 10% 100% --seeds $seeds --name "$set-from-easier" \
  --data.source "shards/$set-64" $fit
