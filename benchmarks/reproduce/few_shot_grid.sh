#!/usr/bin/env bash
# title = "Few-shot classification on embeddings"
# protocol = "Labels that training never saw, nearest support photo (1-NN), one query a label, 600 episodes; the ensemble joins the embeddings of contrastive and triplet loss, each of length 1; frozen is EfficientNet-Lite0 with ImageNet weights"
# source = "the grid of Santos Garcia et al. 2022, whose photos are private: their figures are of other articles"
# needs = []
# time = "some minutes each on two CPU cores, without the runs of `retrieval_catalogue` and `retrieval_luma`, which are made first where they are missing"
# [rows.catalogue_frozen.figures]
# "5way_1shot.json:accuracy" = { name = "built-in catalogue, 5-way 1-shot" }
# "5way_3shot.json:accuracy" = { name = "5-way 3-shot" }
# "25way_1shot.json:accuracy" = { name = "25-way 1-shot" }
# [rows.catalogue_contrastive.figures]
# "5way_1shot.json:accuracy" = { name = "built-in catalogue, 5-way 1-shot" }
# "5way_3shot.json:accuracy" = { name = "5-way 3-shot" }
# "25way_1shot.json:accuracy" = { name = "25-way 1-shot" }
# [rows.catalogue_triplet.figures]
# "5way_1shot.json:accuracy" = { name = "built-in catalogue, 5-way 1-shot" }
# "5way_3shot.json:accuracy" = { name = "5-way 3-shot" }
# "25way_1shot.json:accuracy" = { name = "25-way 1-shot" }
# [rows.catalogue_ensemble.figures]
# "5way_1shot.json:accuracy" = { name = "built-in catalogue, 5-way 1-shot" }
# "5way_3shot.json:accuracy" = { name = "5-way 3-shot" }
# "25way_1shot.json:accuracy" = { name = "25-way 1-shot" }
# [rows.luma_frozen]
# needs = ["LUMA"]
# [rows.luma_frozen.figures]
# "5way_1shot.json:accuracy" = { name = "shop's catalogue, 5-way 1-shot" }
# "25way_1shot.json:accuracy" = { name = "25-way 1-shot" }
# [rows.luma_contrastive]
# needs = ["LUMA"]
# [rows.luma_contrastive.figures]
# "5way_1shot.json:accuracy" = { name = "shop's catalogue, 5-way 1-shot" }
# "25way_1shot.json:accuracy" = { name = "25-way 1-shot" }
# [rows.luma_triplet]
# needs = ["LUMA"]
# [rows.luma_triplet.figures]
# "5way_1shot.json:accuracy" = { name = "shop's catalogue, 5-way 1-shot" }
# "25way_1shot.json:accuracy" = { name = "25-way 1-shot" }
# [rows.luma_ensemble]
# needs = ["LUMA"]
# [rows.luma_ensemble.figures]
# "5way_1shot.json:accuracy" = { name = "shop's catalogue, 5-way 1-shot" }
# "25way_1shot.json:accuracy" = { name = "25-way 1-shot" }
# [rows.fashion_small_frozen]
# needs = ["FASHION"]
# [rows.fashion_small_frozen.figures]
# "5way_1shot.json:accuracy" = { name = "article types of a shop, 96 px, 5-way 1-shot" }
# "5way_5shot.json:accuracy" = { name = "5-way 5-shot" }
# "25way_1shot.json:accuracy" = { name = "25-way 1-shot" }
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
row=${1:?a row, such as catalogue_ensemble}
shift
runs=${RUNS:-runs/reproduce}
data=${row%_*}
kind=${row##*_}
case $data in
  catalogue)
    source=(--source catalogue --option labels=600 --option photos=6 --option seed=0)
    cells="5way_1shot 5way_3shot 25way_1shot"
    # The network of published weights is given larger drawings of the same scenes.
    if [ "$kind" = frozen ]; then source+=(--option size=160 --size 160); else source+=(--option size=32); fi
    ;;
  luma)
    source=(--source csv_manifest --root "${LUMA:?folder of a manifest.csv and its photos}")
    cells="5way_1shot 25way_1shot"
    ;;
  fashion_small)
    source=(--source fashion_products --root "${FASHION:?folder of styles.csv and images.zip}"
      --option label=articleType --option split_rule=labels --size 96)
    cells="5way_1shot 5way_5shot 25way_1shot"
    ;;
esac
for seed in ${SEEDS:-0}; do
  run="$runs/few_shot_grid/$row/seed$seed"
  mkdir -p "$run"
  models=()
  for method in contrastive triplet; do
    [ "$kind" = ensemble ] || [ "$kind" = $method ] || continue
    trained=${method/triplet/triplet_batch_hard}
    SEEDS=$seed "$here/retrieval_$data.sh" "$trained" "$@"
    models+=(--workdir "$runs/retrieval_$data/$trained/seed$seed")
  done
  [ "$kind" != frozen ] || models=(--model efficientnet_lite0)
  for cell in $cells; do
    shot=${cell#*_}
    fsl-jax few-shot "${source[@]}" "${models[@]}" --classifier 1-nn --way "${cell%way*}" --shot "${shot%shot}" \
      --queries 1 --episodes "${EPISODES:-600}" --seed "$seed" --json >"$run/$cell.json"
  done
done
