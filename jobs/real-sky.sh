#!/usr/bin/env bash
# Does what was learned without a real label hold on real sky, with which source, and which method helps there?
#   bash jobs/real-sky.sh CFHTLS.npz CUTOUTS.npz
# Three sources, four methods and three seeds, forty minutes on two cores; SOURCES=spacewarps takes the one that carries
# furthest. Last result: docs/results.md.
#
# CFHTLS.npz has labelled pictures, of Space Warps (arXiv 1504.06148) here: `images_gri` (N, 3, 64, 64), `label` (1 a lens, 0
# none, -1 not known) and `source` (graded, gallery or field). Methods adapt to all of them without labels, and the graded sample
# is measured by itself, as are the gallery's lenses against the field's galaxies. CUTOUTS.npz has `images_gri` of real galaxies,
# hardly a lens among them, to paint arcs on. Neither is shipped. The source spacewarps is pictures as CFHTLS's are.
set -euo pipefail
images=$1 cutouts=$2
data=shards/real-sky run=${RAYLENS:-uv run python}

[ -e $data/adapt ] || $run -m raylens.data convert "$images" --out $data/adapt --domain target \
  --arcsec-per-pixel 0.186 --splits train=0.8,val=0.2
[ -e $data/labelled ] || $run -m raylens.data convert "$images" --out $data/labelled --domain target \
  --arcsec-per-pixel 0.186 --splits test=1
[ -e $data/cutouts ] || $run -m raylens.data convert "$cutouts" --out $data/cutouts --domain source \
  --arcsec-per-pixel 0.168 --splits train=0.8,val=0.1,test=0.1

declare -A made=(
  [sim]="simulate sim --rows 6000 --bands gri --arcsec-per-pixel 0.186"
  [painted]="simulate painted --onto $data/cutouts --rows 6000"
  [spacewarps]="simulate spacewarps --rows 40000 --seed 1"
)
sources=${SOURCES:-sim painted spacewarps}
for source in $sources; do
  [ -e $data/$source ] || $run -m raylens.data ${made[$source]} --out $data/$source
done

# These pictures were chosen because they may be lenses: not as rare as in a survey, so no prior is told.
measured="--data.target $data/adapt --data.test $data/labelled --where source=graded source=gallery,field"
for source in $sources; do
  if [ "$source" = spacewarps ]; then
    $run -m raylens.benchmark --from jobs/spacewarps.yaml --data.source $data/spacewarps $measured
    starts=()  # the last checkpoints of those that were not adapted, to be measured as one
    for start in runs/spacewarps/starts/supervised-small-seed*; do
      starts+=("$(ls -d "$start"/checkpoint_* | tail -n 1)")
    done
    for part in graded gallery,field; do
      $run -m raylens.evaluate "${starts[0]}" --checkpoint "${starts[@]:1}" --data $data/labelled --where source=$part
    done
  else
    transform=$([ "$source" = sim ] && echo asinh || echo minmax)
    $run -m raylens.benchmark --name "real-sky-$source-$transform" --methods adabn adda self_ensembling adamatch \
      --data.source $data/$source $measured --data.transform $transform --target-prior null \
      --fit.steps 400 --fit.report_every 200 --search.trials 1
  fi
done
