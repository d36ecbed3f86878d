"""What the catalogue says of an article, in attributes and in words."""

import numpy as np

from fsl_jax.data.sources._catalogue.articles import Article

_PATTERNS = {
    "plain": ("kept plain", "without a pattern"),
    "striped": ("with {accent} stripes", "striped in {accent}"),
    "checked": ("checked in {accent}", "with {accent} checks"),
    "dotted": ("with {accent} dots", "dotted in {accent}"),
    "monogram": ("with the house monogram in {accent}", "covered in monograms of {accent}"),
    "chevron": ("with {accent} chevrons", "in chevrons of {accent}"),
    "floral": ("with {accent} flowers", "in a floral print of {accent}"),
    "camouflage": ("in camouflage with {accent}", "with {accent} camouflage"),
    "colour-block": ("colour-blocked with {accent}", "split into {colour} and {accent}"),
}
_OPENINGS = (
    "{brand} {name} in {stuff}, {pattern}.",
    "{brand}: {name}, {pattern}, made of {stuff}.",
    "New from {brand}, {name} of {stuff}, {pattern}.",
    "The {name} by {brand} in {stuff}, {pattern}.",
)
_ENDINGS = (
    " Closure: {closure}; details in {metal}.",
    " Finished with {metal} details.",
    " Details in {metal} and {accent}.",
    "",
)


def attributes(article: Article) -> str:
    """Lists an article's properties, such as "brand=Aurelio|colour=red"."""
    values = {
        "brand": article.brand.name,
        "colour": article.colour,
        "accent": article.accent,
        "pattern": article.pattern,
        "material": article.material,
        "closure": article.closure,
    }
    return "|".join(f"{name}={value}" for name, value in values.items())


def describe(article: Article, seed: int) -> str:
    """Writes a sentence or two, in one of several ways.

    Args:
      article: What is sold.
      seed: Of the catalogue; decides on the wording.

    Returns:
      The description, which names brand, subcategory, colour, material and, in its own words, the pattern.
    """
    rng = np.random.default_rng([seed, 4, article.number])
    pattern, opening, ending = (
        choices[int(rng.integers(len(choices)))]
        for choices in (_PATTERNS[article.pattern], _OPENINGS, _ENDINGS)
    )
    stones = f"{article.material} with {article.colour} stones"
    words = {
        "brand": article.brand.name,
        "name": article.subcategory,
        "stuff": stones if article.category == "jewellery" else f"{article.colour} {article.material}",
        "colour": article.colour,
        "accent": article.accent,
        "closure": article.closure,
        "metal": article.metal,
    }
    return (opening + ending).format(pattern=pattern.format(**words), **words)
