"""Figures of matplotlib as SVG inside an HTML page. Read `to_svg`.

Text stays text, has the font of the page, and is drawn, like the axes, in the page's own colour, so that a figure is
readable on light and on dark ground. Nothing refers to anything outside of the page.
"""

import contextlib
import html
import importlib
import io
import re
from collections.abc import Iterator
from typing import Any

from tokenrec_jax.types import ConfigError

#: Stands for the colour of the page's text until a figure is inside a page.
INK = "#0c0d0e"
#: Of data, told apart also by those who do not see all colours, and readable on light and dark ground.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#b08a00", "#56b4e9", "#8a63d2", "#7f7f7f")

_STYLE = {
    "svg.fonttype": "none",
    # Names inside the file come from a hash: the same figure is the same text.
    "svg.hashsalt": "tokenrec_jax",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "legend.frameon": False,
    "font.size": 10,
}


@contextlib.contextmanager
def figure(width: float, height: float) -> Iterator[Any]:
    """Yields an empty figure of so many inches to draw on, in our style.

    Raises:
      ConfigError: matplotlib is not installed.
    """
    try:
        matplotlib = importlib.import_module("matplotlib")
        of_figures = importlib.import_module("matplotlib.figure")
    except ImportError:
        raise ConfigError("plots need matplotlib, which is not installed; pip install -e '.[report]'") from None
    # Not pyplot: no backend is chosen, no window opened, nothing global stays.
    with matplotlib.rc_context(_STYLE):
        yield of_figures.Figure(figsize=(width, height), layout="constrained")


def to_svg(drawn: Any, *, prefix: str, title: str) -> str:
    """Returns a figure as an SVG element of a page; call it inside the block of `figure`.

    Args:
      drawn: the figure.
      prefix: of all names inside it, different for each figure of a page.
      title: what it shows, for those who do not see it.
    """
    text = io.StringIO()
    drawn.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Inside HTML the name spaces are known.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    svg = svg.replace(INK, "currentColor")
    opening = svg.index(">")
    label = f' role="img" aria-labelledby="{prefix}"'
    return f'{svg[:opening]}{label}><title id="{prefix}">{html.escape(title)}</title>{svg[opening + 1 :]}'.strip()
