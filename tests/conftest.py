"""Shared fixtures. Real research data lies beside the checkout for some of us; tests that use it skip without it."""

import gc
import os
import pathlib

import pytest

# Before JAX starts: the suite is the same on a machine with an accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests compile much and compute little. Programs are kept between runs, workers and subprocesses.
REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(REPOSITORY / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Without optimisation the emitters that work loop by loop compile these programs in half the time.
FAST_COMPILATION = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
)
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILATION}"

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
# Traces make many objects and few cycles.
gc.set_threshold(20_000, 20, 20)

#: Files that take a minute without a test that is slow by itself.
_LONG = ("test_end_to_end.py", "test_recommender.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first: workers take whole files in order, and the last ones should be short."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    long |= {item.path for item in items if item.path.parent.name == "training" or item.path.name in _LONG}
    items.sort(key=lambda item: item.path not in long)


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
