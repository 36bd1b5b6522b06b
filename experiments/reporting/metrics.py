"""metrics.jsonl of a run, read back: curves and the use of codebooks. Read `read_events`."""

import pathlib
from collections.abc import Sequence
from typing import Any

from experiments.reporting.plots import Series
from tokenrec_jax.data.files import read_json_lines
from tokenrec_jax.training.metric_writer import METRICS_FILE
from tokenrec_jax.types import Stage

#: One line of metrics.jsonl.
Event = dict[str, Any]

_SIDES = ("user", "item")


def read_events(folder: pathlib.Path) -> list[Event]:
    """Returns the events of a run in order; none if it has not begun. A last line that was cut is left out."""
    return read_json_lines(folder / METRICS_FILE)


def series(events: Sequence[Event], *, stage: str, kind: str, metric: str, name: str) -> Series | None:
    """Returns a metric over steps, None if the run has none of it."""
    found = [one for one in events if (one["stage"], one["kind"]) == (stage, kind) and metric in one]
    if not found:
        return None
    return Series(name, [one["step"] for one in found], [one[metric] for one in found])


def loss_panels(events: Sequence[Event]) -> dict[str, list[Series]]:
    """Returns the training loss of each stage that the run has begun."""
    found = {stage: series(events, stage=stage, kind="train", metric="loss", name="") for stage in map(str, Stage)}
    return {f"loss, stage {stage}": [one] for stage, one in found.items() if one is not None}


def validation_panels(events: Sequence[Event], metrics: Sequence[str]) -> dict[str, list[Series]]:
    """Returns the validation metrics of each stage that has evaluations."""
    panels = {}
    for stage in map(str, Stage):
        lines = [series(events, stage=stage, kind="valid", metric=name, name=name) for name in metrics]
        if any(lines):
            panels[f"validation, stage {stage}"] = [one for one in lines if one is not None]
    return panels


def retrieval_curve(events: Sequence[Event], metric: str, name: str) -> Series | None:
    """Returns a validation metric of the last stage that ranks by query, over the number of the evaluation."""
    for stage in (Stage.JOINT, Stage.LLM):
        found = series(events, stage=str(stage), kind="valid", metric=metric, name=name)
        if found is not None:
            return Series(name, list(range(1, len(found.y) + 1)), found.y)
    return None


def codebook_use(events: Sequence[Event], *, book_size: int) -> dict[str, dict[str, float]]:
    """Returns for each book how many of its codes are in use, and their perplexity, as shares of its size."""
    diagnostics = [one for one in events if one["kind"] == "diagnostics"]
    if not diagnostics:
        return {}
    last = diagnostics[-1]
    return {
        f"{side} book {book + 1}": {
            "codes in use": last[f"{side}_used_{book}"] / book_size,
            "perplexity": last[f"{side}_perplexity_{book}"] / book_size,
        }
        for side in _SIDES
        for book in range(sum(name.startswith(f"{side}_used_") for name in last))
    }


def sharing(events: Sequence[Event]) -> dict[str, float]:
    """Returns the share of users, and of items, whose full code is not theirs alone."""
    diagnostics = [one for one in events if one["kind"] == "diagnostics"]
    return {side: diagnostics[-1][f"{side}_sharing"] for side in _SIDES} if diagnostics else {}
