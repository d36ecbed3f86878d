"""The words of the catalogue: colours, metals, patterns, brands, and kinds of articles."""

import dataclasses

COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (38, 37, 42),
    "white": (240, 238, 232),
    "grey": (142, 145, 150),
    "navy": (33, 46, 92),
    "blue": (46, 98, 190),
    "sky": (138, 190, 232),
    "teal": (22, 128, 130),
    "green": (44, 132, 74),
    "olive": (112, 112, 52),
    "yellow": (244, 208, 66),
    "mustard": (200, 148, 38),
    "orange": (234, 120, 40),
    "red": (202, 40, 46),
    "burgundy": (112, 26, 48),
    "pink": (240, 152, 176),
    "purple": (112, 66, 152),
    "brown": (104, 66, 42),
    "tan": (190, 142, 94),
    "beige": (222, 204, 174),
}
METALS: dict[str, tuple[int, int, int]] = {
    "gold": (212, 172, 76),
    "silver": (188, 192, 200),
    "gunmetal": (84, 86, 94),
    "copper": (194, 118, 82),
}
PATTERNS = (
    "plain",
    "striped",
    "checked",
    "dotted",
    "monogram",
    "chevron",
    "floral",
    "camouflage",
    "colour-block",
)


@dataclasses.dataclass(frozen=True)
class Brand:
    """A house and its tendencies, which make its articles look alike.

    Attributes:
      name: As it stands in labels and descriptions.
      palette: Colours that most of its articles have.
      patterns: Patterns that it prefers.
      emblem: The mark on its articles.
      metal: Of its buckles and clasps.
    """

    name: str
    palette: tuple[str, ...]
    patterns: tuple[str, ...]
    emblem: str
    metal: str


