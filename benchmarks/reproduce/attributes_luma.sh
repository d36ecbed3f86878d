#!/usr/bin/env bash
# title = "Attributes of a shop's catalogue, EfficientNet-Lite0"
# protocol = "Semantic map and channel attention (`embedded`), one linear layer (`baseline`), attention alone, the map alone, and its other uses. 245 photos of 59 articles that training never saw, 75 attributes; last blocks fine-tuned at 160 px, judged at 224 px, 100 steps of 48 photos"
# source = "Shen et al. 2023, whose photos are private: a gain of 15.27 % in mean AUC over the baseline"
# needs = ["LUMA"]
# time = "3 to 8 minutes each on two CPU cores"
# [rows.embedded.figures]
# "attributes/auc" = { name = "mean AUC" }
# [rows.baseline.figures]
# "attributes/auc" = { name = "mean AUC" }
# [rows.attention.figures]
# "attributes/auc" = { name = "mean AUC" }
# [rows.semantic.figures]
# "attributes/auc" = { name = "mean AUC" }
# [rows.concatenate.figures]
# "attributes/auc" = { name = "mean AUC" }
# [rows.multiply.figures]
# "attributes/auc" = { name = "mean AUC" }
# [rows.mask_input.figures]
# "attributes/auc" = { name = "mean AUC" }
set -euo pipefail
row=${1:?a row, such as embedded}
shift
preset=luma
[ "$row" = embedded ] || preset="$preset,variant=$row"
for seed in ${SEEDS:-0 1 2}; do
  python -m fsl_jax.main --config "configs/attributes.py:$preset" \
    --workdir "${RUNS:-runs/reproduce}/attributes_luma/$row/seed$seed" --config.seed="$seed" \
    --config.data.root="${LUMA:?folder of a manifest.csv and its photos}" "$@"
done
