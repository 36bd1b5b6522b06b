"""The search stops where memory ends or a larger batch brings nothing, and chooses the best of what fits."""

import importlib
import types

import pytest

from experiments.configs import tiny
from tokenrec_jax.ahead_of_time.steps import DoesNotFitError
from tokenrec_jax.types import ConfigError

# The package's name `search` is the function.
module = importlib.import_module("tokenrec_jax.ahead_of_time.search")

#: Largest batch that fits, by policy.
LIMITS = {"none": 32, "dots": 64, "layers": 1024}


@pytest.fixture
def tried(monkeypatch):
    """Replaces the compiler: a step takes a fixed time and, from 128 examples on, as much again for each batch."""
    batches = []

    def compile_train_step(target, *, batch):
        batches.append((target.config.llm.remat, batch))
        if batch > LIMITS[target.config.llm.remat]:
            raise DoesNotFitError("does not fit")
        return batch

    def step_report(batch, target):
        seconds = max(batch, 128) * (1.5 if target.config.llm.remat == "layers" else 1.0)
        times = {"compute": float(seconds), "hbm": 1.0, "interconnect": 0.5}
        figures = {"hbm_bytes_per_chip": batch, "fits": True, "bound_by": "compute", "allowed_mfu": 0.5}
        return {**figures, "roofline_seconds": times, "compiler_seconds": 1.0}

    def make_target(config, **_):
        return types.SimpleNamespace(config=config, mesh=types.SimpleNamespace(shape={"data": 2, "fsdp": 1}))

    for replacement in (compile_train_step, step_report, make_target):
        monkeypatch.setattr(module, replacement.__name__, replacement)
    return batches


def test_the_best_that_fits(tried):
    said = []
    found = module.search(tiny.get_config(), on_candidate=said.append)
    assert tried[:3] == [("none", 16), ("none", 32), ("none", 64)]
    # Past 128 examples twice as many take twice the time.
    assert [batch for policy, batch in tried if policy == "layers"] == [16, 32, 64, 128, 256]
    # Recomputing costs half of the rate, but twice the examples in the same time are worth more.
    assert (found.batch, found.config.llm.remat) == (128, "layers")
    assert found.candidates[0]["batch"] == 128 and "does not fit" in said[2]


def test_nothing_fits(tried):
    with pytest.raises(ConfigError, match="no batch fits"):
        module.search(tiny.get_config(), first_batch=4096, on_candidate=lambda _: None)
