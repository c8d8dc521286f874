#!/usr/bin/env bash
# Does the whole way work here: simulate, pretrain, finetune, search three adaptations, evaluate, report?
#   ray job submit --address http://127.0.0.1:8265 --working-dir . -- bash jobs/story.sh
# An encoder learns from the survey without labels, is finetuned on simulations, and the three methods carry it back to the
# survey, a search each. Two cores: half an hour. Sets and runs lie in WHERE, a folder that outlives the job or an s3://
# address. What is there is not done again: the same command goes on. On GPUs:
#   ... -- env WHERE=s3://bucket/story ENCODER=resnet34 ROWS=100000 STEPS=4000 TRIALS=32 bash jobs/story.sh --scale.gpus 0.5
set -euo pipefail
run=${RAYLENS:-python} where=${WHERE:-$HOME/raylens-story} encoder=${ENCODER:-small}
rows=${ROWS:-12000} steps=${STEPS:-400} trials=${TRIALS:-3}

there() { $run -c 'import sys; from raylens.storage import exists; sys.exit(not exists(sys.argv[1]))' "$1"; }
out=() && [[ $where != *://* ]] || out=(--out "$PWD/evaluation")  # pictures are made here, and shown by the report
each=("$@" --storage "$where/runs" --fit.steps "$steps" --fit.report_every "$((steps / 4))")
search=(--search.trials "$trials")

for preset in sim survey; do
  there "$where/$preset/manifest.json" || $run -m raylens.data simulate "$preset" --rows "$rows" --out "$where/$preset"
done
pretrained=$where/runs/story-contrastive/best
$run -m raylens.tune contrastive --name story-contrastive --encoder "$encoder" \
  --data.source "$where/survey" "${search[@]}" "${each[@]}"
finetuned=$where/runs/story-finetuned/best
$run -m raylens.finetune "$pretrained" classification --name story-finetuned \
  --data.source "$where/sim" "${each[@]}"
for method in adda self_ensembling adamatch; do
  $run -m raylens.tune $method --name "story-$method" --start "$finetuned" \
    --data.source "$where/sim" --data.target "$where/survey" "${search[@]}" "${each[@]}"
  $run -m raylens.evaluate "$where/runs/story-$method/best" --data "$where/survey" "${out[@]}"
done
$run -m raylens.report "$where/runs/story-"{contrastive,finetuned,adda,self_ensembling,adamatch} --out "$where/report"
