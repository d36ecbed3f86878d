#!/usr/bin/env bash
# title = "MAML++, Conv-4-64"
# protocol = "Omniglot, seeded split of 1,100/100/423 characters with rotations; one query a label, 600 test episodes, transductive"
# source = "Antoniou et al. 2019"
# needs = ["OMNIGLOT"]
# time = "many hours each on two CPU cores"
# [rows.5way_1shot]
# figures."accuracy" = { name = "5-way 1-shot", published = "99.47", expected = [99.0, 99.8] }
# [rows.5way_5shot]
# figures."accuracy" = { name = "5-way 5-shot", published = "99.93", expected = [99.7, 100.0] }
# [rows.20way_1shot]
# figures."accuracy" = { name = "20-way 1-shot", published = "97.65 ± 0.05", expected = [96.5, 98.2] }
# [rows.20way_5shot]
# figures."accuracy" = { name = "20-way 5-shot", published = "99.33 ± 0.03", expected = [98.8, 99.6] }
set -euo pipefail
row=${1:?a row, such as 5way_1shot}
shift
for seed in ${SEEDS:-0}; do
  python -m fsl_jax.main --config "configs/maml_plus.py:omniglot_$row" \
    --workdir "${RUNS:-runs/reproduce}/maml_plus_omniglot/$row/seed$seed" --config.seed="$seed" \
    --config.data.root="${OMNIGLOT:?folder of images_background.zip and images_evaluation.zip}" "$@"
done
