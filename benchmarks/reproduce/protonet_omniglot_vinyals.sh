#!/usr/bin/env bash
# title = "ProtoNet, Conv-4-64"
# protocol = "Omniglot, Vinyals' lists with rotations; 15 queries, 600 test episodes, running statistics (not transductive). 60-way training with as many shots and 5 queries, on the training and validation lists, as the paper ends; beside the paper: drawings turned by up to 10 degrees, stretched by 15 %, sheared by 0.15 and moved by a pixel, and a cosine from 0.002 over 10,000 steps"
# source = "Snell et al. 2017"
# needs = ["OMNIGLOT"]
# time = "two hours on one busy CPU core"
# [rows.1shot]
# figures."accuracy" = { name = "5-way 1-shot", published = "98.8", expected = [98.5, 99.1] }
# figures."20way/result.json:accuracy" = { name = "20-way 1-shot", published = "96.0", expected = [95.5, 96.5] }
# [rows.5shot]
# figures."accuracy" = { name = "5-way 5-shot", published = "99.7", expected = [99.5, 99.9] }
# figures."20way/result.json:accuracy" = { name = "20-way 5-shot", published = "98.9", expected = [98.5, 99.3] }
set -euo pipefail
row=${1:?1shot or 5shot}
shift
for seed in ${SEEDS:-0}; do
  run="${RUNS:-runs/reproduce}/protonet_omniglot_vinyals/$row/seed$seed"
  flags=(--config "configs/protonet.py:omniglot_5way_$row" --workdir "$run" --config.seed="$seed"
    --config.data.root="${OMNIGLOT:?folder of images_background.zip, images_evaluation.zip and splits/}"
    --config.data.train_split=train+val --config.eval.every=0 --config.train.steps=10000
    --config.optimizer.schedule=cosine --config.optimizer.halve_every=0 --config.optimizer.learning_rate=0.002
    --config.augment.rotate=10 --config.augment.scale=0.15 --config.augment.shear=0.15 --config.augment.shift=1 "$@")
  python -m fsl_jax.main "${flags[@]}"
  python -m fsl_jax.main "${flags[@]}" --mode=evaluate --config.eval.way=20 --config.eval.retrieval=False \
    --result_dir "$run/20way"
done
