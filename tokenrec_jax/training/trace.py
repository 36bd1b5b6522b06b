"""Profiles of chosen steps as xplane traces, which TensorBoard and XProf show. Read `StepTrace`."""

import pathlib

import jax
from absl import logging

from tokenrec_jax.types import Stage


class StepTrace:
    """Traces the steps first .. last - 1 of a stage; a context that ends an unfinished trace.

    Steps appear under the name of the stage, the parts of the model under their named scopes.
    """

    def __init__(self, steps: str, *, stage: Stage, folder: pathlib.Path):
        """Takes "first:last", or "" for no trace; the trace goes into `folder`/<stage>."""
        self._first, self._last = map(int, steps.split(":")) if steps else (-1, -1)
        self._stage, self._folder = stage, folder / stage.value
        self._running = False

    def __enter__(self) -> "StepTrace":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def step(self, number: int) -> jax.profiler.StepTraceAnnotation:
        """Starts the trace before its first step; returns the context of a step."""
        if number == self._first:
            jax.profiler.start_trace(self._folder)
            self._running = True
        return jax.profiler.StepTraceAnnotation(self._stage.value, step_num=number)

    def done(self, number: int, result: object) -> None:
        """Ends the trace when the devices have finished its last step."""
        if self._running and number + 1 >= self._last:
            jax.block_until_ready(result)
            self._stop()
            logging.info("stage %s: traced steps %d to %d into %s", self._stage, self._first, number, self._folder)

    def _stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