# The first brand is the unseen one: whatever their number, its articles are all in the test split.
BRANDS = (
    Brand(
        "Aurelio",
        ("black", "tan", "burgundy", "beige", "mustard"),
        ("monogram", "plain", "checked"),
        "star",
        "gold",
    ),
    Brand(
        "Bramholt",
        ("olive", "brown", "navy", "mustard", "beige"),
        ("checked", "camouflage", "plain"),
        "diamond",
        "copper",
    ),
    Brand(
        "Calvessa",
        ("pink", "red", "white", "purple", "black"),
        ("dotted", "floral", "plain"),
        "heart",
        "gold",
    ),
    Brand(
        "Dornwick",
        ("navy", "white", "red", "sky", "grey"),
        ("striped", "plain", "colour-block"),
        "anchor",
        "silver",
    ),
    Brand(
        "Elvane",
        ("teal", "sky", "purple", "white", "yellow"),
        ("floral", "chevron", "striped"),
        "crescent",
        "silver",
    ),
    Brand(
        "Fjellmar",
        ("grey", "black", "orange", "blue", "white"),
        ("colour-block", "chevron", "plain"),
        "triangle",
        "gunmetal",
    ),
    Brand(
        "Gavotti",
        ("red", "green", "black", "yellow", "tan"),
        ("monogram", "striped", "colour-block"),
        "ring",
        "gold",
    ),
    Brand(
        "Hartwyn",
        ("green", "blue", "brown", "beige", "orange"),
        ("checked", "dotted", "camouflage"),
        "cross",
        "copper",
    ),
    Brand(
        "Isolde",
        ("purple", "burgundy", "grey", "pink", "navy"),
        ("chevron", "floral", "dotted"),
        "drop",
        "silver",
    ),
    Brand(
        "Jorvane",
        ("yellow", "black", "teal", "orange", "white"),
        ("camouflage", "striped", "monogram"),
        "bolt",
        "gunmetal",
    ),
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A subcategory and what its articles may be made of.

    Attributes:
      category: The coarse level.
      materials: What it is made of.
      closures: How it is closed.
      patterns: Patterns that it can carry.
    """

    category: str
    materials: tuple[str, ...]
    closures: tuple[str, ...]
    patterns: tuple[str, ...] = PATTERNS


_LEATHER = ("leather", "suede", "canvas")
_CLOTH = ("cotton", "linen", "wool")
_SIMPLE = ("plain", "striped", "checked", "dotted", "chevron", "colour-block")
_JEWEL = ("plain", "striped", "colour-block")
KINDS: dict[str, Kind] = {
    "handbag": Kind("bags", _LEATHER, ("clasp", "magnet", "zip")),
    "tote": Kind("bags", _LEATHER, ("open top", "snap", "zip")),
    "backpack": Kind("bags", ("nylon", "canvas", "leather"), ("zip", "buckle", "drawstring")),
    "clutch": Kind("bags", ("leather", "suede", "satin"), ("clasp", "magnet", "snap")),
    "sneaker": Kind("shoes", ("canvas", "leather", "mesh"), ("laces", "hook and loop")),
    "boot": Kind("shoes", ("leather", "suede", "rubber"), ("laces", "zip", "buckle")),
    "pump": Kind("shoes", ("leather", "suede", "satin"), ("slip-on", "ankle strap")),
    "loafer": Kind("shoes", ("leather", "suede"), ("slip-on", "buckle")),
    "t-shirt": Kind("tops", ("cotton", "linen", "jersey"), ("pullover",)),
    "shirt": Kind("tops", ("cotton", "linen", "silk"), ("buttons", "snaps")),
    "sweater": Kind("tops", ("wool", "cashmere", "cotton"), ("pullover", "half zip")),
    "trousers": Kind("bottoms", ("denim", *_CLOTH), ("zip", "buttons")),
    "skirt": Kind("bottoms", ("denim", *_CLOTH), ("zip", "buttons", "elastic")),
    "shorts": Kind("bottoms", ("denim", *_CLOTH), ("drawstring", "buttons", "zip")),
    "cap": Kind("hats", ("cotton", "wool", "nylon"), ("hook and loop", "buckle")),
    "beanie": Kind("hats", ("wool", "cashmere", "cotton"), ("pullover",)),
    "fedora": Kind("hats", ("wool", "straw", "suede"), ("open",)),
    "dress watch": Kind("watches", ("leather", "suede", "steel"), ("buckle", "clasp"), _SIMPLE),
    "square watch": Kind("watches", ("leather", "rubber", "steel"), ("buckle", "clasp"), _SIMPLE),
    "ring": Kind("jewellery", ("gold", "silver", "copper"), ("none",), _JEWEL),
    "necklace": Kind("jewellery", ("gold", "silver", "copper"), ("clasp", "toggle"), _JEWEL),
    "earrings": Kind("jewellery", ("gold", "silver", "copper"), ("hook",), _JEWEL),
}
# Which number of the form shows the closure, and its range for each: what is stated can be seen.
SHOWN: dict[str, tuple[int, dict[str, tuple[float, float]]]] = {
    "backpack": (4, {"zip": (0, 0.5), "buckle": (0.5, 1), "drawstring": (0.5, 1)}),
    "sneaker": (7, {"laces": (0, 0.5), "hook and loop": (0.5, 1)}),
    "boot": (5, {"laces": (0, 0.4), "buckle": (0.4, 0.75), "zip": (0.75, 1)}),
    "pump": (4, {"ankle strap": (0, 0.4), "slip-on": (0.4, 1)}),
    "loafer": (3, {"buckle": (0, 0.4), "slip-on": (0.4, 1)}),
    "sweater": (6, {"half zip": (0, 0.5), "pullover": (0.5, 1)}),
    "skirt": (5, {"buttons": (0.7, 1), "zip": (0, 0.7), "elastic": (0, 0.7)}),
    "shorts": (5, {"drawstring": (0, 0.5), "buttons": (0.5, 1), "zip": (0.5, 1)}),
}
