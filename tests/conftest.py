"""Shared fixtures. Real research data lies beside the checkout for some of us; tests that use it skip without it."""

import os
import pathlib

import pytest

# Before JAX starts: the suite is the same on a machine with an accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Folder with LastFM, Beauty, ML1M and t5_tokenizer: $TOKENREC_DATA or shared/data beside or in the checkout."""
    candidates = [REPOSITORY.parent / "shared" / "data", REPOSITORY / "shared" / "data"]
    if os.environ.get("TOKENREC_DATA"):
        candidates.insert(0, pathlib.Path(os.environ["TOKENREC_DATA"]))
    for folder in candidates:
        if (folder / "LastFM" / "test.txt").is_file():
            return folder
    pytest.skip("no research data: set TOKENREC_DATA to a folder that holds LastFM/test.txt")
