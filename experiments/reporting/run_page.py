"""The page of a single run. Read `run_page`."""

import json
import pathlib

from experiments.ablation.configs import read_config
from experiments.ablation.results import Measurement, notices, read_measurements
from experiments.ablation.summary import COVERAGE
from experiments.ablation.tables import Table
from experiments.printing import left_out_notice
from experiments.reporting import plots
from experiments.reporting.metrics import codebook_use, loss_panels, read_events, sharing, validation_panels
from experiments.reporting.page import figure_of, folded, page, section, table_of, text
from experiments.reporting.plots import Point
from tokenrec_jax.evaluation.comparability import HELD_OUT_NOTICES
from tokenrec_jax.evaluation.statistics import Interval, interval, per_user
from tokenrec_jax.training.workdir import Workdir
from tokenrec_jax.types import Split

_METRICS = ("hr@10", "ndcg@10", "hr@30", COVERAGE)
_SHOWN = "ndcg@10"
_SPLITS = {Split.TEST: "Test split", Split.VALID: "Validation split, by which steps were chosen"}


def run_page(folder: pathlib.Path) -> str:
    """Returns the page of a run, of as much as there is of it."""
    events = read_events(folder)
    config = read_config(folder) or {}
    finished = (folder / "result.json").is_file()
    system, measurements = read_measurements(folder) if finished else ("", ())
    result = Workdir(folder).result() if finished else {}
    # A run without a stage that ranks, or that holds nothing out, has no measurements to say it.
    own = [HELD_OUT_NOTICES[result.get("held_out", 2)], left_out_notice(result.get("left_out"))]
    said = [*notices(measurements), *filter(None, own)]
    spent = ", ".join(f"{stage} {seconds / 60:.1f} min" for stage, seconds in result.get("seconds", {}).items())
    title = f"{system or 'run'} on {result.get('dataset') or config.get('data.source', 'data')}"
    return page(
        title,
        [
            *(text(notice, kind="notice") for notice in dict.fromkeys(said)),
            text(f"Seed {config.get('seed', 0)}; training: {spent}." if finished else "This run has not finished."),
            section("Results", *(table_of(table) for split in _SPLITS if (table := _table(measurements, split)).rows)),
            section("Accuracy against catalogue coverage", _scatter(measurements)),
            section("Training", *_curves(events)),
            section("Codebooks", _codebooks(events, book_size=int(config.get("tokenizer.book_size", 0)))),
            section("Config", folded("config.json", json.dumps(config, indent=2))),
        ],
    )


def _table(measurements: tuple[Measurement, ...], split: Split) -> Table:
    chosen = [one for one in measurements if one.split == str(split)]
    return Table(
        title=_SPLITS[split],
        header=("system", *(name.upper() if name != COVERAGE else name for name in _METRICS)),
        rows=tuple((one.system, *(_value(one, name) for name in _METRICS)) for one in chosen),
        legend=(
            "[95 % bootstrap interval over users]; one seed. Coverage is the share of the catalogue in any top 10."
        ),
    )


def _value(one: Measurement, metric: str) -> str:
    if metric not in one.metrics:
        return ""
    bounds = _interval(one, metric)
    return f"{one.metrics[metric]:.4f}" + (f" [{bounds.low:.4f}, {bounds.high:.4f}]" if bounds else "")


def _interval(one: Measurement, metric: str) -> Interval | None:
    if one.ranks is None or metric == COVERAGE:
        return None
    return interval(per_user(one.ranks, metric), seed=0)


def _scatter(measurements: tuple[Measurement, ...]) -> str:
    points = []
    for one in measurements:
        if one.split == str(Split.TEST) and COVERAGE in one.metrics:
            value = one.metrics[_SHOWN]
            bounds = _interval(one, _SHOWN) or Interval(value, value)
            points.append(Point(one.system, one.metrics[COVERAGE], value, bounds.low, bounds.high))
    if not points:
        return ""
    title = "NDCG@10 on the test split against coverage@10 of each system"
    svg = plots.scatter(points, x_label="coverage@10", y_label="NDCG@10", prefix="coverage", title=title)
    return figure_of(svg, f"{title}, with 95 % intervals over users.")


def _curves(events: list) -> list[str]:
    figures = []
    for prefix, panels, caption in (
        ("loss", loss_panels(events), "Training loss of each stage; steps count over all stages."),
        ("valid", validation_panels(events, ("hr@10", _SHOWN)), "Validation metrics of the stages that rank items."),
    ):
        if panels:
            figures.append(figure_of(plots.lines(panels, x_label="step", prefix=prefix, title=caption), caption))
    return figures


def _codebooks(events: list, *, book_size: int) -> str:
    use = codebook_use(events, book_size=book_size) if book_size else {}
    if not use:
        return ""
    svg = plots.bars(use, x_label=f"share of the {book_size} codes of a book", prefix="codes", title="Use of codebooks")
    shared = ", ".join(f"{share:.1%} of the {side}s" for side, share in sharing(events).items())
    return figure_of(svg, f"Codes in use and perplexity of each book. Full codes that are not unique: {shared}.")
