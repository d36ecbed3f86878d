#!/usr/bin/env bash
# title = "Reptile, Conv-4-64 with strides"
# protocol = "Omniglot, seeded split of 1,100/100/423 characters with rotations; one query a label, 600 test episodes, transductive"
# source = "Nichol et al. 2018, with transduction"
# needs = ["OMNIGLOT"]
# time = "some hours each on two CPU cores"
# [rows.5way_1shot]
# figures."accuracy" = { name = "5-way 1-shot", published = "97.68 ± 0.04", expected = [96.5, 98.5] }
# [rows.5way_5shot]
# figures."accuracy" = { name = "5-way 5-shot", published = "99.48 ± 0.06", expected = [99.0, 99.8] }
# [rows.20way_1shot]
# figures."accuracy" = { name = "20-way 1-shot", published = "89.43 ± 0.14", expected = [87.0, 91.0] }
# [rows.20way_5shot]
# figures."accuracy" = { name = "20-way 5-shot", published = "97.12 ± 0.32", expected = [96.0, 98.0] }
set -euo pipefail
row=${1:?a row, such as 5way_1shot}
shift
for seed in ${SEEDS:-0}; do
  python -m fsl_jax.main --config "configs/reptile.py:omniglot_$row" \
    --workdir "${RUNS:-runs/reproduce}/reptile_omniglot/$row/seed$seed" --config.seed="$seed" \
    --config.data.root="${OMNIGLOT:?folder of images_background.zip and images_evaluation.zip}" "$@"
done
