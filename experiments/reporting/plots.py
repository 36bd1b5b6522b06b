"""The kinds of figures of our pages, each a function from plain values to an SVG element. Read `Point` and `curve`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.reporting.svg import COLOURS, INK, figure, to_svg


@dataclasses.dataclass(frozen=True)
class Point:
    """A value with the ends of its interval; without one they are the value."""

    name: str
    x: float
    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Series:
    """A line through points."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def curve(points: Sequence[Point], *, x_label: str, y_label: str, prefix: str, title: str) -> str:
    """Returns values over one axis with their intervals."""
    with figure(6.4, 3.6) as drawn:
        axes = drawn.subplots()
        x, y = [point.x for point in points], [point.value for point in points]
        axes.errorbar(x, y, yerr=_errors(points), color=COLOURS[1], marker="o", capsize=3)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.set_xticks(x)
        return to_svg(drawn, prefix=prefix, title=title)


def dots(points: Sequence[Point], *, x_label: str, prefix: str, title: str) -> str:
    """Returns one line a name, with value and interval along it."""
    with figure(6.4, 1.1 + 0.34 * len(points)) as drawn:
        axes = drawn.subplots()
        rows = range(len(points), 0, -1)
        values = [point.value for point in points]
        axes.errorbar(values, rows, xerr=_errors(points), color=COLOURS[1], fmt="o", capsize=3)
        axes.set_yticks(list(rows), [point.name for point in points])
        axes.set_ylim(0.4, len(points) + 0.6)
        axes.set_xlabel(x_label)
        return to_svg(drawn, prefix=prefix, title=title)


def _errors(points: Sequence[Point]) -> Any:
    below = [max(point.value - point.low, 0.0) for point in points]
    return np.array([below, [max(point.high - point.value, 0.0) for point in points]])


def heat_map(
    points: dict[tuple[float, float], float], *, x_label: str, y_label: str, label: str, prefix: str, title: str
) -> str:
    """Returns values over two axes, (x, y) -> value; what is missing stays empty."""
    columns, rows = (sorted({place[axis] for place in points}) for axis in (0, 1))
    values = np.array([[points.get((x, y), np.nan) for x in columns] for y in rows])
    with figure(6.4, 1.6 + 0.5 * len(rows)) as drawn:
        axes = drawn.subplots()
        axes.grid(visible=False)
        # Cells as paths: an image would have its own resolution.
        mesh = axes.pcolormesh(np.ma.masked_invalid(values), cmap="cividis", edgecolors="none")
        axes.set_title(label, fontsize=10)
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = mesh.norm(value) < 0.5
                axes.text(
                    column + 0.5,
                    row + 0.5,
                    f"{value:.4f}",
                    ha="center",
                    va="center",
                    color="white" if dark else "black",
                )
        axes.set_xticks(np.arange(len(columns)) + 0.5, [f"{value:g}" for value in columns])
        axes.set_yticks(np.arange(len(rows)) + 0.5, [f"{value:g}" for value in rows])
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return to_svg(drawn, prefix=prefix, title=title)


def scatter(points: Sequence[Point], *, x_label: str, y_label: str, prefix: str, title: str) -> str:
    """Returns named points with intervals upwards and downwards."""
    with figure(6.4, 4.2) as drawn:
        axes = drawn.subplots()
        for number, point in enumerate(points):
            colour = COLOURS[number % len(COLOURS)]
            axes.errorbar(
                [point.x], [point.value], yerr=_errors([point]), color=colour, marker="o", capsize=2, alpha=0.9
            )
            axes.annotate(point.name, (point.x, point.value), xytext=(6, 3), textcoords="offset points", fontsize=9)
        axes.margins(x=0.15)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return to_svg(drawn, prefix=prefix, title=title)


def lines(
    panels: Mapping[str, Sequence[Series]], *, x_label: str, prefix: str, title: str, most_names: int = len(COLOURS)
) -> str:
    """Returns panels side by side, by the label of their y axis.

    A panel with more lines than can be told apart names none of them.
    """
    with figure(max(6.4, 3.4 * len(panels)), 3.4) as drawn:
        for axes, (label, series) in zip(drawn.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            named = len(series) <= most_names
            for number, one in enumerate(series):
                colour = COLOURS[number % len(COLOURS)] if named else INK
                axes.plot(
                    one.x,
                    one.y,
                    label=one.name,
                    color=colour,
                    alpha=1.0 if named else 0.35,
                    marker="o" if len(one.x) < 30 else None,
                    markersize=3,
                )
            if named and any(one.name for one in series):
                axes.legend(fontsize=8)
            axes.set_xlabel(x_label)
            axes.set_ylabel(label)
        return to_svg(drawn, prefix=prefix, title=title)


def bars(groups: dict[str, dict[str, float]], *, x_label: str, prefix: str, title: str) -> str:
    """Returns horizontal bars, group -> name -> value; all groups have the same names."""
    names = list(next(iter(groups.values())))
    with figure(6.4, 1.2 + 0.3 * len(groups) * len(names)) as drawn:
        axes = drawn.subplots()
        height = 0.8 / len(names)
        for number, name in enumerate(names):
            rows = [-group - number * height for group in range(len(groups))]
            axes.barh(rows, [group[name] for group in groups.values()], height, label=name, color=COLOURS[number])
        axes.set_yticks([-group - 0.4 + height / 2 for group in range(len(groups))], list(groups))
        axes.set_xlabel(x_label)
        axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(names))
        return to_svg(drawn, prefix=prefix, title=title)
