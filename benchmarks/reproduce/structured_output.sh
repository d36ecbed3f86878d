#!/usr/bin/env bash
# title = "Categories and attributes with structured output, EfficientNet-Lite0 frozen"
# protocol = "Fashion Product Images (Small), 44,072 photos dealt 70/15/15 within each article type; heads of width 256 on frozen features, 2,000 steps of 128 photos"
# source = "Ferreira et al. 2018, whose photos are private"
# needs = ["FASHION"]
# time = "12 minutes for the first, of which 8 for the features of all photos, and 2 to 7 for each other, on two CPU cores"
# [rows.structured.figures]
# "articleType/accuracy" = { name = "article type" }
# "subCategory/accuracy" = { name = "sub-category" }
# "consistency" = { name = "article type lies under the sub-category" }
# "attributes/auc" = { name = "attributes, mean AUC" }
# [rows.independent.figures]
# "articleType/accuracy" = { name = "article type" }
# "subCategory/accuracy" = { name = "sub-category" }
# "consistency" = { name = "article type lies under the sub-category" }
# "attributes/auc" = { name = "attributes, mean AUC" }
# [rows.flat.figures]
# "articleType/accuracy" = { name = "article type" }
# "subCategory/accuracy" = { name = "sub-category" }
# "consistency" = { name = "article type lies under the sub-category" }
# "attributes/auc" = { name = "attributes, mean AUC" }
set -euo pipefail
row=${1:?structured, independent or flat}
shift
preset=fashion_small
[ "$row" = structured ] || preset="$preset,variant=$row"
for seed in ${SEEDS:-0 1 2}; do
  python -m fsl_jax.main --config "configs/hierarchy.py:$preset" \
    --workdir "${RUNS:-runs/reproduce}/structured_output/$row/seed$seed" --config.seed="$seed" \
    --config.data.root="${FASHION:?folder of styles.csv and images.zip}" "$@"
done
