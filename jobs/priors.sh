#!/usr/bin/env bash
# Is it worth telling a method how many lenses to expect, at 1 lens in 3, 11 and 101?
#   bash jobs/priors.sh
# jobs/priors.yaml at each of the shares, all measured on one survey of 12,000 images, a quarter of them lenses, so that
# intervals are narrow at each share. Last result: docs/results.md.
set -euo pipefail
test=shards/priors/test run=${RAYLENS:-uv run python}

[ -e $test ] || $run -m raylens.data simulate survey --rows 12000 --prior 0.25 --seed 1000 --splits test=1 --out $test
for share in 0.333 0.091 0.0099; do
  file=shards/priors/$share.yaml
  sed "s/target_prior: 0.1}/target_prior: $share}/" jobs/priors.yaml > $file
  $run -m raylens.benchmark --from $file --name "priors-$share" --data.target_lenses $share --data.test $test
done
