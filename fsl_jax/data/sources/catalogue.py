"""The built-in source: a shop's catalogue, drawn from a seed, so that every command runs without a download.

The labels are articles of fictional brands. Each has clean shop photos (role "gallery") and photos by
customers (role "query"). Articles of one brand share colours, patterns and emblem, and some form a line of
one subcategory and colour, so that none of these alone tells them apart. The first brand is never trained on:
all its articles are in the test split.
"""

import dataclasses

import numpy as np
from jaxtyping import UInt8

from fsl_jax.data.sources._catalogue.articles import Article, make_article
from fsl_jax.data.sources._catalogue.describing import attributes, describe
from fsl_jax.data.sources._catalogue.drawing import draw
from fsl_jax.data.sources._catalogue.photos import customer_photo, shop_photo
from fsl_jax.data.sources._catalogue.vocabulary import BRANDS
from fsl_jax.data.table import Attributes, Coded, Table


def _check(labels: int, photos: int, size: int, seed: int, brands: int, channels: int) -> None:
    least = {
        "labels": (labels, 1),
        "photos": (photos, 2),
        "size": (size, 16),
        "seed": (seed, 0),
        "brands": (brands, 2),
    }
    for name, (value, low) in least.items():
        if value < low:
            raise ValueError(f"catalogue: {name} is {value}; expected at least {low}")
    if brands > len(BRANDS):
        raise ValueError(f"catalogue: brands is {brands}; expected at most {len(BRANDS)}")
    if channels not in (1, 3):
        raise ValueError(f"catalogue: channels is {channels}; expected 1 (grey) or 3 (colour)")


def _count(seed: int, number: int, photos: int) -> int:
    """Draws the number of photos of an article."""
    return max(2, int(np.random.default_rng([seed, 5, number]).integers(photos - 1, photos + 2)))


def _shop_photos(count: int) -> int:
    """Of so many photos, the first ones are the shop's."""
    return max(1, count * 2 // 5)


def _plan(articles: list[Article], counts: list[int], seed: int) -> Table:
    """Makes the table without photos: their paths are "label/number"."""
    rows = [
        (article, i, count) for article, count in zip(articles, counts, strict=True) for i in range(count)
    ]
    shop = [i < _shop_photos(count) for _, i, count in rows]
    text = {article.number: describe(article, seed) for article in articles}
    return Table(
        source="catalogue",
        label=Coded.of([article.label for article, _, _ in rows]),
        split=np.array([article.split for article, _, _ in rows]),
        path=np.array([f"{article.label}/{i}" for article, i, _ in rows]),
        role=np.where(shop, "gallery", "query"),
        domain=Coded.of(["shop" if by_shop else "customer" for by_shop in shop]),
        levels={
            "category": Coded.of([article.category for article, _, _ in rows]),
            "subcategory": Coded.of([article.subcategory for article, _, _ in rows]),
        },
        attributes=Attributes.of([attributes(article) for article, _, _ in rows]),
        text=np.array([text[article.number] for article, _, _ in rows]),
    )


def _photograph(article: Article, count: int, size: int, seed: int) -> UInt8[np.ndarray, "p s s 3"]:
    """Draws an article once and takes all its photos."""
    drawn = draw(article, max(96, size * 2))
    takers = [shop_photo if i < _shop_photos(count) else customer_photo for i in range(count)]
    rngs = [np.random.default_rng([seed, 3, article.number, i]) for i in range(count)]
    return np.stack([take(rng, drawn, size) for take, rng in zip(takers, rngs, strict=True)])


def _grey(images: UInt8[np.ndarray, "n s s 3"]) -> UInt8[np.ndarray, "n s s 1"]:
    return (images @ np.array([0.299, 0.587, 0.114], np.float32) + 0.5).astype(np.uint8)[..., None]


def load(
    root: str | None,
    split: str,
    *,
    labels: int,
    photos: int,
    size: int,
    seed: int,
    brands: int = 8,
    channels: int = 3,
) -> Table:
    """Draws a split of the catalogue.

    An article depends on the seed, its number and the number of brands only: more labels leave the old ones,
    their photos and their splits as they were, a split's photos are the same whichever others are asked for,
    and another size shows the same scenes. Of every 25 articles 16 are for training, 3 for validation and 6
    for testing, among these all of the first brand.

    Args:
      root: Ignored; nothing is read.
      split: "train", "val", "test", or several joined by "+".
      labels: Articles in all splits together, at least 1.
      photos: Photos an article: one less, as many, or one more, and never below 2.
      size: Side of the photos in pixels, at least 16.
      seed: Of all that is drawn, at least 0; one seed gives one set of bytes, with the same NumPy and Pillow.
      brands: Number of brands, 2 to 10, with the unseen one.
      channels: 3 for colour, 1 for grey.

    Returns:
      Table of photos [n, size, size, channels], sorted by label, with the columns role ("gallery" or
      "query"), domain ("shop" or "customer"), levels (category, subcategory), attributes (brand, colour,
      accent, pattern, material, closure) and text.

    Raises:
      ValueError: A number is out of its range, or the split is unknown or has no article.

    Example:
      >>> table = load(None, "test", labels=25, photos=3, size=16, seed=0)
      >>> table.images.shape[1:], table.levels["category"].names[:3]
      ((16, 16, 3), ('bags', 'bottoms', 'hats'))
    """
    del root
    _check(labels, photos, size, seed, brands, channels)
    articles = [make_article(seed, number, brands) for number in range(labels)]
    counts = [_count(seed, article.number, photos) for article in articles]
    table = _plan(articles, counts, seed).select(split)
    by_label = {article.label: (article, count) for article, count in zip(articles, counts, strict=True)}
    images = np.concatenate([_photograph(*by_label[name], size, seed) for name in table.label.names])
    return dataclasses.replace(table, path=None, images=images if channels == 3 else _grey(images))
