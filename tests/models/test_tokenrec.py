import functools

import jax
import jax.numpy as jnp
import numpy as np

from tokenrec_jax.models import tokenrec

SUMS = (tokenrec._sum_by_lookup, tokenrec._sum_by_product)


def test_a_sum_of_codes_is_the_same_by_lookup_and_by_product():
    """Values and gradients; TPUs take the product."""
    table = jax.random.normal(jax.random.key(0), (12, 4))
    index = jax.random.randint(jax.random.key(1), (2, 5, 3), 0, 12)
    weights = jax.random.normal(jax.random.key(2), (2, 5, 4))

    def value(function, table):
        return jnp.vdot(function(table, index), weights)

    functions = [functools.partial(each, dtype=jnp.float32) for each in SUMS]
    for function in functions:
        np.testing.assert_allclose(function(table, index), np.asarray(table)[index].sum(axis=2), rtol=1e-6)
    gradients = [jax.grad(value, argnums=1)(function, table) for function in functions]
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-6)


def test_gradients_of_many_places_are_summed_in_the_type_of_the_table():
    """In bfloat16 a sum of ones ends at 256."""
    table, index = jnp.ones((2, 4)), jnp.zeros((5000, 1), jnp.int32)
    for function in SUMS:
        gradient = jax.grad(lambda table, f=function: jnp.sum(f(table, index, dtype=jnp.bfloat16), dtype=jnp.float32))(
            table
        )
        np.testing.assert_allclose(gradient[0], 5000, rtol=0.01)
