#!/usr/bin/env bash
# How much finer than bicubic are images painted by super-resolution, and are masses told better on them?
#   bash jobs/finer.sh
# Pairs, an encoder pretrained on the coarse ones, super-resolution on 10 and 100 % of the pairs; then the mass of each
# axion is regressed on what is given, enlarged, painted and true. Two cores: an hour. Last result: docs/results.md.
set -euo pipefail
run=${RAYLENS:-uv run python} size=${SIZE:-32} rows=${ROWS:-8000} steps=${STEPS:-1500} fine=${FINE:-1000}
masses=${MASSES:-2500} seeds=${SEEDS:-0 1 2}
pairs=shards/sr-pairs-$size

[ -e "$pairs" ] || $run -m raylens.data simulate sr-pairs --rows "$rows" --size "$size" --seed 1 --out "$pairs"
$run -m raylens.pretrain contrastive --name finer-pretrained --data.source "$pairs" --fit.steps "$steps" \
  --fit.report_every "$((steps / 3))"
$run -m raylens.finetune runs/finer-pretrained/last super-resolution --labels 10% 100% --seeds $seeds \
  --fit.steps "$fine" --fit.report_every "$((fine / 2))" --name finer
$run -m raylens.evaluate runs/finer/best --data "$pairs"
for by in model bicubic high; do
  $run -m raylens.data resolve runs/finer/best "$pairs" --by $by --out "$pairs-$by" --overwrite
done
# Networks from scratch, in the rows of that name, are the same for all; the others start from what knows the classes.
$run -m raylens.train supervised --name finer-classes --data.source "$pairs-high" --fit.steps 2000
for by in model bicubic high; do
  $run -m raylens.finetune runs/finer-classes/last regression --data.source "$pairs-$by" --seeds $seeds \
    --fit.steps "$masses" --fit.report_every "$((masses / 2))" --name "mass-$by"
done
$run -m raylens.finetune runs/finer-pretrained/last regression --data.source "$pairs" --seeds $seeds \
  --fit.steps "$masses" --fit.report_every "$((masses / 2))" --name mass-given
