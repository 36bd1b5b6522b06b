"""Results of a grid as text: a tidy CSV of every figure, and tables to read. Read `write_tables`."""

import csv
import dataclasses
import io
import json
import pathlib
from collections.abc import Sequence

from experiments.ablation.grid import Grid
from experiments.ablation.results import JobResult, notices
from experiments.ablation.summary import METRICS, Row, Summary, summarise
from tokenrec_jax.data.files import write_whole
from tokenrec_jax.types import Split

#: Stands under every table.
LEGEND = (
    "Mean ± sample standard deviation over seeds [95 % bootstrap interval over users, each user's mean over seeds]. "
    "Differences are to {reference}, user by user, [95 % interval], p of a sign-flip test, not corrected for the "
    "number of rows. Coverage is the share of the catalogue in anybody's top 10; minutes are of training, for one seed."
)


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells of text under a title; the first column names the row, `legend` stands below."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    legend: str = ""


def write_tables(grid: Grid, results: Sequence[JobResult], workdir: pathlib.Path) -> None:
    """Writes table.csv and table.md, each at once or not at all."""
    write_whole(workdir / "table.csv", tidy_csv(grid, results))
    write_whole(workdir / "table.md", report(grid, results))


def tables(grid: Grid, results: Sequence[JobResult]) -> list[Table]:
    """Returns the tables of a grid: test, validation, held out, and what went wrong; those with nothing in them not."""
    found = []
    for split, title in ((Split.TEST, "Test split"), (Split.VALID, "Validation split, by which steps were chosen")):
        rows = summarise(grid, results, str(split))
        if split is Split.TEST or any(row.metrics for row in rows):
            found.append(_comparison(grid, rows, title=title))
    held_out = _held_out(results)
    if held_out.rows:
        found.append(held_out)
        # Such a grid ranks other users than the rest: nothing to compare.
        if all(cell.kind == "holdout" for cell in grid.cells):
            found = [held_out]
    failed = [result for result in results if result.status == "failed"]
    if failed:
        lines = tuple((result.job.name, result.message) for result in failed)
        found.append(Table("Failed", ("cell", "reason"), lines))
    return found


def _comparison(grid: Grid, rows: Sequence[Row], *, title: str) -> Table:
    compared = tuple(f"{_title(name)} against {grid.reference}" for name in METRICS) if grid.reference else ()
    header = ("cell", *grid.axes, "seeds", *(_title(name) for name in METRICS), *compared, "coverage@10", "minutes")
    return Table(
        title=title,
        header=header,
        rows=tuple(_line(grid, row) for row in rows),
        legend=LEGEND.format(reference=grid.reference or "nothing here"),
    )


def _line(grid: Grid, row: Row) -> tuple[str, ...]:
    seeds = ", ".join(map(str, row.seeds))
    if row.problems:
        seeds = f"{seeds}; {row.problems}" if seeds else row.problems
    metrics = [row.metrics.get(name) for name in METRICS]
    return (
        row.label,
        *(str(row.cell.axes.get(name, "")) if row.own else "" for name in grid.axes),
        seeds,
        *(_value(one) for one in metrics),
        *((_difference(one) for one in metrics) if grid.reference else ()),
        "" if row.coverage is None else f"{row.coverage:.3f}",
        "" if row.minutes is None else f"{row.minutes:.1f}",
    )


def _title(metric: str) -> str:
    return metric.upper()


def _value(summary: Summary | None) -> str:
    if summary is None:
        return ""
    text = f"{summary.mean:.4f}"
    if summary.std is not None:
        text += f" ± {summary.std:.4f}"
    if summary.interval is not None:
        text += f" [{summary.interval.low:.4f}, {summary.interval.high:.4f}]"
    return text


def _difference(summary: Summary | None) -> str:
    if summary is None or summary.difference is None:
        return ""
    one = summary.difference
    chance = "p < 0.001" if one.p_value < 0.001 else f"p {one.p_value:.3f}"
    return f"{one.mean:+.4f} [{one.low:+.4f}, {one.high:+.4f}], {chance}"


def _held_out(results: Sequence[JobResult]) -> Table:
    """Returns a line a seed and group of each `holdout` cell; intervals are those of holdout.json."""
    lines = []
    for result in results:
        for one in result.measurements if result.job.cell.kind == "holdout" else ():
            name = next((key for key in one.metrics if key.startswith("hr@") and "_" not in key), "")
            if name:
                interval = one.metrics.get(f"{name}_interval")
                bounds = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if isinstance(interval, list) else ""
                count = f"{one.metrics['count']:.0f}" if "count" in one.metrics else ""
                ndcg = one.metrics.get(name.replace("hr", "ndcg"))
                lines.append(
                    (
                        result.job.cell.name,
                        str(result.job.seed),
                        one.split,
                        count,
                        f"{_title(name)} {one.metrics[name]:.4f}{bounds}",
                        "" if ndcg is None else f"{ndcg:.4f}",
                    )
                )
    return Table(
        "Held out of training",
        ("cell", "seed", "group", "targets", "HR [95 % interval]", "NDCG"),
        tuple(lines),
        "Groups are explained in experiments/suites/holdout.py.",
    )


def report(grid: Grid, results: Sequence[JobResult]) -> str:
    """Returns the tables of a grid as Markdown, after what must be said of their protocol."""
    lines = [f"# {grid.title}"]
    for notice in notices(one for result in results for one in result.measurements):
        lines += ["", f"**{notice}**"]
    for table in tables(grid, results):
        lines += ["", f"## {table.title}", "", _bar(table.header), _bar(["---"] * len(table.header))]
        lines += [_bar(row) for row in table.rows]
        lines += ["", table.legend] if table.legend else []
    return "\n".join(lines) + "\n"


def _bar(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def tidy_csv(grid: Grid, results: Sequence[JobResult]) -> str:
    """Returns one row for each cell, seed, system, split and metric; a job without results has one row too."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("cell", *grid.axes, "seed", "status", "system", "split", "metric", "value"))
    for result in results:
        cell = result.job.cell
        start = (cell.name, *(cell.axes.get(name, "") for name in grid.axes), result.job.seed, result.status)
        writer.writerows((*start, *line) for line in _figures(result) or [("", "", "", "")])
    return text.getvalue()


def _figures(result: JobResult) -> list[tuple[str, str, str, str]]:
    figures = [
        (one.system, one.split, name, json.dumps(value))
        for one in result.measurements
        for name, value in one.metrics.items()
        if isinstance(value, (int, float))
    ]
    return figures + ([(result.system, "", "seconds", json.dumps(result.seconds))] if result.seconds else [])
