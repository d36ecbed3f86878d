#!/usr/bin/env bash
# title = "MAML and its relatives, Conv-4-64 with strides"
# protocol = "Omniglot, seeded split of 1,100/100/423 characters with rotations; as many queries as shots, 600 test episodes, transductive; 60,000 steps"
# source = "Finn et al. 2017; FOMAML as Nichol et al. 2018 measured it; ANIL: Raghu et al. 2020"
# needs = ["OMNIGLOT"]
# time = "about two and a half hours each (5-way 1-shot) on two CPU cores"
# [rows.maml_5way_1shot]
# figures."accuracy" = { name = "MAML, 5-way 1-shot", published = "98.7 ± 0.4", expected = [98.4, 99.5] }
# [rows.maml_5way_5shot]
# figures."accuracy" = { name = "MAML, 5-way 5-shot", published = "99.9 ± 0.1", expected = [99.5, 100.0] }
# [rows.maml_20way_1shot]
# figures."accuracy" = { name = "MAML, 20-way 1-shot", published = "95.8 ± 0.3", expected = [93.0, 96.5] }
# [rows.maml_20way_5shot]
# figures."accuracy" = { name = "MAML, 20-way 5-shot", published = "98.9 ± 0.2", expected = [96.0, 99.3] }
# [rows.fomaml_5way_1shot]
# figures."accuracy" = { name = "FOMAML, 5-way 1-shot", published = "98.3 ± 0.5", expected = [97.0, 99.0] }
# [rows.fomaml_5way_5shot]
# figures."accuracy" = { name = "FOMAML, 5-way 5-shot", published = "99.2 ± 0.2", expected = [98.8, 99.8] }
# [rows.fomaml_20way_1shot]
# figures."accuracy" = { name = "FOMAML, 20-way 1-shot", published = "89.4 ± 0.5", expected = [88.0, 94.0] }
# [rows.fomaml_20way_5shot]
# figures."accuracy" = { name = "FOMAML, 20-way 5-shot", published = "97.9 ± 0.1", expected = [96.5, 98.8] }
# [rows.anil_5way_1shot]
# figures."accuracy" = { name = "ANIL, 5-way 1-shot" }
# [rows.anil_5way_5shot]
# figures."accuracy" = { name = "ANIL, 5-way 5-shot" }
# [rows.anil_20way_1shot]
# figures."accuracy" = { name = "ANIL, 20-way 1-shot", published = "96.2 ± 0.5", expected = [93.0, 97.0] }
# [rows.anil_20way_5shot]
# figures."accuracy" = { name = "ANIL, 20-way 5-shot", published = "98.0 ± 0.3", expected = [96.5, 99.0] }
set -euo pipefail
row=${1:?a row, such as maml_5way_1shot}
shift
variant=${row%%_*}
preset="omniglot_${row#*_}"
[ "$variant" = maml ] || preset="$preset,variant=$variant"
for seed in ${SEEDS:-0}; do
  python -m fsl_jax.main --config "configs/maml.py:$preset" \
    --workdir "${RUNS:-runs/reproduce}/maml_omniglot/$row/seed$seed" --config.seed="$seed" \
    --config.data.root="${OMNIGLOT:?folder of images_background.zip and images_evaluation.zip}" "$@"
done
