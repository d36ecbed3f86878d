"""Times embedding and training of the backbones, and reading of photos.

python -m benchmarks.backbones --part resnet --peer-python PYTHON --peer-script SCRIPT
python -m benchmarks.backbones --part efficientnet
python -m benchmarks.backbones --part reading

Prints one JSON line a figure. The peer is run as a process of its own, before and after, on the same cores.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from fsl_jax.data.read import read_rows
from fsl_jax.data.table import Coded, Table
from fsl_jax.models.efficientnet import Model as EfficientNet
from fsl_jax.models.resnet import Model as ResNet


def tell(**figures: Any) -> None:
    print(json.dumps(figures), flush=True)


def median_seconds(function: Callable[[], Any], runs: int) -> float:
    jax.block_until_ready(function())
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def programs(model: Any, images: jax.Array) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Returns embedding (forward) and training (forward and backward) of a batch."""
    variables = jax.jit(lambda: model.init(jax.random.key(0), images[:1], statistics="running"))()

    def loss(params: Any) -> tuple[jax.Array, Any]:
        given = {"params": params, "batch_stats": variables["batch_stats"]}
        (embedding, _), gathered = model.apply(given, images, statistics="batch", mutable=["batch_stats"])
        return jnp.mean(jnp.square(embedding)), gathered

    embed = jax.jit(lambda images: model.apply(variables, images, statistics="running")[0])
    gradient = jax.jit(jax.grad(loss, has_aux=True))
    return lambda: embed(images), lambda: gradient(variables["params"])


def measure(name: str, model: Any, batch: int, side: int, runs: int) -> dict[str, float]:
    images = jax.random.normal(jax.random.key(1), (batch, side, side, 3))
    embed, train = programs(model, images)
    embedding, training = median_seconds(embed, runs), median_seconds(train, runs)
    figures = {
        "embed_photos_a_second": batch / embedding,
        "train_photos_a_second": batch / training,
        "train_seconds_a_step": training,
    }
    tell(model=name, batch=batch, side=side, formulation=model.formulation, **figures)
    return figures


def peer(python: str, script: str, batch: int) -> dict[str, float]:
    done = subprocess.run([python, script, "--batch", str(batch)], capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    tell(**figures)
    return figures


def resnet(given: argparse.Namespace) -> None:
    peers = [peer(given.peer_python, given.peer_script, given.batch)] if given.peer_python else []
    model = ResNet(depth=50, norm="running", formulation=given.formulation)
    ours = measure("resnet50", model, given.batch, 224, given.runs)
    peers += [peer(given.peer_python, given.peer_script, given.batch)] if given.peer_python else []
    for name in ("embed_photos_a_second", "train_photos_a_second"):
        if peers:
            tell(ratio_of=name, ratio=ours[name] / statistics.mean(each[name] for each in peers))


def reading(runs: int) -> None:
    """Reads 1,000-pixel JPEGs into 224-pixel squares, and does the same with Pillow alone in one thread."""
    with tempfile.TemporaryDirectory() as folder:
        rng, count = np.random.default_rng(0), 64
        for i in range(count):
            small = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
            small.resize((1000, 1000), Image.Resampling.BICUBIC).save(Path(folder) / f"{i}.jpg", quality=90)
        paths = np.array([f"{i}.jpg" for i in range(count)])
        table = Table(
            source="benchmark",
            label=Coded.of(["a"] * count),
            split=np.full(count, "train"),
            path=paths,
            root=Path(folder),
        )

        def ours() -> Any:
            return read_rows(table, range(count), size=224, channels=3, fit="pad")[0]

        def pillow() -> Any:
            for path in paths:
                with Image.open(Path(folder) / path) as image:
                    image.draft("RGB", (448, 448))
                    np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
            return np.zeros(0)

        tell(reading="ours, threads", photos_a_second=count / median_seconds(ours, runs))
        tell(reading="Pillow, one thread", photos_a_second=count / median_seconds(pillow, runs))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=["resnet", "efficientnet", "reading"], required=True)
    parser.add_argument("--batch", type=int, default=16, help="of ResNet-50")
    parser.add_argument("--formulation", choices=["auto", "lax", "patches"], default="auto")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peer-python", help="interpreter that has the peer")
    parser.add_argument("--peer-script", help="prints one JSON line with photos a second")
    given = parser.parse_args()
    if given.part == "resnet":
        resnet(given)
    elif given.part == "efficientnet":
        measure("efficientnet_lite0", EfficientNet(norm="running"), 48, 160, given.runs)
    else:
        reading(given.runs)


if __name__ == "__main__":
    main()
