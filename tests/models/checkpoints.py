"""What tests of checkpoints do with folders: compare, spoil, read the error."""

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from tokenrec_jax.models import llm
from tokenrec_jax.models.llm.hf_files import WEIGHTS
from tokenrec_jax.types import ConfigError


def parameters(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def assert_same_parameters(left, right):
    jax.tree.map(np.testing.assert_array_equal, parameters(left), parameters(right))


def rewrite(folder, change):
    """Applies `change` to the tensors of a saved model."""
    tensors = safetensors.numpy.load_file(folder / WEIGHTS)
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / WEIGHTS)


def failure(folder) -> str:
    with pytest.raises(ConfigError) as caught:
        llm.load(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)
