#!/usr/bin/env bash
# What is pretraining without labels worth, from the search of its settings to finetuned models, on 1, 10 and 100 % of them?
#   bash jobs/foundation.sh SET METHOD...           such as model-i contrastive byol twin dino mae
# A search of TRIALS settings for each method (4; at 1 the defaults are trained), ranked without labels, then finetuning
# beside the same network from scratch. Two cores and TRIALS=1: half an hour a set. Last result: docs/results.md.
set -euo pipefail
set=$1 && shift
run=${RAYLENS:-uv run python} trials=${TRIALS:-4} rows=${ROWS:-8000} steps=${STEPS:-1500} fine=${FINE:-400} seeds=${SEEDS:-0 1 2}
data=shards/$set-64

[ -e $data ] || $run -m raylens.data simulate "$set" --rows "$rows" --size 64 --seed 1 --out $data
for method in "$@"; do
  # A vision transformer that two cores can carry; on a GPU take the default one.
  encoder=$([ "$method" = mae ] && echo "--encoder vit --encoder.features 96 --encoder.depth 4" || echo "--encoder small")
  name=$set-$method settings="--data.source $data --fit.steps $steps --fit.report_every $((steps / 3)) $encoder"
  if [ "$trials" = 1 ]; then
    $run -m raylens.pretrain "$method" --name "$name" $settings
    found=runs/$name/last
  else
    $run -m raylens.tune "$method" --name "$name" --search.trials "$trials" $settings
    found=runs/$name/best
  fi
  # What it paints behind the masked patches, beside interpolation, and on pure noise.
  [ "$method" != mae ] || $run -m raylens.evaluate "$found" --data "$data"
  $run -m raylens.finetune "$found" classification --labels 1% 10% 100% --frozen --seeds $seeds --fit.steps "$fine" \
    --fit.report_every "$((fine / 2))" --name "$name-finetuned"
  $run -m raylens.evaluate "runs/$name-finetuned/best" --data $data
done
