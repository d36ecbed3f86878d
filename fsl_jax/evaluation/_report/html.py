"""Writes HTML so that nothing is left unescaped: `tag` makes markup, and escapes every other string."""

from html import escape

VOID = {"meta", "img", "br"}


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | float | bool | None) -> Markup:
    """Writes one element.

    Args:
      name: Name of the element.
      *children: Markup as it is, any other text escaped.
      **attributes: `class_` is class and `aria_label` is aria-label; None and False are left out, True has no
        value, floats are rounded to hundredths (of a pixel, in a chart).

    Returns:
      The element.

    Example:
      >>> tag("p", "a < b", tag("br"), class_="note")
      '<p class="note">a &lt; b<br></p>'
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    head = f"<{name}{written}>"
    return Markup(head) if name in VOID else Markup(f"{head}{join(*children)}</{name}>")


def join(*children: str) -> Markup:
    """Puts markup and text in a row; text is escaped."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f' {name}="{escape(text)}"'
