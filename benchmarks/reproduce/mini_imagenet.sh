#!/usr/bin/env bash
# title = "miniImageNet, Conv-4"
# protocol = "Ravi and Larochelle's split, 84 px; 15 queries, 600 test episodes"
# source = "Finn et al. 2017 (MAML, FOMAML, matching), Raghu et al. 2020 (ANIL), Antoniou et al. 2019 (MAML++), Snell et al. 2017 (ProtoNet)"
# needs = ["MINI_IMAGENET"]
# time = "made for a GPU"
# [rows.maml_5way_1shot]
# figures."accuracy" = { name = "MAML, 5-way 1-shot", published = "48.70 ± 1.84", expected = [46.2, 50.5] }
# [rows.maml_5way_5shot]
# figures."accuracy" = { name = "MAML, 5-way 5-shot", published = "63.11 ± 0.92", expected = [60.3, 66.0] }
# [rows.fomaml_5way_1shot]
# figures."accuracy" = { name = "FOMAML, 5-way 1-shot", published = "48.07 ± 1.75", expected = [45.5, 50.0] }
# [rows.fomaml_5way_5shot]
# figures."accuracy" = { name = "FOMAML, 5-way 5-shot", published = "63.15 ± 0.91", expected = [60.0, 65.0] }
# [rows.anil_5way_1shot]
# figures."accuracy" = { name = "ANIL, 5-way 1-shot", published = "46.7 ± 0.4", expected = [45.5, 49.0] }
# [rows.anil_5way_5shot]
# figures."accuracy" = { name = "ANIL, 5-way 5-shot", published = "61.5 ± 0.5", expected = [60.0, 64.0] }
# [rows.maml_plus_5way_1shot]
# figures."accuracy" = { name = "MAML++, 5-way 1-shot", published = "52.15 ± 0.26", expected = [50.5, 53.5] }
# [rows.maml_plus_5way_5shot]
# figures."accuracy" = { name = "MAML++, 5-way 5-shot", published = "68.32 ± 0.44", expected = [66.5, 69.5] }
# [rows.protonet_5way_1shot]
# figures."accuracy" = { name = "ProtoNet, 5-way 1-shot", published = "49.42 ± 0.78", expected = [48.0, 51.5] }
# [rows.protonet_5way_5shot]
# figures."accuracy" = { name = "ProtoNet, 5-way 5-shot", published = "68.20 ± 0.66", expected = [66.5, 69.5] }
# [rows.matching_5way_1shot]
# figures."accuracy" = { name = "matching, 5-way 1-shot", published = "43.56 ± 0.84", expected = [43.0, 49.0] }
# [rows.matching_5way_5shot]
# figures."accuracy" = { name = "matching, 5-way 5-shot", published = "55.31 ± 0.73", expected = [55.0, 62.0] }
set -euo pipefail
row=${1:?a row, such as maml_5way_1shot}
shift
method=${row%_5way*}
preset="mini_imagenet_${row#"${method}"_}"
case $method in
  fomaml | anil) config="configs/maml.py:$preset,variant=$method" ;;
  *) config="configs/$method.py:$preset" ;;
esac
for seed in ${SEEDS:-0}; do
  python -m fsl_jax.main --config "$config" \
    --workdir "${RUNS:-runs/reproduce}/mini_imagenet/$row/seed$seed" --config.seed="$seed" \
    --config.data.root="${MINI_IMAGENET:?folder in any layout of docs/data.md}" "$@"
done
