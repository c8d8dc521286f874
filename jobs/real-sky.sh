#!/usr/bin/env bash
# Does what was learned without a real label hold on real sky, with which source, and which method helps there?
#   bash jobs/real-sky.sh CFHTLS.npz CUTOUTS.npz
# Three sources, four methods and three seeds, forty minutes on two cores; SOURCES="spacewarps=minmax" takes one of them, by
# its name and its transform. Last result: docs/results.md.
#
# CFHTLS.npz has labelled pictures, array `source` telling their parts: methods adapt to all of them without labels, and the
# graded sample is measured by itself, as are the gallery's lenses against the field's galaxies. CUTOUTS.npz has pictures of
# real galaxies, hardly a lens among them, to paint arcs on. The source spacewarps is pictures as CFHTLS's are.
set -euo pipefail
images=$1 cutouts=$2
data=shards/real-sky run=${RAYLENS:-uv run python}

[ -e $data/adapt ] || $run -m raylens.data convert "$images" --out $data/adapt --domain target \
  --arcsec-per-pixel 0.186 --splits train=0.8,val=0.2
[ -e $data/labelled ] || $run -m raylens.data convert "$images" --out $data/labelled --domain target \
  --arcsec-per-pixel 0.186 --splits test=1
[ -e $data/cutouts ] || $run -m raylens.data convert "$cutouts" --out $data/cutouts --domain source \
  --arcsec-per-pixel 0.168 --splits train=0.8,val=0.1,test=0.1
[ -e $data/sim ] || $run -m raylens.data simulate sim --rows 6000 --bands gri --pixel 0.186 --out $data/sim
[ -e $data/painted ] || $run -m raylens.data simulate painted --onto $data/cutouts --rows 6000 --out $data/painted
[ -e $data/spacewarps ] || $run -m raylens.data simulate spacewarps --rows 40000 --out $data/spacewarps

# Of the labelled pictures about 3 in 10 are lenses, as in the source: no prior to correct for.
for source in ${SOURCES:-sim=asinh painted=minmax spacewarps=minmax}; do
  steps=1000
  [ "${source%=*}" != spacewarps ] || steps=4000
  $run -m raylens.benchmark --name "real-sky-${source/=/-}" --methods adabn adda self_ensembling adamatch \
    --data.source $data/${source%=*} --data.target $data/adapt --data.test $data/labelled \
    --where source=graded source=gallery,field --data.transform ${source#*=} --target-prior null \
    --fit.start_steps $steps --fit.steps 400 --fit.report_every 200 --search.trials 1
done
