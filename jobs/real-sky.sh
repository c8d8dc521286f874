#!/usr/bin/env bash
# Does what was learned on simulations hold on real sky, and does adaptation help there?
#   bash jobs/real-sky.sh CFHTLS.npz [TRANSFORM]
# 3 seeds, half an hour on two cores. Last result (asinh): no, and no: docs/results.md.
#
# The simulations have CFHTLS's bands and pixel scale. Adaptation sees the survey's images without labels; the same images are
# measured with labels afterwards, the graded sample by itself and the gallery's lenses against the field's galaxies.
set -euo pipefail
images=$1 transform=${2:-asinh}
data=shards/real-sky run=${RAYLENS:-uv run python}

for seed in 0 1 2; do
  [ -e $data/sim-$seed ] || $run -m raylens.data simulate sim --rows 6000 --seed $seed --bands gri --pixel 0.186 --out $data/sim-$seed
done
[ -e $data/adapt ] || $run -m raylens.data convert "$images" --out $data/adapt --domain target \
  --arcsec-per-pixel 0.186 --splits train=0.8,val=0.2
[ -e $data/labelled ] || $run -m raylens.data convert "$images" --out $data/labelled --domain target \
  --arcsec-per-pixel 0.186 --splits test=1

for seed in 0 1 2; do
  name=real-sky-$transform-$seed
  # Of the labelled images about 3 in 10 are lenses, as in the source: no prior to correct for.
  $run -m raylens.train adda --name $name --seed $seed --data.source $data/sim-$seed --data.target $data/adapt \
    --data.transform $transform --method.target_prior null --fit.steps 400 --fit.report_every 200
  for part in graded gallery,field; do
    measure="$run -m raylens.evaluate"
    $measure runs/$name/start --data $data/labelled --where source=$part --out runs/$name/measured/source-only-$part
    $measure runs/$name/start --data $data/labelled --where source=$part --batch-norm-from $data/adapt \
      --out runs/$name/measured/batch-norm-only-$part
    $measure runs/$name/last --data $data/labelled --where source=$part --out runs/$name/measured/adda-$part
  done
done
for file in runs/real-sky-$transform-*/measured/*/metrics.json; do
  echo "$file $(tr -d '\n ' < "$file" | grep -o '"auroc":{[^}]*}')"
done
