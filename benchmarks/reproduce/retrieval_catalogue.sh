#!/usr/bin/env bash
# title = "Metric learning on the built-in catalogue, Conv-4-64"
# protocol = "One protocol for all: 600 drawn articles at 32 px, the same network, changes of photos, 72 photos a step (18 labels x 4 where the loss takes labels), Adam 1e-3, 500 steps, checkpoint of the best validation mAP; customers' photos searched in the shop's, articles of the test split, whose brand `Aurelio` no other split has"
# source = "protocol in the spirit of Musgrave et al. 2020, \"A metric learning reality check\""
# needs = []
# time = "a minute or two each on two CPU cores"
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
batch=()
case $row in
  contrastive) config=configs/siamese.py batch=(--config.sampler.options.pairs=36) ;;
  triplet_*) config="configs/triplet.py:${row#triplet_}" ;;
  adaptive_triplet) config=configs/adaptive_triplet.py ;;
  cross_domain) config=configs/cross_domain.py batch=(--config.sampler.options.triplets=24) ;;
  classify) config=configs/classify.py batch=(--config.sampler.options.batch=72) ;;
  *) config="configs/proxy.py:$row" ;;
esac
for seed in ${SEEDS:-0 1 2}; do
  python -m fsl_jax.main --config "$config" \
    --workdir "${RUNS:-runs/reproduce}/retrieval_catalogue/$row/seed$seed" --config.seed="$seed" \
    --config.train.steps=500 --config.eval.every=250 --config.eval.episodes=0 --config.eval.episodes_during=0 \
    --config.eval.grid.ways='()' ${batch[@]+"${batch[@]}"} "$@"
done
