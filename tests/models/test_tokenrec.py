import jax
import jax.numpy as jnp
import numpy as np

from tokenrec_jax.models import tokenrec


def test_a_sum_of_codes_is_the_same_by_lookup_and_by_product():
    """Values and gradients; TPUs take the product."""
    table = jax.random.normal(jax.random.key(0), (12, 4))
    index = jax.random.randint(jax.random.key(1), (2, 5, 3), 0, 12)
    weights = jax.random.normal(jax.random.key(2), (2, 5, 4))

    def value(function, table):
        return jnp.vdot(function(table, index), weights)

    for function in (tokenrec._sum_by_lookup, tokenrec._sum_by_product):
        np.testing.assert_allclose(function(table, index), np.asarray(table)[index].sum(axis=2), rtol=1e-6)
    gradients = [jax.grad(value, argnums=1)(f, table) for f in (tokenrec._sum_by_lookup, tokenrec._sum_by_product)]
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-6)
