#!/usr/bin/env bash
# title = "Matching networks, Conv-4-64"
# protocol = "Omniglot, Vinyals' lists with rotations; trained on episodes as they are tested, 600 test episodes, transductive"
# source = "Vinyals et al. 2016, as Finn et al. 2017 quote it"
# needs = ["OMNIGLOT"]
# time = "some hours each on two CPU cores"
# [rows.5way_1shot]
# figures."accuracy" = { name = "5-way 1-shot", published = "98.1", expected = [97.5, 99.0] }
# [rows.5way_5shot]
# figures."accuracy" = { name = "5-way 5-shot", published = "98.9", expected = [98.5, 99.8] }
# [rows.20way_1shot]
# figures."accuracy" = { name = "20-way 1-shot", published = "93.8", expected = [93.0, 96.5] }
# [rows.20way_5shot]
# figures."accuracy" = { name = "20-way 5-shot", published = "98.5", expected = [98.0, 99.2] }
set -euo pipefail
row=${1:?a row, such as 5way_1shot}
shift
for seed in ${SEEDS:-0}; do
  python -m fsl_jax.main --config "configs/matching.py:omniglot_$row" \
    --workdir "${RUNS:-runs/reproduce}/matching_omniglot_vinyals/$row/seed$seed" --config.seed="$seed" \
    --config.data.root="${OMNIGLOT:?folder of images_background.zip, images_evaluation.zip and splits/}" "$@"
done
