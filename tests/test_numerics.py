import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokenrec_jax.numerics import normalize


def test_normalize_has_unit_rows_and_keeps_zero_rows_zero():
    vectors = jnp.array([[3.0, 4.0], [0.0, 0.0], [-1e-8, 0.0], [1e15, 0.0]])
    np.testing.assert_allclose(normalize(vectors), [[0.6, 0.8], [0, 0], [-1, 0], [1, 0]], rtol=1e-6)


def test_normalize_has_a_finite_gradient_at_zero():
    gradient = jax.grad(lambda x: jnp.sum(normalize(x)[:, 0]))(jnp.array([[0.0, 0.0], [0.0, 2.0]]))
    np.testing.assert_allclose(gradient, [[0.0, 0.0], [0.5, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_normalize_keeps_type_and_any_rank(dtype):
    vectors = jnp.ones((2, 3, 4), dtype)
    result = normalize(vectors)
    assert result.dtype == dtype
    np.testing.assert_array_equal(np.asarray(result, np.float32), 0.5)
