#!/usr/bin/env bash
# title = "Published retrieval sets, ResNet-50"
# protocol = "ImageNet weights (RESNET50, a file), 224 px, the settings of the sets' papers; see the preset of each config"
# source = "Roth et al. 2020 as Bhattacharyya et al. 2022 quote their figures; In-shop and VeRi-776: Kumar et al. in Elgendy 2020, with MobileNet"
# needs = ["RESNET50"]
# time = "made for a GPU"
# [rows.cub_margin]
# needs = ["RESNET50", "CUB"]
# figures."R@1" = { name = "CUB-200, margin loss, R@1", published = "62.47", expected = [60, 65] }
# [rows.cub_proxy_nca]
# needs = ["RESNET50", "CUB"]
# figures."R@1" = { name = "CUB-200, Proxy-NCA, R@1", published = "62.76", expected = [60, 65] }
# [rows.cub_multi_similarity]
# needs = ["RESNET50", "CUB"]
# figures."R@1" = { name = "CUB-200, multi-similarity, R@1", published = "62.56", expected = [60, 65] }
# [rows.cars_margin]
# needs = ["RESNET50", "CARS"]
# figures."R@1" = { name = "Cars196, margin loss, R@1", published = "72.18", expected = [69, 81] }
# [rows.cars_proxy_nca]
# needs = ["RESNET50", "CARS"]
# figures."R@1" = { name = "Cars196, Proxy-NCA, R@1", published = "71.05", expected = [69, 80] }
# [rows.cars_multi_similarity]
# needs = ["RESNET50", "CARS"]
# figures."R@1" = { name = "Cars196, multi-similarity, R@1", published = "74.81", expected = [72, 82] }
# [rows.sop_margin]
# needs = ["RESNET50", "SOP"]
# figures."R@1" = { name = "SOP, margin loss, R@1", published = "78.39", expected = [76, 80] }
# [rows.sop_proxy_nca]
# needs = ["RESNET50", "SOP"]
# figures."R@1" = { name = "SOP, Proxy-NCA, R@1", published = "74.70", expected = [73, 79] }
# [rows.sop_multi_similarity]
# needs = ["RESNET50", "SOP"]
# figures."R@1" = { name = "SOP, multi-similarity, R@1", published = "77.90", expected = [76, 80] }
# [rows.inshop_batch_all]
# needs = ["RESNET50", "INSHOP"]
# figures."R@1" = { name = "In-shop, triplet, batch all, R@1", published = "84.01", expected = [82, 90] }
# figures."mAP" = { name = "the same, mAP", published = "69.37", expected = [66, 78] }
# [rows.veri776_batch_hard]
# needs = ["RESNET50", "VERI776"]
# figures."R@1" = { name = "VeRi-776, triplet, batch hard, R@1", published = "87.25", expected = [84, 92] }
# figures."mAP" = { name = "the same, mAP", published = "65.10", expected = [60, 72] }
set -euo pipefail
row=${1:?a row, such as cub_margin}
shift
set_=${row%%_*}
loss=${row#*_}
case $set_ in
  cub) root=${CUB:?folder of CUB_200_2011} ;;
  cars) root=${CARS:?folder of Cars196} ;;
  sop) root=${SOP:?folder of Stanford_Online_Products} ;;
  inshop) root=${INSHOP:?folder of In-shop} ;;
  veri776) root=${VERI776:?folder of VeRi} ;;
esac
case $loss in
  proxy_nca | multi_similarity) config="configs/proxy.py:$set_,$loss" ;;
  *) config="configs/triplet.py:$set_,$loss" ;;
esac
for seed in ${SEEDS:-0}; do
  python -m fsl_jax.main --config "$config" \
    --workdir "${RUNS:-runs/reproduce}/retrieval_published/$row/seed$seed" --config.seed="$seed" \
    --config.data.root="$root" --config.model.pretrained="${RESNET50:?file of ImageNet weights}" "$@"
done
