"""The page of a grid. Read `grid_page`. The axes of its cells decide which figure compares them.

Two axes of numbers make a heat map, one makes a curve, and anything else one line a cell.
"""

import pathlib
from collections.abc import Sequence

from experiments.ablation.configs import Flat, read_config
from experiments.ablation.grid import Grid
from experiments.ablation.record import load_record
from experiments.ablation.results import JobResult, notices, read_job
from experiments.ablation.summary import Row, Summary, summarise
from experiments.ablation.tables import tables
from experiments.reporting import plots
from experiments.reporting.metrics import codebook_use, read_events, retrieval_curve
from experiments.reporting.page import figure_of, page, section, table_of, text
from experiments.reporting.plots import Point
from tokenrec_jax.types import Split

_SHOWN, _LABEL = "ndcg@10", "NDCG@10"


def grid_page(folder: pathlib.Path) -> str:
    """Returns the page of a directory that experiments.ablate works in, of as much as there is."""
    grid, jobs = load_record(folder)
    results = [read_job(job) for job in jobs]
    rows = [row for row in summarise(grid, results, str(Split.TEST)) if row.metrics]
    return page(
        grid.title,
        [
            *(
                text(notice, kind="notice")
                for notice in (*notices(one for result in results for one in result.measurements), *_mixed(results))
            ),
            text(grid.question, kind="question") if grid.question else "",
            section("Comparison", _comparison(grid, rows)),
            section("Tables", *(table_of(table) for table in tables(grid, results))),
            section("Accuracy against catalogue coverage", _coverage(rows)),
            section("Training", _curves(results)),
            section("Codebooks", _codebooks(results)),
        ],
    )


def _mixed(results: Sequence[JobResult]) -> list[str]:
    """Returns a notice of each cell whose seeds were run with configs that differ in more than the seed."""
    configs: dict[str, list[Flat]] = {}
    for result in results:
        if result.status == "finished" and (config := read_config(result.job.folder)):
            # Where a cell builds on another, the directory of that has the seed in its name.
            folder = result.job.folder.name
            same = {name: value.replace(folder, "") for name, value in config.items() if isinstance(value, str)}
            configs.setdefault(result.job.cell.name, []).append({**config, **same, "seed": None})
    found = []
    for cell, (first, *others) in configs.items():
        # A field that one of them does not know is younger than that.
        changed = {name for other in others for name in first.keys() & other.keys() if first[name] != other[name]}
        if changed:
            names = ", ".join(sorted(changed))
            found.append(
                f"The seeds of {cell} were run with different configs ({names}): their mean is of no one system."
            )
    return found


def _comparison(grid: Grid, rows: Sequence[Row]) -> str:
    own = [row for row in rows if row.own]
    numeric = [axis for axis in grid.axes if own and all(_is_number(row.cell.axes.get(axis)) for row in own)]
    if not own:
        return ""
    words = f"{_LABEL} on the test split, mean over seeds"
    intervals = "with 95 % intervals over users"
    if len(numeric) == len(grid.axes) == 2:
        values = {(row.cell.axes[numeric[1]], row.cell.axes[numeric[0]]): row.metrics[_SHOWN].mean for row in own}
        title = f"{words}, over {numeric[1]} and {numeric[0]}"
        svg = plots.heat_map(
            values, x_label=numeric[1], y_label=numeric[0], label=_LABEL, prefix="comparison", title=title
        )
        return figure_of(svg, f"{title}.")
    if len(numeric) == len(grid.axes) == 1:
        points = [_point(row, x=row.cell.axes[numeric[0]]) for row in own]
        title = f"{words}, over {numeric[0]}, {intervals}"
        return figure_of(
            plots.curve(points, x_label=numeric[0], y_label=_LABEL, prefix="comparison", title=title), f"{title}."
        )
    title = f"{words}, {intervals}"
    points = [_point(row, x=0) for row in rows]
    return figure_of(plots.dots(points, x_label=_LABEL, prefix="comparison", title=title), f"{title}.")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _point(row: Row, *, x: float) -> Point:
    shown: Summary = row.metrics[_SHOWN]
    low, high = (shown.interval.low, shown.interval.high) if shown.interval else (shown.mean, shown.mean)
    return Point(row.label, x, shown.mean, low, high)


def _coverage(rows: Sequence[Row]) -> str:
    points = [_point(row, x=row.coverage) for row in rows if row.coverage is not None]
    if not points:
        return ""
    title = f"{_LABEL} on the test split against coverage@10, means over seeds"
    svg = plots.scatter(points, x_label="coverage@10", y_label=_LABEL, prefix="coverage", title=title)
    return figure_of(svg, f"{title}; with 95 % intervals over users.")


def _curves(results: Sequence[JobResult]) -> str:
    found = {}
    for result in _first_of_each_cell(results):
        one = retrieval_curve(read_events(result.job.folder), _SHOWN, result.job.cell.name)
        if one is not None:
            found[one.name] = one
    if not found:
        return ""
    title = f"{_LABEL} on the validation split at each evaluation of the last stage, first seed"
    svg = plots.lines({_LABEL: list(found.values())}, x_label="evaluation", prefix="curves", title=title)
    return figure_of(svg, f"{title}. Cells: {', '.join(found)}.")


def _codebooks(results: Sequence[JobResult]) -> str:
    groups = {}
    for result in _first_of_each_cell(results):
        config = read_config(result.job.folder) or {}
        size = config.get("tokenizer.book_size")
        books = codebook_use(read_events(result.job.folder), book_size=size) if size else {}
        items = [book for name, book in books.items() if name.startswith("item")]
        if items:
            groups[result.job.cell.name] = {name: sum(book[name] for book in items) / len(items) for name in items[0]}
    if not groups:
        return ""
    title = "Use of the items' codebooks, mean over books, first seed"
    svg = plots.bars(groups, x_label="share of the codes of a book", prefix="codes", title=title)
    return figure_of(svg, f"{title}. A perplexity of 1 would be all codes equally often.")


def _first_of_each_cell(results: Sequence[JobResult]) -> list[JobResult]:
    first: dict[str, JobResult] = {}
    for result in results:
        if result.status == "finished" and result.job.cell.kind != "evaluate":
            first.setdefault(result.job.cell.name, result)
    return list(first.values())
