#!/usr/bin/env bash
# title = "Within-alphabet 20-way one-shot, ProtoNet, Conv-4-64"
# protocol = "Lake's task, runs drawn by a seeded rule from his ten evaluation alphabets: 2 runs an alphabet as published, and 20 for a narrow interval. The modified Hausdorff distance, which has learnt nothing, errs in 38.8 % of the official runs: the drawn ones are harder. Tasks of one alphabet (mixed ones from five alphabets), centred drawings, stretched, sheared and turned in training, no validation characters kept; votes of 16 changed views in test"
# source = "Lake et al. 2019"
# needs = ["OMNIGLOT"]
# time = "minutes on two CPU cores"
# [rows.hausdorff]
# figures."result.json:error" = { name = "modified Hausdorff distance, nothing learnt: error, 20 runs", published = "38.8", expected = [30, 52] }
# [rows.background]
# figures."one_shot.json:error" = { name = "964 characters: error, 20 runs", published = "13.7", expected = [0, 14] }
# figures."one_shot_200.json:error" = { name = "the same, 200 runs", expected = [0, 14] }
# figures."one_shot_plain.json:error" = { name = "200 runs, without views" }
# [rows.small1]
# figures."one_shot.json:error" = { name = "5 alphabets (136 characters): error, 20 runs", published = "30.1", expected = [0, 25] }
# figures."one_shot_200.json:error" = { name = "the same, 200 runs", expected = [0, 25] }
# figures."one_shot_plain.json:error" = { name = "200 runs, without views" }
# [rows.small2]
# figures."one_shot.json:error" = { name = "5 alphabets (156 characters): error, 20 runs", published = "30.1", expected = [0, 25] }
# figures."one_shot_200.json:error" = { name = "the same, 200 runs", expected = [0, 25] }
# figures."one_shot_plain.json:error" = { name = "200 runs, without views" }
set -euo pipefail
row=${1:?hausdorff, background, small1 or small2}
shift
root=${OMNIGLOT:?folder of images_background.zip and images_evaluation.zip}
case $row in
  background) preset=lake ;;
  *) preset="lake_$row" ;;
esac
for seed in ${SEEDS:-0}; do
  run="${RUNS:-runs/reproduce}/lake_one_shot/$row/seed$seed"
  mkdir -p "$run"
  if [ "$row" = hausdorff ]; then
    fsl-jax one-shot --root "$root" --json >"$run/result.json"
    continue
  fi
  python -m fsl_jax.main --config "configs/protonet.py:$preset" --workdir "$run" --config.seed="$seed" \
    --config.data.root="$root" --config.eval.retrieval=False "$@"
  # REPEATS=1 proves that it works, without minutes of judging.
  judge=(fsl-jax one-shot --workdir "$run" --root "$root" --json)
  "${judge[@]}" --views 16 >"$run/one_shot.json"
  "${judge[@]}" --views 16 --repeats "${REPEATS:-20}" >"$run/one_shot_200.json"
  "${judge[@]}" --repeats "${REPEATS:-20}" >"$run/one_shot_plain.json"
done
