"""Finds the batch size, and the remat policy where there is one, that allows the most. Read `search`."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

from tokenrec_jax.ahead_of_time.report import step_report
from tokenrec_jax.ahead_of_time.steps import DoesNotFitError, compile_train_step, make_target
from tokenrec_jax.config import REMATS, Config
from tokenrec_jax.types import ConfigError

#: A larger batch must raise the rate of examples by this factor for a still larger one to be tried.
WORTHWHILE = 1.02


@dataclasses.dataclass(frozen=True)
class SearchOutput:
    """The best of the candidates.

    Attributes:
      config: with its remat policy.
      batch: its examples a step.
      candidates: figures of all of them, ready for JSON, best first.
    """

    config: Config
    batch: int
    candidates: list[dict[str, Any]]


def search(
    config: Config, *, first_batch: int = 0, on_candidate: Callable[..., None] = print, **options: Any
) -> SearchOutput:
    """Compiles the train step for growing powers of two, for each remat policy.

    A policy is done with when memory ends, or when twice the examples take nearly twice the time.

    Args:
      config: of the run.
      first_batch: where to begin; 0: eight examples a part of the batch.
      on_candidate: is told about each in one line.
      **options: of `make_target`.

    Raises:
      ConfigError: not even the first batch fits.
    """
    candidates: list[dict[str, Any]] = []
    for policy in REMATS:
        trial = copy.deepcopy(config)
        trial.llm.remat = policy
        target = make_target(trial, **options)
        batch = first_batch or 8 * target.mesh.shape["data"] * target.mesh.shape["fsdp"]
        rate = 0.0
        while True:
            try:
                report = step_report(compile_train_step(target, batch=batch), target)
            except DoesNotFitError as error:
                on_candidate(f"batch {batch} {policy}: {error}")
                break
            seconds = max(report["roofline_seconds"].values())
            found = {"batch": batch, "remat": policy, "examples_per_second": batch / seconds}
            keys = ("hbm_bytes_per_chip", "fits", "roofline_seconds", "bound_by", "allowed_mfu", "compiler_seconds")
            candidates.append(found | {key: report[key] for key in keys})
            on_candidate(
                f"batch {batch} {policy}: {report['hbm_bytes_per_chip'] / 2**30:.2f} GiB, bound by "
                f"{report['bound_by']}, allowed MFU {report['allowed_mfu']:.1%}, {batch / seconds:.0f} examples/s"
            )
            if not report["fits"] or found["examples_per_second"] < WORTHWHILE * rate:
                break
            batch, rate = 2 * batch, found["examples_per_second"]
    fitting = [found for found in candidates if found["fits"]]
    if not fitting:
        raise ConfigError("--search: no batch fits; give a smaller --batch to begin with, or more fsdp or tensor")
    # Of equal rates the smaller batch.
    fitting.sort(key=lambda found: (-found["examples_per_second"], found["batch"]))
    best = copy.deepcopy(config)
    best.llm.remat = fitting[0]["remat"]
    return SearchOutput(config=best, batch=fitting[0]["batch"], candidates=fitting)
