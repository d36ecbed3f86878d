"""The choices that make one article, and the split that it is dealt to."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from fsl_jax.data.sources._catalogue.vocabulary import BRANDS, COLOURS, KINDS, METALS, SHOWN, Brand, Kind


@dataclasses.dataclass(frozen=True)
class Article:
    """One article of the catalogue; every photo of it shows these choices.

    Attributes:
      number: Position in the catalogue.
      split: "train", "val" or "test".
      brand: Its house.
      subcategory: A key of `KINDS`.
      colour, accent: Keys of `COLOURS`: the main colour, and that of pattern and trim.
      pattern, material, closure: What they say.
      metal: A key of `METALS`.
      main, second: The two colours as they are drawn, 0 to 255.
      form: Proportions and details of the silhouette, each in [0, 1].
      weave: Period, angle, offset and balance of the pattern, each in [0, 1].
    """

    number: int
    split: str
    brand: Brand
    subcategory: str
    colour: str
    accent: str
    pattern: str
    material: str
    closure: str
    metal: str
    main: Float[np.ndarray, "3"]
    second: Float[np.ndarray, "3"]
    form: Float[np.ndarray, "8"]
    weave: Float[np.ndarray, "4"]

    @property
    def category(self) -> str:
        """The coarse level."""
        return KINDS[self.subcategory].category

    @property
    def label(self) -> str:
        """Its name, for example "Aurelio-handbag-0042"."""
        return f"{self.brand.name}-{self.subcategory.replace(' ', '-')}-{self.number:04d}"


BLOCK = 25
_FOLLOWS = 0.55  # chance that an article belongs to the line of the one before it
_SHARES = {"train": 16, "val": 3, "test": 6}  # of a block: 64, 12 and 24 %


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where an article stands in its block.

    Attributes:
      split: "train", "val" or "test".
      unseen: Whether it is of the unseen brand.
      line: Place of the article that begins its line: one brand, subcategory and main colour.
    """

    split: str
    unseen: bool
    line: int


def _deal(seed: int, block: int, brands: int) -> list[_Place]:
    """Deals a block of articles to splits, evenly spread, and joins some of a split to one line."""
    rng = np.random.default_rng([seed, 0, block])
    unseen = min(_SHARES["test"], round(BLOCK / brands))
    groups = {
        ("train", False): _SHARES["train"],
        ("val", False): _SHARES["val"],
        ("test", True): unseen,
        ("test", False): _SHARES["test"] - unseen,
    }
    places = [((i + rng.random()) / count, group) for group, count in groups.items() for i in range(count)]
    order = [group for _, group in sorted(places)]
    lines: dict[tuple[str, bool], int] = {}
    dealt = []
    for i, group in enumerate(order):
        if group not in lines or rng.random() > _FOLLOWS:
            lines[group] = i
        dealt.append(_Place(*group, lines[group]))
    return dealt


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _contrast(colour: str, other: str) -> float:
    """Distance of two colours as seen, in which a step of brightness counts more than one of hue."""
    step = np.subtract(COLOURS[colour], COLOURS[other], dtype=float)
    return float(np.abs(step).mean() + abs(step @ np.array([0.299, 0.587, 0.114])))


def _accent(rng: np.random.Generator, brand: Brand, colour: str) -> str:
    """Picks a second colour that stands out from the first, mostly from the brand's palette."""
    pool = brand.palette if rng.random() < 0.6 else tuple(COLOURS)
    able = [name for name in pool if _contrast(colour, name) > 90]
    return _pick(rng, able or [name for name in COLOURS if _contrast(colour, name) > 90])


def _pattern(rng: np.random.Generator, brand: Brand, kind: Kind) -> str:
    favourites = [name for name in brand.patterns if name in kind.patterns]
    return _pick(rng, favourites if favourites and rng.random() < 0.7 else kind.patterns)


def _form(rng: np.random.Generator, subcategory: str, closure: str) -> Float[np.ndarray, "8"]:
    """Draws the proportions and details, among them those that the closure asks for."""
    form = rng.random(8)
    if subcategory in SHOWN:
        place, ranges = SHOWN[subcategory]
        low, high = ranges[closure]
        form[place] = low + (high - low) * form[place]
    return form


def _metal(rng: np.random.Generator, brand: Brand, material: str) -> str:
    """Picks the metal of the hardware; jewellery is of one metal."""
    picked = brand.metal if rng.random() < 0.7 else _pick(rng, tuple(METALS))
    return material if material in METALS else picked


def make_article(seed: int, number: int, brands: int) -> Article:
    """Makes an article, whose choices depend on nothing but the three arguments.

    Args:
      seed: Of the catalogue.
      number: Position in the catalogue.
      brands: How many of `BRANDS` there are; the first is unseen.

    Returns:
      The article.
    """
    block, place = divmod(number, BLOCK)
    dealt = _deal(seed, block, brands)[place]
    line = np.random.default_rng([seed, 1, block * BLOCK + dealt.line])
    brand = BRANDS[0 if dealt.unseen else int(line.integers(1, brands))]
    subcategory = _pick(line, tuple(KINDS))
    kind = KINDS[subcategory]
    colour = _pick(line, brand.palette if line.random() < 0.8 else tuple(COLOURS))
    shared = _pattern(line, brand, kind)
    rng = np.random.default_rng([seed, 2, number])
    accent = _accent(rng, brand, colour)
    material, closure = _pick(rng, kind.materials), _pick(rng, kind.closures)
    tint = rng.normal(0.0, 9.0, (2, 3))
    return Article(
        number=number,
        split=dealt.split,
        brand=brand,
        subcategory=subcategory,
        colour=colour,
        accent=accent,
        pattern=shared if rng.random() < 0.5 else _pattern(rng, brand, kind),
        material=material,
        closure=closure,
        metal=_metal(rng, brand, material),
        main=np.clip(COLOURS[colour] + tint[0], 18, 248),
        second=np.clip(COLOURS[accent] + tint[1], 18, 248),
        form=_form(rng, subcategory, closure),
        weave=rng.random(4),
    )
