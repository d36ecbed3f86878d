#!/usr/bin/env bash
# title = "Metric learning on a shop's catalogue, EfficientNet-Lite0"
# protocol = "One protocol for all: ImageNet weights fine-tuned at 160 px and judged at 224 px, a whitened linear head, the same changes of photos, 48 photos a step (12 labels x 4 where the loss takes labels), 100 steps, checkpoint of the best validation mAP; 90 back, close-up and worn photos searched in 155 front photos of articles that training never saw. R@1 of one run has a standard error of 0.05"
# source = "protocol in the spirit of Musgrave et al. 2020, \"A metric learning reality check\""
# needs = ["LUMA"]
# time = "five to eight minutes each on two CPU cores"
# [rows]
# contrastive.figures."mAP" = { name = "mAP", percent = false }
# triplet_batch_hard.figures."mAP" = { name = "mAP", percent = false }
# triplet_batch_all.figures."mAP" = { name = "mAP", percent = false }
# triplet_semi_hard.figures."mAP" = { name = "mAP", percent = false }
# triplet_distance_weighted.figures."mAP" = { name = "mAP", percent = false }
# triplet_margin.figures."mAP" = { name = "mAP", percent = false }
# adaptive_triplet.figures."mAP" = { name = "mAP", percent = false }
# cross_domain.figures."mAP" = { name = "mAP", percent = false }
# proxy_anchor.figures."mAP" = { name = "mAP", percent = false }
# proxy_nca.figures."mAP" = { name = "mAP", percent = false }
# normalised_softmax.figures."mAP" = { name = "mAP", percent = false }
# arcface.figures."mAP" = { name = "mAP", percent = false }
# cosface.figures."mAP" = { name = "mAP", percent = false }
# multi_similarity.figures."mAP" = { name = "mAP", percent = false }
# circle.figures."mAP" = { name = "mAP", percent = false }
# sup_con.figures."mAP" = { name = "mAP", percent = false }
# nt_xent.figures."mAP" = { name = "mAP", percent = false }
# n_pair.figures."mAP" = { name = "mAP", percent = false }
# classify.figures."mAP" = { name = "mAP", percent = false }
set -euo pipefail
row=${1:?a row, such as triplet_batch_hard}
shift
case $row in
  contrastive) config=configs/siamese.py:luma ;;
  triplet_*) config="configs/triplet.py:luma,${row#triplet_}" ;;
  adaptive_triplet | cross_domain | classify) config="configs/$row.py:luma" ;;
  *) config="configs/proxy.py:luma,$row" ;;
esac
for seed in ${SEEDS:-0 1 2}; do
  python -m fsl_jax.main --config "$config" \
    --workdir "${RUNS:-runs/reproduce}/retrieval_luma/$row/seed$seed" --config.seed="$seed" \
    --config.data.root="${LUMA:?folder of a manifest.csv and its photos}" "$@"
done
