#!/usr/bin/env bash
# title = "Self-distillation without labels"
# protocol = "Weighted neighbours and a linear probe on labels that training never saw, each photo by the others of the test split; few-shot on the same labels, 15 queries, 300 episodes"
# source = "Caron et al. 2021; Bhattacharyya et al. 2022 for `paper`"
# needs = []
# time = "10 to 13 minutes a seed on two CPU cores"
# [rows.catalogue.figures]
# "knn" = { name = "built-in catalogue, ViT-nano: 20 neighbours" }
# "linear" = { name = "linear probe" }
# [rows.fashion_small]
# needs = ["FASHION"]
# time = "10 to 13 minutes a seed on two CPU cores"
# [rows.fashion_small.figures]
# "knn" = { name = "small photos of a shop, article types: 20 neighbours" }
# "linear" = { name = "linear probe" }
# "prototype_1shot.json:accuracy" = { name = "5-way 1-shot, prototypes" }
# "calibrated_1shot.json:accuracy" = { name = "5-way 1-shot, distribution calibration" }
# "prototype_5shot.json:accuracy" = { name = "5-way 5-shot, prototypes" }
# "calibrated_5shot.json:accuracy" = { name = "5-way 5-shot, distribution calibration" }
# [rows.paper]
# needs = ["IMAGENET", "SYNSETS"]
# time = "100 epochs of ViT-S/16: made for GPUs"
# [rows.paper.figures]
# "knn" = { name = "ViT-S/16, 708 synsets: 20 neighbours" }
set -euo pipefail
row=${1:?catalogue, fashion_small or paper}
shift
data=()
case $row in
  fashion_small) data=(--config.data.root="${FASHION:?folder of styles.csv and images.zip}") ;;
  paper) data=(--config.data.root="${IMAGENET:?one folder a synset}"
    --config.data.image_folder.only="${SYNSETS:?file with the 708 synsets, one a line}") ;;
esac
for seed in ${SEEDS:-0 1 2}; do
  run="${RUNS:-runs/reproduce}/dino/$row/seed$seed"
  mkdir -p "$run"
  python -m fsl_jax.main --config "configs/dino.py:$row" \
    --workdir "$run" --config.seed="$seed" ${data[@]+"${data[@]}"} "$@"
  if [ "$row" = fashion_small ]; then
    fsl-jax few-shot --source fashion_products --root "$FASHION" --option label=articleType --option split_rule=labels \
      --workdir "$run" --classifier prototype --classifier distribution-calibration --way 5 --shot 1 --shot 5 \
      --episodes "${EPISODES:-300}" --seed "$seed" --json >"$run/few_shot.jsonl"
    line=0
    for cell in prototype_1shot prototype_5shot calibrated_1shot calibrated_5shot; do
      line=$((line + 1))
      sed -n "${line}p" "$run/few_shot.jsonl" >"$run/$cell.json"
    done
  fi
done
