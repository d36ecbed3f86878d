"""What photos can be classified as: names at the levels of a tree, and attributes. It travels with the model."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Level:
    """One level of a tree of categories.

    Attributes:
      name: Such as "subcategory".
      names: What a photo can be at this level, in the order of the logits.
      parents: Place of each one's parent in the level above; empty at the first level, -1 where it is not known.
      counts: Training photos of each.
    """

    name: str
    names: tuple[str, ...]
    parents: tuple[int, ...]
    counts: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Taxonomy:
    """Levels from coarse to fine, and attributes of which a photo has any number.

    Attributes:
      levels: From coarse to fine; may be empty.
      attributes: Such as "material=wool", in the order of the logits; may be empty.
      positives: Training photos that are known to have each attribute.
      negatives: Training photos that are known not to have it.
    """

    levels: tuple[Level, ...] = ()
    attributes: tuple[str, ...] = ()
    positives: tuple[int, ...] = ()
    negatives: tuple[int, ...] = ()

    @property
    def parents(self) -> tuple[tuple[int, ...], ...]:
        """Places of the parents, a level."""
        return tuple(level.parents for level in self.levels)

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of the attributes, each once: what stands before "=", or the whole name where there is none."""
        return tuple(dict.fromkeys(group_of(name) for name in self.attributes))

    @property
    def group_places(self) -> tuple[int, ...]:
        """Place in `groups` of each attribute's group."""
        place = {group: i for i, group in enumerate(self.groups)}
        return tuple(place[group_of(name)] for name in self.attributes)

    @property
    def outputs(self) -> int:
        """Number of all logits."""
        return sum(len(level.names) for level in self.levels) + len(self.attributes)

    def as_json(self) -> dict[str, Any]:
        """Returns plain lists and text, for a checkpoint."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Taxonomy":
        """Reads what `as_json` gave."""
        levels = tuple(
            Level(level["name"], *(tuple(level[part]) for part in ("names", "parents", "counts")))
            for level in values["levels"]
        )
        return cls(levels, *(tuple(values[part]) for part in ("attributes", "positives", "negatives")))


def group_of(attribute: str) -> str:
    """Returns the group of an attribute: "material" of "material=wool"."""
    return attribute.partition("=")[0]
