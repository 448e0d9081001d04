"""Building SVG: elements, text that is known to fit, and a look for light and dark pages.

Owns the style sheet and the estimate of text widths. Doesn't know what is drawn.
"""

from __future__ import annotations

import math
from xml.etree.ElementTree import Element, SubElement, indent, register_namespace, tostring

NAMESPACE = "http://www.w3.org/2000/svg"
COLOURS = (
    "#3b6fc4", "#d0662a", "#2f9366", "#8d5bb8", "#c04467", "#6b7785", "#1793a8", "#95761f", "#d16ba5", "#5a5fd6",
)  # fmt: skip
"""Colours of GPU types: told apart also without red or green, and seen on white and on black."""

STYLE = """
text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1d2433; }
.page { fill: #ffffff; } .soft { fill: #5c6675; } .on { fill: #ffffff; } .alarm { fill: #c8102e; }
.bold { font-weight: 600; }
.grid { stroke: #e3e7ec; stroke-width: 1; } .axis { stroke: #aab2bd; stroke-width: 1; } .empty { fill: #e9ecf0; }
.stripe { fill: #f6f7f9; } .wire { fill: none; stroke: #51607a; stroke-linecap: round; opacity: 0.55; }
.binding { stroke: #c8102e; } .flow { fill: none; stroke: #3b6fc4; stroke-width: 2.5; }
.bound { fill: none; stroke: #7b8594; stroke-width: 2; stroke-dasharray: 6 4; } .gap { fill: #3b6fc4; opacity: 0.12; }
@media (prefers-color-scheme: dark) {
text { fill: #e4e8ef; } .page { fill: #14181f; } .soft { fill: #9aa5b5; } .alarm { fill: #ff6b7d; }
.grid { stroke: #2a313c; } .axis { stroke: #566072; } .empty { fill: #2a313c; } .stripe { fill: #191e27; }
.wire { stroke: #a9b6cc; } .binding { stroke: #ff6b7d; } .bound { stroke: #9aa5b5; }
.flow { stroke: #6d9bf0; } .gap { fill: #6d9bf0; }
}
"""


class Drawing:
    """An SVG of a size in pixels that grows element by element."""

    def __init__(self, width: float, height: float, title: str) -> None:
        register_namespace("", NAMESPACE)
        size = {"width": _px(width), "height": _px(height), "viewBox": f"0 0 {_px(width)} {_px(height)}"}
        self.root = Element(f"{{{NAMESPACE}}}svg", {**size, "role": "img"})
        self.add("title").text = title
        self.add("style").text = STYLE
        self.add("rect", "page", width=width, height=height)

    def add(self, tag: str, look: str = "", /, parent: Element | None = None, **attributes: float | str) -> Element:
        """Add an element; numbers are pixels, and an underscore in a name stands for a dash."""
        named = {
            name.replace("_", "-"): value if isinstance(value, str) else _px(value)
            for name, value in attributes.items()
        }
        if look:
            named["class"] = look
        return SubElement(self.root if parent is None else parent, f"{{{NAMESPACE}}}{tag}", named)

    def text(
        self,
        x: float,
        y: float,
        content: str,
        look: str = "",
        size: float = 12,
        anchor: str = "start",
        bold: bool = False,
    ) -> Element:
        """Add a line of text with its baseline at ``y``."""
        element = self.add("text", look, x=x, y=y, font_size=size, text_anchor=anchor)
        if bold:
            element.set("font-weight", "600")
        element.text = content
        return element

    def tip(self, element: Element, content: str) -> None:
        """What a browser shows when the pointer rests on an element."""
        self.add("title", parent=element).text = content

    def line(self, x1: float, y1: float, x2: float, y2: float, look: str) -> None:
        """Add a straight line."""
        self.add("line", look, x1=x1, y1=y1, x2=x2, y2=y2)

    def inline(self) -> str:
        """The picture as an element of an HTML page that has ``STYLE`` once."""
        for style in self.root.findall(f"{{{NAMESPACE}}}style"):
            self.root.remove(style)
        return tostring(self.root, encoding="unicode").replace(f' xmlns="{NAMESPACE}"', "", 1)

    def done(self) -> str:
        """The whole document."""
        indent(self.root, " ")
        return tostring(self.root, encoding="unicode", xml_declaration=True) + "\n"


def text_width(content: str, size: float = 12, bold: bool = False) -> float:
    """Pixels that a line takes at most in common sans-serif fonts."""
    narrow = sum(character in "ijl.,:;|'[]()! " for character in content)
    wide = sum(character in "mwMW@%" for character in content)
    return size * (0.64 * len(content) - 0.26 * narrow + 0.32 * wide) * (1.08 if bold else 1.0)


def shortened(name: str, limit: int = 20) -> str:
    """A name cut in its middle, so that the numbers that often end names stay."""
    return name if len(name) <= limit else f"{name[: limit - 8]}…{name[-7:]}"


def wrapped(words: list[str], width: float, size: float, separator: str) -> list[str]:
    """Words joined to lines that fit in ``width`` pixels; a word alone may not."""
    lines: list[str] = []
    for word in words:
        if lines and text_width(lines[-1] + separator + word, size) <= width:
            lines[-1] += separator + word
        else:
            lines.append(word)
    return lines


def round_step(highest: float, parts: int = 5) -> float:
    """The smallest of 1, 2, 5, 10, … that reaches ``highest`` in at most ``parts`` steps: what a scale counts in."""
    step = 10.0 ** math.floor(math.log10(highest / parts))
    return next(step * factor for factor in (1, 2, 5, 10) if step * factor * parts >= highest * (1 - 1e-9))


def colours(names: tuple[str, ...]) -> dict[str, str]:
    """A colour for each name; they repeat when there are more than ten."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def _px(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"
