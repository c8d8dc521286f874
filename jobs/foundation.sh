#!/usr/bin/env bash
# What is pretraining without labels worth, from the search of its settings to finetuned models, on 1, 10 and 100 % of them?
#   bash jobs/foundation.sh SET METHOD...           such as model-i contrastive byol twin simsiam dino mae
# A search of TRIALS settings for each method and each of ENCODERS (4; at 1 the defaults are trained), ranked without labels,
# once for each seed in STARTS; then all are finetuned beside the same networks from scratch, in one table. Two cores, TRIALS=1
# and one encoder: 20 minutes a method at STEPS=1500 FINE=1500. Last result: docs/results.md.
set -euo pipefail
set=$1 && shift
run=${RAYLENS:-uv run python} trials=${TRIALS:-4} rows=${ROWS:-8000} steps=${STEPS:-1500} fine=${FINE:-400} seeds=${SEEDS:-0 1 2}
encoders=${ENCODERS:-small} starts=${STARTS:-0} data=shards/$set-64 found=()

[ -e "$data" ] || $run -m raylens.data simulate "$set" --rows "$rows" --size 64 --seed 1 --out "$data"
for method in "$@"; do
  # Masked patches need a vision transformer: one that two cores can carry; on a GPU take the default one.
  for encoder in $([ "$method" = mae ] && echo vit || echo "$encoders"); do
    for seed in $starts; do
      name=$set-$encoder-$method
      [ "$seed" = 0 ] || name+=-seed$seed
      settings="--encoder $encoder --data.source $data --seed $seed --fit.steps $steps --fit.report_every $((steps / 3))"
      [ "$encoder" != vit ] || settings+=" --encoder.features 64 --encoder.depth 3"
      verb=$method
      [ "$method" != simsiam ] || { verb=twin && settings+=" --method.kind simsiam"; }
      if [ "$trials" = 1 ]; then
        $run -m raylens.pretrain "$verb" --name "$name" $settings
        found+=("runs/$name/last")
      else
        # Of a search whose trials all collapsed there is a leaderboard, and nothing to finetune: the others go on.
        if ! $run -m raylens.tune "$verb" --name "$name" --search.trials "$trials" $settings; then
          [ -e "runs/$name/leaderboard.csv" ] || exit 1
          continue
        fi
        found+=("runs/$name/best")
      fi
      # What it paints behind the masked patches, beside interpolation, and on pure noise.
      [ "$method" != mae ] || $run -m raylens.evaluate "${found[-1]}" --data "$data"
    done
  done
done
$run -m raylens.finetune "${found[@]}" classification --labels 1% 10% 100% --frozen --seeds $seeds --fit.steps "$fine" \
  --fit.report_every "$((fine / 2))" --name "$set-finetuned"
$run -m raylens.evaluate "runs/$set-finetuned/best" --data "$data"
