"""The outline of each subcategory, fitted to the picture."""

import numpy as np

from fsl_jax.data.sources._catalogue import bags_and_shoes, clothes, ornaments
from fsl_jax.data.sources._catalogue.geometry import Form, Part, Silhouette

SILHOUETTES = bags_and_shoes.SILHOUETTES | clothes.SILHOUETTES | ornaments.SILHOUETTES


def silhouette(subcategory: str, form: Form) -> Silhouette:
    """Makes the parts of an article, centred and enlarged to fill the unit square but for a margin.

    Args:
      subcategory: A key of `SILHOUETTES`.
      form: Proportions and details, each in [0, 1].

    Returns:
      The parts, and where the emblem sits.
    """
    drawn = SILHOUETTES[subcategory](form)
    low = np.min([part.points.min(axis=0) - (part.width or 0) / 2 for part in drawn.parts], axis=0)
    high = np.max([part.points.max(axis=0) + (part.width or 0) / 2 for part in drawn.parts], axis=0)
    scale, centre = 0.94 / (high - low).max(), (low + high) / 2
    parts = [
        Part((part.points - centre) * scale + 0.5, part.paint, part.width and part.width * scale)
        for part in drawn.parts
    ]
    x, y = (np.array(drawn.emblem[:2]) - centre) * scale + 0.5
    return Silhouette(parts, (float(x), float(y), drawn.emblem[2] * scale))
