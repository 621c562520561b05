"""SVG of matplotlib's figures for a page: colours are the page's variables, and fonts those of the system."""

from __future__ import annotations

import re
from collections.abc import Mapping
from io import StringIO
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Variables of the page's style, by the names that charts use for them.
SERIES = tuple(f"s{number}" for number in range(1, 9))
VARIABLES = ("text", "soft", "line", "card", "on", *SERIES)
# Colours that no chart uses otherwise, which stand for the variables until the page is written.
_STAND_INS = {name: f"#fe00{number:02x}" for number, name in enumerate(VARIABLES)}
STYLE: Any = {  # since the type of settings has the names of one version of matplotlib
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib, and is wider than the fonts of systems
    "font.size": 12.0,
    "text.parse_math": False,
    "axes.linewidth": 0.8,
    "path.simplify": False,
}
_SPACE = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_DECIMALS = 1  # of coordinates, in pixels


def colour(name: str) -> str:
    """Return the colour that stands for a variable of the page."""
    return _STAND_INS[name]


def inline(figure: Figure, name: str, label: str, titles: Mapping[str, str] | None = None) -> Markup:
    """Write a figure as an SVG element that can stand in a page beside others.

    Args:
        figure: drawn with `colour` and under the settings `STYLE`.
        name: distinguishes its ids from those of the page's other figures.
        label: describes the figure to those who cannot see it.
        titles: texts to show over the parts of the figure with these ids.
    """
    import matplotlib

    text = StringIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    root = ElementTree.fromstring(text.getvalue())
    for parent in list(root.iter()):
        for child in [each for each in parent if each.tag in (f"{_SPACE}style", f"{_SPACE}metadata")]:
            parent.remove(child)  # a style would hold for the whole page
    references = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text.getvalue()))
    for element in root.iter():
        _adapt(element, name, references, titles or {})
    for size in ("width", "height"):
        root.attrib.pop(size)
    root.attrib |= {"role": "img", "aria-label": label, "class": "chart"}
    ElementTree.register_namespace("", _SPACE.strip("{}"))
    svg = ElementTree.tostring(root, encoding="unicode")
    for variable, stand_in in _STAND_INS.items():
        svg = svg.replace(stand_in, f"var(--{variable})")
    return Markup(re.sub(r">\s+<", "><", svg).replace(' xmlns="http://www.w3.org/2000/svg"', ""))


def _adapt(element: ElementTree.Element, name: str, references: set[str], titles: Mapping[str, str]) -> None:
    """Shorten an element, and make its ids the figure's own."""
    identity = element.attrib.pop("id", None)
    if identity in references:
        element.set("id", f"{name}-{identity}")
    if identity is not None and identity in titles:
        title = ElementTree.Element(f"{_SPACE}title")
        title.text = titles[identity]
        element.insert(0, title)
    target = element.attrib.pop(_LINK, None)
    if target is not None:
        element.set("href", f"#{name}-{target[1:]}")
    for key, value in list(element.attrib.items()):
        if key in ("d", "x", "y", "transform", "points"):
            value = _rounded(value)
        elif key == "style":
            value = re.sub(r"(font(?:-family)?:[^;]*?)'DejaVu Sans'[^;]*", r"\1system-ui, sans-serif", value)
        element.set(key, re.sub(r"url\(#", f"url(#{name}-", value))


def _rounded(text: str) -> str:
    """Path data or coordinates on one line, with few decimals."""
    numbers = re.sub(r"-?\d+\.\d+", lambda match: f"{float(match[0]):.{_DECIMALS}f}".removesuffix(".0"), text)
    return " ".join(numbers.split())
