"""What a step would cost on a TPU that is not there: compiled ahead of time, read, never run.

`steps.py` compiles the train, the query and the retrieval step of a config for a named topology; `hlo.py` reads the
compiled text, `costs.py` counts what it does (loops by their trips), `model_flops.py` what the mathematics needs, and
`roofline.py` divides both by the figures of the chip in `chips.py`. Read `report.py` first: it puts them together.
Everything here is an estimate; nothing is measured.
"""

from tokenrec_jax.ahead_of_time.report import LABEL, step_report, table
from tokenrec_jax.ahead_of_time.search import search
from tokenrec_jax.ahead_of_time.steps import (
    STAGE,
    STEPS,
    CompiledStep,
    DoesNotFitError,
    Target,
    has_compiler,
    make_target,
)

__all__ = [
    "LABEL",
    "STAGE",
    "STEPS",
    "CompiledStep",
    "DoesNotFitError",
    "Target",
    "has_compiler",
    "make_target",
    "search",
    "step_report",
    "table",
]
