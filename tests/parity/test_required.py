"""Parity tests skip where PyTorch is missing; where TOKENREC_REQUIRE_PARITY is set, that is a failure."""

import importlib.util
import os

import pytest


@pytest.mark.skipif("TOKENREC_REQUIRE_PARITY" not in os.environ, reason="TOKENREC_REQUIRE_PARITY is not set")
def test_pytorch_is_installed():
    assert importlib.util.find_spec("torch") is not None, "pip install 'tokenrec_jax[parity]'"
