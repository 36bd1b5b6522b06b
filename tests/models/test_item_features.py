import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tokenrec_jax.models import item_features
from tokenrec_jax.models.item_features import ItemFeatures
from tokenrec_jax.types import PADDING

VALUES = jnp.array([[2, 0, PADDING], [1, PADDING, PADDING], [PADDING, PADDING, PADDING]])


def test_values_are_summed_in_space_and_averaged_at_the_input():
    features = ItemFeatures(num_values=3, text_dim=0, dim=4, hidden_size=6, rngs=nnx.Rngs(0))
    space, tokens = features.value_space[...], features.value_tokens[...]
    found = features.in_space(VALUES, None)
    np.testing.assert_allclose(found[0], space[2] + space[0], rtol=1e-6)
    np.testing.assert_allclose(found[2], 0)
    read = features.at_input(VALUES[None], None)
    np.testing.assert_allclose(read[0, 0], (tokens[2] + tokens[0]) / 2, rtol=1e-6)
    np.testing.assert_allclose(read[0, 2], 0)


def test_many_items_are_counted_in_parts_with_the_same_gradient(monkeypatch):
    features = ItemFeatures(num_values=3, text_dim=0, dim=4, hidden_size=6, rngs=nnx.Rngs(0))
    values = jax.random.randint(jax.random.key(1), (37, 2), -1, 3)
    weights = jax.random.normal(jax.random.key(2), (37, 4))

    def loss_and_gradient():
        return jax.jit(nnx.value_and_grad(lambda each: jnp.sum(each.in_space(values, None) * weights)))(features)

    whole = loss_and_gradient()
    monkeypatch.setattr(item_features, "COUNTS_AT_ONCE", 30)
    for found, expected in zip(*(jax.tree.leaves(each) for each in (loss_and_gradient(), whole)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_text_adds_to_values_and_stands_alone():
    both = ItemFeatures(num_values=3, text_dim=5, dim=4, hidden_size=6, rngs=nnx.Rngs(0))
    text = jax.random.normal(jax.random.key(0), (3, 5))
    added = both.in_space(VALUES, text) - both.in_space(VALUES, None)
    np.testing.assert_allclose(added, text @ both.text_space.kernel[...], atol=1e-6)
    alone = ItemFeatures(num_values=0, text_dim=5, dim=4, hidden_size=6, rngs=nnx.Rngs(0))
    assert alone.in_space(None, text).shape == (3, 4) and alone.at_input(None, text[None]).shape == (1, 3, 6)
